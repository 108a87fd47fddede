package seal

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	rsaBits     = 3072
	rsaExponent = 65537
	pemType     = "PUBLIC KEY"
)

// ErrPublicKey is what [ParsePublicKey] and [NewPublicKey] fail with.
var ErrPublicKey = errors.New("seal: invalid public key")

// PublicKey is what records are sealed to: an RSA key of 3072 bits with exponent 65537.
type PublicKey struct {
	rsa *rsa.PublicKey
	der []byte // SubjectPublicKeyInfo
	id  string
}

// ParsePublicKey reads one PEM block "PUBLIC KEY" (PKIX, RFC 5280 §4.1) and
// nothing beside it.
func ParsePublicKey(data []byte) (*PublicKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(block.Headers) != 0 || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: not one PEM block of type %s", ErrPublicKey, pemType)
	}
	// pem.Decode skips what precedes the block.
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN "+pemType+"-----")) {
		return nil, fmt.Errorf("%w: text before the PEM block", ErrPublicKey)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	pub, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an RSA key", ErrPublicKey)
	}
	p, err := NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	// The id is a digest of the encoding, so a key has one encoding.
	if !bytes.Equal(p.der, block.Bytes) {
		return nil, fmt.Errorf("%w: not in canonical DER", ErrPublicKey)
	}
	return p, nil
}

// NewPublicKey accepts an RSA key of 3072 bits with exponent 65537.
func NewPublicKey(pub *rsa.PublicKey) (*PublicKey, error) {
	if pub == nil || pub.N == nil || pub.N.BitLen() != rsaBits || pub.E != rsaExponent {
		return nil, fmt.Errorf("%w: not RSA-%d with exponent %d", ErrPublicKey, rsaBits, rsaExponent)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	sum := sha256.Sum256(der)
	return &PublicKey{rsa: pub, der: der, id: hex.EncodeToString(sum[:])}, nil
}

// ID is the hex SHA-256 of the key's SubjectPublicKeyInfo.
func (p *PublicKey) ID() string { return p.id }

// PEM is the form that [ParsePublicKey] reads.
func (p *PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: p.der})
}
