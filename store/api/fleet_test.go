package api_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/audit"
)

// fleet stands for the bridges, which are of another room: it checks that what it
// is asked is what a bridge could obey, and answers what a test wants.
type fleet struct {
	t      testing.TB
	mu     sync.Mutex
	asked  []api.Probe
	answer func(api.Probe) (api.ProbeResult, error)
}

func newFleet(t testing.TB) *fleet {
	return &fleet{t: t, answer: func(api.Probe) (api.ProbeResult, error) {
		return api.ProbeResult{OK: true, Latency: 12 * time.Millisecond}, nil
	}}
}

func (f *fleet) Probe(ctx context.Context, p api.Probe) (api.ProbeResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, p)
	if _, ok := ctx.Deadline(); !ok {
		f.t.Error("a probe without a deadline")
	}
	ways := 0
	for _, given := range []bool{p.Connector != "", p.Sealed != nil, p.Credential != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 || p.Workspace == "" || p.Type == "" {
		f.t.Errorf("an ambiguous probe: %+v", p)
	}
	if p.Sealed != nil {
		if err := p.Sealed.Validate(); err != nil || p.Sealed.Header.Workspace != p.Workspace {
			f.t.Errorf("a probe of %+v: %v", p.Sealed.Header, err)
		}
		if p.Type == store.TypeS3 && p.Sealed.Header.Binding.Scope != p.Bucket || seal.CADigest([]byte(p.CACertificate)) != p.Sealed.Header.Binding.CA {
			f.t.Errorf("a probe outside its binding: %+v", p)
		}
	}
	return f.answer(p)
}

// last returns the probes since it was last asked.
func (f *fleet) last() []api.Probe {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func (f *fleet) says(r api.ProbeResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = func(api.Probe) (api.ProbeResult, error) { return r, err }
}

var seen = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (f *fleet) Nodes() []api.Node {
	return []api.Node{
		{Name: "b1", IP: "10.0.0.1", Region: "eu", Version: "v1", Status: api.StatusOnline, Latency: 3 * time.Millisecond, LastUpdated: seen, URL: "http://10.0.0.1:9000", Services: 3,
			Keepers: []api.KeeperStatus{{Name: "keeper-1", State: "good"}, {Name: "keeper-2", State: "bad", Detail: "its share"}}},
		{Name: "b2", IP: "10.0.0.2", Status: api.StatusDisconnected, Services: 2},
	}
}

func (f *fleet) ConnectorStatus(string) []api.NodeStatus {
	return []api.NodeStatus{
		{Node: api.Node{Name: "b2", Status: api.StatusOffline, LastUpdated: seen}, Message: "AccessDenied\r\nX: y"},
		{Node: api.Node{Name: "b1", IP: "10.0.0.1", Status: api.StatusOnline, Latency: 40 * time.Millisecond, LastUpdated: seen}},
	}
}

func (f *fleet) Sync() []api.SyncStatus {
	return []api.SyncStatus{{Node: "b1-envoy", Bridge: "b1", Type: "Cluster", Sent: 4, Acked: 3, Nack: "no such host", Connected: true}}
}

// auditor keeps lines in memory; the real log has its own tests.
type auditor struct {
	mu     sync.Mutex
	events []audit.Event
	fail   error
	before func() // called with each Append
}

func newAuditor() *auditor { return &auditor{} }

func (a *auditor) Append(_ context.Context, e audit.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.before != nil {
		a.before()
	}
	if a.fail != nil {
		return a.fail
	}
	e.Time = seen
	a.events = append(a.events, e)
	return nil
}

func (a *auditor) Query(_ context.Context, f audit.Filter) (events []audit.Event, total int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return nil, 0, a.fail
	}
	for _, e := range a.events {
		if f.WorkspaceID != "" && f.WorkspaceID != e.WorkspaceID || f.Context != "" && f.Context != e.Context {
			continue
		}
		if f.Workspaces != nil && !slices.Contains(f.Workspaces, e.WorkspaceID) {
			continue
		}
		if total++; total > f.Skip && len(events) < f.Take {
			events = append(events, e)
		}
	}
	return events, total, nil
}

func (a *auditor) taken() []audit.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	events := a.events
	a.events = nil
	return events
}

var errDisk = errors.New("disk full")
