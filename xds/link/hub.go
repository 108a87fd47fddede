package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"keybridge/keyshare/identity"
)

// ErrNoBridge says that no bridge which serves the workspace could be asked.
var ErrNoBridge = errors.New("no unsealed bridge that serves this workspace is connected")

const (
	// probePatience bounds the wait for one bridge: its own cap is ProbeTimeout.
	probePatience = ProbeTimeout + 3*time.Second
	// maxAttempts bounds how many bridges are asked when one after the other goes away.
	maxAttempts = 3
	// pingEvery is how often a bridge that reports is asked for a sign of life, to
	// measure the round trip. A ping is a Probe that asks for nothing.
	pingEvery = 5 * time.Second
)

// A bridge went away before it answered, or has too many probes under way. Another may do.
var (
	errLost = errors.New("the connection ended")
	errBusy = errors.New("it has too many probes under way")
)

// BridgeState is what the control plane knows of a bridge that has attached since it started.
type BridgeState struct {
	Name       string
	SPKI       string // of its identity; hex SHA-256
	Workspaces []string
	Address    string // it connects from, without the port
	// Report is the last one, also of a bridge that is gone; nil before the first. Read only.
	Report      *Report
	Connected   bool
	ConnectedAt time.Time // when it attached last
	LastReport  time.Time
	RTT         time.Duration // 0 until measured
}

// Hub is the control plane's end of every attached bridge. Its methods may be
// called concurrently.
type Hub struct {
	// Manifest is the signed manifest in force (identity.Trust.Signed), which every
	// bridge gets when it attaches and at each Announce. Set before use; nil: none is sent.
	Manifest func() []byte

	log *slog.Logger

	mu          sync.Mutex
	bridges     map[string]*attached // by name; the newest attachment of each
	attachments map[*attached]bool   // whose streams are open
	sequence    uint64               // of probe ids
}

// NewHub makes a Hub; NewServer connects it to bridges.
func NewHub(log *slog.Logger) *Hub {
	return &Hub{log: log, bridges: map[string]*attached{}, attachments: map[*attached]bool{}}
}

// attached is one Attach stream. All but its immutable parts are guarded by Hub.mu.
type attached struct {
	peer func() (identity.Peer, error) // asks again whether it is enrolled, and for what
	send chan *ControlMessage          // drained by the stream's own sender
	gone chan struct{}                 // closed when the stream ends
	news chan struct{}                 // capacity 1: the manifest may be a newer one

	state   BridgeState
	pending map[string]chan<- *ProbeResult // each of capacity 1
	ping    string                         // id of the last ping, sent at pinged
	pinged  time.Time
}

// Announce sends the manifest to every attached bridge, and ends the attachments of
// those that it does not list any more. Call it when the manifest in force has changed.
func (h *Hub) Announce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a := range h.attachments {
		select {
		case a.news <- struct{}{}:
		default: // it has not looked yet since the last time
		}
	}
}

// manifest is what bridges are sent; nil: nothing.
func (h *Hub) manifest() []byte {
	if h.Manifest == nil {
		return nil
	}
	return h.Manifest()
}

// Bridges are all bridges that have attached, in the order of their names.
func (h *Hub) Bridges() []BridgeState {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]BridgeState, 0, len(h.bridges))
	for _, name := range slices.Sorted(maps.Keys(h.bridges)) {
		out = append(out, h.bridges[name].state)
	}
	return out
}

// Probe has a bridge that is enrolled for p's workspace make the call, one that
// is ready before others and the least busy of those. If a bridge goes away
// meanwhile, another is asked. p.Id is the Hub's to set. The error is
// [ErrNoBridge], or ctx's, or says which bridge did not answer.
func (h *Hub) Probe(ctx context.Context, p *Probe) (*ProbeResult, error) {
	var tried []*attached
	var lost error
	for range maxAttempts {
		a := h.choose(p.Workspace, tried)
		if a == nil {
			break
		}
		tried = append(tried, a)
		result, err := h.ask(ctx, a, p)
		if !errors.Is(err, errLost) && !errors.Is(err, errBusy) {
			return result, err
		}
		lost = fmt.Errorf("bridge %s: %w", a.state.Name, err)
		h.log.Warn("probe: bridge did not answer", "bridge", a.state.Name, "reason", err)
	}
	if lost != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoBridge, lost)
	}
	return nil, ErrNoBridge
}

// choose picks the best bridge for a workspace that was not tried yet.
func (h *Hub) choose(workspace string, tried []*attached) *attached {
	h.mu.Lock()
	candidates := slices.Collect(maps.Values(h.bridges))
	h.mu.Unlock()
	candidates = slices.DeleteFunc(candidates, func(a *attached) bool {
		// Asked now: enrolment may have changed since it attached.
		peer, err := a.peer()
		return err != nil || !Enrolled(peer.Workspaces, workspace) || slices.Contains(tried, a)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	candidates = slices.DeleteFunc(candidates, func(a *attached) bool { return !a.state.Connected || a.rank() > able })
	if len(candidates) == 0 {
		return nil
	}
	return slices.MinFunc(candidates, func(x, y *attached) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(len(x.pending), len(y.pending)), cmp.Compare(x.state.Name, y.state.Name))
	})
}

// Ranks of bridges for a probe.
const (
	best   = iota
	able   // it holds the keyring, so that it can open what it is sent
	unable // it is sealed or stopped
)

func (a *attached) rank() int {
	switch a.state.Report.GetState() {
	case "ready":
		return best
	case "syncing", "stale":
		return able
	}
	return unable
}

func (h *Hub) ask(ctx context.Context, a *attached, p *Probe) (*ProbeResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probePatience, fmt.Errorf("bridge %s did not answer in %v", a.state.Name, probePatience))
	defer cancel()
	answer := make(chan *ProbeResult, 1)
	p = proto.CloneOf(p)
	p.Id = h.expect(a, answer)
	defer h.forget(a, p.Id)
	select {
	case a.send <- &ControlMessage{Probe: p}:
	case <-a.gone:
		return nil, errLost
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case r := <-answer:
		return verdict(r)
	case <-a.gone:
		select {
		case r := <-answer: // it came with the end
			return verdict(r)
		default:
			return nil, errLost
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// verdict is r, unless the bridge made no call for want of room.
func verdict(r *ProbeResult) (*ProbeResult, error) {
	if r.Busy {
		return nil, errBusy
	}
	return r, nil
}

func (h *Hub) expect(a *attached, answer chan<- *ProbeResult) (id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	id = strconv.FormatUint(h.sequence, 36)
	a.pending[id] = answer
	return id
}

func (h *Hub) forget(a *attached, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(a.pending, id)
}

// attach takes the place of an older attachment of the same bridge.
func (h *Hub) attach(p identity.Peer, address string, peer func() (identity.Peer, error), first *Report) *attached {
	now := time.Now()
	a := &attached{
		peer: peer, send: make(chan *ControlMessage), gone: make(chan struct{}), news: make(chan struct{}, 1),
		pending: map[string]chan<- *ProbeResult{},
		state: BridgeState{
			Name: p.Name, SPKI: p.SPKI, Workspaces: p.Workspaces, Address: address,
			Report: first, Connected: true, ConnectedAt: now, LastReport: now,
		},
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.bridges[p.Name]; old != nil {
		a.state.RTT = old.state.RTT
	}
	h.bridges[p.Name] = a
	h.attachments[a] = true
	a.news <- struct{}{} // it has not been sent the manifest yet
	return a
}

func (h *Hub) detach(a *attached) {
	h.mu.Lock()
	a.state.Connected = false
	delete(h.attachments, a)
	h.mu.Unlock()
	close(a.gone)
}

// take handles a message of the bridge, and returns a ping to send, if it is time for one.
func (h *Hub) take(a *attached, m *BridgeMessage) (ping *ControlMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if r := m.GetProbeResult(); r != nil {
		if answer := a.pending[r.Id]; answer != nil { // somebody waits still
			delete(a.pending, r.Id)
			answer <- r
		} else if r.Id == a.ping {
			a.state.RTT = now.Sub(a.pinged)
		}
		return nil
	}
	r := m.GetReport()
	if r == nil {
		return nil // of a newer bridge
	}
	a.state.Report, a.state.LastReport = r, now
	if now.Sub(a.pinged) < pingEvery {
		return nil
	}
	h.sequence++
	a.ping, a.pinged = strconv.FormatUint(h.sequence, 36), now
	return &ControlMessage{Probe: &Probe{Id: a.ping}}
}
