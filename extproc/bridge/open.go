package bridge

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"keybridge/extproc/credential"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
	"keybridge/xds/link"
)

// atOnce is how many records a worker takes from the queue: each takes microseconds.
const atOnce = 64

// outcome is what came of a job. With neither err nor secret nothing was to be done.
type outcome struct {
	*job
	header  *seal.Header
	body    [32]byte
	secret  *lockedmem.Secret
	adopted bool // opened by a second wrap
	err     error
}

// take waits for jobs of the queue; nil once closed or ctx has ended.
func (r *records) take(ctx context.Context) []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.await(ctx, &r.queue) {
		return nil
	}
	n := min(atOnce, len(r.queue))
	jobs := append([]*job(nil), r.queue[:n]...)
	clear(r.queue[:n])
	if r.queue = r.queue[n:]; len(r.queue) == 0 {
		r.queue = nil
	}
	for _, j := range jobs {
		j.opened, j.body = j.rec.opened != nil, j.rec.body
	}
	r.cond.Broadcast() // apply may wait for room
	return jobs
}

// openQueued looks at what the feed brings, until ctx ends: what is open
// already, under whatever wrap, stays; second wraps are opened; the rest goes to the
// RSA openers. Each core has one of these.
func (b *Bridge) openQueued(ctx context.Context) {
	r := b.records
	worked := false
	for {
		jobs := r.take(ctx)
		if jobs == nil {
			return
		}
		done := make([]outcome, 0, len(jobs))
		for _, j := range jobs {
			if o := b.look(j); o != nil {
				done = append(done, *o)
				worked = worked || o.adopted
			}
		}
		r.finish(done)
		if worked && r.idle() {
			worked = false
			b.recordKeys.Load().Erase()
		}
	}
}

func (r *records) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) == 0
}

// look opens a record by its second wrap. Without an outcome another queue has it.
func (b *Bridge) look(j *job) *outcome {
	s, err := parse(j.in)
	if err != nil {
		return &outcome{job: j, err: err}
	}
	o := &outcome{job: j, header: &s.Header, body: bodyOf(s)}
	if j.opened && j.body == o.body {
		return o // its wrap or its state changed
	}
	r := b.records
	if s.Key.Suite != seal.SuiteRecordKey {
		j.sealed = []*seal.Sealed{s}
		r.hand(&r.slow, j)
		return nil
	}
	var secret lockedmem.Secret
	for {
		keys := b.recordKeys.Load()
		err = keys.Open(s, func(plaintext []byte) (err error) {
			secret, err = r.arena.Copy(plaintext)
			return err
		})
		if !errors.Is(err, unseal.ErrPurged) || keys == b.recordKeys.Load() {
			break
		}
	}
	switch {
	case err == nil:
		o.secret, o.adopted = &secret, true
		return o
	case errors.Is(err, unseal.ErrOpen), errors.Is(err, unseal.ErrUnknownKey):
		// Another bridge has made it, or the record key is one that was replaced.
		r.log.Error("a record's second wrap does not open: asking for the original", "type", j.in.Type, "record", j.in.Id, "error", err)
		j.body = o.body
		r.hand(&r.suspect, j)
		return nil
	}
	o.err = err
	return o
}

// parse reads a record and holds it against what the feed says it is.
func parse(in *link.Record) (*seal.Sealed, error) {
	s := new(seal.Sealed)
	if err := s.UnmarshalBinary(in.Sealed); err != nil {
		return nil, err
	}
	if h := &s.Header; h.Type != in.Type || h.Record != in.Id || h.Workspace != in.Workspace {
		return nil, fmt.Errorf("sealed for %s %s of workspace %s", h.Type, h.Record, h.Workspace)
	}
	return s, nil
}

// hand puts a job into another queue.
func (r *records) hand(queue *[]*job, j *job) {
	r.mu.Lock()
	*queue = append(*queue, j)
	r.cond.Broadcast()
	r.mu.Unlock()
}

// finish takes over what came of jobs.
func (r *records) finish(done []outcome) {
	if len(done) == 0 {
		return
	}
	credentials := false
	r.mu.Lock()
	for i := range done {
		o := &done[i]
		r.unfinished--
		rec, in := o.rec, o.in
		if rec.pending != in { // a newer version or the deletion came meanwhile
			if o.secret != nil {
				r.arena.Free(*o.secret)
			}
			continue
		}
		rec.pending = nil
		credentials = credentials || in.Type == seal.TypeCredential
		switch {
		case o.err != nil:
			// Fails alone and closed: what replaced the old secret cannot be used, and the old one is no longer current.
			r.log.Error("record refused", "type", in.Type, "record", in.Id, "error", o.err)
			r.retire(rec)
			r.refusals.Add(1)
		case o.secret == nil:
		case o.header.Version < rec.version:
			r.log.Error("record refused: an older secret version came back", "type", in.Type, "record", in.Id, "version", o.header.Version, "seen", rec.version)
			r.arena.Free(*o.secret)
			r.retire(rec)
			r.refusals.Add(1)
		default:
			r.retire(rec)
			opened, err := credential.Hold(r.arena, *o.header, *o.secret)
			if err != nil {
				r.log.Error("record refused", "type", in.Type, "record", in.Id, "error", err)
				r.refusals.Add(1)
				break
			}
			rec.opened, rec.version, rec.body = opened, o.header.Version, o.body
			r.opens.Add(1)
			if o.adopted {
				r.adopted.Add(1)
			}
		}
		r.note(rec, in)
	}
	r.mu.Unlock()
	r.dirty(credentials)
}

// openRecords opens a window on the keyring for as long as there is RSA work. An RSA
// open keeps one core busy for ~3 ms, so there is one opener for each.
func (b *Bridge) openRecords(ctx context.Context) error {
	for b.records.waitSlow(ctx) {
		keyring := b.keyring.Load()
		err := keyring.Window(ctx, func(w *unseal.Window) error {
			openers, _ := newGroup(ctx) // none of them fails
			for range runtime.GOMAXPROCS(0) {
				openers.Go(func() error { b.openSlow(w); return nil })
			}
			return openers.Wait()
		})
		if err != nil && (!errors.Is(err, unseal.ErrPurged) || keyring == b.keyring.Load()) {
			return fmt.Errorf("keyring: %w", err)
		}
	}
	return ctx.Err()
}

// waitSlow blocks until there is something to open with RSA; false once closed or ctx has ended.
func (r *records) waitSlow(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.await(ctx, &r.slow)
}

// await blocks until there is something in a queue; the caller holds r.mu.
func (r *records) await(ctx context.Context, queue *[]*job) bool {
	for len(*queue) == 0 && !r.closed && ctx.Err() == nil {
		r.cond.Wait()
	}
	return !r.closed && ctx.Err() == nil
}

// rouse has whoever waits look at its context.
func (r *records) rouse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cond.Broadcast()
}

// openSlow opens what needs RSA until none is left. Several goroutines may run it.
func (b *Bridge) openSlow(w *unseal.Window) {
	r := b.records
	for {
		r.mu.Lock()
		if len(r.slow) == 0 || r.closed {
			r.mu.Unlock()
			return
		}
		j := r.slow[0]
		r.slow[0] = nil
		r.slow = r.slow[1:]
		stale := j.rec.pending != j.in
		r.mu.Unlock()
		if stale {
			r.finish([]outcome{{job: j}})
			continue
		}
		o, wrap := b.openJob(w, j)
		switch {
		case errors.Is(o.err, unseal.ErrPurged), errors.Is(o.err, context.Canceled):
			// Another keyring takes its place, or the bridge stops.
			r.hand(&r.slow, j)
			return
		case errors.Is(o.err, unseal.ErrUnknownKey):
			// It may be in the next keyring. Until then the record is not served.
			r.park(j)
			r.finish([]outcome{o})
			continue
		}
		r.finish([]outcome{o})
		if wrap != nil {
			b.wraps.add(j.in, o.header.Version, wrap)
		}
	}
}

// openJob tries each wrap that a record has.
func (b *Bridge) openJob(w *unseal.Window, j *job) (outcome, *seal.Wrap) {
	o := outcome{job: j, err: unseal.ErrOpen}
	for _, s := range j.sealed {
		var secret lockedmem.Secret
		wrap, err := w.Adopt(s, func(plaintext []byte) (err error) {
			secret, err = b.arena.Copy(plaintext)
			return err
		})
		if o.err = err; err == nil {
			o.header, o.body, o.secret = &s.Header, bodyOf(s), &secret
			return o, wrap
		}
	}
	return o, nil
}

// park keeps a record that nothing opens now for when that may have changed.
func (r *records) park(j *job) {
	r.mu.Lock()
	if j.rec.pending == j.in {
		r.parked[j.rec] = j
	}
	r.mu.Unlock()
}

// unpark has parked records looked at again.
func (r *records) unpark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rec, j := range r.parked {
		rec.pending = j.in
		r.unfinished++
		r.queue = append(r.queue, &job{rec: rec, in: j.in})
	}
	clear(r.parked)
	r.cond.Broadcast()
}
