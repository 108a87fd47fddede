package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// ServerTLS is the configuration of a server that accepts enrolled peers in the
// given roles and nobody else; with RoleOperator among them, operators' sessions too.
func ServerTLS(id *Identity, t *Trust, accept ...Role) *tls.Config {
	c := base(id)
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.verify(cs, "", accept...)
		return err
	}
	return c
}

// ClientTLS is the configuration of a client that talks to a peer enrolled in the
// given role and, unless name is empty, under that name.
func ClientTLS(id *Identity, t *Trust, role Role, name string) *tls.Config {
	c := base(id)
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.verify(cs, name, role)
		return err
	}
	return c
}

func base(id *Identity) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// Asked at each handshake: the identity's key may be replaced while it runs.
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.certificate(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.certificate(), nil },
		// There is no CA to verify a chain against: VerifyConnection decides, for every
		// connection, and no host name is involved. It is set wherever this is used.
		InsecureSkipVerify: true, //nolint:gosec // see above
		// VerifyConnection also runs on resumption, but with tickets a client could come
		// back for a week without proving its key again. Handshakes are rare here.
		SessionTicketsDisabled: true,
	}
}

func (id *Identity) certificate() *tls.Certificate { return &id.current.Load().certificate }

func spiffeID(role Role, name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "keybridge", Path: "/" + string(role) + "/" + name}
}

// newCertificate wraps the identity's key in a self-signed certificate. It carries
// no authority: nobody verifies its signature or its dates.
func newCertificate(role Role, name string, key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: string(role) + "/" + name},
		NotBefore:    time.Unix(0, 0),
		// "No well-defined expiration date", RFC 5280 §4.1.2.5: enrolment ends it, not a date.
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{spiffeID(role, name)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
