package bridge

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keybridge/extproc/credential"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
	"keybridge/xds/link"
)

// retireAfter is how long a credential that left the index stays in the arena.
// A decision that still reads it takes microseconds; a probe has it for up to
// link.ProbeTimeout.
const retireAfter = 3 * link.ProbeTimeout

type recordID struct{ kind, id string }

// record is the newest state of one sealed record, and what was opened from it.
type record struct {
	workspace string
	state     link.State
	access    link.Access
	expires   int64
	aiType    string
	version   uint64   // highest secret version seen: an older one is a rollback
	digest    [32]byte // of the sealed bytes that opened is made from, or will be
	opened    *credential.Credential
}

// records takes the sealed-record feed, opens what is new and keeps the result.
// Changes of state and access apply at once; only secrets wait for an open.
type records struct {
	arena *lockedmem.Arena
	log   *slog.Logger
	dirty func() // tells the owner that snapshot would differ

	mu      sync.Mutex
	cond    *sync.Cond // on queue and closed
	byID    map[recordID]*record
	queue   []*link.Record // to be opened
	opening int            // taken from the queue, not yet done
	synced  bool           // the feed has caught up once
	closed  bool

	opens, refusals atomic.Uint64 // for Metrics
}

func newRecords(arena *lockedmem.Arena, log *slog.Logger, dirty func()) *records {
	r := &records{arena: arena, log: log, dirty: dirty, byID: map[recordID]*record{}}
	r.cond = sync.NewCond(&r.mu)
	return r
}

// apply takes one message of the feed.
func (r *records) apply(m *link.WatchResponse) {
	r.mu.Lock()
	for _, in := range m.Records {
		id := recordID{in.Type, in.Id}
		rec := r.byID[id]
		if rec == nil {
			rec = &record{workspace: in.Workspace}
			r.byID[id] = rec
		}
		if rec.workspace != in.Workspace {
			r.log.Error("record refused: it changed its workspace", "type", in.Type, "record", in.Id)
			continue
		}
		rec.state, rec.access, rec.expires, rec.aiType = in.State, in.Access, in.Expires, in.AiType
		if in.State == link.State_DELETED {
			r.retire(rec)
			rec.digest = [32]byte{}
			continue
		}
		if digest := sha256.Sum256(in.Sealed); digest != rec.digest {
			rec.digest = digest
			r.queue = append(r.queue, in)
		}
	}
	r.synced = r.synced || m.Synced
	r.cond.Broadcast()
	r.mu.Unlock()
	r.dirty()
}

// retire takes rec's credential out of use and frees it once no reader can be left.
func (r *records) retire(rec *record) {
	if old := rec.opened; old != nil {
		rec.opened = nil
		time.AfterFunc(retireAfter, old.Free)
	}
}

// open opens queued records with one keyring window until none is left. Several
// goroutines may run it: an RSA open keeps one core busy for ~3 ms.
func (r *records) open(w *unseal.Window) {
	for {
		r.mu.Lock()
		if len(r.queue) == 0 || r.closed {
			r.mu.Unlock()
			return
		}
		in := r.queue[0]
		r.queue[0] = nil
		r.queue = r.queue[1:]
		r.opening++
		r.mu.Unlock()

		cred, version, err := r.openOne(w, in)

		r.mu.Lock()
		r.opening--
		rec := r.byID[recordID{in.Type, in.Id}]
		switch {
		case rec.digest != sha256.Sum256(in.Sealed): // a newer version or the deletion came meanwhile
			if cred != nil {
				cred.Free()
			}
		case err == nil && version < rec.version:
			r.log.Error("record refused: an older secret version came back", "type", in.Type, "record", in.Id, "version", version, "seen", rec.version)
			cred.Free()
			r.retire(rec)
			r.refusals.Add(1)
		case err != nil:
			// Fails alone and closed: what replaced the old secret cannot be used, and the old one is no longer current.
			r.log.Error("record refused", "type", in.Type, "record", in.Id, "error", err)
			r.retire(rec)
			r.refusals.Add(1)
		default:
			r.retire(rec)
			rec.opened, rec.version = cred, version
			r.opens.Add(1)
		}
		r.mu.Unlock()
		r.dirty()
	}
}

func (r *records) openOne(w *unseal.Window, in *link.Record) (*credential.Credential, uint64, error) {
	var s seal.Sealed
	if err := s.UnmarshalBinary(in.Sealed); err != nil {
		return nil, 0, err
	}
	if h := s.Header; h.Type != in.Type || h.Record != in.Id || h.Workspace != in.Workspace {
		return nil, 0, fmt.Errorf("sealed for %s %s of workspace %s", h.Type, h.Record, h.Workspace)
	}
	var cred *credential.Credential
	err := w.Open(&s, func(plaintext []byte) (err error) {
		cred, err = credential.New(r.arena, s.Header, plaintext)
		return err
	})
	return cred, s.Header.Version, err
}

// wait blocks until there is something to open; false once closed, or when ctx ends.
func (r *records) wait(ctx context.Context) bool {
	defer context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cond.Broadcast()
	})()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.closed && ctx.Err() == nil {
		r.cond.Wait()
	}
	return !r.closed && ctx.Err() == nil
}

// forget takes everything out of use. Nobody applies or opens meanwhile.
func (r *records) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.byID {
		r.retire(rec)
	}
	r.byID, r.queue, r.synced = map[recordID]*record{}, nil, false
}

func (r *records) close() {
	r.mu.Lock()
	r.closed = true
	r.cond.Broadcast()
	r.mu.Unlock()
}

// settled says that the feed has caught up and everything it brought was opened or refused.
func (r *records) settled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced && len(r.queue) == 0 && r.opening == 0
}

// each calls f for every record that is not deleted and has an opened credential.
func (r *records) each(kind string, f func(id string, rec *record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, rec := range r.byID {
		if id.kind == kind && rec.opened != nil {
			f(id.id, rec)
		}
	}
}

// credential is the opened credential of a record that is in use; nil if there is none.
func (r *records) credential(id string) *credential.Credential {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.byID[recordID{seal.TypeCredential, id}]; rec != nil && rec.state == link.State_ACTIVE {
		return rec.opened
	}
	return nil
}
