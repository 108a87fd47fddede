// Package keepertest sets up real key custody for tests: a ceremony, its keepers
// with their state directories, served over mutual TLS on loopback, and enrolled
// identities of a bridge and a control plane. Nothing in it is a mock.
package keepertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	random "math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
)

// Site is one share set and everybody enrolled in it.
type Site struct {
	Root     ed25519.PublicKey
	Manifest []byte // as the ceremony signed it
	Keyring  []byte
	Keepers  []*Keeper // keeper-1, keeper-2, …
	Bridge   *identity.Identity
	Control  *identity.Identity

	root ed25519.PrivateKey
	dir  string
}

// Keeper is one keeper of a site. It keeps its address over Stop and Start.
type Keeper struct {
	Config   keeper.Config // change it before Start
	Name     string
	Addr     string
	KeyFile  string
	Delivery []byte
	Enrolled identity.Enrolment

	server *keeper.Server
	grpc   *grpc.Server
	served chan struct{}
}

// New runs a ceremony for n keepers. They have accepted their shares and are not
// running; what is running at the end of the test is stopped.
func New(t testing.TB, n, threshold int) *Site {
	t.Helper()
	dir := t.TempDir()
	s := &Site{
		Bridge:  create(t, filepath.Join(dir, "bridge.key"), identity.RoleBridge, "bridge-1"),
		Control: create(t, filepath.Join(dir, "control.key"), identity.RoleControl, "control-1"),
	}
	cfg := ceremony.InitConfig{
		Threshold:     threshold,
		Bridges:       []identity.Enrolment{enrol(t, s.Bridge)},
		ControlPlanes: []identity.Enrolment{enrol(t, s.Control)},
	}
	s.dir = dir
	for i := range n {
		k := s.Keeper(t, fmt.Sprintf("keeper-%d", i+1))
		cfg.Keepers = append(cfg.Keepers, k.Enrolled)
		s.Keepers = append(s.Keepers, k)
	}
	r, err := ceremony.Init(cfg)
	fatal(t, err)
	s.Root, s.root, s.Manifest, s.Keyring = r.RootPublic, r.RootPrivate, r.Manifest, r.Keyring
	for _, k := range s.Keepers {
		k.Config.Root, k.Delivery = s.Root, r.Deliveries[k.Name]
		fatal(t, keeper.Accept(k.Config.Dir, k.Config.Lock, s.Root, s.Manifest, k.Delivery))
	}
	return s
}

// Keeper makes one more keeper, which has enrolled and is in no manifest.
func (s *Site) Keeper(t testing.TB, name string) *Keeper {
	t.Helper()
	k := &Keeper{Name: name, Addr: FreeAddr(t), KeyFile: filepath.Join(s.dir, name+".lock")}
	fatal(t, keeper.CreateKeyFile(k.KeyFile))
	lock, err := keeper.KeyFileLock(k.KeyFile)
	fatal(t, err)
	k.Config = keeper.Config{Dir: filepath.Join(s.dir, name), Lock: lock, Root: s.Root, Logger: slog.New(slog.DiscardHandler)}
	k.Enrolled, err = keeper.Enrol(k.Config.Dir, name, lock)
	fatal(t, err)
	t.Cleanup(k.Stop)
	return k
}

// Start serves the keeper at its address.
func (k *Keeper) Start(t testing.TB) *keeper.Server {
	t.Helper()
	server, err := keeper.New(k.Config)
	fatal(t, err)
	creds := identity.ServerTLS(server.Identity(), server.Trust(), keeper.Roles...)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(creds)), grpc.WaitForHandlers(true))
	server.Register(g)
	l, err := net.Listen("tcp", k.Addr)
	if err != nil {
		server.Close()
		t.Fatal(err)
	}
	k.server, k.grpc, k.served = server, g, make(chan struct{})
	go func() {
		defer close(k.served)
		// Nil after Stop, or ErrServerStopped where that came first.
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("keeper %s: %v", k.Name, err)
		}
	}()
	return server
}

// Stop ends a running keeper and waits for it.
func (k *Keeper) Stop() {
	if k.grpc == nil {
		return
	}
	k.grpc.Stop()
	<-k.served
	k.server.Close()
	k.grpc = nil
}

// Addrs maps the keepers' names to their addresses.
func (s *Site) Addrs() map[string]string {
	m := make(map[string]string, len(s.Keepers))
	for _, k := range s.Keepers {
		m[k.Name] = k.Addr
	}
	return m
}

// Trust is a new Trust with the site's first manifest.
func (s *Site) Trust(t testing.TB) *identity.Trust {
	t.Helper()
	trust := identity.NewTrust(s.Root)
	_, err := trust.Update(s.Manifest)
	fatal(t, err)
	return trust
}

// Sign signs the first manifest again, as version 2 and changed, with the site's
// own operator root.
func (s *Site) Sign(t testing.TB, change func(m *keyshare.Manifest)) []byte {
	t.Helper()
	m, err := keyshare.Verify(s.Root, s.Manifest)
	fatal(t, err)
	m.Version = 2
	change(m)
	signed, err := keyshare.Sign(s.root, m)
	fatal(t, err)
	b, err := json.Marshal(signed)
	fatal(t, err)
	return b
}

// Set is a share set that a ceremony made and that is not in force yet.
type Set struct {
	U          []byte
	Manifest   *keyshare.Manifest
	Payload    []byte            // of Manifest, unsigned
	Signed     []byte            // Manifest, signed by the site's root
	Deliveries map[string][]byte // by keeper
}

// Rekey makes the set that follows the one of base, nil for the site's first, for the
// given keepers.
func (s *Site) Rekey(t testing.TB, base *keyshare.Manifest, threshold int, keepers ...*Keeper) *Set {
	t.Helper()
	if base == nil {
		base = s.Trust(t).Manifest()
	}
	m := *base
	m.Version, m.Epoch, m.Set = m.Version+1, m.Epoch+1, uuid.NewString()
	m.Shares, m.Threshold, m.Keepers = len(keepers), threshold, nil
	next := &Set{U: make([]byte, keyshare.SecretSize), Manifest: &m, Deliveries: make(map[string][]byte)}
	_, _ = rand.Read(next.U) // never fails, crypto/rand
	shares, err := keyshare.Split(next.U, len(keepers), threshold)
	fatal(t, err)
	m.Check, err = keyshare.CheckValue(next.U, m.Set, m.Epoch)
	fatal(t, err)
	for i, k := range keepers {
		key, err := keyshare.ShareKey(shares[i], m.Set, m.Epoch)
		fatal(t, err)
		m.Keepers = append(m.Keepers, keyshare.Keeper{
			Name: k.Name, X: int(shares[i].X()), SPKI: k.Enrolled.Fingerprint(),
			ShareKey: key.Public().(ed25519.PublicKey), Recipient: k.Enrolled.Recipient,
		})
	}
	for i, k := range keepers {
		next.Deliveries[k.Name], err = keyshare.Deliver(&m, k.Name, k.Enrolled.Recipient, shares[i])
		fatal(t, err)
	}
	signed, err := keyshare.Sign(s.root, &m)
	fatal(t, err)
	next.Payload = signed.Payload
	next.Signed, err = json.Marshal(signed)
	fatal(t, err)
	return next
}

// Operator is a session of an operator of the site, for an hour.
func (s *Site) Operator(t testing.TB) *identity.Identity {
	t.Helper()
	return s.OperatorFor(t, time.Hour)
}

// OperatorFor is one for another time.
func (s *Site) OperatorFor(t testing.TB, life time.Duration) *identity.Identity {
	t.Helper()
	id, err := identity.NewOperatorSession(s.root, "ada", life)
	fatal(t, err)
	return id
}

func create(t testing.TB, path string, role identity.Role, name string) *identity.Identity {
	t.Helper()
	id, err := identity.Create(path, role, name)
	fatal(t, err)
	return id
}

func enrol(t testing.TB, id *identity.Identity) identity.Enrolment {
	t.Helper()
	e, err := id.Enrolment(nil)
	fatal(t, err)
	return e
}

// given are the ports that FreeAddr has handed out in this process.
var given sync.Map

// FreeAddr is a loopback address that nobody listens at, and that stays free while a
// keeper is down: below the ports that the kernel hands out by itself, to whoever
// listens at port 0 or connects (ip(7), ip_local_port_range: 32768 and up).
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+random.N(20000)) //nolint:gosec // a port, nothing to guess
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
