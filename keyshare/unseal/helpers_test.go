package unseal_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"testing"

	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

const (
	testSet   = "0f6fd7a4-1c47-4a4e-9c0c-5b5a0c1d2e3f"
	testEpoch = 7
)

// testU is a fixed unseal key; every call returns a copy, as callers wipe theirs.
func testU() []byte {
	u := sha256.Sum256([]byte("the unseal key of the test vectors"))
	return u[:]
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// sealVectors is what these tests need of the seal package's frozen records.
type sealVectors struct {
	PrivateKey hexBytes
	PublicKey  string
	Records    []struct {
		Name      string
		Plaintext hexBytes
		Binary    hexBytes
	}
}

func readJSON[T any](t testing.TB, path string) T {
	t.Helper()
	var v T
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func readRecords(t testing.TB) (sealVectors, *seal.PublicKey) {
	t.Helper()
	v := readJSON[sealVectors](t, "../seal/testdata/records-v1.json")
	public, err := seal.ParsePublicKey([]byte(v.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v, public
}

// secondKey is another sealing key, made once for all tests.
var secondKey = sync.OnceValue(func() []byte {
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return der
})

// entry is one key of a keyring's plaintext.
type entry struct {
	version uint32
	value   []byte
}

// plainKeyring and wrapKeyring are written from the package comment, not with
// the package, so that the documentation is what the format is.
func plainKeyring(sealing, records []entry) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(sealing)))
	for _, e := range sealing {
		b = binary.BigEndian.AppendUint32(b, e.version)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.value)))
		b = append(b, e.value...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(records)))
	for _, e := range records {
		b = binary.BigEndian.AppendUint32(b, e.version)
		b = append(b, e.value...)
	}
	return b
}

func lengthPrefixed(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func wrapKeyring(t testing.TB, plain []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(testU())
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 12)
	if _, err := rand.Read(iv); err != nil {
		t.Fatal(err)
	}
	aad := append(lengthPrefixed("keybridge keyring v1"), lengthPrefixed(testSet)...)
	aad = binary.BigEndian.AppendUint64(aad, testEpoch)
	head := append(lengthPrefixed("keybridge keyring"), 0, 1)
	return gcm.Seal(append(head, iv...), iv, plain, aad)
}

func recordKeys() []entry { return []entry{{1, bytes.Repeat([]byte{0x5a}, 32)}} }

// newKeyring holds the key of the frozen records and a second one.
func newKeyring(t testing.TB) *unseal.Keyring {
	t.Helper()
	v, _ := readRecords(t)
	k, err := unseal.OpenKeyring(testU(), wrapKeyring(t, plainKeyring([]entry{{1, v.PrivateKey}, {2, secondKey()}}, recordKeys())), testSet, testEpoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Purge)
	return k
}

// inWindow runs f in a window of k.
func inWindow(t testing.TB, k *unseal.Keyring, f func(w *unseal.Window)) {
	t.Helper()
	if err := k.Window(context.Background(), func(w *unseal.Window) error { f(w); return nil }); err != nil {
		t.Fatal(err)
	}
}

func opened(w *unseal.Window, s *seal.Sealed) ([]byte, error) {
	var plain []byte
	err := w.Open(s, func(b []byte) error { plain = bytes.Clone(b); return nil })
	return plain, err
}

func credentialHeader() seal.Header {
	return seal.Header{
		Format:    1,
		Workspace: "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d001",
		Type:      seal.TypeCredential,
		Record:    "9a1de644-815e-46d1-bb8f-aa1837f8a002",
		Version:   1,
		Binding: seal.Binding{
			Use: seal.UseS3, Key: "AKIDEXAMPLE", Scheme: "https", Host: "s3.example.com", Port: 443,
			CA: seal.CADigest([]byte("a CA bundle")), Scope: "my-bucket",
		},
	}
}

func mustSeal(t testing.TB, public *seal.PublicKey, h seal.Header, plain string) *seal.Sealed {
	t.Helper()
	s, err := seal.Seal(public, h, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// clone makes a deep copy.
func clone(s *seal.Sealed) *seal.Sealed {
	c := *s
	c.Key.Value = bytes.Clone(s.Key.Value)
	c.IV = bytes.Clone(s.IV)
	c.AuthTag = bytes.Clone(s.AuthTag)
	c.Message = bytes.Clone(s.Message)
	return &c
}
