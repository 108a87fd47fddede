package quorum

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare/release"
)

// handshake remembers how the last handshake of a connection went on our side: why
// it was refused, or with which key.
type handshake struct {
	config *tls.Config

	mu   sync.Mutex
	err  error
	spki string
}

// call runs f on a connection of its own. If our side refused the keeper, that is the
// error, since gRPC reports no more than a connection that did not come about.
func (h *handshake) call(addr string, f func(release.KeeperClient) error) error {
	verify := h.config.VerifyConnection
	h.config.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = err
		if err == nil {
			h.spki = fingerprint(cs)
		}
		return err
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(h.config)), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	err = f(release.NewKeeperClient(conn))
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && h.err != nil {
		return &untrustedError{h.err}
	}
	return err
}

// peer is the fingerprint of the key that the keeper proved to have: of the two that
// a manifest lists while an identity is replaced, the one in use.
func (h *handshake) peer() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spki
}

// fingerprint is that of a peer's certificate, which verification has found to be one.
func fingerprint(cs tls.ConnectionState) string {
	sum := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
