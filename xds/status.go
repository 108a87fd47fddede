package xds

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Status is what a peer was sent of one type, and what it made of it.
type Status struct {
	Node    string
	Group   string
	TypeURL string
	// Connected says whether the peer has a stream now. Sent and Acked are of
	// its newest stream: a peer that restarts begins again.
	Connected bool
	// Sent is the version that the last response brought the peer to.
	Sent uint64
	// Acked is the last version accepted; Answered says that there was one.
	Acked    uint64
	Answered bool
	// Nack is the text of the last rejection, empty if there never was one. It
	// stays after a later version was accepted; compare Nacked with Acked.
	Nack   string
	Nacked uint64
	NackAt time.Time
	Nacks  uint64 // rejections since the server started
}

// NackError says that a node rejected a response.
type NackError struct {
	Node, TypeURL string
	Version       uint64
	Text          string // the node's words
}

func (e *NackError) Error() string {
	return fmt.Sprintf("xds: %s rejected version %d of %s: %s", e.Node, e.Version, e.TypeURL, e.Text)
}

// maxNack bounds what is kept of a rejection; Envoy names every bad resource.
const maxNack = 4096

type statusKey struct{ node, typeURL string }

// streamKey tells delta streams from state-of-the-world streams: go-control-plane counts each on its own.
type streamKey struct {
	sotw bool
	id   int64
}

type stream struct {
	node, group string
	greeted     bool // the peer has said who it is
	inFlight    map[string][]response
}

type response struct {
	nonce   string
	version uint64
}

// tracker keeps the Status of every node and type.
type tracker struct {
	prefix string
	log    *slog.Logger

	mu      sync.Mutex
	streams map[streamKey]*stream
	newest  map[string]streamKey // by node
	states  map[statusKey]*Status
	changed chan struct{} // closed and replaced at every change
}

func newTracker(prefix string, log *slog.Logger) *tracker {
	return &tracker{
		prefix:  prefix,
		log:     log,
		streams: make(map[streamKey]*stream),
		newest:  make(map[string]streamKey),
		states:  make(map[statusKey]*Status),
		changed: make(chan struct{}),
	}
}

func (t *tracker) open(key streamKey, node, group string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[key] = &stream{node: node, group: group, inFlight: make(map[string][]response)}
	t.newest[node] = key
	for k, st := range t.states {
		if k.node == node {
			st.Connected, st.Group = true, group
			st.Sent, st.Acked, st.Answered = 0, 0, false
		}
	}
	t.broadcast()
}

func (t *tracker) closed(key streamKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[key]
	if s == nil {
		return // refused
	}
	delete(t.streams, key)
	if t.newest[s.node] != key {
		return // a newer stream has taken over
	}
	delete(t.newest, s.node)
	for k, st := range t.states {
		if k.node == s.node {
			st.Connected = false
		}
	}
	t.broadcast()
}

// request notes what a request says about an earlier response. It returns who
// is asking, and whether the peer has said so itself before.
func (t *tracker) request(key streamKey, typeURL, nonce, rejected string, isNack bool) (node, group string, greeted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[key]
	if s == nil {
		return "", "", false
	}
	node, group, greeted = s.node, s.group, s.greeted
	s.greeted = true
	if nonce == "" || t.newest[node] != key {
		return node, group, greeted
	}
	i := slices.IndexFunc(s.inFlight[typeURL], func(r response) bool { return r.nonce == nonce })
	if i < 0 {
		return node, group, greeted
	}
	version := s.inFlight[typeURL][i].version
	s.inFlight[typeURL] = s.inFlight[typeURL][i+1:]
	st := t.state(s, typeURL)
	if isNack {
		st.Nack, st.Nacked, st.NackAt = truncate(rejected, maxNack), version, time.Now()
		st.Nacks++
		t.log.Warn("xds: peer rejected configuration", "node", node, "type", typeURL, "version", version, "error", st.Nack)
	} else {
		st.Acked, st.Answered = version, true
	}
	t.broadcast()
	return node, group, greeted
}

// sent notes a response that is about to be written.
func (t *tracker) sent(key streamKey, typeURL, nonce, version string) {
	n, err := strconv.ParseUint(strings.TrimPrefix(version, t.prefix), 10, 64)
	if err != nil {
		t.log.Error("xds: version is not one of ours", "version", version)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[key]
	if s == nil {
		return
	}
	s.inFlight[typeURL] = append(s.inFlight[typeURL], response{nonce: nonce, version: n})
	if t.newest[s.node] == key {
		t.state(s, typeURL).Sent = n
		t.broadcast()
	}
}

func (t *tracker) state(s *stream, typeURL string) *Status {
	k := statusKey{s.node, typeURL}
	st := t.states[k]
	if st == nil {
		st = &Status{Node: s.node, Group: s.group, TypeURL: typeURL, Connected: true}
		t.states[k] = st
	}
	return st
}

func (t *tracker) broadcast() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tracker) list() []Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Status, 0, len(t.states))
	for _, st := range t.states {
		out = append(out, *st)
	}
	slices.SortFunc(out, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.TypeURL, b.TypeURL))
	})
	return out
}

func (t *tracker) wait(ctx context.Context, node, typeURL string, version uint64) error {
	for {
		t.mu.Lock()
		var st Status
		if p := t.states[statusKey{node, typeURL}]; p != nil {
			st = *p
		}
		changed := t.changed
		t.mu.Unlock()
		if st.Connected && st.Answered && st.Acked >= version {
			return nil
		}
		if st.Connected && st.Nack != "" && st.Nacked >= version && st.Sent == st.Nacked {
			return &NackError{Node: node, TypeURL: typeURL, Version: st.Nacked, Text: st.Nack}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("xds: waiting for %s to accept version %d of %s: %w", node, version, typeURL, ctx.Err())
		case <-changed:
		}
	}
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
