package link_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
	"keybridge/xds/link"
)

// wraps are n records of workspace w1, all of them outdated until they are done.
type wraps struct {
	mu       sync.Mutex
	ids      []string
	done     map[string]bool
	replaces map[string]bool // by the last Rewrap
	scans    int
}

func (w *wraps) Rewrap(_ context.Context, in []link.Rewrap, allowed func(string) bool) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replaces = map[string]bool{}
	for _, r := range in {
		w.replaces[r.Id] = r.Replace
		if allowed("w1") {
			w.done[r.Id] = true
		}
	}
	return len(in), nil
}

func (w *wraps) Originals(_ context.Context, refs []*link.RecordRef, allowed func(string) bool) (out []*link.Record, err error) {
	for _, r := range refs {
		if allowed("w1") {
			out = append(out, record(r.Id, "w1", 1))
		}
	}
	return out, nil
}

func (w *wraps) SealingKey(context.Context) (string, error) { return "key", nil }

// Outdated looks at two records at a time.
func (w *wraps) Outdated(_ context.Context, after *link.RecordRef, allowed func(string) bool) (out []*link.Record, next *link.RecordRef, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scans++
	n := 0
	for _, id := range w.ids {
		if after != nil && id <= after.Id {
			continue
		}
		if n++; !w.done[id] && allowed("w1") {
			out = append(out, record(id, "w1", 1))
		}
		if n == 2 {
			return out, &link.RecordRef{Type: "credential", Id: id}, nil
		}
	}
	return out, nil, nil
}

// dialAs serves several bridges, each called as it says in its metadata.
func dialAs(t *testing.T, w *wraps) func(name string) (context.Context, link.LinkClient) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	link.RegisterLinkServer(server, link.NewServer(&source{Wraps: w}, link.NewHub(slog.New(slog.DiscardHandler)), func(ctx context.Context) (identity.Peer, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return identity.Peer{Role: identity.Role(md.Get("role")[0]), Name: md.Get("name")[0], Workspaces: md.Get("workspace")}, nil
	}))
	go func() { _ = server.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop() })
	return func(name string) (context.Context, link.LinkClient) {
		workspace, role := "w1", string(identity.RoleBridge)
		switch name {
		case "stranger":
			workspace = "w2"
		case "keeper":
			role = string(identity.RoleKeeper)
		}
		return metadata.AppendToOutgoingContext(t.Context(), "name", name, "role", role, "workspace", workspace), link.NewLinkClient(conn)
	}
}

// Each record is one bridge's at a time, and what nobody has to do is not looked for again.
func TestOutdatedAreLeased(t *testing.T) {
	w := &wraps{ids: []string{"a", "b", "c", "d", "e"}, done: map[string]bool{}}
	as := dialAs(t, w)
	take := func(name string) (ids []string) {
		ctx, client := as(name)
		for {
			r, err := client.Originals(ctx, &link.OriginalsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Records) == 0 {
				return ids
			}
			for _, rec := range r.Records {
				ids = append(ids, rec.Id)
			}
		}
	}
	if ids := take("stranger"); len(ids) != 0 {
		t.Errorf("a stranger got %v", ids)
	}
	if ids := take("one"); len(ids) != 5 {
		t.Errorf("the first bridge got %v", ids)
	}
	if ids := take("two"); len(ids) != 0 {
		t.Errorf("the second bridge got %v, which the first has", ids)
	}
	ctx, client := as("one")
	request := &link.RewrapRequest{}
	for _, id := range w.ids {
		request.Records = append(request.Records, &link.Rewrapped{Type: "credential", Id: id})
	}
	if r, err := client.Rewrap(ctx, request); err != nil || r.Stored != 5 {
		t.Fatalf("stored %v, %v", r, err)
	}
	take("two")
	w.mu.Lock()
	before := w.scans
	w.mu.Unlock()
	take("two")
	if w.scans != before {
		t.Error("a bridge that asks again has everything read again")
	}
}

// A wrap takes another's place only for a bridge that has looked at the original.
func TestReplaceAfterOriginal(t *testing.T) {
	w := &wraps{done: map[string]bool{}}
	as := dialAs(t, w)
	offer := func(name string) bool {
		ctx, client := as(name)
		if _, err := client.Rewrap(ctx, &link.RewrapRequest{Records: []*link.Rewrapped{{Type: "credential", Id: "a"}}}); err != nil {
			t.Fatal(err)
		}
		return w.replaces["a"]
	}
	if offer("one") {
		t.Error("replaced without a look")
	}
	ctx, client := as("one")
	if r, err := client.Originals(ctx, &link.OriginalsRequest{Records: []*link.RecordRef{{Type: "credential", Id: "a"}}}); err != nil || len(r.Records) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if !offer("one") || offer("two") {
		t.Error("who looked may replace, and nobody else")
	}
	ctx, client = as("stranger")
	if r, err := client.Originals(ctx, &link.OriginalsRequest{Records: []*link.RecordRef{{Type: "credential", Id: "a"}}}); err != nil || len(r.Records) != 0 {
		t.Errorf("a stranger got %v, %v", r, err)
	}
}

func TestRewrapLimitsAndRoles(t *testing.T) {
	as := dialAs(t, &wraps{done: map[string]bool{}})
	ctx, client := as("one")
	if _, err := client.Rewrap(ctx, &link.RewrapRequest{Records: make([]*link.Rewrapped, link.MaxRewraps+1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many wraps: %v", err)
	}
	if _, err := client.Originals(ctx, &link.OriginalsRequest{Records: make([]*link.RecordRef, link.MaxRewraps+1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many originals: %v", err)
	}
	ctx, client = as("keeper")
	if _, err := client.Rewrap(ctx, &link.RewrapRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a keeper's wraps: %v", err)
	}
	if _, err := client.Originals(ctx, &link.OriginalsRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a keeper's originals: %v", err)
	}
}
