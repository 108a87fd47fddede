package link_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"keybridge/keyshare/identity"
	"keybridge/xds/link"
)

// patience bounds every wait; none of these tests sleeps.
const patience = 10 * time.Second

// fleet is a hub and the bridges that a test attaches to it, each over gRPC.
type fleet struct {
	*link.Hub
}

// member is one bridge of a fleet.
type member struct {
	changed chan struct{}
	server  *grpc.Server
	state   atomic.Value // string
	revoked atomic.Bool
	reports atomic.Int64
	// manifest is the last that the bridge was sent, manifests how many there were.
	manifest  atomic.Value // string
	manifests atomic.Int64
	stop      func()
}

func newFleet() fleet { return fleet{link.NewHub(slog.New(slog.DiscardHandler))} }

// join attaches a bridge and waits until the hub has it.
func (f fleet) join(t *testing.T, name, state string, workspaces []string, probe func(context.Context, *link.Probe) *link.ProbeResult) *member {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{changed: make(chan struct{}, 1), server: grpc.NewServer()}
	m.state.Store(state)
	link.RegisterLinkServer(m.server, link.NewServer(&source{}, f.Hub, func(context.Context) (identity.Peer, error) {
		if m.revoked.Load() {
			return identity.Peer{}, identity.ErrNotEnrolled
		}
		return identity.Peer{Role: identity.RoleBridge, Name: name, SPKI: "spki-" + name, Workspaces: workspaces}, nil
	}))
	go func() { _ = m.server.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	a := link.Attachment{
		Control: conn, Changed: m.changed, Probe: probe, Log: slog.New(slog.DiscardHandler),
		Report: func() *link.Report {
			m.reports.Add(1)
			return &link.Report{State: m.state.Load().(string), Version: "v-test"}
		},
		Manifest: func(signed []byte) {
			m.manifest.Store(string(signed))
			m.manifests.Add(1)
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) }) // it ends with ctx's error
	m.stop = sync.OnceFunc(func() { cancel(); running.Wait(); conn.Close(); m.server.Stop() })
	t.Cleanup(m.stop)
	f.await(t, func() bool { s, ok := f.state(name); return ok && s.Connected && s.Report.GetState() == state })
	return m
}

func (f fleet) state(name string) (link.BridgeState, bool) {
	for _, b := range f.Bridges() {
		if b.Name == name {
			return b, true
		}
	}
	return link.BridgeState{}, false
}

func (f fleet) await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("did not happen; bridges %+v", f.Bridges())
		case <-tick.C:
		}
	}
}

func TestManifestIsPushed(t *testing.T) {
	f := newFleet()
	var inForce atomic.Value
	inForce.Store("one")
	f.Manifest = func() []byte { return []byte(inForce.Load().(string)) }
	members := map[string]*member{}
	for _, name := range []string{"a", "b"} {
		members[name] = f.join(t, name, "ready", []string{"*"}, says(name))
	}
	has := func(name, want string) func() bool {
		return func() bool { got, _ := members[name].manifest.Load().(string); return got == want }
	}
	f.await(t, has("a", "one")) // on attaching
	f.await(t, has("b", "one"))

	f.Announce() // the same again is not sent again
	inForce.Store("two")
	f.Announce()
	f.await(t, has("a", "two"))
	f.await(t, has("b", "two"))
	if n := members["a"].manifests.Load(); n != 2 {
		t.Errorf("sent %d manifests, want 2", n)
	}

	// A bridge that the new one does not list learns it, and is sent away.
	members["a"].revoked.Store(true)
	inForce.Store("three")
	f.Announce()
	f.await(t, has("a", "three"))
	f.await(t, has("b", "three"))
	f.await(t, func() bool { s, _ := f.state("a"); return !s.Connected })
	if s, _ := f.state("b"); !s.Connected {
		t.Error("the other bridge was sent away too")
	}
}

// says answers with who answered.
func says(name string) func(context.Context, *link.Probe) *link.ProbeResult {
	return func(context.Context, *link.Probe) *link.ProbeResult {
		return &link.ProbeResult{Ok: true, Message: name}
	}
}

func ask(workspace string) *link.Probe { return &link.Probe{Connector: "c", Workspace: workspace} }

func TestProbeAsksABridgeOfTheWorkspace(t *testing.T) {
	f := newFleet()
	f.join(t, "a", "ready", []string{"w1"}, says("a"))
	f.join(t, "b", "ready", []string{"w2", "w3"}, says("b"))
	f.join(t, "c", "sealed", []string{"*"}, says("c"))
	for workspace, want := range map[string]string{"w1": "a", "w2": "b", "w3": "b"} {
		if got, err := f.Probe(t.Context(), ask(workspace)); err != nil || got.Message != want {
			t.Errorf("%s: %v, %v; want %s", workspace, got, err, want)
		}
	}
	if got, err := f.Probe(t.Context(), ask("w4")); !errors.Is(err, link.ErrNoBridge) {
		t.Errorf("only a sealed bridge serves it: %v, %v", got, err)
	}
	if _, err := newFleet().Probe(t.Context(), ask("w1")); !errors.Is(err, link.ErrNoBridge) {
		t.Errorf("no bridge at all: %v", err)
	}
}

func TestProbePrefersReadyAndIdle(t *testing.T) {
	f := newFleet()
	f.join(t, "a", "stale", []string{"*"}, says("a"))
	held, release := make(chan struct{}), make(chan struct{})
	f.join(t, "b", "ready", []string{"*"}, func(ctx context.Context, p *link.Probe) *link.ProbeResult {
		if p.Connector == "slow" {
			close(held)
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return says("b")(ctx, p)
	})
	if got, err := f.Probe(t.Context(), ask("w")); err != nil || got.Message != "b" {
		t.Errorf("ready before stale: %v, %v", got, err)
	}
	var slow sync.WaitGroup
	slow.Go(func() {
		if _, err := f.Probe(t.Context(), &link.Probe{Connector: "slow", Workspace: "w"}); err != nil {
			t.Errorf("slow probe: %v", err)
		}
	})
	<-held
	f.join(t, "c", "ready", []string{"*"}, says("c"))
	if got, err := f.Probe(t.Context(), ask("w")); err != nil || got.Message != "c" {
		t.Errorf("idle before busy: %v, %v", got, err)
	}
	close(release)
	slow.Wait()
}

func TestBridgeGoesAwayMidProbe(t *testing.T) {
	f := newFleet()
	started := make(chan struct{}, 2)
	hang := func(ctx context.Context, _ *link.Probe) *link.ProbeResult {
		started <- struct{}{}
		<-ctx.Done()
		return &link.ProbeResult{}
	}
	a := f.join(t, "a", "ready", []string{"*"}, hang)
	type outcome struct {
		result *link.ProbeResult
		err    error
	}
	probe := func() <-chan outcome {
		out := make(chan outcome, 1)
		go func() {
			r, err := f.Probe(t.Context(), ask("w"))
			out <- outcome{r, err}
		}()
		<-started
		return out
	}
	first := probe()
	b := f.join(t, "b", "ready", []string{"*"}, says("b"))
	a.stop()
	if got := <-first; got.err != nil || got.result.Message != "b" {
		t.Errorf("another bridge was there: %v, %v", got.result, got.err)
	}
	b.stop()
	f.await(t, func() bool { s, _ := f.state("b"); return !s.Connected })
	c := f.join(t, "c", "ready", []string{"*"}, hang)
	second := probe()
	c.stop()
	if got := <-second; !errors.Is(got.err, link.ErrNoBridge) || !strings.Contains(got.err.Error(), "bridge c") {
		t.Errorf("no other bridge: %v, %v", got.result, got.err)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	f := newFleet()
	f.join(t, "a", "ready", []string{"*"}, func(ctx context.Context, _ *link.Probe) *link.ProbeResult {
		<-ctx.Done()
		return &link.ProbeResult{}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Probe(ctx, ask("w")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestTooManyProbesAreRefusedNotQueued(t *testing.T) {
	f := newFleet()
	release := make(chan struct{})
	var working atomic.Int64
	f.join(t, "a", "ready", []string{"*"}, func(ctx context.Context, _ *link.Probe) *link.ProbeResult {
		working.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return &link.ProbeResult{Ok: true}
	})
	var probes sync.WaitGroup
	for range 16 {
		probes.Go(func() {
			if r, err := f.Probe(t.Context(), ask("w")); err != nil || !r.Ok {
				t.Errorf("within the cap: %v, %v", r, err)
			}
		})
	}
	f.await(t, func() bool { return working.Load() == 16 })
	if r, err := f.Probe(t.Context(), ask("w")); !errors.Is(err, link.ErrNoBridge) || !strings.Contains(err.Error(), "too many") {
		t.Errorf("beyond the cap: %v, %v", r, err)
	}
	close(release)
	probes.Wait()
}

func TestRevokedBridgeIsNotAsked(t *testing.T) {
	f := newFleet()
	m := f.join(t, "a", "ready", []string{"*"}, says("a"))
	m.revoked.Store(true)
	if _, err := f.Probe(t.Context(), ask("w")); !errors.Is(err, link.ErrNoBridge) {
		t.Errorf("got %v", err)
	}
	m.changed <- struct{}{}
	f.await(t, func() bool { s, _ := f.state("a"); return !s.Connected })
}

func TestReports(t *testing.T) {
	f := newFleet()
	m := f.join(t, "a", "sealed", []string{"w1"}, says("a"))
	s, _ := f.state("a")
	if s.SPKI != "spki-a" || s.Address != "127.0.0.1" || s.Report.Version != "v-test" || s.ConnectedAt.IsZero() || s.Workspaces[0] != "w1" {
		t.Errorf("state %+v", s)
	}
	f.await(t, func() bool { s, _ := f.state("a"); return s.RTT > 0 })
	// A burst of changes becomes one report, at once; the next burst waits its turn.
	before, start := m.reports.Load(), time.Now()
	for _, state := range []string{"unsealing", "syncing", "ready"} {
		m.state.Store(state)
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
	f.await(t, func() bool { s, _ := f.state("a"); return s.Report.State == "ready" })
	m.state.Store("stale")
	m.changed <- struct{}{}
	f.await(t, func() bool { s, _ := f.state("a"); return s.Report.State == "stale" })
	if sent, most := m.reports.Load()-before, 1+int64(time.Since(start)/(250*time.Millisecond)); sent > most+1 {
		t.Errorf("%d reports in %v", sent, time.Since(start))
	}
	m.stop()
	f.await(t, func() bool { s, ok := f.state("a"); return ok && !s.Connected && s.Report.State == "stale" })
}

func TestAttachesAgain(t *testing.T) {
	f := newFleet()
	m := f.join(t, "a", "ready", []string{"*"}, says("a"))
	s, _ := f.state("a")
	m.revoked.Store(true)
	m.changed <- struct{}{}
	f.await(t, func() bool { s, _ := f.state("a"); return !s.Connected })
	m.revoked.Store(false)
	f.await(t, func() bool {
		again, _ := f.state("a")
		return again.Connected && again.ConnectedAt.After(s.ConnectedAt)
	})
}
