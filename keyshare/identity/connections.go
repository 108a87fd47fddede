package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// farewell is how long a peer that is not enrolled any more keeps its connection:
// for the message that tells it so. Nothing but the TLS session is its own by then,
// because calls ask Trust.Peer.
const farewell = 250 * time.Millisecond

// Credentials makes gRPC credentials of ServerTLS's or ClientTLS's configuration.
// Beyond what that verifies at the handshake, a connection is closed, with every
// stream on it, as soon as its peer would not be let in any more: because a new
// manifest does not list it, or because its enrolment or session has ended.
func (t *Trust) Credentials(c *tls.Config) credentials.TransportCredentials {
	return &following{credentials.NewTLS(c), t, c.VerifyConnection}
}

type following struct {
	credentials.TransportCredentials
	trust  *Trust
	verify func(tls.ConnectionState) error
}

// ServerHandshake implements credentials.TransportCredentials.
func (f *following) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := f.TransportCredentials.ServerHandshake(raw)
	return f.follow(raw, conn, info, err)
}

// ClientHandshake implements credentials.TransportCredentials.
func (f *following) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := f.TransportCredentials.ClientHandshake(ctx, authority, raw)
	return f.follow(raw, conn, info, err)
}

// Clone implements credentials.TransportCredentials.
func (f *following) Clone() credentials.TransportCredentials {
	return &following{f.TransportCredentials.Clone(), f.trust, f.verify}
}

func (f *following) follow(raw, conn net.Conn, info credentials.AuthInfo, err error) (net.Conn, credentials.AuthInfo, error) {
	if err != nil {
		return conn, info, err
	}
	over, ok := info.(credentials.TLSInfo)
	if !ok {
		_ = conn.Close()
		return nil, nil, errors.New("not a TLS connection")
	}
	c := &followed{Conn: conn, closed: make(chan struct{})}
	go f.watch(raw, c, over.State)
	return c, info, nil
}

// watch ends with the connection, which gRPC closes in every case.
func (f *following) watch(raw net.Conn, c *followed, state tls.ConnectionState) {
	for {
		changed := f.trust.Changed()
		if f.verify(state) != nil {
			select {
			case <-time.After(farewell):
				// The raw connection: TLS would first wait for a peer that does not read.
				_ = raw.Close()
			case <-c.closed:
			}
			return
		}
		var ends <-chan time.Time
		if until := f.trust.until(state); !until.IsZero() {
			ends = f.trust.At(until)
		}
		select {
		case <-changed:
		case <-ends:
		case <-c.closed:
			return
		}
	}
}

// until is when the peer of a connection that verified ends by itself; zero: never.
func (t *Trust) until(cs tls.ConnectionState) time.Time {
	cert := cs.PeerCertificates[0]
	if p, ok := t.lookup(fingerprint(cert.RawSubjectPublicKeyInfo)); ok {
		return p.Until
	}
	return cert.NotAfter // an operator's
}

// followed says when it is closed.
type followed struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *followed) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
