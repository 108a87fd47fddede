package main

import (
	"testing"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// On the wire 0 is a key without end: no time that a key ends at may become it.
func TestEveryExpiryEnds(t *testing.T) {
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(-1, 0), time.Unix(1, 0), time.Unix(0, 999_999_999), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} {
		r := linkRecord(store.Event{Record: &store.Key{Sealed: &seal.Sealed{}, Type: store.TypeS3, Access: store.AccessRead, ExpiresAt: &at}})
		if r.Expires <= 0 {
			t.Errorf("a key that ended at %v has expiry %d", at, r.Expires)
		}
	}
	if r := linkRecord(store.Event{Record: &store.Key{Sealed: &seal.Sealed{}, Type: store.TypeS3}}); r.Expires != 0 {
		t.Errorf("a key without end has expiry %d", r.Expires)
	}
}
