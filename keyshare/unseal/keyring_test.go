package unseal_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

// A keyring of format 1 must open for as long as backups live: the vector is
// frozen, and -update is not for making a failing test pass. It holds the key of
// the seal package's vectors, so both are rewritten together.
var update = flag.Bool("update", false, "rewrite testdata with new ciphertext")

const vectorFile = "testdata/keyring-v1.json"

type keyringVector struct {
	Comment string   `json:"comment"`
	U       hexBytes `json:"u"`
	Set     string   `json:"set"`
	Epoch   uint64   `json:"epoch"`
	Digest  hexBytes `json:"digest"`
	Wrapped hexBytes `json:"wrapped"`
}

func TestVectors(t *testing.T) {
	records, _ := readRecords(t)
	if *update {
		wrapped := wrapKeyring(t, plainKeyring([]entry{{1, records.PrivateKey}, {2, secondKey()}}, recordKeys()))
		sum := sha256.Sum256(wrapped)
		raw, err := json.MarshalIndent(keyringVector{
			Comment: "Frozen vector of keyring format 1: opens the records of seal/testdata. Its keys protect nothing.",
			U:       testU(), Set: testSet, Epoch: testEpoch, Digest: sum[:], Wrapped: wrapped,
		}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := readJSON[keyringVector](t, vectorFile)
	if digest := unseal.Digest(v.Wrapped); !bytes.Equal(digest[:], v.Digest) {
		t.Errorf("digest %x, want %x", digest, v.Digest)
	}
	k, err := unseal.OpenKeyring(v.U, v.Wrapped, v.Set, v.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Purge()
	inWindow(t, k, func(w *unseal.Window) {
		for _, r := range records.Records {
			var s seal.Sealed
			if err := s.UnmarshalBinary(r.Binary); err != nil {
				t.Errorf("%s: %v", r.Name, err)
				continue
			}
			got, err := opened(w, &s)
			if err != nil {
				t.Errorf("%s: %v", r.Name, err)
			} else if diff := cmp.Diff([]byte(r.Plaintext), got); diff != "" {
				t.Errorf("%s: %s", r.Name, diff)
			}
		}
	})
}

func TestGenerate(t *testing.T) {
	u := testU()
	wrapped, sealing, err := unseal.Generate(testSet, testEpoch, u)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(u, testU()) {
		t.Error("the caller's unseal key was changed")
	}
	k, err := unseal.OpenKeyring(u, wrapped, testSet, testEpoch)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Purge()
	clear(u) // a keyring that kept it would not open

	s := mustSeal(t, sealing, credentialHeader(), "a provider's secret")
	for range 2 { // windows can be opened again
		inWindow(t, k, func(w *unseal.Window) {
			if got, err := opened(w, s); err != nil || string(got) != "a provider's secret" {
				t.Errorf("opened %q, %v", got, err)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	v := readJSON[keyringVector](t, vectorFile)
	long := string(bytes.Repeat([]byte{'s'}, 256))
	for name, test := range map[string]struct {
		set string
		u   []byte
	}{
		"no unseal key":     {testSet, nil},
		"short unseal key":  {testSet, testU()[:16]},
		"a share, 33 bytes": {testSet, append(testU(), 1)},
		"no set":            {"", testU()},
		"long set":          {long, testU()},
	} {
		if _, _, err := unseal.Generate(test.set, 1, test.u); err == nil {
			t.Errorf("%s: generated", name)
		}
		if _, err := unseal.OpenKeyring(test.u, v.Wrapped, test.set, testEpoch); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestKeyringDoesNotOpen(t *testing.T) {
	v := readJSON[keyringVector](t, vectorFile)
	check := func(name string, u, wrapped []byte, set string, epoch uint64) {
		t.Helper()
		if _, err := unseal.OpenKeyring(u, wrapped, set, epoch); !errors.Is(err, unseal.ErrKeyring) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := testU()
	other[31] ^= 1
	check("other unseal key", other, v.Wrapped, testSet, testEpoch)
	check("other set", testU(), v.Wrapped, "another-set", testEpoch)
	check("other epoch", testU(), v.Wrapped, testSet, testEpoch+1)
	check("nothing", testU(), nil, testSet, testEpoch)
	check("too large", testU(), append(bytes.Clone(v.Wrapped), make([]byte, 1<<20)...), testSet, testEpoch)
	check("trailing byte", testU(), append(bytes.Clone(v.Wrapped), 0), testSet, testEpoch)
	for i := range v.Wrapped {
		altered := bytes.Clone(v.Wrapped)
		altered[i] ^= 0x40
		check("altered byte", testU(), altered, testSet, testEpoch)
	}
	for n := 0; n < len(v.Wrapped); n += 7 {
		check("truncated", testU(), v.Wrapped[:n], testSet, testEpoch)
	}
}

// What U authenticates is still parsed strictly: a ceremony could have a bug.
func TestMalformedKeyring(t *testing.T) {
	records, _ := readRecords(t)
	first, second := []byte(records.PrivateKey), secondKey()
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := plainKeyring([]entry{{1, first}}, recordKeys())
	for name, plain := range map[string][]byte{
		"no sealing keys":        plainKeyring(nil, recordKeys()),
		"no record keys":         plainKeyring([]entry{{1, first}}, nil),
		"sealing version 0":      plainKeyring([]entry{{0, first}}, recordKeys()),
		"sealing version twice":  plainKeyring([]entry{{1, first}, {1, second}}, recordKeys()),
		"sealing versions fall":  plainKeyring([]entry{{2, first}, {1, second}}, recordKeys()),
		"sealing key twice":      plainKeyring([]entry{{1, first}, {2, first}}, recordKeys()),
		"record version 0":       plainKeyring([]entry{{1, first}}, []entry{{0, make([]byte, 32)}}),
		"record versions fall":   plainKeyring([]entry{{1, first}}, []entry{{2, make([]byte, 32)}, {1, make([]byte, 32)}}),
		"record key of 16 bytes": plainKeyring([]entry{{1, first}}, []entry{{1, make([]byte, 16)}}),
		"elliptic curve":         plainKeyring([]entry{{1, pkcs8(curve)}}, recordKeys()),
		"2048 bits":              plainKeyring([]entry{{1, pkcs8(small)}}, recordKeys()),
		"DER with more":          plainKeyring([]entry{{1, append(bytes.Clone(first), 0)}}, recordKeys()),
		"not DER":                plainKeyring([]entry{{1, []byte("key")}}, recordKeys()),
		"empty":                  {},
		"trailing byte":          append(bytes.Clone(good), 0),
		"truncated":              good[:len(good)-1],
		"cut in a key":           good[:500],
	} {
		if _, err := unseal.OpenKeyring(testU(), wrapKeyring(t, plain), testSet, testEpoch); !errors.Is(err, unseal.ErrKeyring) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := unseal.Reserialise(good); err != nil || !bytes.Equal(again, good) {
		t.Errorf("the good one: %v", err)
	}
}

func TestPurge(t *testing.T) {
	_, public := readRecords(t)
	k := newKeyring(t)
	s := mustSeal(t, public, credentialHeader(), "secret")
	inWindow(t, k, func(w *unseal.Window) {
		k.Purge()
		if _, err := opened(w, s); !errors.Is(err, unseal.ErrPurged) {
			t.Errorf("an open window opens a record after the purge: %v", err)
		}
	})
	err := k.Window(context.Background(), func(*unseal.Window) error { t.Error("a window opened after the purge"); return nil })
	if !errors.Is(err, unseal.ErrPurged) {
		t.Errorf("Window: %v", err)
	}
	k.Purge()
}

func FuzzKeyring(f *testing.F) {
	records, _ := readRecords(f)
	f.Add(plainKeyring([]entry{{1, records.PrivateKey}}, recordKeys()))
	f.Add(plainKeyring([]entry{{3, records.PrivateKey}}, []entry{{1, make([]byte, 32)}, {9, make([]byte, 32)}}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, plain []byte) {
		again, err := unseal.Reserialise(plain)
		if err == nil && !bytes.Equal(again, plain) {
			t.Fatalf("accepted %x, writes %x", plain, again)
		}
	})
}

func BenchmarkOpenKeyring(b *testing.B) {
	v := readJSON[keyringVector](b, vectorFile)
	for b.Loop() {
		k, err := unseal.OpenKeyring(v.U, v.Wrapped, v.Set, v.Epoch)
		if err != nil {
			b.Fatal(err)
		}
		k.Purge()
	}
}
