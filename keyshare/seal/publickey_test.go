package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"

	"keybridge/keyshare/seal"
)

func TestParsePublicKeyRefuses(t *testing.T) {
	v := readVectors(t)
	private, _ := v.keys(t)
	good := []byte(v.PublicKey)
	spki := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	shorter := new(big.Int).Rsh(private.N, 1024)
	for name, data := range map[string][]byte{
		"empty":           nil,
		"not PEM":         []byte("hello"),
		"two keys":        append(bytes.Clone(good), good...),
		"text before":     append([]byte("issued to: me\n"), good...),
		"text after":      append(bytes.Clone(good), "and more"...),
		"other PEM type":  pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&private.PublicKey)}),
		"with headers":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"a": "b"}, Bytes: block.Bytes}),
		"private key":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: v.PrivateKey}),
		"broken DER":      pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: block.Bytes[:100]}),
		"DER with more":   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: append(bytes.Clone(block.Bytes), 0)}),
		"elliptic curve":  spki(&curve.PublicKey),
		"2048 bits":       spki(&rsa.PublicKey{N: shorter, E: 65537}),
		"small exponent":  spki(&rsa.PublicKey{N: private.N, E: 3}),
		"larger exponent": spki(&rsa.PublicKey{N: private.N, E: 65539}),
	} {
		if _, err := seal.ParsePublicKey(data); !errors.Is(err, seal.ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []*rsa.PublicKey{nil, {}, {N: shorter, E: 65537}} {
		if _, err := seal.NewPublicKey(key); !errors.Is(err, seal.ErrPublicKey) {
			t.Errorf("NewPublicKey: %v", err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	good := readVectors(f).PublicKey
	f.Add([]byte(good))
	f.Add([]byte(good + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := seal.ParsePublicKey(data)
		if err != nil {
			return
		}
		again, err := seal.ParsePublicKey(p.PEM())
		if err != nil || again.ID() != p.ID() || !bytes.Equal(again.PEM(), p.PEM()) {
			t.Fatalf("%q reads back as something else, %v", data, err)
		}
	})
}
