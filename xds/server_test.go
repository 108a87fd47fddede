package xds_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
)

var (
	listeners  = xds.BridgeTypes()[0]
	connectors = xds.BridgeTypes()[1]
)

func connector(id string) proto.Message { return &configv1.Connector{Id: id, Workspace: "w"} }

// world is a server whose peers say who they are in metadata: a stand-in for mTLS.
type world struct {
	t      *testing.T
	server *xds.Server
	conn   *grpc.ClientConn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := xds.NewServer(xds.Config{
		Types: xds.BridgeTypes(),
		Authorize: func(ctx context.Context) (node, group string, err error) {
			md, _ := metadata.FromIncomingContext(ctx)
			if len(md["name"]) != 1 {
				return "", "", errors.New("who are you")
			}
			return md["name"][0], md["group"][0], nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	s.Register(g)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Close()
		g.Stop()
		<-done
	})
	return &world{t, s, conn}
}

// set sets one type, and the others to nothing if the group is new.
func (w *world) set(group, typeURL string, m map[string]proto.Message) uint64 {
	w.t.Helper()
	if !slices.Contains(w.server.Groups(), group) {
		for _, other := range xds.BridgeTypes() {
			if other == typeURL {
				continue
			}
			if _, err := w.server.Set(group, other, nil); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	v, err := w.server.Set(group, typeURL, m)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// peer is one delta stream.
type peer struct {
	t      *testing.T
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

func (w *world) connect(ctx context.Context, name, group string) *peer {
	w.t.Helper()
	ctx = metadata.AppendToOutgoingContext(ctx, "name", name, "group", group)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return &peer{w.t, stream}
}

func (p *peer) send(req *discoveryv3.DeltaDiscoveryRequest) {
	p.t.Helper()
	if err := p.stream.Send(req); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) subscribe(node, typeURL string, have map[string]string) {
	p.t.Helper()
	p.send(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: node}, TypeUrl: typeURL,
		ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: have,
	})
}

// receive returns a response and the names in it: changed ones, then "-removed".
func (p *peer) receive() (*discoveryv3.DeltaDiscoveryResponse, []string) {
	p.t.Helper()
	resp, err := p.stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	names := []string{}
	for _, r := range resp.GetResources() {
		names = append(names, r.GetName())
	}
	for _, r := range resp.GetRemovedResources() {
		names = append(names, "-"+r)
	}
	slices.Sort(names)
	return resp, names
}

func (p *peer) want(want ...string) *discoveryv3.DeltaDiscoveryResponse {
	p.t.Helper()
	resp, got := p.receive()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		p.t.Fatalf("resources (-want +got):\n%s", diff)
	}
	return resp
}

func (p *peer) ack(resp *discoveryv3.DeltaDiscoveryResponse) {
	p.t.Helper()
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
}

func (p *peer) nack(resp *discoveryv3.DeltaDiscoveryResponse, text string) {
	p.t.Helper()
	p.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: text},
	})
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDelta(t *testing.T) {
	w, ctx := newWorld(t), timeout(t)
	w.set("g", connectors, map[string]proto.Message{"a": connector("a"), "b": connector("b")})
	w.set("other", connectors, map[string]proto.Message{"z": connector("z")})

	p := w.connect(ctx, "bridge-1", "g")
	p.subscribe("bridge-1", connectors, nil)
	first := p.want("a", "b")
	p.ack(first)

	// Only what changed, and nothing where nothing did.
	v := w.set("g", connectors, map[string]proto.Message{"a": connector("a"), "b": connector("b")})
	w.set("other", connectors, map[string]proto.Message{"y": connector("y")})
	v2, err := w.server.Update("g", connectors, map[string]proto.Message{"a": connector("a2")}, []string{"b", "never was"})
	if err != nil {
		t.Fatal(err)
	}
	if v2 != v+1 {
		t.Errorf("versions %d, %d", v, v2)
	}
	second := p.want("-b", "a")
	p.ack(second)
	if err := w.server.WaitAcked(ctx, "bridge-1", connectors, v2); err != nil {
		t.Error(err)
	}
	if v3, err := w.server.Update("g", connectors, map[string]proto.Message{"a": connector("a2")}, []string{"b"}); err != nil || v3 != v2 {
		t.Errorf("a change that is none: version %d, %v; want %d", v3, err, v2)
	}

	// A peer that comes back says what it has.
	again := w.connect(ctx, "bridge-1", "g")
	again.subscribe("bridge-1", connectors, map[string]string{
		"a": second.GetResources()[0].GetVersion(), "gone": "1",
	})
	again.want("-gone")
}

// While a response is unanswered, changes merge into the next.
func TestOneInFlight(t *testing.T) {
	w, ctx := newWorld(t), timeout(t)
	w.set("g", connectors, nil)
	p := w.connect(ctx, "b", "g")
	p.subscribe("b", connectors, nil)
	first := p.want()
	w.set("g", connectors, map[string]proto.Message{"1": connector("1")})
	w.set("g", connectors, map[string]proto.Message{"1": connector("1"), "2": connector("2")})
	last := w.set("g", connectors, map[string]proto.Message{"2": connector("2x"), "3": connector("3")})
	p.ack(first)
	p.ack(p.want("2", "3"))
	if err := w.server.WaitAcked(ctx, "b", connectors, last); err != nil {
		t.Error(err)
	}
}

func TestNack(t *testing.T) {
	w, ctx := newWorld(t), timeout(t)
	v := w.set("g", connectors, map[string]proto.Message{"a": connector("a")})
	p := w.connect(ctx, "b", "g")
	p.subscribe("b", connectors, nil)
	resp := p.want("a")
	waited := make(chan error, 1)
	go func() { waited <- w.server.WaitAcked(ctx, "b", connectors, v) }()
	p.nack(resp, "a is "+strings.Repeat("bad ", 2000))
	var nack *xds.NackError
	if err := <-waited; !errors.As(err, &nack) || nack.Version != v || !strings.HasPrefix(nack.Text, "a is bad") || len(nack.Text) > 5000 {
		t.Errorf("got %v", err)
	}

	// A later version that is accepted settles it; the text stays to be seen.
	v2 := w.set("g", connectors, map[string]proto.Message{"a": connector("a2")})
	p.ack(p.want("a"))
	if err := w.server.WaitAcked(ctx, "b", connectors, v2); err != nil {
		t.Error(err)
	}
	got := w.server.Status()
	want := []xds.Status{{
		Node: "b", Group: "g", TypeURL: connectors, Connected: true,
		Sent: v2, Acked: v2, Answered: true, Nack: nack.Text, Nacked: v, Nacks: 1,
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(xds.Status{}, "NackAt")); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestStatusFollowsTheNewestStream(t *testing.T) {
	w, ctx := newWorld(t), timeout(t)
	v := w.set("g", connectors, map[string]proto.Message{"a": connector("a")})
	oldCtx, endOld := context.WithCancel(ctx)
	old := w.connect(oldCtx, "b", "g")
	old.subscribe("b", connectors, nil)
	old.ack(old.want("a"))
	if err := w.server.WaitAcked(ctx, "b", connectors, v); err != nil {
		t.Fatal(err)
	}

	// A peer that restarted has nothing until it says so.
	p := w.connect(ctx, "b", "g")
	p.subscribe("b", connectors, nil)
	resp := p.want("a")
	if st := w.server.Status()[0]; st.Answered || !st.Connected || st.Sent != v {
		t.Errorf("status %+v", st)
	}
	endOld()
	p.ack(resp)
	if err := w.server.WaitAcked(ctx, "b", connectors, v); err != nil {
		t.Error(err)
	}

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := w.server.WaitAcked(short, "nobody", connectors, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for nobody: %v", err)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	w.set("g", connectors, map[string]proto.Message{"secret": connector("secret")})
	if _, err := w.server.Set("half", connectors, nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ctx  []string // metadata
		req  *discoveryv3.DeltaDiscoveryRequest
		want codes.Code
	}{
		"no identity":       {nil, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: connectors}, codes.PermissionDenied},
		"other node id":     {[]string{"name", "b", "group", "g"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "c"}, TypeUrl: connectors}, codes.PermissionDenied},
		"no node id":        {[]string{"name", "b", "group", "g"}, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: connectors}, codes.PermissionDenied},
		"cluster as group":  {[]string{"name", "b", "group", "none"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "b", Cluster: "g"}, TypeUrl: connectors}, codes.Unavailable},
		"type not served":   {[]string{"name", "b", "group", "g"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "b"}, TypeUrl: "x"}, codes.InvalidArgument},
		"no type":           {[]string{"name", "b", "group", "g"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "b"}}, codes.InvalidArgument},
		"group half set":    {[]string{"name", "b", "group", "half"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "b"}, TypeUrl: connectors}, codes.Unavailable},
		"group not yet set": {[]string{"name", "b", "group", "later"}, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "b"}, TypeUrl: connectors}, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(timeout(t), c.ctx...)
			stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.conn).DeltaAggregatedResources(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(c.req) // may come after the refusal
			if _, err = stream.Recv(); status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	t.Run("renamed later", func(t *testing.T) {
		p := w.connect(timeout(t), "b", "g")
		p.subscribe("b", listeners, nil)
		p.want()
		p.subscribe("c", connectors, nil)
		for {
			if _, err := p.stream.Recv(); err != nil {
				if status.Code(err) != codes.PermissionDenied {
					t.Errorf("got %v", err)
				}
				return
			}
		}
	})
}

func TestStateOfTheWorld(t *testing.T) {
	w := newWorld(t)
	v := w.set("g", connectors, map[string]proto.Message{"a": connector("a"), "b": connector("b")})
	ctx := metadata.AppendToOutgoingContext(timeout(t), "name", "b", "group", "g")
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "b"}, TypeUrl: connectors}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetResources()) != 2 || resp.GetVersionInfo() == "1" {
		t.Errorf("got %d resources, version %q without the prefix of this start", len(resp.GetResources()), resp.GetVersionInfo())
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: connectors, VersionInfo: resp.GetVersionInfo(), ResponseNonce: resp.GetNonce()}); err != nil {
		t.Fatal(err)
	}
	if err := w.server.WaitAcked(ctx, "b", connectors, v); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := xds.NewServer(xds.Config{Types: xds.EnvoyTypes()}); err == nil {
		t.Error("a server without authorisation was made")
	}
	w := newWorld(t)
	if _, err := w.server.Set("g", "unknown", nil); err == nil {
		t.Error("a type that is not served was set")
	}
	if diff := cmp.Diff([]string{"g"}, w.server.Groups()); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}
