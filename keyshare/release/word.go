package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"keybridge/keyshare"
)

// AcknowledgementDomain is the domain of a keeper's signature on an Acknowledgement.
const AcknowledgementDomain = "keybridge acknowledgement v1"

// proofDomain is that of a share's signature on a nonce.
const proofDomain = "keybridge share proof v1"

// Transcript is what the keeper's identity signs of an acknowledgement.
func (a *Acknowledgement) Transcript() []byte {
	return keyshare.Transcript(AcknowledgementDomain, []byte(a.GetKeeper()), []byte(a.GetSet()),
		keyshare.Uint64(a.GetEpoch()), keyshare.Uint64(a.GetVersion()))
}

// Verify checks the form of an acknowledgement and that the key in it, whose digest
// the keeper's fingerprint is, signed it. Whether a manifest lists that fingerprint as
// a keeper's is for the caller to look up.
func (a *Acknowledgement) Verify() error {
	if err := checkFingerprint(a.GetKeeper()); err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	if err := checkSet(a.GetSet()); err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	if a.GetEpoch() == 0 || a.GetVersion() < a.GetEpoch() {
		return errors.New("acknowledgement: want 1 ≤ epoch ≤ version")
	}
	// The digest pins every byte of the encoding, so that no other spelling of the key passes.
	if sum := sha256.Sum256(a.GetPublicKey()); hex.EncodeToString(sum[:]) != a.GetKeeper() {
		return errors.New("acknowledgement: its public key is not the keeper's that it names")
	}
	key, err := x509.ParsePKIXPublicKey(a.GetPublicKey())
	if err != nil {
		return fmt.Errorf("acknowledgement: public key: %w", err)
	}
	public, ok := key.(ed25519.PublicKey)
	// The form of identity.Identity.Sign, which this package cannot import.
	if !ok || !ed25519.Verify(public, keyshare.Transcript(AcknowledgementDomain, a.Transcript()), a.GetSignature()) {
		return fmt.Errorf("acknowledgement of keeper %s: its signature does not verify", a.GetKeeper())
	}
	return nil
}

// ProofTranscript is what the key derived from a share signs, to prove that the
// keeper of this fingerprint has the share of this set and epoch now.
func ProofTranscript(keeper, set string, epoch uint64, nonce []byte) []byte {
	return keyshare.Transcript(proofDomain, []byte(keeper), []byte(set), keyshare.Uint64(epoch), nonce)
}

func checkFingerprint(s string) error {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return errors.New("keeper is not a fingerprint")
	}
	return nil
}

func checkSet(s string) error {
	if u, err := uuid.Parse(s); err != nil || u.String() != s {
		return errors.New("set is not a UUID")
	}
	return nil
}
