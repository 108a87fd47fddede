package link

import (
	"context"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
)

// maxBatch bounds the records of one message while a bridge catches up, so that
// a message stays far below gRPC's 4 MiB limit (a sealed record is ~800 bytes).
const maxBatch = 512

// AllWorkspaces, in a bridge's enrolment, stands for every workspace, also those made later.
const AllWorkspaces = "*"

// Batch is what one store revision changed.
type Batch struct {
	Revision uint64
	Records  []*Record
}

// Source is what a Server serves. The control plane implements it over its store.
type Source interface {
	// Custody returns the newest signed manifest and the wrapped keyring.
	Custody(ctx context.Context) (manifest, keyring []byte, err error)
	// Revision is the newest revision that Watch would deliver now.
	Revision(ctx context.Context) (uint64, error)
	// Watch yields records changed after `from` in revision order, for ever. A
	// revision that changed no sealed record is yielded empty.
	Watch(ctx context.Context, from uint64) iter.Seq2[Batch, error]
	Wraps
}

// Server implements LinkServer.
type Server struct {
	UnimplementedLinkServer
	source Source
	hub    *Hub
	peer   func(context.Context) (identity.Peer, error)

	rewraps rewraps
}

// NewServer serves source to the peers that `peer` accepts (identity.Trust.Peer),
// and attaches them to hub; peer is asked again before every message, so that a
// revoked bridge gets nothing more.
func NewServer(source Source, hub *Hub, peer func(context.Context) (identity.Peer, error)) *Server {
	return &Server{source: source, hub: hub, peer: peer, rewraps: rewraps{
		leased: map[string]time.Time{}, asked: map[string]time.Time{}, turns: map[string]*turn{},
	}}
}

func (s *Server) bridge(ctx context.Context) (identity.Peer, error) {
	p, err := s.peer(ctx)
	if err != nil {
		return p, status.Error(codes.Unauthenticated, err.Error())
	}
	if p.Role != identity.RoleBridge {
		return p, status.Errorf(codes.PermissionDenied, "%s %q is not a bridge", p.Role, p.Name)
	}
	return p, nil
}

func (s *Server) Custody(ctx context.Context, _ *CustodyRequest) (*CustodyResponse, error) {
	if _, err := s.bridge(ctx); err != nil {
		return nil, err
	}
	manifest, keyring, err := s.source.Custody(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "custody: %v", err)
	}
	return &CustodyResponse{Manifest: manifest, Keyring: keyring}, nil
}

func (s *Server) Watch(req *WatchRequest, stream Link_WatchServer) error {
	ctx := stream.Context()
	if _, err := s.bridge(ctx); err != nil {
		return err
	}
	target, err := s.source.Revision(ctx)
	if err != nil {
		return status.Errorf(codes.Unavailable, "revision: %v", err)
	}
	if req.From > target {
		// The store is older than what this bridge has seen: restored from a backup, or rolled back.
		return status.Errorf(codes.FailedPrecondition, "the store is at revision %d, behind the bridge's %d", target, req.From)
	}
	pending := &WatchResponse{Revision: req.From}
	send := func(synced bool) error {
		p, err := s.bridge(ctx)
		if err != nil {
			return err
		}
		pending.Records = slices.DeleteFunc(pending.Records, func(r *Record) bool { return !Enrolled(p.Workspaces, r.Workspace) })
		pending.Synced = synced
		err = stream.Send(pending)
		pending = &WatchResponse{Revision: pending.Revision}
		return err
	}
	synced := req.From == target
	if synced {
		if err := send(true); err != nil {
			return err
		}
	}
	for batch, err := range s.source.Watch(ctx, req.From) {
		if err != nil {
			return status.Errorf(codes.Unavailable, "watch: %v", err)
		}
		pending.Records = append(pending.Records, batch.Records...)
		pending.Revision = batch.Revision
		synced = synced || batch.Revision >= target
		if !synced && len(pending.Records) < maxBatch {
			continue
		}
		if err := send(synced); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Enrolled says whether a bridge enrolled for `workspaces` may hold records of ws.
func Enrolled(workspaces []string, ws string) bool {
	return slices.Contains(workspaces, ws) || slices.Contains(workspaces, AllWorkspaces)
}
