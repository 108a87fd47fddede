package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/release"
	"keybridge/store"
	"keybridge/store/audit"
	"keybridge/store/bolt"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

// patience bounds waits for what takes milliseconds.
const patience = 20 * time.Second

// houseOfRoles is a ceremony's site with a keeper and the control plane running, as
// the commands run them.
type houseOfRoles struct {
	*keepertest.Site
	store   store.Store
	control *control
	addr    string
}

func newHouseOfRoles(t testing.TB) *houseOfRoles {
	t.Helper()
	h := &houseOfRoles{Site: keepertest.New(t, 2, 2)}
	for _, k := range h.Keepers {
		k.Start(t)
	}
	records, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := records.Apply(t.Context(), store.Put(&store.Custody{M: store.Meta{ID: store.CustodyID}, Manifest: h.Manifest, Keyring: h.Keyring})); err != nil {
		t.Fatal(err)
	}
	events, err := audit.Open(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	h.store, h.addr = records, keepertest.FreeAddr(t)
	h.control = &control{
		store: records, audit: events, root: h.Root, trust: identity.NewTrust(h.Root), admin: keepertest.FreeAddr(t), bridges: h.addr,
		listeners: []*configv1.Listener{{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9000}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.control.run(ctx, h.Control); err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := errors.Join(events.Close(), records.Close()); err != nil {
			t.Error(err)
		}
	})
	await(t, func() bool {
		c, err := net.Dial("tcp", h.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return h
}

// connect is a connection with some TLS to the keeper or the control plane.
func connect(t testing.TB, addr string, c *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answered is nil once a stream has brought a message.
func answered[T any](stream interface{ Recv() (*T, error) }, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// The services of control plane and keepers. Those that are served to bridges are to
// answer one, whatever else they do.
var services = []struct {
	name    string
	keeper  bool          // a keeper's; else the control plane's
	for_    identity.Role // who it is served to
	andAlso identity.Role // and is not asked here
	call    func(ctx context.Context, conn *grpc.ClientConn) error
}{
	{"link Custody", false, identity.RoleBridge, "", func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := link.NewLinkClient(conn).Custody(ctx, &link.CustodyRequest{})
		return err
	}},
	{"link Watch", false, identity.RoleBridge, "", func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := link.NewLinkClient(conn).Watch(ctx, &link.WatchRequest{})
		return answered(s, err)
	}},
	{"link Attach", false, identity.RoleBridge, "", func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := link.NewLinkClient(conn).Attach(ctx)
		if err == nil {
			_ = s.Send(&link.BridgeMessage{Message: &link.BridgeMessage_Report{Report: &link.Report{}}}) // Recv has the status
		}
		return answered(s, err)
	}},
	{"ADS", false, identity.RoleBridge, "", func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err == nil {
			_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "bridge-1"}, TypeUrl: xds.BridgeTypes()[0]})
		}
		return answered(s, err)
	}},
	{"custodian Custody", false, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := link.NewCustodianClient(conn).Custody(ctx, &link.CustodianRequest{})
		return err
	}},
	{"custodian Stage", false, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := link.NewCustodianClient(conn).Stage(ctx, &link.StageKeyringRequest{Keyring: []byte("k")})
		return err
	}},
	{"custodian Commit", false, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := link.NewCustodianClient(conn).Commit(ctx, &link.CommitRequest{Manifest: []byte("{}")})
		return err
	}},
	{"custodian Backup", false, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := link.NewCustodianClient(conn).Backup(ctx, &link.BackupRequest{})
		return answered(s, err)
	}},
	{"keeper Release", true, identity.RoleBridge, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := release.NewKeeperClient(conn).Release(ctx)
		return answered(s, err)
	}},
	{"keeper Stage", true, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := release.NewKeeperClient(conn).Stage(ctx, &release.StageRequest{})
		return err
	}},
	{"keeper Retire", true, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := release.NewKeeperClient(conn).Retire(ctx, &release.RetireRequest{})
		return err
	}},
	{"keeper Prove", true, identity.RoleOperator, identity.RoleOperator, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := release.NewKeeperClient(conn).Prove(ctx, &release.ProveRequest{Nonce: make([]byte, 32)})
		return err
	}},
}

// Every service answers the role that it is for, and refuses a valid identity in any
// other, a key that nobody enrolled, and a session by another root.
func TestServicesByRole(t *testing.T) {
	h := newHouseOfRoles(t)
	trust := h.Trust(t)
	stranger, err := identity.Create(filepath.Join(t.TempDir(), "key"), identity.RoleBridge, "bridge-1")
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := identity.NewOperatorSession(other, "alice", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := identity.Load(filepath.Join(h.Keepers[0].Config.Dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	operator := h.Operator(t)
	callers := []struct {
		name string
		id   *identity.Identity
		role identity.Role // that it really has
	}{
		{"bridge", h.Bridge, identity.RoleBridge}, {"keeper", keeper, identity.RoleKeeper}, {"control plane", h.Control, identity.RoleControl},
		{"operator", operator, identity.RoleOperator}, {"stranger", stranger, ""}, {"operator of another root", forged, ""},
	}
	for _, c := range callers {
		for _, s := range services {
			t.Run(c.name+" asks "+s.name, func(t *testing.T) {
				addr, role := h.addr, identity.RoleControl
				if s.keeper {
					addr, role = h.Keepers[1].Addr, identity.RoleKeeper
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				err := s.call(ctx, connect(t, addr, identity.ClientTLS(c.id, trust, role, "")))
				switch {
				case c.role != "" && c.role == s.andAlso:
				case ctx.Err() != nil:
					t.Fatalf("no answer: %v", err)
				case c.role == s.for_ && err != nil:
					t.Errorf("refused: %v", err)
				case c.role != s.for_ && err == nil:
					t.Error("answered")
				}
			})
		}
	}
}

// Who has the control plane's key has what the control plane has: sealed records and
// no way to open them.
func TestStolenControlPlaneKeyOpensNothing(t *testing.T) {
	h := newHouseOfRoles(t)
	trust := h.Trust(t)
	stolen, err := identity.ClientTLS(h.Control, trust, identity.RoleKeeper, "").GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := stolen.PrivateKey.(ed25519.PrivateKey)

	t.Run("no share", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		refused := map[string]bool{}
		err := quorum.Unseal(ctx, quorum.Config{
			Identity: h.Control, Trust: trust, Keepers: h.Addrs(), Reason: "startup", MinPause: time.Millisecond,
			Report: func(r quorum.KeeperReport) {
				if r.State == quorum.StateGood {
					t.Errorf("%s gave its share", r.Keeper)
				}
				if refused[r.Keeper] = true; len(refused) == len(h.Keepers) {
					cancel()
				}
			},
		}, func([]byte) error { t.Error("it has the unseal key"); return nil })
		if err == nil {
			t.Error("unsealed")
		}
	})

	// It makes itself any certificate, over its own key or a fresh one.
	_, fresh, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"operator/alice", "bridge/bridge-1", "keeper/keeper-1", "control/control-1"} {
		for which, own := range map[string]ed25519.PrivateKey{"its own key": key, "a fresh key": fresh} {
			t.Run(name+" with "+which, func(t *testing.T) {
				u, err := url.Parse("spiffe://keybridge/" + name)
				if err != nil {
					t.Fatal(err)
				}
				template := &x509.Certificate{
					SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
				}
				der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{}, own.Public(), key)
				if err != nil {
					t.Fatal(err)
				}
				mine := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
				for _, s := range services {
					addr := h.addr
					if s.keeper {
						addr = h.Keepers[0].Addr
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					err := s.call(ctx, connect(t, addr, &tls.Config{
						InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{mine},
					}))
					if err == nil || ctx.Err() != nil {
						t.Errorf("%s: %v", s.name, err)
					}
				}
			})
		}
	}

	t.Run("no manifest", func(t *testing.T) {
		m := *trust.Manifest()
		m.Version++
		signed, err := keyshare.Sign(key, &m)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(signed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.Update(raw); !errors.Is(err, keyshare.ErrSignature) {
			t.Errorf("got %v", err)
		}
		// Put into the store all the same, by who has the control plane's host, it is refused.
		put(t, h, raw)
		put(t, h, h.Sign(t, func(*keyshare.Manifest) {})) // genuine, and behind the forged one in the feed
		await(t, func() bool { return h.control.trust.Manifest().Version == 2 })
		if string(h.control.trust.Signed()) == string(raw) {
			t.Error("a forged manifest is in force")
		}
	})
}

// A revoked bridge's streams end with the manifest that revokes it, without a
// message on them; the other's do not.
func TestRevocationEndsStreams(t *testing.T) {
	h := newHouseOfRoles(t)
	trust := h.Trust(t)
	conn := connect(t, h.addr, identity.ClientTLS(h.Bridge, trust, identity.RoleControl, ""))
	watch, err := link.NewLinkClient(conn).Watch(t.Context(), &link.WatchRequest{}, grpc.WaitForReady(true))
	if err := answered(watch, err); err != nil {
		t.Fatal(err)
	}
	ads, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err == nil {
		err = ads.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "bridge-1"}, TypeUrl: xds.BridgeTypes()[0]})
	}
	if err := answered(ads, err); err != nil {
		t.Fatal(err)
	}
	attach, err := link.NewLinkClient(conn).Attach(t.Context())
	if err == nil {
		err = attach.Send(&link.BridgeMessage{Message: &link.BridgeMessage_Report{Report: &link.Report{}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan []byte, 10) // manifests
	ended := make(chan string, 3)
	go func() {
		for {
			m, err := attach.Recv()
			if err != nil {
				ended <- "attach"
				return
			}
			if len(m.Manifest) > 0 {
				told <- m.Manifest
			}
		}
	}()
	follow := func(name string, recv func() error) {
		for recv() == nil {
		}
		ended <- name
	}
	go follow("watch", func() error { _, err := watch.Recv(); return err })
	go follow("ads", func() error { _, err := ads.Recv(); return err })
	if first := receive(t, told); string(first) != string(h.Manifest) {
		t.Error("attached, it was sent another manifest than the one in force")
	}

	revoking := h.Sign(t, func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} })
	put(t, h, revoking)
	if last := receive(t, told); string(last) != string(revoking) {
		t.Error("the bridge was not told that it is revoked")
	}
	for range 3 {
		receive(t, ended)
	}
	if err := services[0].call(t.Context(), conn); err == nil {
		t.Error("a revoked bridge is answered")
	}
}

// BenchmarkRevocation is the time from a manifest's being in the store, as a commit
// leaves it, to the end of a revoked bridge's streams at the bridge.
func BenchmarkRevocation(b *testing.B) {
	h := newHouseOfRoles(b)
	trust := h.Trust(b)
	version := uint64(1)
	next := func(change func(m *keyshare.Manifest)) []byte {
		version++
		return h.Sign(b, func(m *keyshare.Manifest) { m.Version = version; change(m) })
	}
	var worst, sum time.Duration
	n := 0
	for b.Loop() {
		put(b, h, next(func(*keyshare.Manifest) {}))
		await(b, func() bool { return h.control.trust.Manifest().Version == version })
		conn := connect(b, h.addr, identity.ClientTLS(h.Bridge, trust, identity.RoleControl, ""))
		watch, err := link.NewLinkClient(conn).Watch(b.Context(), &link.WatchRequest{})
		if err := answered(watch, err); err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		put(b, h, next(func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} }))
		for err == nil {
			_, err = watch.Recv()
		}
		took := time.Since(begin)
		worst, sum, n = max(worst, took), sum+took, n+1
	}
	b.ReportMetric(float64(worst.Milliseconds()), "ms-worst")
	b.ReportMetric(float64(sum.Milliseconds())/float64(n), "ms-mean")
}

func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}

func await(t testing.TB, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("did not happen")
		case <-tick.C:
		}
	}
}

// put makes a manifest the one in the store.
func put(t testing.TB, h *houseOfRoles, manifest []byte) {
	t.Helper()
	rec, err := h.store.Get(t.Context(), store.KindCustody, store.CustodyID)
	if err != nil {
		t.Fatal(err)
	}
	c := *rec.(*store.Custody)
	c.Manifest = manifest
	if _, err := h.store.Apply(t.Context(), store.Put(&c)); err != nil {
		t.Fatal(err)
	}
}
