package snapshot_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"keybridge/store"
	"keybridge/store/bolt"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/snapshot"
)

var listenerType, connectorType, repositoryType = xds.BridgeTypes()[0], xds.BridgeTypes()[1], xds.BridgeTypes()[2]

// sink keeps what each group was given, and counts.
type sink struct {
	mu      sync.Mutex
	groups  map[string]map[string]map[string]proto.Message // group, type, name
	changed chan struct{}
}

func newSink() *sink {
	return &sink{groups: make(map[string]map[string]map[string]proto.Message), changed: make(chan struct{}, 100)}
}

func (s *sink) Set(group, typeURL string, all map[string]proto.Message) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] == nil {
		s.groups[group] = make(map[string]map[string]proto.Message)
	}
	s.groups[group][typeURL] = make(map[string]proto.Message)
	for n, m := range all {
		s.groups[group][typeURL][n] = m
	}
	return 0, nil
}

func (s *sink) Update(group, typeURL string, set map[string]proto.Message, remove []string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, m := range set {
		s.groups[group][typeURL][n] = m
	}
	for _, n := range remove {
		delete(s.groups[group][typeURL], n)
	}
	s.changed <- struct{}{}
	return 0, nil
}

func (s *sink) get(group, typeURL string) map[string]proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]proto.Message)
	for n, m := range s.groups[group][typeURL] {
		out[n] = m
	}
	return out
}

// wait blocks until the group has exactly these.
func (s *sink) wait(t *testing.T, group, typeURL string, want map[string]proto.Message) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		diff := cmp.Diff(want, s.get(group, typeURL), protocmp.Transform())
		if diff == "" {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("group %s (-want +got):\n%s", group, diff)
		}
	}
}

type world struct {
	t     *testing.T
	store store.Store
	sink  *sink
	feed  *snapshot.Feed
}

var listener = &configv1.Listener{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9000}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, store: s, sink: newSink()}
	w.feed = snapshot.New(snapshot.Config{Store: s, Sink: w.sink, Listeners: []*configv1.Listener{listener}, Debounce: 5 * time.Millisecond})
	return w
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.feed.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

func (w *world) put(r store.Record, expect uint64) {
	w.t.Helper()
	if _, err := w.store.Apply(w.t.Context(), store.Write{Record: r, Expect: expect}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) group(workspaces ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	g, err := w.feed.Group(ctx, workspaces)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

func newConnector(workspace string, typ store.ConnectorType) *store.Connector {
	return &store.Connector{
		M: store.Meta{ID: uuid.NewString(), Workspace: workspace}, Name: "c", Type: typ, Bucket: "b", Region: "r",
		CACertificate: "ca", CredentialID: "cred", AllowBucketConfiguration: true,
		Models: []string{"gpt-*"},
	}
}

func wire(c *store.Connector, p configv1.Provider) map[string]proto.Message {
	return map[string]proto.Message{c.M.Workspace + "/" + c.M.ID: &configv1.Connector{
		Id: c.M.ID, Workspace: c.M.Workspace, Name: c.Name, Provider: p, Bucket: "b", Region: "r",
		CaCertificates: []byte("ca"), CredentialId: "cred", AllowBucketConfiguration: true,
		Models: []string{"gpt-*"},
	}}
}

func merge(parts ...map[string]proto.Message) map[string]proto.Message {
	out := make(map[string]proto.Message)
	for _, p := range parts {
		for n, m := range p {
			out[n] = m
		}
	}
	return out
}

func TestGroups(t *testing.T) {
	w := newWorld(t)
	w1, w2 := uuid.NewString(), uuid.NewString()
	c1, c2 := newConnector(w1, store.TypeS3), newConnector(w2, store.TypeOpenAI)
	w.put(c1, 0)
	w.put(c2, 0)
	w.run()
	one, all, both := w.group(w1), w.group("*", w1), w.group(w2, w1, w2)
	if again := w.group(w1, w2); again != both {
		t.Errorf("the same workspaces gave groups %q and %q", both, again)
	}
	if w.group("*") != all {
		t.Error("all workspaces gave two groups")
	}
	s3, openAI := wire(c1, configv1.Provider_PROVIDER_S3), wire(c2, configv1.Provider_PROVIDER_OPENAI)
	w.sink.wait(t, one, connectorType, s3)
	w.sink.wait(t, both, connectorType, merge(s3, openAI))
	w.sink.wait(t, all, connectorType, merge(s3, openAI))
	w.sink.wait(t, one, listenerType, map[string]proto.Message{"s3": listener})

	// A new workspace is seen by those enrolled for all.
	c3 := newConnector(uuid.NewString(), store.TypeOther)
	w.put(c3, 0)
	other := wire(c3, configv1.Provider_PROVIDER_OTHER)
	w.sink.wait(t, all, connectorType, merge(s3, openAI, other))
	w.sink.wait(t, both, connectorType, merge(s3, openAI))
}

func TestChanges(t *testing.T) {
	w := newWorld(t)
	ws := uuid.NewString()
	w.run()
	g := w.group(ws)
	c := newConnector(ws, store.TypeS3)
	w.put(c, 0)
	w.sink.wait(t, g, connectorType, wire(c, configv1.Provider_PROVIDER_S3))

	c.Name = "renamed"
	w.put(c, 1)
	w.sink.wait(t, g, connectorType, wire(c, configv1.Provider_PROVIDER_S3))

	r := &store.Repository{
		M: store.Meta{ID: uuid.NewString(), Workspace: ws}, Name: "r", Disabled: true, AI: []string{"ai"},
		Storage: []store.RepositoryStorage{{ConnectorID: c.M.ID, Folder: "f/", Master: true}},
	}
	w.put(r, 0)
	w.sink.wait(t, g, repositoryType, map[string]proto.Message{ws + "/" + r.M.ID: &configv1.Repository{
		Id: r.M.ID, Workspace: ws, Name: "r", Disabled: true, Ai: []string{"ai"},
		Storage: []*configv1.Repository_Storage{{ConnectorId: c.M.ID, Folder: "f/", Master: true}},
	}})

	anthropic := newConnector(ws, store.TypeAnthropic)
	w.put(anthropic, 0)
	w.sink.wait(t, g, connectorType, merge(wire(c, configv1.Provider_PROVIDER_S3), wire(anthropic, configv1.Provider_PROVIDER_ANTHROPIC)))

	// What bridges do not know yet is not served, and what is deleted is not either.
	future := newConnector(ws, "GCS")
	w.put(future, 0)
	now := time.Now()
	c.M.DeletedAt = &now
	w.put(c, 2)
	w.sink.wait(t, g, connectorType, wire(anthropic, configv1.Provider_PROVIDER_ANTHROPIC))
}

func TestGroupWaitsForTheStore(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := w.feed.Group(ctx, []string{"*"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a group before the store was read: %v", err)
	}
}

func TestStoreEnds(t *testing.T) {
	w := newWorld(t)
	done := make(chan error, 1)
	go func() { done <- w.feed.Run(t.Context()) }()
	w.group("*")
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, store.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}

// The real sink is the ADS server.
var _ snapshot.Sink = (*xds.Server)(nil)
