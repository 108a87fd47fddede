package unseal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"os"
	"testing"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

const secondWrapFile = "testdata/second-wraps-v1.json"

// secondWrap is a frozen record of keyshare/seal with its second wrap, of suite 3.
type secondWrap struct {
	Name      string
	RecordKey hexBytes // version 1
	Plaintext hexBytes
	Binary    hexBytes
	JSON      seal.Sealed
}

func TestSecondWrapVectors(t *testing.T) {
	if *update {
		writeSecondWraps(t)
	}
	k := newKeyring(t)
	arena, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arena.Purge)
	keys, err := k.RecordKeys(arena)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range readJSON[[]secondWrap](t, secondWrapFile) {
		t.Run(v.Name, func(t *testing.T) {
			var s seal.Sealed
			if err := s.UnmarshalBinary(v.Binary); err != nil {
				t.Fatal(err)
			}
			if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, v.Binary) {
				t.Errorf("MarshalBinary differs, %v", err)
			}
			if again, err := v.JSON.MarshalBinary(); err != nil || !bytes.Equal(again, v.Binary) {
				t.Errorf("JSON and binary differ, %v", err)
			}
			var plain []byte
			if err := keys.Open(&s, func(b []byte) error { plain = bytes.Clone(b); return nil }); err != nil || !bytes.Equal(plain, v.Plaintext) {
				t.Errorf("opened %q, %v", plain, err)
			}
			if plain, err := openSecondWrap(v.RecordKey, &s); err != nil || !bytes.Equal(plain, v.Plaintext) {
				t.Errorf("as documented: opened %q, %v", plain, err)
			}
		})
	}
}

// openSecondWrap is written from the comment of seal.SuiteRecordKey.
func openSecondWrap(key []byte, s *seal.Sealed) ([]byte, error) {
	gcm := func(key []byte) cipher.AEAD {
		block, err := aes.NewCipher(key)
		if err != nil {
			panic(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			panic(err)
		}
		return gcm
	}
	h := s.Header.Canonical()
	label := append(append(bytes.Clone(h), 0, 3), lengthPrefixed("record-key-1")...)
	dek, err := gcm(key).Open(nil, s.Key.Value[:12], s.Key.Value[12:], label)
	if err != nil {
		return nil, err
	}
	return gcm(dek).Open(nil, s.IV, append(bytes.Clone(s.Message), s.AuthTag...), h)
}

func writeSecondWraps(t *testing.T) {
	t.Helper()
	var all []secondWrap
	records, _ := readRecords(t)
	inWindow(t, newKeyring(t), func(w *unseal.Window) {
		for _, r := range records.Records {
			var s seal.Sealed
			if err := s.UnmarshalBinary(r.Binary); err != nil {
				t.Fatal(err)
			}
			wrap, err := w.Adopt(&s, func([]byte) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			s.Key = *wrap
			binary, err := s.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, secondWrap{r.Name, recordKeys()[0].value, r.Plaintext, binary, s})
		}
	})
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secondWrapFile, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
