package identity_test

import (
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// patience bounds waits for what takes some hundred milliseconds.
const patience = 20 * time.Second

// open serves a stream that says nothing and ends only with its connection.
type open struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (open) Watch(_ *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	if err := stream.Send(&grpc_health_v1.HealthCheckResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// listen serves open over some credentials.
func listen(t *testing.T, creds credentials.TransportCredentials) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(creds))
	grpc_health_v1.RegisterHealthServer(g, open{})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// watch opens a stream; what is returned gets the stream's end.
func watch(t *testing.T, addr string, creds credentials.TransportCredentials) <-chan error {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	return ended
}

func ends(t *testing.T, what string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err == nil {
			t.Errorf("%s: a message", what)
		}
	case <-time.After(patience):
		t.Errorf("%s: the stream is open still", what)
	}
}

func lasts(t *testing.T, what string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		t.Errorf("%s: the stream ended: %v", what, err)
	default:
	}
}

// Streams end with the enrolment of whoever is at the other end, without a message or
// a call, and nobody else's do.
func TestConnectionsFollowTheManifest(t *testing.T) {
	h := newHouse(t)
	other := create(t, identity.RoleBridge, "bridge-2")
	h.manifest.Bridges = append(h.manifest.Bridges, keyshare.Bridge{Name: "bridge-2", SPKI: other.Fingerprint(), Workspaces: []string{"*"}})
	server, client := h.trust(t), h.trust(t)
	addr := listen(t, server.Credentials(identity.ServerTLS(h.control, server, identity.RoleBridge, identity.RoleOperator)))
	dial := func(id *identity.Identity, tr *identity.Trust) <-chan error {
		return watch(t, addr, tr.Credentials(identity.ClientTLS(id, tr, identity.RoleControl, "")))
	}
	revoked, stays, operator := dial(h.bridge, client), dial(other, client), dial(session(t, h.root), client)
	soon := h.trust(t)
	leaving := dial(other, soon) // whose own trust will not list the control plane any more
	silent, err := tls.Dial("tcp", addr, identity.ClientTLS(h.bridge, client, identity.RoleControl, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()

	without := func(m *keyshare.Manifest) { m.Bridges = m.Bridges[1:] }
	update(t, server, h.signed(t, version(2), without))
	ends(t, "a revoked bridge", revoked)
	ends(t, "a revoked bridge without any stream", readAll(silent))
	if serverErr, _ := handshake(t, identity.ServerTLS(h.control, server, identity.RoleBridge), identity.ClientTLS(h.bridge, client, identity.RoleControl, "")); !errors.Is(serverErr, identity.ErrNotEnrolled) {
		t.Errorf("a revoked bridge's handshake: %v", serverErr)
	}
	update(t, soon, h.signed(t, version(2), func(m *keyshare.Manifest) { m.ControlPlanes = []keyshare.Peer{} }))
	ends(t, "a revoked control plane", leaving)
	lasts(t, "another bridge", stays)
	lasts(t, "an operator", operator)

	// The enrolment of the other bridge ends by itself, on this very connection.
	end := time.Now().Add(time.Second).UTC().Truncate(time.Second)
	update(t, server, h.signed(t, version(3), without, func(m *keyshare.Manifest) { m.Bridges[0].NotAfter = &end }))
	ends(t, "a bridge whose enrolment ended", stays)
	lasts(t, "an operator", operator)
}

func TestConnectionsEndWithTheOperatorsSession(t *testing.T) {
	h := newHouse(t)
	tr := h.trust(t)
	addr := listen(t, tr.Credentials(identity.ServerTLS(h.control, tr, identity.RoleOperator)))
	short, err := identity.NewOperatorSession(h.root, "alice", 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ends(t, "a session", watch(t, addr, tr.Credentials(identity.ClientTLS(short, tr, identity.RoleControl, ""))))
}

// Credentials add to what ServerTLS refuses; they let nobody in.
func TestCredentialsRefuse(t *testing.T) {
	h := newHouse(t)
	tr := h.trust(t)
	addr := listen(t, tr.Credentials(identity.ServerTLS(h.control, tr, identity.RoleBridge)))
	for name, creds := range map[string]credentials.TransportCredentials{
		"a keeper": tr.Credentials(identity.ClientTLS(h.keeper, tr, identity.RoleControl, "")),
		"no TLS":   insecure.NewCredentials(),
	} {
		conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := grpc_health_v1.NewHealthClient(conn).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil {
			t.Errorf("%s was let in", name)
		}
		conn.Close()
	}
}

func readAll(c net.Conn) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Read(make([]byte, 1024)); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

func TestEnrolmentsEnd(t *testing.T) {
	h := newHouse(t)
	end := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		name           string
		server, client *identity.Identity
		serves, seeks  identity.Role
		end            func(m *keyshare.Manifest)
	}{
		{"bridge", h.control, h.bridge, identity.RoleControl, identity.RoleBridge, func(m *keyshare.Manifest) { m.Bridges[0].NotAfter = &end }},
		{"keeper", h.keeper, h.bridge, identity.RoleKeeper, identity.RoleBridge, func(m *keyshare.Manifest) { m.Keepers[0].NotAfter = &end }},
		{"control plane", h.control, h.bridge, identity.RoleControl, identity.RoleBridge, func(m *keyshare.Manifest) {
			m.ControlPlanes = []keyshare.Peer{{Name: "control-1", SPKI: h.control.Fingerprint(), NotAfter: &end}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := h.trust(t)
			update(t, tr, h.signed(t, version(2), tt.end))
			for _, at := range []struct {
				now time.Time
				ok  bool
			}{{end.Add(-time.Nanosecond), true}, {end, false}, {end.Add(time.Hour), false}} {
				tr.Clock = func() time.Time { return at.now }
				serverErr, clientErr := handshake(t, identity.ServerTLS(tt.server, tr, tt.seeks), identity.ClientTLS(tt.client, tr, tt.serves, ""))
				if ok := serverErr == nil && clientErr == nil; ok != at.ok {
					t.Errorf("at %v: server %v, client %v", at.now, serverErr, clientErr)
				}
				if !at.ok && !errors.Is(serverErr, identity.ErrNotEnrolled) && !errors.Is(clientErr, identity.ErrNotEnrolled) {
					t.Errorf("refused with %v and %v", serverErr, clientErr)
				}
			}
		})
	}
}
