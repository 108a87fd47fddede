package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
)

// Records of format 1 must open for as long as backups live: the vectors are
// frozen, and -update is for adding to them before a release, not for making a
// failing test pass.
var update = flag.Bool("update", false, "rewrite testdata with new keys and ciphertexts")

const vectorFile = "testdata/records-v1.json"

// vectors is the content of vectorFile. Sealing is randomised, so they fix what
// opens, and the encodings. The unseal package opens the same records.
type vectors struct {
	Comment    string   `json:"comment"`
	PrivateKey hexBytes `json:"privateKey"` // PKCS #8, made for this file alone
	PublicKey  string   `json:"publicKey"`
	KeyID      string   `json:"keyId"`
	Records    []vector `json:"records"`
}

type vector struct {
	Name      string      `json:"name"`
	Canonical hexBytes    `json:"canonicalHeader"`
	Plaintext hexBytes    `json:"plaintext"`
	Binary    hexBytes    `json:"binary"`
	JSON      seal.Sealed `json:"json"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
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

func keyHeader() seal.Header {
	return seal.Header{
		Format:    1,
		Workspace: "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d001",
		Type:      seal.TypeRepositoryKey,
		Record:    "e4b3b9a5-0d6b-4f0e-8f5b-3f0d1a2b3003",
		Version:   2,
		Binding:   seal.Binding{Use: seal.UseAIKey, Key: "kbid0001", Repository: "0f3a1a5c-7d52-4b87-a5f9-6a43ea2bd004"},
	}
}

func withBinding(h seal.Header, change func(b *seal.Binding)) seal.Header {
	change(&h.Binding)
	return h
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vectors) keys(t testing.TB) (*rsa.PrivateKey, *seal.PublicKey) {
	t.Helper()
	private, err := x509.ParsePKCS8PrivateKey(v.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	public, err := seal.ParsePublicKey([]byte(v.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return private.(*rsa.PrivateKey), public
}

// open is written from the package comment, not with the package, so that the
// documentation is what the format is.
func open(private *rsa.PrivateKey, s *seal.Sealed) ([]byte, error) {
	h := s.Header.Canonical()
	label := append(bytes.Clone(h), byte(s.Key.Suite>>8), byte(s.Key.Suite), 0, 64)
	label = append(label, s.Key.KeyID...)
	dek, err := rsa.DecryptOAEP(sha256.New(), nil, private, s.Key.Value, label)
	if err != nil {
		return nil, err
	}
	if len(dek) != 32 {
		return nil, errors.New("wrong length of the key")
	}
	block, err := aes.NewCipher(dek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, s.IV, append(bytes.Clone(s.Message), s.AuthTag...), h)
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := readVectors(t)
	private, public := v.keys(t)
	if public.ID() != v.KeyID {
		t.Errorf("key id %s, want %s", public.ID(), v.KeyID)
	}
	if got := string(public.PEM()); got != v.PublicKey {
		t.Errorf("PEM:\n%s", got)
	}
	for _, want := range v.Records {
		t.Run(want.Name, func(t *testing.T) {
			var got seal.Sealed
			if err := got.UnmarshalBinary(want.Binary); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.JSON, got); diff != "" {
				t.Errorf("binary and JSON differ: %s", diff)
			}
			if diff := cmp.Diff([]byte(want.Canonical), got.Header.Canonical()); diff != "" {
				t.Errorf("canonical header: %s", diff)
			}
			if again, err := got.MarshalBinary(); err != nil || !bytes.Equal(again, want.Binary) {
				t.Errorf("MarshalBinary differs, %v", err)
			}
			if plain, err := open(private, &got); err != nil || !bytes.Equal(plain, want.Plaintext) {
				t.Errorf("opened %q, %v", plain, err)
			}
		})
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := seal.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	v := vectors{
		Comment:    "Frozen vectors of record format 1. The key was made for this file and protects nothing.",
		PrivateKey: der, PublicKey: string(public.PEM()), KeyID: public.ID(),
	}
	for _, r := range []struct {
		name      string
		header    seal.Header
		plaintext []byte
	}{
		{"s3 credential with CA", credentialHeader(), []byte("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")},
		{"s3 credential, whole account, http, IPv6", withBinding(credentialHeader(), func(b *seal.Binding) {
			b.Scheme, b.Host, b.Port, b.CA, b.Scope = "http", "::1", 9000, "", "*"
		}), []byte("minioadmin")},
		{"openai credential", withBinding(credentialHeader(), func(b *seal.Binding) {
			b.Use, b.Key, b.Host, b.CA, b.Scope = seal.UseOpenAI, "", "api.openai.com", "", "/v1"
		}), []byte("sk-example")},
		{"s3 repository key", withBinding(keyHeader(), func(b *seal.Binding) {
			b.Use, b.Key = seal.UseS3Key, "KB0123456789ABCDEFGH"
		}), []byte("0123456789abcdefghijklmnopqrstuvwxyzABCD")},
		{"ai repository key", keyHeader(), bytes.Repeat([]byte{0xd1}, 32)},
		{"one byte", keyHeader(), []byte{0}},
	} {
		s, err := seal.Seal(public, r.header, r.plaintext)
		if err != nil {
			t.Fatal(err)
		}
		binary, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		v.Records = append(v.Records, vector{r.name, r.header.Canonical(), r.plaintext, binary, *s})
	}
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
