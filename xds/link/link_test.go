package link_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
	"keybridge/xds/link"
)

// source yields what is in its batches, then waits for more on its channel.
type source struct {
	link.Wraps // nil where no test needs it
	batches    []link.Batch
	more       chan link.Batch
}

func (s *source) Custody(context.Context) (manifest, keyring []byte, err error) {
	return []byte("manifest"), []byte("keyring"), nil
}

func (s *source) Revision(context.Context) (uint64, error) {
	if len(s.batches) == 0 {
		return 0, nil
	}
	return s.batches[len(s.batches)-1].Revision, nil
}

func (s *source) Watch(ctx context.Context, from uint64) iter.Seq2[link.Batch, error] {
	return func(yield func(link.Batch, error) bool) {
		for _, b := range s.batches {
			if b.Revision > from && !yield(b, nil) {
				return
			}
		}
		for {
			select {
			case b := <-s.more:
				if !yield(b, nil) {
					return
				}
			case <-ctx.Done():
				yield(link.Batch{}, ctx.Err())
				return
			}
		}
	}
}

func record(id, workspace string, revision uint64) *link.Record {
	return &link.Record{Type: "credential", Id: id, Workspace: workspace, Revision: revision}
}

func bridgeOf(workspaces ...string) func(context.Context) (identity.Peer, error) {
	return func(context.Context) (identity.Peer, error) {
		return identity.Peer{Role: identity.RoleBridge, Name: "bridge-1", Workspaces: workspaces}, nil
	}
}

func dial(t *testing.T, s link.Source, peer func(context.Context) (identity.Peer, error)) link.LinkClient {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	link.RegisterLinkServer(server, link.NewServer(s, link.NewHub(slog.New(slog.DiscardHandler)), peer))
	go func() { _ = server.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop() })
	return link.NewLinkClient(conn)
}

// message is what matters of a WatchResponse.
type message struct {
	IDs      []string
	Revision uint64
	Synced   bool
}

func receive(t *testing.T, stream grpc.ServerStreamingClient[link.WatchResponse]) message {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	out := message{Revision: m.Revision, Synced: m.Synced}
	for _, r := range m.Records {
		out.IDs = append(out.IDs, r.Id)
	}
	return out
}

func TestWatch(t *testing.T) {
	three := []link.Batch{
		{Revision: 1, Records: []*link.Record{record("a", "w1", 1)}},
		{Revision: 2, Records: []*link.Record{record("b", "w2", 2)}},
		{Revision: 5}, // changed no sealed record
	}
	var many []link.Batch
	for i := range uint64(1000) {
		many = append(many, link.Batch{Revision: i + 1, Records: []*link.Record{record(fmt.Sprint(i+1), "w1", i+1)}})
	}
	tests := []struct {
		name       string
		batches    []link.Batch
		workspaces []string
		from       uint64
		want       []message
	}{
		{"all workspaces", three, []string{"*"}, 0, []message{{[]string{"a", "b"}, 5, true}}},
		{"its own workspace only", three, []string{"w2"}, 0, []message{{[]string{"b"}, 5, true}}},
		{"no workspace", three, nil, 0, []message{{nil, 5, true}}},
		{"from a revision", three, []string{"*"}, 1, []message{{[]string{"b"}, 5, true}}},
		{"nothing new is synced at once", three, []string{"*"}, 5, []message{{nil, 5, true}}},
		{"empty store", nil, []string{"*"}, 0, []message{{nil, 0, true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &source{batches: tt.batches, more: make(chan link.Batch)}
			stream, err := dial(t, s, bridgeOf(tt.workspaces...)).Watch(t.Context(), &link.WatchRequest{From: tt.from})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if diff := cmp.Diff(want, receive(t, stream)); diff != "" {
					t.Errorf("message (-want +got):\n%s", diff)
				}
			}
			s.more <- link.Batch{Revision: 9, Records: []*link.Record{record("late", "w2", 9)}}
			if got := receive(t, stream); got.Revision != 9 || !got.Synced {
				t.Errorf("change arrived as %+v", got)
			}
		})
	}
	t.Run("many come in parts, synced at the end only", func(t *testing.T) {
		stream, err := dial(t, &source{batches: many}, bridgeOf("*")).Watch(t.Context(), &link.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		first, second := receive(t, stream), receive(t, stream)
		if first.Synced || !second.Synced || len(first.IDs)+len(second.IDs) != len(many) || second.Revision != 1000 {
			t.Errorf("got %d records synced %v, then %d synced %v", len(first.IDs), first.Synced, len(second.IDs), second.Synced)
		}
	})
}

func TestRefusals(t *testing.T) {
	filled := &source{batches: []link.Batch{{Revision: 3, Records: []*link.Record{record("a", "w1", 3)}}}}
	tests := []struct {
		name string
		peer func(context.Context) (identity.Peer, error)
		from uint64
		want codes.Code
	}{
		{"not enrolled", func(context.Context) (identity.Peer, error) {
			return identity.Peer{}, identity.ErrNotEnrolled
		}, 0, codes.Unauthenticated},
		{"keeper", func(context.Context) (identity.Peer, error) {
			return identity.Peer{Role: identity.RoleKeeper, Name: "keeper-1", Workspaces: []string{"*"}}, nil
		}, 0, codes.PermissionDenied},
		{"store behind the bridge", bridgeOf("*"), 4, codes.FailedPrecondition},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, filled, tt.peer)
			stream, err := c.Watch(t.Context(), &link.WatchRequest{From: tt.from})
			if err != nil {
				t.Fatal(err)
			}
			if m, err := stream.Recv(); status.Code(err) != tt.want {
				t.Errorf("got %v, %v; want %v", m, err, tt.want)
			}
			if tt.from != 0 {
				return // custody is not about revisions
			}
			if _, err := c.Custody(t.Context(), &link.CustodyRequest{}); status.Code(err) != tt.want {
				t.Errorf("custody: %v; want %v", err, tt.want)
			}
		})
	}
}

// A bridge that is removed from the manifest gets nothing more on a stream that it has open.
func TestRevokedMidStream(t *testing.T) {
	var revoked atomic.Bool
	s := &source{more: make(chan link.Batch)}
	stream, err := dial(t, s, func(context.Context) (identity.Peer, error) {
		if revoked.Load() {
			return identity.Peer{}, identity.ErrNotEnrolled
		}
		return identity.Peer{Role: identity.RoleBridge, Workspaces: []string{"*"}}, nil
	}).Watch(t.Context(), &link.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, stream)
	revoked.Store(true)
	s.more <- link.Batch{Revision: 1, Records: []*link.Record{record("a", "w1", 1)}}
	m, err := stream.Recv()
	if status.Code(err) != codes.Unauthenticated || errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v after revocation", m, err)
	}
}
