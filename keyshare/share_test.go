package keyshare_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
)

func TestSplitCombine(t *testing.T) {
	for _, q := range []struct{ n, t int }{{2, 2}, {3, 2}, {5, 3}, {255, 2}} {
		t.Run(fmt.Sprintf("%d of %d", q.t, q.n), func(t *testing.T) {
			c := newCustody(t, testSet, q.n, q.t)
			seen := make(map[byte]bool)
			for _, s := range c.shares {
				if s.X() == 0 || seen[s.X()] {
					t.Fatalf("x = %d is zero or repeated", s.X())
				}
				seen[s.X()] = true
			}
			for _, quorum := range [][]keyshare.Share{c.shares[:q.t], c.shares[q.n-q.t:]} {
				u, err := keyshare.Combine(quorum)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(u, c.u) {
					t.Error("the shares do not combine to the secret")
				}
			}
		})
	}
}

func TestSplitRefuses(t *testing.T) {
	u := make([]byte, keyshare.SecretSize)
	for name, f := range map[string]func() error{
		"threshold 1":        func() error { _, err := keyshare.Split(u, 3, 1); return err },
		"threshold above n":  func() error { _, err := keyshare.Split(u, 3, 4); return err },
		"256 shares":         func() error { _, err := keyshare.Split(u, 256, 2); return err },
		"a short secret":     func() error { _, err := keyshare.Split(u[1:], 3, 2); return err },
		"an empty secret":    func() error { _, err := keyshare.Split(nil, 3, 2); return err },
		"an absent share":    func() error { _, err := keyshare.Combine([]keyshare.Share{nil, nil}); return err },
		"no share":           func() error { _, err := keyshare.Combine(nil); return err },
		"a negative n and t": func() error { _, err := keyshare.Split(u, -1, -1); return err },
	} {
		if err := f(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCombineRefuses(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	zero := append(keyshare.Share{}, c.shares[0]...)
	zero[len(zero)-1] = 0
	for name, shares := range map[string][]keyshare.Share{
		"x = 0":     {zero, c.shares[1]},
		"truncated": {c.shares[0][:20], c.shares[1][:20]},
		"twice":     {c.shares[0], c.shares[0]},
		"one":       {c.shares[0]},
	} {
		if _, err := keyshare.Combine(shares); err == nil {
			t.Errorf("%s: combined", name)
		}
	}
}

// A wrong share must be recognised for what it is, because Combine cannot.
func TestCheckShare(t *testing.T) {
	c, other := newCustody(t, testSet, 3, 2), newCustody(t, otherSet, 3, 2)
	good := c.shares[0]
	change := func(i int, b byte) []byte {
		s := bytes.Clone(good)
		s[i] = b
		return s
	}
	wrongX := *c.manifest
	wrongX.Keepers = append([]keyshare.Keeper{}, c.manifest.Keepers...)
	wrongX.Keepers[0].X = wrongX.Keepers[0].X%255 + 1

	tests := []struct {
		name     string
		manifest *keyshare.Manifest
		keeper   string
		set      string
		epoch    uint64
		share    []byte
		want     string // in the reason; "" means good
	}{
		{"genuine", c.manifest, "keeper-1", testSet, 1, good, ""},
		{"of another set", c.manifest, "keeper-1", testSet, 1, other.shares[0], "belongs to another set"},
		{"said to be of another set", c.manifest, "keeper-1", otherSet, 1, other.shares[0], "it is of set " + otherSet},
		{"wrong epoch", c.manifest, "keeper-1", testSet, 2, good, "it is of epoch 2"},
		{"x = 0", c.manifest, "keeper-1", testSet, 1, change(32, 0), "x is 0"},
		{"truncated", c.manifest, "keeper-1", testSet, 1, good[:32], "truncated: 32 of 33"},
		{"empty", c.manifest, "keeper-1", testSet, 1, nil, "truncated: 0 of 33"},
		{"too long", c.manifest, "keeper-1", testSet, 1, append(bytes.Clone(good), 1), "34 bytes"},
		{"another keeper's", c.manifest, "keeper-1", testSet, 1, c.shares[1], "share of keeper keeper-2"},
		{"one bit changed", c.manifest, "keeper-1", testSet, 1, change(3, good[3]^1), "damaged"},
		{"another x", c.manifest, "keeper-1", testSet, 1, change(32, good.X()%255+1), "damaged"},
		{"unknown keeper", c.manifest, "keeper-9", testSet, 1, good, "no such keeper"},
		{"manifest with a wrong x", &wrongX, "keeper-1", testSet, 1, good, "the manifest says"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.manifest.CheckShare(tt.keeper, tt.set, tt.epoch, tt.share)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var bad *keyshare.ShareError
			if !errors.As(err, &bad) || bad.Keeper != tt.keeper || !strings.Contains(bad.Reason, tt.want) {
				t.Fatalf("got %v, want a ShareError of %s with %q", err, tt.keeper, tt.want)
			}
		})
	}
}

// What is derived must depend on every input, and only on them.
func TestDerivations(t *testing.T) {
	share := bytes.Repeat([]byte{1}, keyshare.ShareSize)
	key := func(share []byte, set string, epoch uint64) string {
		k, err := keyshare.ShareKey(share, set, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(k.Seed())
	}
	check := func(u []byte, set string, epoch uint64) string {
		v, err := keyshare.CheckValue(u, set, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(v)
	}
	seen := make(map[string]string)
	for name, v := range map[string]string{
		"key":             key(share, testSet, 1),
		"key, set":        key(share, otherSet, 1),
		"key, epoch":      key(share, testSet, 2),
		"key, share":      key(bytes.Repeat([]byte{2}, keyshare.ShareSize), testSet, 1),
		"check":           check(share, testSet, 1),
		"check, set":      check(share, otherSet, 1),
		"check, epoch":    check(share, testSet, 2),
		"check, u":        check(share[1:], testSet, 1),
		"key, long epoch": key(share, testSet, 1<<40),
	} {
		if other, ok := seen[v]; ok {
			t.Errorf("%s equals %s", name, other)
		}
		seen[v] = name
	}
	if again := key(share, testSet, 1); seen[again] != "key" {
		t.Error("derivation is not deterministic")
	}
}

func TestShareIsRedacted(t *testing.T) {
	s := keyshare.Share(bytes.Repeat([]byte{0xab}, keyshare.ShareSize))
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "share", s)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "share", s)
	j, err := json.Marshal(map[string]any{"share": s})
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(j)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out += fmt.Sprintf(verb, s)
	}
	for _, bad := range []string{"ab", "AB", "171", "q6"} {
		if strings.Contains(out, bad) {
			t.Errorf("%q in %s", bad, out)
		}
	}
}

func TestTranscript(t *testing.T) {
	fields := [][]byte{[]byte("a"), {}, []byte("bc")}
	b := keyshare.Transcript("domain", fields...)
	got, err := keyshare.ParseTranscript(b, "domain", 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fields, got); diff != "" {
		t.Error(diff)
	}
	if bytes.Equal(keyshare.Transcript("d", []byte("ab"), []byte("c")), keyshare.Transcript("d", []byte("a"), []byte("bc"))) {
		t.Error("moving a byte between fields gives the same transcript")
	}
	for name, f := range map[string]func() error{
		"another domain": func() error { _, err := keyshare.ParseTranscript(b, "other", 3); return err },
		"fewer fields":   func() error { _, err := keyshare.ParseTranscript(b, "domain", 2); return err },
		"more fields":    func() error { _, err := keyshare.ParseTranscript(b, "domain", 4); return err },
		"cut":            func() error { _, err := keyshare.ParseTranscript(b[:len(b)-1], "domain", 3); return err },
		"trailing":       func() error { _, err := keyshare.ParseTranscript(append(bytes.Clone(b), 0), "domain", 3); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzTranscript(f *testing.F) {
	f.Add(keyshare.Transcript("d", []byte("a"), nil), 2)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 0)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 16 {
			return
		}
		fields, err := keyshare.ParseTranscript(b, "d", n)
		if err == nil && !bytes.Equal(keyshare.Transcript("d", fields...), b) {
			t.Error("parsed, but encodes to other bytes")
		}
	})
}
