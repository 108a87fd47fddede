package release_test

import (
	"bytes"
	"strings"
	"testing"

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
