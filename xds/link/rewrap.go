package link

import (
	"context"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
)

const (
	// MaxRewraps bounds the records of a Rewrap and of an Originals call.
	MaxRewraps = 1000
	// originalsBatch is how many records one bridge is given to re-wrap at once: at 3 ms
	// each they are done well within the lease.
	originalsBatch = 256
	// lease is for how long a record is one bridge's to re-wrap, and for how long a bridge
	// that asked for a record's original may replace its second wrap.
	lease = time.Minute
	// cleanFor is how long "nothing is left to re-wrap" holds without looking again.
	cleanFor = 10 * time.Minute
)

// Rewrap is one wrap that a bridge has made.
type Rewrap struct {
	*Rewrapped
	// Replace lets it take the place of another one under the same key.
	Replace bool
}

// Wraps is the part of a Source that keeps wraps of records' keys. allowed says
// whether the caller may have records of a workspace; others do not exist for it.
type Wraps interface {
	// Rewrap stores those of the wraps that fit: of the secret's version, of a record that
	// is not deleted, under a record key or the current sealing key. Nothing but wraps changes.
	Rewrap(ctx context.Context, in []Rewrap, allowed func(workspace string) bool) (stored int, err error)
	// Originals returns records with their RSA wrap. A record whose RSA wrap was replaced
	// follows once more with the former one.
	Originals(ctx context.Context, refs []*RecordRef, allowed func(workspace string) bool) ([]*Record, error)
	// SealingKey is the id of the current sealing key.
	SealingKey(ctx context.Context) (string, error)
	// Outdated returns records, in a fixed order, that are sealed to another key than the
	// current one: some of those behind `after`, nil for the first. next is where to go on, nil
	// at the end.
	Outdated(ctx context.Context, after *RecordRef, allowed func(workspace string) bool) (records []*Record, next *RecordRef, err error)
}

// rewraps is what the server remembers between the calls of bridges. Nothing in it
// outlives the process, or has to.
type rewraps struct {
	mu     sync.Mutex
	leased map[string]time.Time // by record
	asked  map[string]time.Time // by bridge and record
	turns  map[string]*turn     // by bridge
}

// turn is one bridge's pass over the records.
type turn struct {
	mu    sync.Mutex // held for the length of a call
	after *RecordRef
	clean time.Time // when a whole pass found nothing
	key   string    // sealing key of that pass
}

func (r *RecordRef) key() string { return r.Type + "/" + r.Id }

// remember notes keys for the length of a lease; false for those that are noted already
// and have not expired, unless again.
func remember(in map[string]time.Time, key string, now time.Time, again bool) bool {
	if until, ok := in[key]; ok && now.Before(until) && !again {
		return false
	}
	if len(in) >= 1<<16 {
		maps.DeleteFunc(in, func(_ string, until time.Time) bool { return now.After(until) })
	}
	in[key] = now.Add(lease)
	return true
}

// Rewrap implements LinkServer.
func (s *Server) Rewrap(ctx context.Context, req *RewrapRequest) (*RewrapResponse, error) {
	p, err := s.bridge(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.Records) > MaxRewraps {
		return nil, status.Errorf(codes.InvalidArgument, "%d records, at most %d", len(req.Records), MaxRewraps)
	}
	now := time.Now()
	in := make([]Rewrap, 0, len(req.Records))
	s.rewraps.mu.Lock()
	for _, r := range req.Records {
		if r == nil {
			continue
		}
		// Bridges that start together all adopt the same records: the first wrap stays, but
		// where a bridge has looked at the original because of it.
		until, asked := s.rewraps.asked[p.Name+" "+(&RecordRef{Type: r.Type, Id: r.Id}).key()]
		in = append(in, Rewrap{Rewrapped: r, Replace: asked && now.Before(until)})
	}
	s.rewraps.mu.Unlock()
	stored, err := s.source.Rewrap(ctx, in, allowed(p))
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "rewrap: %v", err)
	}
	s.hub.log.Debug("wraps taken", "bridge", p.Name, "offered", len(in), "stored", stored)
	return &RewrapResponse{Stored: uint32(stored)}, nil
}

// Originals implements LinkServer.
func (s *Server) Originals(ctx context.Context, req *OriginalsRequest) (*OriginalsResponse, error) {
	p, err := s.bridge(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.Records) > MaxRewraps {
		return nil, status.Errorf(codes.InvalidArgument, "%d records, at most %d", len(req.Records), MaxRewraps)
	}
	if len(req.Records) == 0 {
		records, err := s.outdated(ctx, p)
		if err != nil {
			return nil, status.Errorf(codes.Unavailable, "originals: %v", err)
		}
		return &OriginalsResponse{Records: records}, nil
	}
	records, err := s.source.Originals(ctx, req.Records, allowed(p))
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "originals: %v", err)
	}
	now := time.Now()
	s.rewraps.mu.Lock()
	defer s.rewraps.mu.Unlock()
	for _, r := range records {
		remember(s.rewraps.asked, p.Name+" "+(&RecordRef{Type: r.Type, Id: r.Id}).key(), now, true)
	}
	return &OriginalsResponse{Records: records}, nil
}

func allowed(p identity.Peer) func(string) bool {
	return func(workspace string) bool { return Enrolled(p.Workspaces, workspace) }
}

// outdated finds records for a bridge to re-wrap, none of which another bridge has.
func (s *Server) outdated(ctx context.Context, p identity.Peer) ([]*Record, error) {
	s.rewraps.mu.Lock()
	t := s.rewraps.turns[p.Name]
	if t == nil {
		t = &turn{}
		s.rewraps.turns[p.Name] = t
	}
	s.rewraps.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	key, err := s.source.SealingKey(ctx)
	if err != nil {
		return nil, err
	}
	if t.key == key && time.Since(t.clean) < cleanFor {
		return nil, nil
	}
	whole, dirty := t.after == nil, false
	for {
		found, next, err := s.source.Outdated(ctx, t.after, allowed(p))
		if err != nil {
			return nil, err
		}
		t.after, dirty = next, dirty || len(found) > 0
		if out := s.takeLeases(found); len(out) > 0 {
			return out, nil
		}
		switch {
		case next != nil:
		case !whole: // what came before was another bridge's then
			whole = true
		default:
			if !dirty {
				t.key, t.clean = key, time.Now()
			}
			return nil, nil
		}
	}
}

// takeLeases returns the records that were nobody's.
func (s *Server) takeLeases(found []*Record) (out []*Record) {
	now := time.Now()
	s.rewraps.mu.Lock()
	defer s.rewraps.mu.Unlock()
	for _, r := range found {
		if len(out) < originalsBatch && remember(s.rewraps.leased, (&RecordRef{Type: r.Type, Id: r.Id}).key(), now, false) {
			out = append(out, r)
		}
	}
	return out
}
