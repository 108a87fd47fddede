package translate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// handshakeTimeout bounds the TLS handshake of a client.
const handshakeTimeout = 15 * time.Second

// Certificate is what a listener proves itself with.
type Certificate struct {
	Chain []byte // PEM, the leaf first
	Key   []byte // PEM, not encrypted; a secret
}

// Leaf returns the certificate of the listener itself, or why Envoy would not
// take the pair: it serves RSA keys of at least 2048 bits and ECDSA keys on the
// NIST curves (ContextImpl, "only RSA … and ECDSA certificates").
func (c Certificate) Leaf() (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	if err != nil {
		return nil, err
	}
	switch pub := pair.Leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if pub.N.BitLen() < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits; Envoy wants 2048", pub.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() && pub.Curve != elliptic.P521() {
			return nil, fmt.Errorf("an ECDSA key on %s; Envoy wants P-256, P-384 or P-521", pub.Params().Name)
		}
	default:
		return nil, fmt.Errorf("a %s key; Envoy serves RSA and ECDSA", pair.Leaf.PublicKeyAlgorithm)
	}
	return pair.Leaf, nil
}

// secret carries a certificate to Envoy, under its name.
func secret(name string, c Certificate) (*tlsv3.Secret, error) {
	if name == "" {
		return nil, errors.New("it has no name")
	}
	if _, err := c.Leaf(); err != nil {
		return nil, err
	}
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(c.Chain),
		PrivateKey:       inline(c.Key),
	}}}, nil
}

// downstreamTLS serves HTTP/2 and HTTP/1.1 with the certificate of this name. It
// is a reference: a new certificate changes no listener, and so ends no connection.
func downstreamTLS(certificate string) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(&tlsv3.DownstreamTlsContext{
			RequireClientCertificate: wrapperspb.Bool(false),
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams: &tlsv3.TlsParameters{
					TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
					TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
				},
				AlpnProtocols: []string{"h2", "http/1.1"},
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
					Name: certificate,
					SdsConfig: &corev3.ConfigSource{
						ResourceApiVersion:    corev3.ApiVersion_V3,
						ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
						InitialFetchTimeout:   durationpb.New(0), // no listener without its certificate
					},
				}},
			},
		})},
	}
}
