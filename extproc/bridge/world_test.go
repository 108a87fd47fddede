package bridge_test

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/seal"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

// patience bounds every wait of these tests; none sleeps.
const patience = 20 * time.Second

// world is a bridge with everything around it real but Envoy, of which only the
// ADS half is there (the whole one is e2e's), and the store, which is a map.
type world struct {
	*house
	live      *grant.Live
	bridge    *bridge.Bridge
	log       *syncBuffer
	maxStale  time.Duration
	allow     []string // endpoints
	adjust    func(*bridge.Config)
	source    *memory
	resources *typed
	envoy     *envoyADS
	control   *grpc.Server
	hub       *link.Hub
	trusted   *identity.Trust // the control plane's
	keepers   []func()        // stops each

	keeperAddrs []string
	controlAddr string
	dir         string
	stop        func(*testing.T)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	h, err := found()
	must(t, err)
	w := &world{house: h, live: &grant.Live{}, log: &syncBuffer{}, maxStale: time.Hour, source: newMemory(), dir: shortDir(t)}
	for i := range h.keeperDirs {
		w.keeperAddrs, w.keepers = append(w.keeperAddrs, "127.0.0.1:0"), append(w.keepers, nil)
		w.serveKeeper(t, i)
	}
	w.serveControl(t)
	return w
}

// serveKeeper starts keeper i, at the address it had before if it ran before.
func (w *world) serveKeeper(t *testing.T, i int) {
	t.Helper()
	k, err := keeper.New(keeper.Config{Dir: w.keeperDirs[i], Lock: w.keeperLocks[i], Root: w.made.RootPublic, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(k.Identity(), k.Trust(), identity.RoleBridge))))
	k.Register(server)
	w.keeperAddrs[i] = serve(t, server, w.keeperAddrs[i])
	w.keepers[i] = sync.OnceFunc(func() { server.Stop(); k.Close() })
	t.Cleanup(w.keepers[i])
}

func (w *world) serveControl(t *testing.T) {
	t.Helper()
	trust := w.trust(t)
	w.trusted = trust
	ads, err := xds.NewServer(xds.Config{
		Types: xds.BridgeTypes(),
		Authorize: func(ctx context.Context) (string, string, error) {
			peer, err := trust.Peer(ctx)
			return peer.Name, "all", err
		},
	})
	must(t, err)
	w.resources = newTyped(t, ads)
	w.control = grpc.NewServer(grpc.Creds(trust.Credentials(identity.ServerTLS(w.identities[identity.RoleControl], trust, identity.RoleBridge))))
	ads.Register(w.control)
	w.hub = link.NewHub(slog.New(slog.DiscardHandler))
	w.hub.Manifest = trust.Signed
	w.source.manifest, w.source.keyring = w.made.Manifest, w.made.Keyring
	link.RegisterLinkServer(w.control, link.NewServer(w.source, w.hub, trust.Peer))
	w.controlAddr = serve(t, w.control, "127.0.0.1:0")
	t.Cleanup(func() { ads.Close(); w.control.Stop() })
}

func (w *world) trust(t *testing.T) *identity.Trust {
	t.Helper()
	trust := identity.NewTrust(w.made.RootPublic)
	_, err := trust.Update(w.made.Manifest)
	must(t, err)
	return trust
}

// start runs the bridge and an Envoy that takes all configuration it is given.
func (w *world) start(t *testing.T) {
	t.Helper()
	trust := w.trust(t)
	id := w.identities[identity.RoleBridge]
	conn, err := grpc.NewClient(w.controlAddr, grpc.WithTransportCredentials(
		trust.Credentials(identity.ClientTLS(id, trust, identity.RoleControl, ""))))
	must(t, err)
	keepers := map[string]string{}
	for i, addr := range w.keeperAddrs {
		keepers[[]string{"keeper-1", "keeper-2", "keeper-3"}[i]] = addr
	}
	endpoints, err := seal.ParseEndpointPolicy(w.allow)
	must(t, err)
	cfg := bridge.Config{
		Identity: id, Trust: trust, Control: conn, Keepers: keepers, Live: w.live,
		Dir: w.dir, EnvoyUID: os.Getuid(), SystemRoots: "/etc/ssl/certs/ca-certificates.crt",
		MaxStale: w.maxStale, Endpoints: endpoints, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if w.adjust != nil {
		w.adjust(&cfg)
	}
	w.bridge, err = bridge.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.bridge.Run(ctx) }()
	w.envoy = newEnvoyADS(t, w.dir)
	w.stop = sync.OnceValue(func() func(*testing.T) {
		return func(t *testing.T) {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("bridge: %v", err)
			}
			done <- nil // for the clean-up, which stops it again
		}
	})()
	t.Cleanup(func() {
		w.stop(t)
		conn.Close()
		if t.Failed() {
			t.Logf("bridge log:\n%s", w.log.String())
		}
	})
}

func (w *world) await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("did not happen; status %+v", w.bridge.Status())
		case <-tick.C:
		}
	}
}

// awaitKey waits until there is an index in which the key is as ok wants it.
func (w *world) awaitKey(t *testing.T, ok func(*grant.Key) bool) (k *grant.Key) {
	t.Helper()
	w.await(t, func() bool {
		index := w.live.Load()
		if index == nil {
			return false
		}
		k = index.Lookup(keyID)
		return ok(k)
	})
	return k
}

type sealRequest struct {
	record *link.Record
	header seal.Header
	secret string
}

// put seals and stores a record.
func (w *world) put(t *testing.T, r sealRequest) {
	t.Helper()
	sealed, err := seal.Seal(w.sealing, r.header, []byte(r.secret))
	must(t, err)
	raw, err := sealed.MarshalBinary()
	must(t, err)
	r.record.Sealed = raw
	if r.record.State == link.State_DELETED {
		r.record.Sealed = nil
	}
	w.source.put(r.record)
}

// memory is a store of sealed records.
type memory struct {
	wrapping
	manifest, keyring []byte

	mu       sync.Mutex
	cond     *sync.Cond
	revision uint64
	records  map[string]*link.Record
}

func newMemory() *memory {
	m := &memory{records: map[string]*link.Record{}}
	m.cond = sync.NewCond(&m.mu)
	return m
}

func (m *memory) put(r *link.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision++
	r = proto.CloneOf(r)
	r.Revision = m.revision
	m.records[r.Type+r.Id] = r
	m.cond.Broadcast()
}

// latest returns a copy of the newest record with this id, a key before a credential.
func (m *memory) latest(id string) *link.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.records[seal.TypeRepositoryKey+id]; r != nil {
		return proto.CloneOf(r)
	}
	return proto.CloneOf(m.records[seal.TypeCredential+id])
}

func (m *memory) Custody(context.Context) (manifest, keyring []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.manifest, m.keyring, nil
}

func (m *memory) decree(manifest []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.manifest = manifest
}

func (m *memory) Revision(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision, nil
}

func (m *memory) Watch(ctx context.Context, from uint64) iter.Seq2[link.Batch, error] {
	stop := context.AfterFunc(ctx, m.cond.Broadcast)
	return func(yield func(link.Batch, error) bool) {
		defer stop()
		for {
			m.mu.Lock()
			for m.revision == from && ctx.Err() == nil {
				m.cond.Wait()
			}
			batch := link.Batch{Revision: m.revision}
			for _, r := range m.records {
				if r.Revision > from {
					batch.Records = append(batch.Records, proto.CloneOf(r))
				}
			}
			from = m.revision
			m.mu.Unlock()
			if !yield(batch, ctx.Err()) || ctx.Err() != nil {
				return
			}
		}
	}
}

// typed sets typed resources at the control plane, each in the type it is of.
type typed struct {
	t   *testing.T
	ads *xds.Server
}

func newTyped(t *testing.T, ads *xds.Server) *typed {
	for _, url := range xds.BridgeTypes() {
		_, err := ads.Set("all", url, map[string]proto.Message{})
		must(t, err)
	}
	r := &typed{t, ads}
	r.set("s3", &configv1.Listener{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9000})
	return r
}

func (r *typed) set(name string, m proto.Message) {
	r.t.Helper()
	url := "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
	_, err := r.ads.Update("all", url, map[string]proto.Message{name: m}, nil)
	must(r.t, err)
}

// envoyADS takes clusters as Envoy does, and acknowledges them.
type envoyADS struct {
	mu       sync.Mutex
	clusters map[string]bool
}

func newEnvoyADS(t *testing.T, dir string) *envoyADS {
	t.Helper()
	e := &envoyADS{clusters: map[string]bool{}}
	conn, err := grpc.NewClient("unix://"+bridge.ADSSocket(dir), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil { // refused until the bridge knows what to listen on
			e.follow(ctx, discoveryv3.NewAggregatedDiscoveryServiceClient(conn))
		}
	}()
	t.Cleanup(func() { cancel(); <-done; conn.Close() })
	return e
}

func (e *envoyADS) follow(ctx context.Context, ads discoveryv3.AggregatedDiscoveryServiceClient) {
	stream, err := ads.DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	ask := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "envoy"}, TypeUrl: resource.ClusterType}
	for stream.Send(ask) == nil {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		e.mu.Lock()
		for _, r := range resp.Resources {
			e.clusters[r.Name] = true
		}
		for _, name := range resp.RemovedResources {
			delete(e.clusters, name)
		}
		e.mu.Unlock()
		ask = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.ClusterType, ResponseNonce: resp.Nonce}
	}
}

func (e *envoyADS) has(cluster string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clusters[cluster]
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func serve(t *testing.T, server *grpc.Server, addr string) string {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	must(t, err)
	go func() { _ = server.Serve(lis) }() // ends with the server's Stop
	return lis.Addr().String()
}

// shortDir is a temporary directory whose path leaves room for a unix socket's name (107 bytes in all).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
