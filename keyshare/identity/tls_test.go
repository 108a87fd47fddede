package identity_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// handshake runs a TLS handshake between two configurations over loopback and
// exchanges a byte, since in TLS 1.3 a client learns of its refusal only then.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = s.Write([]byte{1})
		done <- err
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	return <-done, err
}

func TestMutualTLS(t *testing.T) {
	h := newHouse(t)
	stranger := create(t, identity.RoleBridge, "bridge-1") // right role and name, another key
	renamed := create(t, identity.RoleBridge, "bridge-9")
	h.manifest.Bridges = append(h.manifest.Bridges, keyshare.Bridge{Name: "bridge-2", SPKI: renamed.Fingerprint(), Workspaces: []string{"*"}})
	tr := h.trust(t)
	keeperServer := func() *tls.Config { return identity.ServerTLS(h.keeper, tr, identity.RoleBridge) }
	tests := []struct {
		name               string
		server, client     *tls.Config
		serverOK, clientOK bool
	}{
		{"bridge to keeper", keeperServer(), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, "keeper-1"), true, true},
		{"bridge to any keeper", keeperServer(), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, ""), true, true},
		{"unenrolled client", keeperServer(), identity.ClientTLS(stranger, tr, identity.RoleKeeper, "keeper-1"), false, false},
		{"enrolled under another name", keeperServer(), identity.ClientTLS(renamed, tr, identity.RoleKeeper, "keeper-1"), false, false},
		{"client in the wrong role", keeperServer(), identity.ClientTLS(h.control, tr, identity.RoleKeeper, "keeper-1"), false, false},
		{"a keeper as client", keeperServer(), identity.ClientTLS(h.other, tr, identity.RoleKeeper, "keeper-1"), false, false},
		{"server in the wrong role", identity.ServerTLS(h.control, tr, identity.RoleBridge), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, ""), false, false},
		{"another keeper's server", identity.ServerTLS(h.other, tr, identity.RoleBridge), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, "keeper-1"), false, false},
		{"unenrolled server", identity.ServerTLS(stranger, tr, identity.RoleBridge), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, ""), false, false},
		{"no manifest at the server", identity.ServerTLS(h.keeper, identity.NewTrust(h.public()), identity.RoleBridge), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, ""), false, false},
		{"no manifest at the client", keeperServer(), identity.ClientTLS(h.bridge, identity.NewTrust(h.public()), identity.RoleKeeper, ""), false, false},
		{"nobody accepted", identity.ServerTLS(h.keeper, tr), identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, ""), false, false},
		{"client without certificate", keeperServer(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, false, false},
		{"TLS 1.2", keeperServer(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := handshake(t, tt.server, tt.client)
			if (serverErr == nil) != tt.serverOK || (clientErr == nil) != tt.clientOK {
				t.Errorf("server %v, client %v", serverErr, clientErr)
			}
		})
	}
}

// A CA that everybody trusts is worth nothing here, and neither is a certificate
// that claims the right name over another key.
func TestCertificatesProveNothing(t *testing.T) {
	h := newHouse(t)
	tr := h.trust(t)
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "keybridge", Path: "/bridge/bridge-1"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
	server := identity.ServerTLS(h.keeper, tr, identity.RoleBridge)
	if serverErr, _ := handshake(t, server, client); !errors.Is(serverErr, identity.ErrNotEnrolled) {
		t.Errorf("got %v", serverErr)
	}
	// The enrolled certificate first and more behind it: refused, not ignored.
	bridge := identity.ClientTLS(h.bridge, tr, identity.RoleKeeper, "")
	own, err := bridge.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	two := tls.Certificate{Certificate: [][]byte{own.Certificate[0], der}, PrivateKey: own.PrivateKey}
	bridge.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &two, nil }
	if serverErr, _ := handshake(t, server, bridge); serverErr == nil || !strings.Contains(serverErr.Error(), "2 certificates") {
		t.Errorf("got %v", serverErr)
	}
}

// whoami answers with the peer as Trust.Peer sees it at the moment of the call.
type whoami struct {
	grpc_health_v1.UnimplementedHealthServer
	trust *identity.Trust
	peers chan identity.Peer
}

func (w *whoami) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	p, err := w.trust.Peer(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	w.peers <- p
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func TestPeerFollowsTheManifest(t *testing.T) {
	h := newHouse(t)
	server, client := h.trust(t), h.trust(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &whoami{trust: server, peers: make(chan identity.Peer, 1)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(h.keeper, server, identity.RoleBridge))))
	grpc_health_v1.RegisterHealthServer(g, w)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	defer func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(h.bridge, client, identity.RoleKeeper, "keeper-1"))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func() error {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	p := <-w.peers
	want := identity.Peer{Role: identity.RoleBridge, Name: "bridge-1", SPKI: h.bridge.Fingerprint(), Key: p.Key, Workspaces: []string{setA}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	sig := h.bridge.Sign("domain", []byte("message"))
	if !p.Verify("domain", []byte("message"), sig) {
		t.Error("the peer's own signature does not verify")
	}
	if p.Verify("other", []byte("message"), sig) || p.Verify("domain", []byte("other"), sig) || p.Verify("domain", []byte("message"), nil) ||
		p.Verify("domain", []byte("message"), h.control.Sign("domain", []byte("message"))) || (identity.Peer{}).Verify("domain", nil, sig) {
		t.Error("a wrong signature verifies")
	}

	// Removed while connected: the next call on the open connection is refused.
	update(t, server, h.signed(t, version(2), withoutBridges))
	if err := call(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a revoked bridge's call: %v", err)
	}
	// And so is a new connection.
	if serverErr, _ := handshake(t, identity.ServerTLS(h.keeper, server, identity.RoleBridge), identity.ClientTLS(h.bridge, client, identity.RoleKeeper, "")); !errors.Is(serverErr, identity.ErrNotEnrolled) {
		t.Errorf("a revoked bridge's handshake: %v", serverErr)
	}
}

func TestPeerWithoutTLS(t *testing.T) {
	if _, err := newHouse(t).trust(t).Peer(t.Context()); err == nil {
		t.Error("a peer outside of any call")
	}
}
