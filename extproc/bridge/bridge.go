package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
	"keybridge/xds"
	"keybridge/xds/client"
	"keybridge/xds/link"
)

// envoyNode names the bridge's one Envoy, and its group, to the ADS server.
const envoyNode = "envoy"

const (
	// retryEvery is the pause between attempts to reach the control plane.
	retryEvery = time.Second
	// maxKeeperPause bounds how long a keeper that has come back goes unnoticed.
	maxKeeperPause = 3 * time.Second
	// lookEvery is how often a bridge that serves looks whether it could start again.
	lookEvery = 30 * time.Second
)

// Config is what a bridge is assembled from.
type Config struct {
	Identity *identity.Identity
	Trust    *identity.Trust // holds at least the manifest of the bridge's enrolment
	Control  *grpc.ClientConn
	Keepers  map[string]string // name in the manifest → host:port
	Live     *grant.Live       // what the protocols read
	// Protocols by listener, as extproc.NewServer takes them.
	Protocols map[string]extproc.Protocol
	// Dir holds the unix sockets for Envoy, ADSSocket and one for ext_proc; made 0700.
	Dir       string
	EnvoyUID  int // the only user that may connect to them
	Endpoints seal.EndpointPolicy
	// SystemRoots is the path of the CA bundle that Envoy verifies providers with.
	SystemRoots string
	// DNS are the servers that names of providers are asked of, by Envoy and by probes. Empty: the host's.
	DNS []netip.AddrPort
	// LookEvery is the pause between looks at the keepers. Default: 30 s.
	LookEvery time.Duration
	// MaxStale is how long to serve the last-good state without the control plane.
	MaxStale time.Duration
	// Probers ask a connector's provider whether it serves; types without one are not asked.
	Probers map[grant.Provider]Prober
	// ProbeTimeout bounds each such call. Default: link.ProbeTimeout, the most there is.
	ProbeTimeout time.Duration
	// Version, Region and URLs (where applications reach the listeners, S3 first) are
	// what the bridge reports of itself.
	Version, Region string
	URLs            []string
	// Certificates are those of TLS listeners; nil: there are none.
	Certificates *Certificates
	Logger       *slog.Logger
}

// State of a bridge; see the package comment.
type State int32

const (
	Sealed State = iota
	Unsealing
	Syncing
	Ready
	Stale // the control plane has been away for longer than MaxStale
	Purged
)

func (s State) String() string {
	return [...]string{"sealed", "unsealing", "syncing", "ready", "stale", "purged"}[s]
}

// Bridge is one running bridge.
type Bridge struct {
	cfg     Config
	arena   *lockedmem.Arena
	records *records
	ads     *xds.Server
	extproc *extproc.Server
	// decisions and counters are for Metrics.
	decisions *extproc.Metrics
	refusals  refusals
	counters  counters
	catalog   *catalog
	wake      chan struct{} // capacity 1: something that reconcile reads has changed
	full      atomic.Bool   // and it is more than repository keys
	news      chan struct{} // capacity 1: something that report says has changed
	first     chan struct{} // closed when the first index was published
	wraps     wraps
	// Both are nil before the bridge is unsealed; a new sealing key replaces them.
	keyring    atomic.Pointer[unseal.Keyring]
	recordKeys atomic.Pointer[unseal.RecordKeys]

	state    atomic.Int32
	serving  sync.Mutex                // held to change whether Live holds an index
	linkDown atomic.Pointer[time.Time] // since when the feed is away, by the monotonic clock; nil while it is connected

	mu        sync.Mutex
	resources *client.State // latest typed resources; nil before the first
	keepers   map[string]quorum.KeeperReport
	custody   string
	problems  []string // that last
	keys      int
	// problemSince and reported are reportProblems's own.
	problemSince map[string]time.Time
	reported     map[string]bool
}

// New prepares a bridge; Run starts it.
func New(cfg Config) (*Bridge, error) {
	dir, err := filepath.Abs(cfg.Dir) // Envoy gets the sockets' paths, and has a directory of its own
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	arena, err := lockedmem.NewArena()
	if err != nil {
		return nil, err
	}
	if cfg.ProbeTimeout == 0 {
		cfg.ProbeTimeout = link.ProbeTimeout
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = lookEvery
	}
	decisions := observer(&cfg)
	b := &Bridge{
		cfg:       cfg,
		arena:     arena,
		refusals:  newRefusals(&cfg),
		decisions: decisions,
		wake:      make(chan struct{}, 1),
		news:      make(chan struct{}, 1),
		first:     make(chan struct{}),
		wraps:     wraps{wake: make(chan struct{}, 1)},
		keepers:   map[string]quorum.KeeperReport{},
	}
	b.extproc = extproc.NewServer(cfg.Protocols, extproc.Options{Logger: cfg.Logger, Observer: decisions, Refused: b.refused})
	b.records = newRecords(arena, cfg.Logger, b.recordsChanged)
	b.catalog = newCatalog(b.health, b.changed, b.tell)
	b.ads, err = xds.NewServer(xds.Config{
		Types:     xds.EnvoyTypes(),
		Authorize: func(context.Context) (node, group string, err error) { return envoyNode, envoyNode, nil },
		Gone:      b.tell, // an Envoy that is gone is reported at once
		Log:       cfg.Logger,
	})
	return b, err
}

// ADSSocket is the path, below Config.Dir, where a bridge is its Envoy's ADS server.
func ADSSocket(dir string) string { return filepath.Join(dir, "ads.sock") }

func (b *Bridge) extprocSocket() string { return filepath.Join(b.cfg.Dir, "extproc.sock") }

func (b *Bridge) changed() {
	b.full.Store(true)
	b.touch()
}

// recordsChanged is changed for what the feed brings: that of a key alone is little work.
func (b *Bridge) recordsChanged(credentials bool) {
	if credentials {
		b.full.Store(true)
	}
	b.touch()
}

func (b *Bridge) touch() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *Bridge) setState(s State) {
	if old := State(b.state.Swap(int32(s))); old != s {
		b.cfg.Logger.Info("bridge "+s.String(), "was", old.String())
		b.tell()
	}
}

// State is the bridge's state now.
func (b *Bridge) State() State { return State(b.state.Load()) }

// Run serves until ctx ends, then refuses everything, ends the streams that are
// open with an error, and wipes all of its key material before it returns. What memguard
// holds for the whole process is the caller's to wipe (lockedmem.Purge).
func (b *Bridge) Run(ctx context.Context) error {
	decisions, err := extproc.Listen(b.extprocSocket(), b.cfg.EnvoyUID)
	if err != nil {
		return err
	}
	config, err := extproc.Listen(ADSSocket(b.cfg.Dir), b.cfg.EnvoyUID)
	if err != nil {
		decisions.Close()
		return err
	}
	ads := grpc.NewServer()
	b.ads.Register(ads)

	g, ctx := newGroup(ctx)
	g.Go(func() error { return ads.Serve(config) })
	g.Go(func() error { return b.extproc.Serve(ctx, decisions) })
	g.Go(func() error { return b.watchResources(ctx) })
	g.Go(func() error { return b.cfg.Certificates.Run(ctx, b.changed) })
	g.Go(func() error { return b.reconcileLoop(ctx) })
	g.Go(func() error { return b.serveRecords(ctx) })
	g.Go(func() error { return b.catalog.run(ctx) })
	g.Go(func() error { return b.attach(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		b.cfg.Live.Store(nil)
		b.records.close()
		b.ads.Close()
		ads.Stop()
		return nil
	})
	err = g.Wait()
	b.arena.Purge()
	b.setState(Purged)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// unsealAndServe unseals, then follows the feed and opens what it brings.
func (b *Bridge) unsealAndServe(ctx context.Context) error {
	keyring, err := b.unseal(ctx)
	if err != nil {
		return err
	}
	defer b.dropKeyring()
	if err := b.setKeyring(keyring); err != nil {
		return err
	}
	g, ctx := newGroup(ctx)
	defer context.AfterFunc(ctx, b.records.rouse)()
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { b.openQueued(ctx); return ctx.Err() })
	}
	g.Go(func() error { return b.openRecords(ctx) })
	g.Go(func() error { return b.fetchOriginals(ctx) })
	g.Go(func() error { return b.submitWraps(ctx) })
	g.Go(func() error { return b.watchRecords(ctx) })
	g.Go(func() error { return b.followKeys(ctx) })
	g.Go(func() error { return b.lookAtKeepers(ctx) })
	g.Go(func() error {
		select {
		case <-b.first:
			// Start-up needs several times what it leaves: the rest goes back to the system.
			debug.FreeOSMemory()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// watchResources follows the typed resources for ever.
func (b *Bridge) watchResources(ctx context.Context) error {
	return client.New(client.Config{
		Conn: b.cfg.Control,
		Node: b.cfg.Identity.Name(),
		Log:  b.cfg.Logger,
		On: func(s client.State) error {
			b.mu.Lock()
			b.resources = &s
			b.mu.Unlock()
			b.changed()
			return nil
		},
	}).Run(ctx)
}

// unseal collects shares until the keyring opens, however long that takes.
func (b *Bridge) unseal(ctx context.Context) (*unseal.Keyring, error) {
	b.setState(Sealed)
	for {
		keyring, err := b.tryUnseal(ctx, "startup")
		if err == nil {
			b.note("")
			return keyring, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		b.note(err.Error())
		if !pause(ctx, retryEvery) {
			return nil, ctx.Err()
		}
	}
}

// note keeps why the bridge is still sealed, and logs it when it changes.
func (b *Bridge) note(custody string) {
	b.mu.Lock()
	changed := b.custody != custody
	b.custody = custody
	b.mu.Unlock()
	if changed {
		b.tell()
	}
	if changed && custody != "" {
		b.cfg.Logger.Warn("not unsealed yet", "reason", custody)
	}
}

func (b *Bridge) tryUnseal(ctx context.Context, reason string) (keyring *unseal.Keyring, err error) {
	custody, err := link.NewLinkClient(b.cfg.Control).Custody(ctx, &link.CustodyRequest{})
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if _, err := b.cfg.Trust.Update(custody.Manifest); err != nil {
		return nil, fmt.Errorf("manifest from the control plane: %w", err)
	}
	if b.State() < Syncing {
		b.setState(Unsealing)
	}
	err = quorum.Unseal(ctx, quorum.Config{
		Identity: b.cfg.Identity,
		Trust:    b.cfg.Trust,
		Keepers:  b.cfg.Keepers,
		Reason:   reason,
		MaxPause: maxKeeperPause,
		Report:   b.keeperReport,
	}, func(u []byte) error {
		// The trust may hold a newer manifest now, from a keeper: then this custody is stale and refused here.
		m := b.cfg.Trust.Manifest()
		if digest := unseal.Digest(custody.Keyring); string(digest[:]) != string(m.KeyringDigest) {
			return fmt.Errorf("the keyring from the control plane is not the one that manifest epoch %d names (rolled back?)", m.Epoch)
		}
		keyring, err = unseal.OpenKeyring(u, custody.Keyring, m.Set, m.Epoch)
		return err
	})
	return keyring, err
}

func (b *Bridge) keeperReport(r quorum.KeeperReport) {
	b.mu.Lock()
	old, known := b.keepers[r.Keeper]
	b.keepers[r.Keeper] = r
	b.mu.Unlock()
	if !known || old != r {
		b.tell()
		level := slog.LevelWarn
		switch r.State {
		case quorum.StateGood:
			level = slog.LevelInfo
		case quorum.StateBad, quorum.StateUntrusted: // not what the manifest says: no accident
			level = slog.LevelError
		}
		b.cfg.Logger.Log(context.Background(), level, "keeper", "keeper", r.Keeper, "state", r.State, "detail", r.Detail)
	}
}

// watchRecords follows the sealed-record feed for ever.
func (b *Bridge) watchRecords(ctx context.Context) error {
	b.linkDown.Store(nil)
	b.setState(Syncing)
	feed := link.NewLinkClient(b.cfg.Control)
	var from uint64
	for {
		err := b.followOnce(ctx, feed, &from)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); b.linkDown.CompareAndSwap(nil, &now) {
			b.cfg.Logger.Warn("control plane away; serving the last good state", "for", b.cfg.MaxStale, "error", err)
			time.AfterFunc(b.cfg.MaxStale, b.changed)
		}
		if !pause(ctx, retryEvery) {
			return ctx.Err()
		}
	}
}

func (b *Bridge) followOnce(ctx context.Context, feed link.LinkClient, from *uint64) error {
	stream, err := feed.Watch(ctx, &link.WatchRequest{From: *from})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if b.linkDown.Swap(nil) != nil {
			b.records.unpark()
		}
		b.records.apply(ctx, m)
		*from = m.Revision
	}
}

// away is for how long the feed has been away. Setting the wall clock changes nothing of it.
func (b *Bridge) away() time.Duration {
	if since := b.linkDown.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// stale says that the last-good state is too old to serve.
func (b *Bridge) stale() bool { return b.linkDown.Load() != nil && b.away() >= b.cfg.MaxStale }

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
