package client_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"keybridge/xds"
	"keybridge/xds/client"
	configv1 "keybridge/xds/config/v1"
)

const node, group = "bridge-1", "g"

var listeners, connectors, repositories = xds.BridgeTypes()[0], xds.BridgeTypes()[1], xds.BridgeTypes()[2]

// control is a control plane's ADS server that can go away and come back.
type control struct {
	t    *testing.T
	path string
	xds  *xds.Server
	grpc *grpc.Server
	done chan struct{}
}

func (c *control) start() {
	c.t.Helper()
	s, err := xds.NewServer(xds.Config{
		Types:     xds.BridgeTypes(),
		Authorize: func(context.Context) (string, string, error) { return node, group, nil },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.xds, c.grpc, c.done = s, grpc.NewServer(), make(chan struct{})
	s.Register(c.grpc)
}

func (c *control) listen() {
	c.t.Helper()
	l, err := net.Listen("unix", c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	go func(done chan struct{}) {
		defer close(done)
		_ = c.grpc.Serve(l)
	}(c.done)
}

func (c *control) stop() {
	c.xds.Close()
	c.grpc.Stop()
	<-c.done
}

func (c *control) set(typeURL string, m ...proto.Message) uint64 {
	c.t.Helper()
	all := make(map[string]proto.Message)
	for _, m := range m {
		switch m := m.(type) {
		case *configv1.Listener:
			all[m.GetName()] = m
		case *configv1.Connector:
			all[m.GetWorkspace()+"/"+m.GetId()] = m
		case *configv1.Repository:
			all[m.GetWorkspace()+"/"+m.GetId()] = m
		}
	}
	v, err := c.xds.Set(group, typeURL, all)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func listener(name string) proto.Message { return &configv1.Listener{Name: name} }

func connector(id, name string) proto.Message {
	return &configv1.Connector{Workspace: "w", Id: id, Name: name}
}

// bridge runs a client and hands each state to the test.
type bridge struct {
	t      *testing.T
	client *client.Client
	states chan client.State
	answer chan error
}

func startBridge(t *testing.T, path string) *bridge {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond, Multiplier: 1.5}}))
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{t: t, states: make(chan client.State), answer: make(chan error)}
	ctx, cancel := context.WithCancel(context.Background())
	b.client = client.New(client.Config{Conn: conn, Node: node, On: func(s client.State) error {
		select {
		case b.states <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-b.answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	done := make(chan error, 1)
	go func() { done <- b.client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		_ = conn.Close()
	})
	return b
}

// want waits for a state with these names and answers it.
func (b *bridge) want(answer error, names ...string) client.State {
	b.t.Helper()
	select {
	case s := <-b.states:
		got := slices.Concat(slices.Sorted(maps.Keys(s.Listeners)), slices.Sorted(maps.Keys(s.Connectors)), slices.Sorted(maps.Keys(s.Repositories)))
		if diff := cmp.Diff(names, got); diff != "" {
			b.t.Fatalf("state (-want +got):\n%s", diff)
		}
		b.answer <- answer
		return s
	case <-time.After(20 * time.Second):
		b.t.Fatal("no state")
		return client.State{}
	}
}

func newControl(t *testing.T) *control {
	t.Helper()
	c := &control{t: t, path: filepath.Join(t.TempDir(), "s")}
	c.start()
	c.set(listeners, listener("s3"))
	c.set(connectors, connector("c1", "one"))
	c.set(repositories, &configv1.Repository{Workspace: "w", Id: "r1"})
	c.listen()
	t.Cleanup(func() { c.stop() })
	return c
}

func acked(t *testing.T, c *control, typeURL string, version uint64) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return c.xds.WaitAcked(ctx, node, typeURL, version)
}

func TestFollows(t *testing.T) {
	c := newControl(t)
	b := startBridge(t, c.path)
	b.want(nil, "s3", "w/c1", "w/r1")
	<-b.client.Synced()
	if err := acked(t, c, connectors, 1); err != nil {
		t.Error(err)
	}
	if h := b.client.Health(); !h.Connected || h.Since.IsZero() {
		t.Errorf("health %+v", h)
	}

	v := c.set(connectors, connector("c1", "renamed"), connector("c2", "two"))
	s := b.want(nil, "s3", "w/c1", "w/c2", "w/r1")
	if got := s.Connectors["w/c1"].GetName(); got != "renamed" {
		t.Errorf("name %q", got)
	}
	if err := acked(t, c, connectors, v); err != nil {
		t.Error(err)
	}
	c.set(connectors, connector("c2", "two"))
	b.want(nil, "s3", "w/c2", "w/r1")
}

func TestRejects(t *testing.T) {
	c := newControl(t)
	b := startBridge(t, c.path)
	b.want(errors.New("cannot use it"), "s3", "w/c1", "w/r1")
	var nack *xds.NackError
	if err := acked(t, c, connectors, 1); !errors.As(err, &nack) || nack.Text != "cannot use it" {
		t.Errorf("got %v", err)
	}
	select {
	case <-b.client.Synced():
		t.Error("synced with a state that was not taken")
	default:
	}

	// The state stays and comes whole with the next change.
	v := c.set(connectors, connector("c1", "one"), connector("c2", "two"))
	b.want(nil, "s3", "w/c1", "w/c2", "w/r1")
	if err := acked(t, c, connectors, v); err != nil {
		t.Error(err)
	}
	<-b.client.Synced()
}

// A resource that cannot be one is rejected by name; the others count.
func TestRejectsByName(t *testing.T) {
	c := newControl(t)
	b := startBridge(t, c.path)
	b.want(nil, "s3", "w/c1", "w/r1")
	v, err := c.xds.Update(group, connectors, map[string]proto.Message{
		"w/c2":     connector("c2", "two"),
		"other/c3": connector("c3", "in a workspace that is not its own"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.want(nil, "s3", "w/c1", "w/c2", "w/r1")
	var nack *xds.NackError
	if err := acked(t, c, connectors, v); !errors.As(err, &nack) || !strings.Contains(nack.Text, `"other/c3"`) || strings.Contains(nack.Text, "c2") {
		t.Errorf("got %v", err)
	}
}

// A control plane that went away and came back, with other things in it.
func TestReconnects(t *testing.T) {
	c := newControl(t)
	b := startBridge(t, c.path)
	b.want(nil, "s3", "w/c1", "w/r1")
	if err := acked(t, c, repositories, 1); err != nil {
		t.Fatal(err)
	}
	c.stop()

	c.start()
	c.set(listeners, listener("s3"))
	v := c.set(connectors, connector("c2", "two"))
	c.set(repositories, &configv1.Repository{Workspace: "w", Id: "r1"})
	c.listen()
	b.want(nil, "s3", "w/c2", "w/r1")
	if err := acked(t, c, connectors, v); err != nil {
		t.Error(err)
	}
}

// A control plane that is not ready yet is asked again, and nothing is handed
// on before it has said all.
func TestWaitsForEveryType(t *testing.T) {
	c := &control{t: t, path: filepath.Join(t.TempDir(), "s")}
	c.start()
	c.set(repositories, &configv1.Repository{Workspace: "w", Id: "r1"})
	c.listen()
	t.Cleanup(func() { c.stop() })
	b := startBridge(t, c.path)
	for b.client.Health().Err == nil {
		runtime.Gosched()
	}
	c.set(connectors, connector("c1", "one"))
	c.set(listeners, listener("s3"))
	b.want(nil, "s3", "w/c1", "w/r1")
}
