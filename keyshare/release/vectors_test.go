package release_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
	"keybridge/keyshare/release"
)

var update = flag.Bool("update", false, "rewrite testdata with new keys, before a release only")

const vectorFile = "testdata/release-v1.json"

// releaseVector is what a bridge signs and a keeper logs, in its one encoding, and a
// share that was sealed for it.
type releaseVector struct {
	Comment    string
	Transcript release.Transcript
	Bytes      string // hex
	Recipient  string // private half of Transcript.Recipient, hex
	Share      string // hex
	Sealed     string // hex: encapsulated key, ciphertext
}

func TestReleaseVector(t *testing.T) {
	if *update {
		writeReleaseVector(t)
	}
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v releaseVector
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	want := unhex(t, v.Bytes)
	if got := v.Transcript.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("encoded as %x", got)
	}
	parsed, err := release.ParseTranscript(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&v.Transcript, parsed); diff != "" {
		t.Error(diff)
	}
	key, err := keyshare.ParseRecipient(unhex(t, v.Recipient))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.PublicKey().Bytes(), v.Transcript.Recipient) {
		t.Error("the recipient is another key's")
	}
	if share, err := keyshare.OpenShare(key, want, unhex(t, v.Sealed)); err != nil || !bytes.Equal(share, unhex(t, v.Share)) {
		t.Errorf("the share does not open: %v", err)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeReleaseVector(t *testing.T) {
	t.Helper()
	key, err := keyshare.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	share := bytes.Repeat([]byte{0x17}, keyshare.ShareSize)
	v := releaseVector{
		Comment: "Frozen vector of a share's release. The key was made for this file and protects nothing.",
		Transcript: release.Transcript{
			Nonce: bytes.Repeat([]byte{3}, release.NonceSize), Keeper: hex.EncodeToString(bytes.Repeat([]byte{0xa1}, 32)),
			Set: "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11", Epoch: 258, Recipient: key.PublicKey().Bytes(), Reason: "startup",
		},
		Recipient: hex.EncodeToString(private), Share: hex.EncodeToString(share),
	}
	v.Bytes = hex.EncodeToString(v.Transcript.Bytes())
	sealed, err := keyshare.SealShare(v.Transcript.Recipient, v.Transcript.Bytes(), share)
	if err != nil {
		t.Fatal(err)
	}
	v.Sealed = hex.EncodeToString(sealed)
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
