package bridge

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/xds/link"
)

const (
	// retireAfter is how long a credential that left the index stays in the arena.
	// A decision that still reads it takes microseconds; a probe has it for up to
	// link.ProbeTimeout.
	retireAfter = 3 * link.ProbeTimeout
	// maxWaiting bounds the records that wait to be opened until the feed has caught up:
	// it is read no faster than they open. Afterwards revocations must not wait behind
	// what is to be opened, and the queue is as long as it has to be.
	maxWaiting = 1 << 13
)

// record is the newest state of one sealed record, and what was opened from it. There
// may be a million.
type record struct {
	workspace unique.Handle[string]
	opened    *credential.Credential
	pending   *link.Record // the newest, until it was opened or refused
	key       *grant.Key   // what reconcile made of it, and its own
	version   uint64       // highest secret version seen: an older one is a rollback
	expires   int64
	body      [32]byte // digest of what opened is made from, whatever its wrap
	state     uint8    // link.State
	access    uint8    // link.Access
	aiType    uint8    // in aiTypes
	changed   bool     // it is in records.changed
	known     bool     // reconcile was told that it is open
}

// aiTypes are kept as their places; whatever else the feed says is the last.
var aiTypes = [...]string{"", grant.AITypeOpenAI, grant.AITypeAnthropic, grant.AITypeOther, "unknown"}

func aiType(s string) uint8 {
	if i := slices.Index(aiTypes[:], s); i >= 0 {
		return uint8(i)
	}
	return uint8(len(aiTypes) - 1)
}

// job is a record that is to be opened. It counts as unfinished until finish is called.
type job struct {
	rec *record
	in  *link.Record
	// opened and body are what is open already.
	opened bool
	body   [32]byte
	// sealed are, for an RSA open, the record with each wrap that may open.
	sealed []*seal.Sealed
}

// change is a repository key that is no more what reconcile knows.
type change struct {
	rec *record
	id  string
	in  *grant.KeyInput // nil: there is no such key
}

// records takes the sealed-record feed, and keeps what was opened of it. Changes of
// state and access apply at once; only secrets wait for an open.
type records struct {
	arena *lockedmem.Arena
	log   *slog.Logger
	// dirty tells the owner that what is open has changed, of credentials or of keys alone.
	dirty func(credentials bool)

	mu          sync.Mutex
	cond        *sync.Cond // on queue, slow and closed
	credentials map[[16]byte]*record
	keys        map[[16]byte]*record
	queue       []*job // to be looked at
	slow        []*job // to be opened with RSA
	suspect     []*job // whose original is wanted
	// parked are those that no key opens yet, or whose original could not be had, until
	// the feed brings another.
	parked     map[*record]*job
	unfinished int      // in queue, slow, suspect, or a worker's
	changed    []change // of keys, whose in is not filled
	synced     bool     // the feed has caught up once
	closed     bool
	generation uint64 // of all of this; forget starts the next

	opens, refusals, adopted atomic.Uint64 // for Metrics; adopted are those opens that took no RSA
}

func newRecords(arena *lockedmem.Arena, log *slog.Logger, dirty func(credentials bool)) *records {
	r := &records{arena: arena, log: log, dirty: dirty, credentials: map[[16]byte]*record{}, keys: map[[16]byte]*record{}, parked: map[*record]*job{}}
	r.cond = sync.NewCond(&r.mu)
	return r
}

// uuid reads the one spelling that a sealed header has; everything else opens nothing.
func uuid(s string) (id [16]byte, ok bool) {
	if len(s) != 36 {
		return id, false
	}
	at := 0
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return id, false
			}
			continue
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return id, false
		}
		id[at/2] = id[at/2]<<4 | c
		at++
	}
	return id, true
}

// of is the map of a type; nil for one that is none of ours.
func (r *records) of(kind string) map[[16]byte]*record {
	switch kind {
	case seal.TypeCredential:
		return r.credentials
	case seal.TypeRepositoryKey:
		return r.keys
	}
	return nil
}

// apply takes one message of the feed. It ends with ctx, whatever room there is.
func (r *records) apply(ctx context.Context, m *link.WatchResponse) {
	credentials := false
	r.mu.Lock()
	for _, in := range m.Records {
		for !r.synced && !r.closed && ctx.Err() == nil && len(r.queue) >= maxWaiting {
			r.cond.Wait()
		}
		id, ok := uuid(in.Id)
		all := r.of(in.Type)
		if !ok || all == nil {
			r.log.Error("record refused: no such type, or no id", "type", in.Type, "record", in.Id)
			continue
		}
		credentials = credentials || in.Type == seal.TypeCredential
		rec := all[id]
		if rec == nil {
			rec = &record{workspace: unique.Make(in.Workspace)}
			all[id] = rec
		}
		if rec.workspace.Value() != in.Workspace {
			r.log.Error("record refused: it changed its workspace", "type", in.Type, "record", in.Id)
			continue
		}
		rec.state, rec.access, rec.expires, rec.aiType = uint8(in.State), uint8(in.Access), in.Expires, aiType(in.AiType)
		if in.Access < 0 || in.Access > link.Access_ADMIN {
			rec.access = uint8(link.Access_ACCESS_NONE)
		}
		if in.State != link.State_ACTIVE && in.State != link.State_DELETED {
			rec.state = uint8(link.State_DISABLED)
		}
		r.note(rec, in)
		delete(r.parked, rec)
		if in.State == link.State_DELETED {
			r.retire(rec)
			rec.pending = nil
			continue
		}
		rec.pending = in
		r.unfinished++
		r.queue = append(r.queue, &job{rec: rec, in: in})
	}
	r.synced = r.synced || m.Synced
	r.cond.Broadcast()
	r.mu.Unlock()
	r.dirty(credentials)
}

// note puts a key on the list of changes, if there is anything that could have changed.
func (r *records) note(rec *record, in *link.Record) {
	if in.Type == seal.TypeRepositoryKey && !rec.changed && (rec.opened != nil || rec.known) {
		rec.changed = true
		r.changed = append(r.changed, change{rec: rec, id: in.Id})
	}
}

// retire takes rec's credential out of use and frees it once no reader can be left.
func (r *records) retire(rec *record) {
	if old := rec.opened; old != nil {
		rec.opened = nil
		time.AfterFunc(retireAfter, old.Free)
	}
}

// forget takes everything out of use. Nobody applies or opens meanwhile.
func (r *records) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var old []*credential.Credential
	for _, all := range []map[[16]byte]*record{r.credentials, r.keys} {
		for _, rec := range all {
			if rec.opened != nil {
				old = append(old, rec.opened)
			}
		}
	}
	time.AfterFunc(retireAfter, func() {
		for _, c := range old {
			c.Free()
		}
	})
	r.credentials, r.keys, r.parked = map[[16]byte]*record{}, map[[16]byte]*record{}, map[*record]*job{}
	r.queue, r.slow, r.suspect, r.changed = nil, nil, nil, nil
	r.unfinished, r.synced = 0, false
	r.generation++
}

// changes takes up to max keys that have changed, and says how often all were forgotten.
func (r *records) changes(max int) ([]change, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(max, len(r.changed))
	out := slices.Clone(r.changed[:n])
	if r.changed = r.changed[n:]; len(r.changed) == 0 {
		r.changed = nil
	}
	for i := range out {
		c := &out[i]
		rec := c.rec
		rec.changed, rec.known = false, rec.opened != nil
		if rec.opened == nil {
			continue
		}
		// Its own spelling of the id does not keep the whole record of the feed alive.
		c.id = rec.opened.Record()
		c.in = &grant.KeyInput{
			ID: c.id, Workspace: rec.workspace.Value(), Access: accesses[link.Access(rec.access)],
			Disabled: link.State(rec.state) != link.State_ACTIVE, Credential: rec.opened, AIType: aiTypes[rec.aiType],
		}
		if rec.expires != 0 {
			c.in.Expires = time.Unix(rec.expires, 0)
		}
	}
	return out, r.generation
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
	return r.synced && r.unfinished == 0
}

// opened is the opened credential of a record that is not deleted; nil if there is none.
func (r *records) opened(id string) *credential.Credential {
	at, ok := uuid(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.credentials[at]; ok && rec != nil {
		return rec.opened
	}
	return nil
}

// credential is the opened credential of a record that is in use; nil if there is none.
func (r *records) credential(id string) *credential.Credential {
	at, ok := uuid(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.credentials[at]; ok && rec != nil && link.State(rec.state) == link.State_ACTIVE {
		return rec.opened
	}
	return nil
}

// keyID is the public id of a repository key; empty if there is none or it was not opened.
func (r *records) keyID(id string) string {
	at, ok := uuid(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.keys[at]; ok && rec != nil && rec.opened != nil {
		return rec.opened.Key()
	}
	return ""
}

// bodyOf is the digest of all of a record but its wrap.
func bodyOf(s *seal.Sealed) (sum [32]byte) {
	b := s.Header.Canonical()
	b = append(append(append(b, s.IV...), s.AuthTag...), s.Message...)
	return sha256.Sum256(b)
}
