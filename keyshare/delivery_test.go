package keyshare_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"keybridge/keyshare"
)

func unmarshal(t testing.TB, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func deliver(t testing.TB, c *custody, i int) []byte {
	t.Helper()
	d, err := keyshare.Deliver(c.manifest, c.manifest.Keepers[i].Name, c.recipients[i].PublicKey().Bytes(), c.shares[i])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDelivery(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	d := deliver(t, c, 0)
	if bytes.Contains(d, c.shares[0][:32]) {
		t.Error("the delivery holds the share in clear")
	}
	private, err := c.recipients[0].Bytes()
	if err != nil {
		t.Fatal(err)
	}
	key, err := keyshare.ParseRecipient(private)
	if err != nil {
		t.Fatal(err)
	}
	share, err := keyshare.Receive(c.manifest, "keeper-1", key, append(d, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(share, c.shares[0]) {
		t.Error("another share arrived")
	}
}

func TestReceiveRefuses(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	d := deliver(t, c, 0)
	other := newCustody(t, otherSet, 3, 2)
	newer := *c.manifest
	newer.Epoch, newer.Version = 2, 2
	reEnrolled := *c.manifest
	reEnrolled.Keepers = append([]keyshare.Keeper{}, c.manifest.Keepers...)
	reEnrolled.Keepers[0].SPKI = digest("new machine")

	tests := []struct {
		name     string
		manifest *keyshare.Manifest
		keeper   string
		key      int
		delivery []byte
		want     string
	}{
		{"another keeper's delivery", c.manifest, "keeper-2", 1, d, `made for keeper "keeper-1"`},
		{"relabelled for another keeper", c.manifest, "keeper-2", 1, bytes.Replace(d, []byte("keeper-1"), []byte("keeper-2"), 1), "not sealed to this key"},
		{"another key", c.manifest, "keeper-1", 1, d, "not sealed to this key"},
		{"another set", other.manifest, "keeper-1", 0, d, "of set"},
		{"relabelled set", other.manifest, "keeper-1", 0, bytes.Replace(d, []byte(testSet), []byte(otherSet), 1), "not sealed"},
		{"another epoch", &newer, "keeper-1", 0, d, "epoch 1"},
		{"an earlier enrolment", &reEnrolled, "keeper-1", 0, d, "not sealed"},
		{"not canonical", c.manifest, "keeper-1", 0, bytes.Replace(d, []byte(`"format":1`), []byte(`"format":1,"more":2`), 1), "canonical"},
		{"another format", c.manifest, "keeper-1", 0, bytes.Replace(d, []byte(`"format":1`), []byte(`"format":2`), 1), "format 2"},
		{"truncated", c.manifest, "keeper-1", 0, d[:len(d)/2], "parse"},
		{"too long", c.manifest, "keeper-1", 0, bytes.Repeat([]byte("x"), 5000), "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := keyshare.Receive(tt.manifest, tt.keeper, c.recipients[tt.key], tt.delivery)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The ceremony cannot deliver a share that its own manifest contradicts, and a
// keeper does not take one from whoever can seal to it.
func TestWrongShareIsNotDelivered(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	_, err := keyshare.Deliver(c.manifest, "keeper-1", c.recipients[0].PublicKey().Bytes(), c.shares[1])
	var bad *keyshare.ShareError
	if !errors.As(err, &bad) || bad.Keeper != "keeper-1" {
		t.Errorf("deliver: got %v", err)
	}
	info := keyshare.Transcript("keybridge share delivery v1", []byte(testSet), keyshare.Uint64(1),
		[]byte("keeper-1"), []byte(c.manifest.Keepers[0].SPKI))
	sealed, err := keyshare.SealShare(c.recipients[0].PublicKey().Bytes(), info, c.shares[1])
	if err != nil {
		t.Fatal(err)
	}
	forged := marshal(t, struct {
		Format int    `json:"format"`
		Set    string `json:"set"`
		Epoch  uint64 `json:"epoch"`
		Keeper string `json:"keeper"`
		Sealed []byte `json:"sealed"`
	}{1, testSet, 1, "keeper-1", sealed})
	if _, err := keyshare.Receive(c.manifest, "keeper-1", c.recipients[0], forged); !errors.As(err, &bad) {
		t.Errorf("receive: got %v", err)
	}
	for name, recipient := range map[string][]byte{"short": make([]byte, 31), "low order": make([]byte, 32)} {
		if _, err := keyshare.SealShare(recipient, info, c.shares[0]); err == nil {
			t.Errorf("sealed to a %s recipient", name)
		}
	}
	if _, err := keyshare.ParseRecipient(nil); err == nil {
		t.Error("parsed an empty recipient key")
	}
}

func FuzzReceive(f *testing.F) {
	c := newCustody(f, testSet, 3, 2)
	good := deliver(f, c, 0)
	f.Add(good)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keyshare.Receive(c.manifest, "keeper-1", c.recipients[0], b); err == nil && !bytes.Equal(bytes.TrimSpace(b), good) {
			t.Error("another document opens")
		}
	})
}
