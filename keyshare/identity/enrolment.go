package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"keybridge/keyshare"
)

const (
	enrolmentFormat = 1
	enrolmentDomain = "keybridge enrolment v1"
	maxEnrolment    = 4096
	recipientSize   = 32 // X25519 public key, RFC 9180 §7.1
)

// Enrolment is a process's application to be listed in the manifest. Its
// signature proves that the applicant has the key and meant this role, name and
// recipient; it does not prove who the applicant is. For that the operator
// compares Fingerprint with what the applicant's own console printed.
type Enrolment struct {
	Format int    `json:"format"`
	Role   Role   `json:"role"`
	Name   string `json:"name"`
	// PublicKey is the DER SubjectPublicKeyInfo of the identity.
	PublicKey []byte `json:"publicKey"`
	// Recipient is, for keepers, the HPKE public key that their share is sealed to.
	Recipient []byte `json:"recipient,omitempty"`
	// Replaces is, of a next identity, the fingerprint of the one before it: once that
	// is not in force any more, an old enrolment does not bring back an old key.
	Replaces  string `json:"replaces,omitempty"`
	Signature []byte `json:"signature"`
}

// Enrolment makes the identity's application. Keepers give the recipient of their
// share; the other roles have none.
func (id *Identity) Enrolment(recipient []byte) (Enrolment, error) {
	e := Enrolment{
		Format: enrolmentFormat, Role: id.role, Name: id.name,
		PublicKey: bytes.Clone(id.current.Load().spki), Recipient: bytes.Clone(recipient), Replaces: id.replaces,
	}
	e.Signature = id.Sign(enrolmentDomain, e.transcript())
	if err := e.Validate(); err != nil {
		return Enrolment{}, err
	}
	return e, nil
}

// Fingerprint is the digest of the public key, as Identity.Fingerprint gives it.
func (e *Enrolment) Fingerprint() string { return fingerprint(e.PublicKey) }

// ParseEnrolment reads the JSON of an Enrolment, strictly, and checks its
// signature.
func ParseEnrolment(b []byte) (Enrolment, error) {
	if len(b) > maxEnrolment {
		return Enrolment{}, errors.New("enrolment: too long")
	}
	b = bytes.TrimSpace(b)
	var e Enrolment
	if err := json.Unmarshal(b, &e); err != nil {
		return Enrolment{}, fmt.Errorf("enrolment: %w", err)
	}
	if again, err := json.Marshal(e); err != nil || !bytes.Equal(b, again) {
		// Unknown, repeated or oddly spelled members: two readers could differ on what it says.
		return Enrolment{}, errors.New("enrolment: not the canonical encoding")
	}
	if err := e.Validate(); err != nil {
		return Enrolment{}, err
	}
	return e, nil
}

// Validate checks an enrolment, its signature included.
func (e *Enrolment) Validate() error {
	if e.Format != enrolmentFormat {
		return fmt.Errorf("enrolment: format %d is not known to this version of keybridge", e.Format)
	}
	if err := e.Role.check(); err != nil {
		return fmt.Errorf("enrolment: %w", err)
	}
	if err := keyshare.CheckName(e.Name); err != nil {
		return fmt.Errorf("enrolment: %w", err)
	}
	want := 0
	if e.Role == RoleKeeper {
		want = recipientSize
	}
	if len(e.Recipient) != want {
		return fmt.Errorf("enrolment of %s %s: recipient of %d bytes, want %d", e.Role, e.Name, len(e.Recipient), want)
	}
	key, err := parseSPKI(e.PublicKey)
	if err != nil {
		return fmt.Errorf("enrolment of %s %s: %w", e.Role, e.Name, err)
	}
	if !verify(key, enrolmentDomain, e.transcript(), e.Signature) {
		return fmt.Errorf("enrolment of %s %s: signature does not verify", e.Role, e.Name)
	}
	return nil
}

func (e *Enrolment) transcript() []byte {
	fields := [][]byte{keyshare.Uint64(uint64(e.Format)), []byte(e.Role), []byte(e.Name), e.PublicKey, e.Recipient}
	if e.Replaces != "" {
		fields = append(fields, []byte(e.Replaces))
	}
	return keyshare.Transcript(enrolmentDomain, fields...)
}

func verify(key ed25519.PublicKey, domain string, msg, sig []byte) bool {
	return len(key) == ed25519.PublicKeySize && len(sig) == ed25519.SignatureSize &&
		ed25519.Verify(key, keyshare.Transcript(domain, msg), sig)
}
