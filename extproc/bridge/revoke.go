package bridge

import (
	"container/heap"
	"time"

	"keybridge/extproc/grant"
)

// expiries are the times at which keys expire, seconds since 1970, as a heap. A request
// checks its key's time itself; these are for the requests that are open then. Times of
// keys that have changed since stay in it: that is one look too many.
// The goroutine of reconcileLoop owns it.
type expiries struct {
	at    []int64
	timer *time.Timer
}

// lookAtClock bounds for how long it goes unnoticed that the wall clock was set: timers
// run by the monotonic clock.
const lookAtClock = time.Minute

func newExpiries() *expiries {
	t := time.NewTimer(0)
	t.Stop()
	return &expiries{timer: t}
}

// Len and the others are heap.Interface.
func (e *expiries) Len() int           { return len(e.at) }
func (e *expiries) Less(i, j int) bool { return e.at[i] < e.at[j] }
func (e *expiries) Swap(i, j int)      { e.at[i], e.at[j] = e.at[j], e.at[i] }
func (e *expiries) Push(x any)         { e.at = append(e.at, x.(int64)) }
func (e *expiries) Pop() any {
	last := len(e.at) - 1
	x := e.at[last]
	e.at = e.at[:last]
	return x
}

// note adds the end of a key that has it now and did not before.
func (e *expiries) note(old, k *grant.Key, now time.Time) {
	if k == nil || k.Disabled || k.Expires().IsZero() || !k.Expires().After(now) ||
		old != nil && !old.Disabled && old.Expires().Equal(k.Expires()) {
		return
	}
	heap.Push(e, k.Expires().Unix())
}

// next forgets what has passed and sets the timer to what comes.
func (e *expiries) next(now time.Time) {
	for len(e.at) > 0 && e.at[0] <= now.Unix() {
		heap.Pop(e)
	}
	if len(e.at) == 0 {
		e.timer.Stop()
		return
	}
	e.timer.Reset(min(time.Unix(e.at[0], 0).Sub(now), lookAtClock))
}

// endRevoked ends the open requests of keys that would not be let in now: of those
// records, or of all.
func (b *Bridge) endRevoked(records map[string]bool) {
	if b.extproc.OpenStreams() == 0 {
		return
	}
	index, now := b.cfg.Live.Load(), time.Now()
	n := b.extproc.EndStreams(func(record string) bool {
		if records != nil && !records[record] {
			return false
		}
		if index == nil {
			return true
		}
		k := index.Lookup(b.records.keyID(record))
		return k == nil || k.Record() != record || !k.Valid(now)
	})
	if n > 0 {
		b.counters.ended.Add(uint64(n))
		b.cfg.Logger.Info("open requests of revoked keys ended", "requests", n)
	}
}
