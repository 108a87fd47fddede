package release_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"keybridge/keyshare"
	"keybridge/keyshare/release"
)

// Fields must not run into each other: two transcripts that differ in any field differ in their bytes.
func TestTranscriptIsInjective(t *testing.T) {
	valid := func() *release.Transcript {
		return &release.Transcript{
			Nonce: make([]byte, release.NonceSize), Keeper: strings.Repeat("0a", 32),
			Set: "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11", Epoch: 1, Recipient: make([]byte, 32), Reason: "startup",
		}
	}
	changes := map[string]func(*release.Transcript){
		"nonce":     func(tr *release.Transcript) { tr.Nonce[0] = 1 },
		"keeper":    func(tr *release.Transcript) { tr.Keeper = strings.Repeat("0b", 32) },
		"set":       func(tr *release.Transcript) { tr.Set = "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a12" },
		"epoch":     func(tr *release.Transcript) { tr.Epoch = 2 },
		"recipient": func(tr *release.Transcript) { tr.Recipient[31] = 1 },
		"reason":    func(tr *release.Transcript) { tr.Reason = "startup " },
	}
	for name, change := range changes {
		tr := valid()
		change(tr)
		if bytes.Equal(tr.Bytes(), valid().Bytes()) {
			t.Errorf("another %s encodes the same", name)
		}
	}
}

func FuzzTranscript(f *testing.F) {
	tr := release.Transcript{
		Nonce: make([]byte, 32), Keeper: strings.Repeat("0a", 32), Set: "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11",
		Epoch: 1, Recipient: make([]byte, 32), Reason: "startup",
	}
	f.Add(tr.Bytes())
	f.Add([]byte("keybridge share release v1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := release.ParseTranscript(b)
		if err == nil && !bytes.Equal(tr.Bytes(), b) {
			t.Error("parsed, but encodes to other bytes")
		}
	})
}

// An acknowledgement that verifies says just what was signed: with any byte of it
// changed it does not.
func FuzzAcknowledgement(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // one that no keeper has, the same in each run
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	sum := sha256.Sum256(der)
	good := &release.Acknowledgement{
		Keeper: hex.EncodeToString(sum[:]), PublicKey: der, Set: "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11", Epoch: 2, Version: 3,
	}
	good.Signature = ed25519.Sign(key, keyshare.Transcript(release.AcknowledgementDomain, good.Transcript()))
	if err := good.Verify(); err != nil {
		f.Fatal(err)
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(wire[:len(wire)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var a release.Acknowledgement
		if err := proto.Unmarshal(b, &a); err != nil || a.Verify() != nil {
			return
		}
		if !bytes.Equal(a.Transcript(), good.Transcript()) || !bytes.Equal(a.GetSignature(), good.GetSignature()) {
			t.Error("verified, and is not what was signed")
		}
	})
}
