package unseal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

func under() unseal.Under { return unseal.Under{Set: testSet, Epoch: testEpoch, U: testU()} }

func otherUnder() unseal.Under {
	u := sha256.Sum256([]byte("another unseal key"))
	return unseal.Under{Set: "11111111-1c47-4a4e-9c0c-5b5a0c1d2e3f", Epoch: testEpoch + 1, U: u[:]}
}

// twoKeys is a wrapped keyring with the key of the frozen records and a second one.
func twoKeys(t *testing.T) []byte {
	t.Helper()
	v, _ := readRecords(t)
	return wrapKeyring(t, plainKeyring([]entry{{1, v.PrivateKey}, {2, secondKey()}}, recordKeys()))
}

func open(t *testing.T, wrapped []byte, at unseal.Under) *unseal.Keyring {
	t.Helper()
	k, err := unseal.OpenKeyring(at.U, wrapped, at.Set, at.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Purge)
	return k
}

// openings says which of the records opens with a keyring.
func openings(t *testing.T, k *unseal.Keyring, records ...*seal.Sealed) (out []bool) {
	t.Helper()
	inWindow(t, k, func(w *unseal.Window) {
		for _, s := range records {
			_, err := opened(w, s)
			if err != nil && !errors.Is(err, unseal.ErrUnknownKey) {
				t.Error(err)
			}
			out = append(out, err == nil)
		}
	})
	return out
}

func TestRekey(t *testing.T) {
	wrapped, from, to := twoKeys(t), under(), otherUnder()
	next, public, err := unseal.Rekey(wrapped, from, to)
	if err != nil {
		t.Fatal(err)
	}
	_, first := readRecords(t)
	if len(public) != 2 || public[0].ID() != first.ID() {
		t.Fatalf("%d public keys", len(public))
	}
	if _, err := unseal.OpenKeyring(from.U, next, from.Set, from.Epoch); !errors.Is(err, unseal.ErrKeyring) {
		t.Errorf("the old unseal key opens the new keyring: %v", err)
	}
	k := open(t, next, to)
	for i, p := range public {
		if got := openings(t, k, mustSeal(t, p, credentialHeader(), "secret")); !got[0] {
			t.Errorf("key %d is lost", i)
		}
	}
	// The keyring that was given is as it was.
	open(t, wrapped, from)
}

func TestAddAndPruneSealingKey(t *testing.T) {
	at := under()
	first, old, err := unseal.Rekey(twoKeys(t), at, at)
	if err != nil {
		t.Fatal(err)
	}
	added, three, err := unseal.AddSealingKey(first, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(three) != 3 || three[0].ID() != old[0].ID() || three[1].ID() != old[1].ID() {
		t.Fatalf("%d keys after adding to %d", len(three), len(old))
	}
	records := []*seal.Sealed{
		mustSeal(t, three[0], credentialHeader(), "a"), mustSeal(t, three[1], credentialHeader(), "b"), mustSeal(t, three[2], credentialHeader(), "c"),
	}
	if got := openings(t, open(t, added, at), records...); !got[0] || !got[1] || !got[2] {
		t.Errorf("opens %v with three keys", got)
	}
	pruned, left, err := unseal.Prune(added, at, three[0].ID(), three[1].ID())
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].ID() != three[2].ID() {
		t.Fatalf("%d keys left", len(left))
	}
	if got := openings(t, open(t, pruned, at), records...); got[0] || got[1] || !got[2] {
		t.Errorf("opens %v after pruning", got)
	}
	// A version is not given twice, whatever was pruned before it.
	again, two, err := unseal.AddSealingKey(pruned, at)
	if err != nil || len(two) != 2 {
		t.Fatalf("%d keys, %v", len(two), err)
	}
	open(t, again, at)
}

func TestEditRefuses(t *testing.T) {
	wrapped, at := twoKeys(t), under()
	_, public, err := unseal.Rekey(wrapped, at, at)
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.Clone(wrapped)
	altered[len(altered)-1] ^= 1
	short, late := under(), under()
	short.U, late.Epoch = short.U[1:], testEpoch+1
	for _, tt := range []struct {
		name string
		edit func() ([]byte, []*seal.PublicKey, error)
		want error // nil: any
	}{
		{"altered", func() ([]byte, []*seal.PublicKey, error) { return unseal.AddSealingKey(altered, at) }, unseal.ErrKeyring},
		{"no keyring", func() ([]byte, []*seal.PublicKey, error) { return unseal.AddSealingKey([]byte("x"), at) }, unseal.ErrKeyring},
		{"of another epoch", func() ([]byte, []*seal.PublicKey, error) { return unseal.Rekey(wrapped, late, at) }, unseal.ErrKeyring},
		{"under another key", func() ([]byte, []*seal.PublicKey, error) { return unseal.Rekey(wrapped, otherUnder(), at) }, unseal.ErrKeyring},
		{"to a short key", func() ([]byte, []*seal.PublicKey, error) { return unseal.Rekey(wrapped, at, short) }, nil},
		{"an unknown id", func() ([]byte, []*seal.PublicKey, error) { return unseal.Prune(wrapped, at, "00") }, unseal.ErrUnknownKey},
		{"all keys", func() ([]byte, []*seal.PublicKey, error) {
			return unseal.Prune(wrapped, at, public[0].ID(), public[1].ID())
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, keys, err := tt.edit()
			if err == nil || out != nil || keys != nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %d bytes, %v", len(out), err)
			}
		})
	}
}
