package keyshare

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrSignature means that a document is not what the operator root signed.
var ErrSignature = errors.New("signature does not verify under the operator root")

// signatureDomain precedes the payload in what is signed. The root signs nothing
// else today; the prefix keeps it that way for whatever it signs tomorrow.
const signatureDomain = "keybridge manifest v1\n"

// maxSigned bounds the documents that are parsed at all. A keeper entry takes
// 200 bytes and a bridge with 100 workspaces 4 KiB: this is room for thousands.
const maxSigned = 4 << 20

// Signed is a manifest in transit and at rest: the exact payload bytes and the
// root's Ed25519 signature over "keybridge manifest v1\n" ‖ payload. The payload
// is carried as bytes so that what was signed is what is verified, whatever a
// store or a proxy does to JSON.
type Signed struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// Sign validates m and signs it. Creation time is cut to whole seconds in UTC.
func Sign(root ed25519.PrivateKey, m *Manifest) (*Signed, error) {
	if len(root) != ed25519.PrivateKeySize {
		return nil, errors.New("sign manifest: not an Ed25519 private key")
	}
	c := *m
	c.CreatedAt = m.CreatedAt.UTC().Truncate(time.Second)
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("sign manifest: %w", err)
	}
	payload, err := json.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("sign manifest: %w", err)
	}
	return &Signed{Payload: payload, Signature: ed25519.Sign(root, append([]byte(signatureDomain), payload...))}, nil
}

// Verify checks the JSON of a Signed against the root and parses its manifest:
// the signature first, the content only after, so that no parser of content ever
// sees bytes that the operator did not sign.
func Verify(root ed25519.PublicKey, signed []byte) (*Manifest, error) {
	if len(root) != ed25519.PublicKeySize {
		return nil, errors.New("verify manifest: the operator root is not an Ed25519 public key")
	}
	if len(signed) > maxSigned {
		return nil, fmt.Errorf("verify manifest: %d bytes are more than any manifest has", len(signed))
	}
	var s Signed
	if err := parseCanonical(signed, &s); err != nil {
		return nil, fmt.Errorf("verify manifest: %w", err)
	}
	if len(s.Signature) != ed25519.SignatureSize ||
		!ed25519.Verify(root, append([]byte(signatureDomain), s.Payload...), s.Signature) {
		return nil, fmt.Errorf("verify manifest: %w", ErrSignature)
	}
	m, err := ParseManifest(s.Payload)
	if err != nil {
		return nil, fmt.Errorf("verify manifest: %w", err)
	}
	return m, nil
}

// ParseManifest reads the payload of a manifest that nobody has signed yet, as a
// ceremony hands it to keepers, by the rules that hold for signed ones. Who calls it
// knows from elsewhere whom the payload is from, and puts nothing into force by it.
func ParseManifest(payload []byte) (*Manifest, error) {
	if len(payload) > maxSigned {
		return nil, fmt.Errorf("%d bytes are more than any manifest has", len(payload))
	}
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(payload, &format); err == nil && format.Format != ManifestFormat {
		// Said before the strict parse, which would stumble over a newer format's fields.
		return nil, fmt.Errorf("format %d is not known to this version of keybridge", format.Format)
	}
	m := new(Manifest)
	if err := parseCanonical(payload, m); err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// parseCanonical decodes JSON and refuses every spelling but the one that
// encoding/json produces for the value: unknown, repeated or differently-cased
// names, other number forms and trailing data all change the re-encoding. White
// space around the document, such as a file's last newline, is let pass.
func parseCanonical(b []byte, v any) error {
	b = bytes.TrimSpace(b)
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	again, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if !bytes.Equal(b, again) {
		return errors.New("parse: not the canonical encoding")
	}
	return nil
}
