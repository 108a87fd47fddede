package unseal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

func newArena(t testing.TB) *lockedmem.Arena {
	t.Helper()
	if _, err := lockedmem.Harden(true); err != nil {
		t.Fatal(err)
	}
	a, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Purge)
	return a
}

func newRecordKeys(t testing.TB, k *unseal.Keyring) *unseal.RecordKeys {
	t.Helper()
	r, err := k.RecordKeys(newArena(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// adopted is s with a second wrap in place of its RSA wrap.
func adopted(t testing.TB, k *unseal.Keyring, s *seal.Sealed) *seal.Sealed {
	t.Helper()
	out := clone(s)
	inWindow(t, k, func(w *unseal.Window) {
		wrap, err := w.Adopt(s, func([]byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		out.Key = *wrap
	})
	return out
}

func TestAdopt(t *testing.T) {
	_, public := readRecords(t)
	k := newKeyring(t)
	r := newRecordKeys(t, k)
	const secret = "the provider's secret key"
	s := adopted(t, k, mustSeal(t, public, credentialHeader(), secret))
	if s.Key.Suite != seal.SuiteRecordKey || s.Key.KeyID != "record-key-1" || len(s.Key.Value) != 60 {
		t.Fatalf("wrap = %+v", s.Key)
	}
	raw, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var back seal.Sealed
	if err := back.UnmarshalBinary(raw); err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := r.Open(&back, func(b []byte) error { got = bytes.Clone(b); return nil }); err != nil || string(got) != secret {
		t.Fatalf("opened %q, %v", got, err)
	}
	mine := errors.New("mine")
	if err := r.Open(&back, func([]byte) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("error of use came as %v", err)
	}
	inWindow(t, k, func(w *unseal.Window) {
		if err := w.Open(&back, func([]byte) error { return nil }); !errors.Is(err, unseal.ErrUnknownKey) {
			t.Errorf("a window opened the second wrap: %v", err)
		}
		if _, err := w.Adopt(s, func([]byte) error { return nil }); !errors.Is(err, unseal.ErrUnknownKey) {
			t.Errorf("a second wrap was adopted: %v", err)
		}
	})
	r.Free()
	if err := r.Open(&back, func([]byte) error { return nil }); !errors.Is(err, unseal.ErrPurged) {
		t.Errorf("after Free: %v", err)
	}
	k.Purge()
	if _, err := k.RecordKeys(newArena(t)); err == nil {
		t.Error("record keys of a purged keyring")
	}
}

// A second wrap is of one version of one record, for its binding, and of nothing else.
func TestSecondWrapsThatDoNotOpen(t *testing.T) {
	_, public := readRecords(t)
	k := newKeyring(t)
	r := newRecordKeys(t, k)
	const secret = "the provider's secret key"
	original := mustSeal(t, public, credentialHeader(), secret)
	good := adopted(t, k, original)
	h := credentialHeader()
	h.Version = 2
	newer := adopted(t, k, mustSeal(t, public, h, "another secret, as long.."))
	h = credentialHeader()
	h.Workspace = "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1dfff"
	foreign := adopted(t, k, mustSeal(t, public, h, secret))

	for name, tt := range map[string]struct {
		change func(s *seal.Sealed)
		want   error
	}{
		"tampered wrap":           {func(s *seal.Sealed) { s.Key.Value[20] ^= 1 }, unseal.ErrOpen},
		"tampered nonce":          {func(s *seal.Sealed) { s.Key.Value[0] ^= 1 }, unseal.ErrOpen},
		"tampered body":           {func(s *seal.Sealed) { s.Message[0] ^= 1 }, unseal.ErrOpen},
		"version in the header":   {func(s *seal.Sealed) { s.Header.Version = 2 }, unseal.ErrOpen},
		"workspace in the header": {func(s *seal.Sealed) { s.Header.Workspace = foreign.Header.Workspace }, unseal.ErrOpen},
		"host in the header":      {func(s *seal.Sealed) { s.Header.Binding.Host = "s3.attacker.example" }, unseal.ErrOpen},
		"wrap of another version": {func(s *seal.Sealed) { s.Key = newer.Key }, unseal.ErrOpen},
		"wrap of a workspace":     {func(s *seal.Sealed) { s.Key = foreign.Key }, unseal.ErrOpen},
		"unknown record key":      {func(s *seal.Sealed) { s.Key.KeyID = "record-key-2" }, unseal.ErrUnknownKey},
		"RSA wrap":                {func(s *seal.Sealed) { s.Key = original.Key }, unseal.ErrUnknownKey},
		"malformed key id":        {func(s *seal.Sealed) { s.Key.KeyID = "record-key-01" }, seal.ErrRecord},
		"short wrap":              {func(s *seal.Sealed) { s.Key.Value = s.Key.Value[:59] }, seal.ErrRecord},
		"suite 2":                 {func(s *seal.Sealed) { s.Key.Suite = 2 }, seal.ErrRecord},
	} {
		s := clone(good)
		tt.change(s)
		err := r.Open(s, func([]byte) error { t.Errorf("%s: opened", name); return nil })
		if !errors.Is(err, tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// After a rotation of the record key, too, records open by the key that their wrap names.
func TestNewestRecordKeyWraps(t *testing.T) {
	v, public := readRecords(t)
	two := append(recordKeys(), entry{7, bytes.Repeat([]byte{0xa5}, 32)})
	k, err := unseal.OpenKeyring(testU(), wrapKeyring(t, plainKeyring([]entry{{1, v.PrivateKey}}, two)), testSet, testEpoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Purge)
	s := mustSeal(t, public, credentialHeader(), "x")
	older, newer := adopted(t, newKeyring(t), s), adopted(t, k, s)
	if newer.Key.KeyID != "record-key-7" {
		t.Errorf("wrapped under %s", newer.Key.KeyID)
	}
	r := newRecordKeys(t, k)
	for _, s := range []*seal.Sealed{older, newer} {
		if err := r.Open(s, func([]byte) error { return nil }); err != nil {
			t.Errorf("%s: %v", s.Key.KeyID, err)
		}
	}
	if err := newRecordKeys(t, newKeyring(t)).Open(newer, func([]byte) error { return nil }); !errors.Is(err, unseal.ErrUnknownKey) {
		t.Errorf("a keyring without the newer key: %v", err)
	}
}

func TestRewrap(t *testing.T) {
	_, public := readRecords(t)
	second := secondPublic(t)
	k := newKeyring(t)
	const secret = "the provider's secret key"
	s := mustSeal(t, public, credentialHeader(), secret)
	inWindow(t, k, func(w *unseal.Window) {
		wrap, err := w.Rewrap(s, second)
		if err != nil {
			t.Fatal(err)
		}
		moved := clone(s)
		moved.Key = *wrap
		if wrap.KeyID != second.ID() || wrap.Suite != seal.SuiteRSA3072 {
			t.Errorf("wrap = %+v", wrap)
		}
		if got, err := opened(w, moved); err != nil || string(got) != secret {
			t.Errorf("opened %q, %v", got, err)
		}
		moved.Header.Version = 2
		if _, err := opened(w, moved); !errors.Is(err, unseal.ErrOpen) {
			t.Errorf("as another version: %v", err)
		}
		broken := clone(s)
		broken.Message[0] ^= 1
		if _, err := w.Rewrap(broken, second); !errors.Is(err, unseal.ErrOpen) {
			t.Errorf("a record that does not open was wrapped: %v", err)
		}
	})
}

func BenchmarkOpenAdopted(b *testing.B) {
	_, public := readRecords(b)
	k := newKeyring(b)
	r := newRecordKeys(b, k)
	s := adopted(b, k, mustSeal(b, public, credentialHeader(), "the provider's secret key, of 40 bytes.."))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Open(s, func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
