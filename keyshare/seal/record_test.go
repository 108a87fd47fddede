package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
)

func TestSeal(t *testing.T) {
	private, public := readVectors(t).keys(t)
	for _, n := range []int{1, 32, 4096, seal.MaxPlaintext} {
		plain := bytes.Repeat([]byte{'p'}, n)
		s, err := seal.Seal(public, credentialHeader(), plain)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		if got, err := open(private, s); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: opened %d, %v", n, len(got), err)
		}
		if !bytes.Equal(plain, bytes.Repeat([]byte{'p'}, n)) {
			t.Error("the caller's plaintext was changed")
		}
		if n > 16 && bytes.Contains(s.Message, plain[:16]) {
			t.Error("plaintext in the message")
		}
	}
}

// Same input, nothing in common: a repeated key or nonce would show here.
func TestSealIsRandomised(t *testing.T) {
	_, public := readVectors(t).keys(t)
	seen := map[string]bool{}
	for range 20 {
		s, err := seal.Seal(public, keyHeader(), []byte("the same 32 bytes every time ...."))
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]byte{s.Key.Value, s.IV, s.AuthTag, s.Message} {
			if seen[string(part)] {
				t.Fatal("a value was used twice")
			}
			seen[string(part)] = true
		}
	}
}

func TestSealRefuses(t *testing.T) {
	_, public := readVectors(t).keys(t)
	if _, err := seal.Seal(public, seal.Header{}, []byte("x")); !errors.Is(err, seal.ErrHeader) {
		t.Errorf("invalid header: %v", err)
	}
	for _, n := range []int{0, seal.MaxPlaintext + 1} {
		if _, err := seal.Seal(public, keyHeader(), make([]byte, n)); err == nil {
			t.Errorf("sealed %d bytes", n)
		}
	}
}

func TestValidateRecord(t *testing.T) {
	for name, change := range map[string]func(s *seal.Sealed){
		"header":        func(s *seal.Sealed) { s.Header.Version = 0 },
		"suite 0":       func(s *seal.Sealed) { s.Key.Suite = 0 },
		"suite, HPKE":   func(s *seal.Sealed) { s.Key.Suite = seal.SuiteReservedHPKE },
		"key id":        func(s *seal.Sealed) { s.Key.KeyID = strings.ToUpper(s.Key.KeyID) },
		"key id, short": func(s *seal.Sealed) { s.Key.KeyID = s.Key.KeyID[2:] },
		"wrap, short":   func(s *seal.Sealed) { s.Key.Value = s.Key.Value[1:] },
		"wrap missing":  func(s *seal.Sealed) { s.Key.Value = nil },
		"iv":            func(s *seal.Sealed) { s.IV = make([]byte, 16) },
		"tag, short":    func(s *seal.Sealed) { s.AuthTag = s.AuthTag[:12] },
		"message empty": func(s *seal.Sealed) { s.Message = nil },
		"message long":  func(s *seal.Sealed) { s.Message = make([]byte, seal.MaxPlaintext+1) },
	} {
		s := readVectors(t).Records[0].JSON
		change(&s)
		if err := s.Validate(); !errors.Is(err, seal.ErrRecord) && !errors.Is(err, seal.ErrHeader) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.MarshalBinary(); err == nil {
			t.Errorf("%s: marshalled", name)
		}
	}
}

func TestUnmarshalIsStrict(t *testing.T) {
	good := []byte(readVectors(t).Records[0].Binary)
	for n := range good {
		s := seal.Sealed{IV: []byte("untouched")}
		if err := s.UnmarshalBinary(good[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(good))
		}
		if diff := cmp.Diff(seal.Sealed{IV: []byte("untouched")}, s); diff != "" {
			t.Fatalf("a failure changed the record: %s", diff)
		}
	}
	var s seal.Sealed
	if err := s.UnmarshalBinary(append(bytes.Clone(good), 0)); !errors.Is(err, seal.ErrRecord) {
		t.Errorf("trailing byte: %v", err)
	}

	// The record does not keep the buffer that it came from.
	data := bytes.Clone(good)
	if err := s.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, good) {
		t.Errorf("the record changed with its source, %v", err)
	}
}

func FuzzUnmarshalBinary(f *testing.F) {
	v := readVectors(f)
	for _, r := range v.Records {
		f.Add([]byte(r.Binary))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var s seal.Sealed
		if s.UnmarshalBinary(data) != nil {
			return
		}
		again, err := s.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, writes %x, %v", data, again, err)
		}
		// The JSON form carries the same record.
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON seal.Sealed
		if err := json.Unmarshal(raw, &fromJSON); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, fromJSON); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	_, public := readVectors(b).keys(b)
	plain, h := make([]byte, 40), credentialHeader()
	for b.Loop() {
		if _, err := seal.Seal(public, h, plain); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzJSON reads records as the admin API does: what it takes is the record whose
// binary form comes back byte for byte.
func FuzzJSON(f *testing.F) {
	for _, v := range readVectors(f).Records {
		b, err := json.Marshal(v.JSON)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"header":{"format":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s seal.Sealed
		if json.Unmarshal(b, &s) != nil || s.Validate() != nil {
			return
		}
		binary, err := s.MarshalBinary()
		if err != nil {
			t.Fatalf("valid, but has no binary form: %v", err)
		}
		var again seal.Sealed
		if err := again.UnmarshalBinary(binary); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Errorf("comes back as another record: %s", diff)
		}
	})
}
