package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"keybridge/keyshare"
)

const (
	// maxSession bounds a session, made or met: a stolen one is worth a day at most.
	maxSession = 24 * time.Hour
	// sessionBack dates a session back, for hosts whose clocks are behind the operator's.
	sessionBack = 5 * time.Minute
)

// NewOperatorSession makes an identity for one run of an operator's command: a
// fresh key in memory, in a certificate that the operator root signs and that ends
// by itself after life, at most a day. It is not enrolled anywhere: whoever pins
// the root accepts it where RoleOperator is asked for.
func NewOperatorSession(root ed25519.PrivateKey, name string, life time.Duration) (*Identity, error) {
	if len(root) != ed25519.PrivateKeySize {
		return nil, errors.New("operator session: the root is not an Ed25519 private key")
	}
	if err := keyshare.CheckName(name); err != nil {
		return nil, fmt.Errorf("operator session: %w", err)
	}
	if life <= 0 || life > maxSession {
		return nil, fmt.Errorf("operator session: a life of %v, want more than 0 and at most %v", life, maxSession)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("operator session: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("operator session: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // not 0, RFC 5280 §4.1.2.2
		Subject:               pkix.Name{CommonName: string(RoleOperator) + "/" + name},
		NotBefore:             now.Add(-sessionBack),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{spiffeID(RoleOperator, name)},
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "keybridge operator root"}}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), root)
	if err != nil {
		return nil, fmt.Errorf("operator session: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("operator session: %w", err)
	}
	id := &Identity{role: RoleOperator, name: name}
	id.current.Store(&material{key: key, spki: spki, certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}})
	return id, nil
}

// claimsOperator says that a certificate wants to be judged as an operator's.
func claimsOperator(cert *x509.Certificate) bool {
	return len(cert.URIs) == 1 && strings.HasPrefix(cert.URIs[0].String(), spiffeID(RoleOperator, "").String())
}

// operator judges a certificate by the root's signature and its dates alone. The
// caller has made sure that its key is not enrolled.
func (t *Trust) operator(cert *x509.Certificate, key ed25519.PublicKey) (Peer, error) {
	refuse := func(why string) (Peer, error) {
		return Peer{}, fmt.Errorf("operator certificate %s: %w", why, ErrNotEnrolled)
	}
	// ed25519.Verify panics on a root of another size; such a root verifies nothing.
	if len(t.root) != ed25519.PublicKeySize || cert.SignatureAlgorithm != x509.PureEd25519 ||
		!ed25519.Verify(t.root, cert.RawTBSCertificate, cert.Signature) {
		return refuse("is not signed by the operator root")
	}
	name := strings.TrimPrefix(cert.URIs[0].String(), spiffeID(RoleOperator, "").String())
	now := t.now()
	switch {
	case keyshare.CheckName(name) != nil:
		return refuse("has no name")
	case cert.IsCA || len(cert.UnhandledCriticalExtensions) != 0:
		return refuse("is not that of a session")
	case key.Equal(t.root):
		return refuse("carries the root's own key, which is to stay offline")
	case now.Before(cert.NotBefore):
		return refuse("is not valid yet: compare the clocks of the hosts")
	case !now.Before(cert.NotAfter):
		return refuse("has expired")
	case cert.NotAfter.Sub(cert.NotBefore) > maxSession+sessionBack:
		return refuse("is valid for longer than a session may be")
	}
	return Peer{Role: RoleOperator, Name: name, SPKI: fingerprint(cert.RawSubjectPublicKeyInfo), Key: key, Until: cert.NotAfter}, nil
}
