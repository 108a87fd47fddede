package bridge

import (
	"slices"
	"time"

	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
)

// expiries are the times at which keys of the published index expire. A request
// checks its key's time itself; these are for the requests that are open then.
// The goroutine of reconcileLoop owns it.
type expiries struct {
	at    []time.Time // ascending
	timer *time.Timer
}

func newExpiries() *expiries {
	t := time.NewTimer(0)
	t.Stop()
	return &expiries{timer: t}
}

func (e *expiries) set(keys []grant.KeyInput) {
	e.at = e.at[:0]
	for i := range keys {
		if at := keys[i].Expires; !at.IsZero() && !keys[i].Disabled {
			e.at = append(e.at, at)
		}
	}
	slices.SortFunc(e.at, time.Time.Compare)
	e.next(time.Now())
}

// next forgets what has passed and sets the timer to what comes.
func (e *expiries) next(now time.Time) {
	i, _ := slices.BinarySearchFunc(e.at, now, func(at, now time.Time) int {
		if at.After(now) {
			return 1
		}
		return -1
	})
	if e.at = e.at[i:]; len(e.at) == 0 {
		e.timer.Stop()
		return
	}
	e.timer.Reset(e.at[0].Sub(now))
}

// endRevoked ends the open requests of keys that would not be let in now.
func (b *Bridge) endRevoked() {
	index, now := b.cfg.Live.Load(), time.Now()
	n := b.extproc.EndStreams(func(record string) bool {
		if index == nil {
			return true
		}
		k := index.Lookup(b.records.keyID(record))
		return k == nil || k.Record != record || !k.Valid(now)
	})
	if n > 0 {
		b.counters.ended.Add(uint64(n))
		b.cfg.Logger.Info("open requests of revoked keys ended", "requests", n)
	}
}

// keyID is the public id of a repository key; empty if there is none or it was not opened.
func (r *records) keyID(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.byID[recordID{seal.TypeRepositoryKey, id}]; rec != nil && rec.opened != nil {
		return rec.opened.Binding().Key
	}
	return ""
}
