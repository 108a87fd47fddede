package bridge

import "time"

// Publish is how a provider's text is made fit to be shown.
var Publish = publish

// UUID is how the feed's ids are read.
var UUID = uuid

// AwaySince is the time from which a bridge counts --max-stale.
func (b *Bridge) AwaySince() *time.Time { return b.linkDown.Load() }

// NextLook is when open requests are looked at because a key expires at that time.
func NextLook(now, expires time.Time) <-chan time.Time {
	e := newExpiries()
	e.at = []int64{expires.Unix()}
	e.next(now)
	return e.timer.C
}
