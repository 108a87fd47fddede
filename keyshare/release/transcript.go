package release

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"keybridge/keyshare"
)

// Domain is the domain of a bridge's signature on a release request.
const Domain = "keybridge share release v1"

const (
	// NonceSize is the length of a challenge in bytes.
	NonceSize     = 32
	recipientSize = 32 // X25519 public key, RFC 9180 §7.1
	maxReason     = 200
)

// Transcript is everything that a release request says, and to whom. The bridge
// signs its encoding, the keeper logs it, and the share is sealed with it as HPKE
// info, so that question and answer cannot be separated.
type Transcript struct {
	// Nonce is the keeper's challenge.
	Nonce []byte
	// Keeper is the SPKI fingerprint of the keeper that is asked.
	Keeper string
	// Set and Epoch say which share.
	Set   string
	Epoch uint64
	// Recipient is the HPKE public key to seal to.
	Recipient []byte
	// Reason is for the keeper's people: one line of at most 200 bytes.
	Reason string
}

// Bytes is the injective encoding of the transcript (keyshare.Transcript).
func (t *Transcript) Bytes() []byte {
	return keyshare.Transcript(Domain, t.Nonce, []byte(t.Keeper), []byte(t.Set),
		keyshare.Uint64(t.Epoch), t.Recipient, []byte(t.Reason))
}

// Validate checks the form of every field.
func (t *Transcript) Validate() error {
	switch {
	case len(t.Nonce) != NonceSize:
		return fmt.Errorf("nonce of %d bytes, want %d", len(t.Nonce), NonceSize)
	case t.Epoch == 0:
		return errors.New("epoch 0")
	case len(t.Recipient) != recipientSize:
		return fmt.Errorf("recipient of %d bytes, want %d", len(t.Recipient), recipientSize)
	case t.Reason == "" || len(t.Reason) > maxReason || !utf8.ValidString(t.Reason) ||
		strings.ContainsFunc(t.Reason, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("reason is not one line of 1 to %d bytes", maxReason)
	}
	if err := checkFingerprint(t.Keeper); err != nil {
		return err
	}
	return checkSet(t.Set)
}

// ParseTranscript is the inverse of Bytes; it accepts valid transcripts only.
func ParseTranscript(b []byte) (*Transcript, error) {
	f, err := keyshare.ParseTranscript(b, Domain, 6)
	if err != nil {
		return nil, fmt.Errorf("release transcript: %w", err)
	}
	if len(f[3]) != 8 {
		return nil, errors.New("release transcript: epoch is not 8 bytes")
	}
	t := &Transcript{
		Nonce: bytes.Clone(f[0]), Keeper: string(f[1]), Set: string(f[2]),
		Epoch: binary.BigEndian.Uint64(f[3]), Recipient: bytes.Clone(f[4]), Reason: string(f[5]),
	}
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("release transcript: %w", err)
	}
	return t, nil
}
