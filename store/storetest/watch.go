package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store"
)

// patience is how long a test waits for what must come; a correct driver needs
// milliseconds, so it bounds failures only.
const patience = 20 * time.Second

// seen is an Event reduced to what the tests compare.
type seen struct {
	Revision uint64
	IDs      []string
}

// follow starts a watch; next waits for its next batch, stop ends it.
func follow(t *testing.T, s store.Store, from uint64) (next func() seen) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	pull, stop := iter.Pull2(s.Watch(ctx, from))
	t.Cleanup(func() { stop(); cancel() })
	return func() seen {
		t.Helper()
		events, err, ok := pull()
		if !ok || err != nil {
			t.Fatalf("Watch ended: %v", err)
		}
		out := seen{Revision: events[0].Revision}
		for _, e := range events {
			if e.Revision != out.Revision || e.Record.Meta().Revision != e.Revision {
				t.Errorf("one batch holds revisions %d and %d (record says %d)", out.Revision, e.Revision, e.Record.Meta().Revision)
			}
			out.IDs = append(out.IDs, e.Record.Meta().ID)
		}
		return out
	}
}

func wantSeen(t *testing.T, got seen, revision uint64, ids ...string) {
	t.Helper()
	if diff := cmp.Diff(seen{revision, ids}, got); diff != "" {
		t.Errorf("watched batch (-want +got):\n%s", diff)
	}
}

func testWatch(t *testing.T, s store.Store) {
	a := workspace("a", "A")
	apply(t, s, store.Write{Record: a})
	apply(t, s, store.Write{Record: workspace("b", "B")})
	apply(t, s, store.Write{Record: a, Expect: 1}) // a is now at revision 3 only

	next := follow(t, s, 0)
	wantSeen(t, next(), 2, "b")
	wantSeen(t, next(), 3, "a")

	got := make(chan seen)
	go func() { got <- next() }() // waits in the store until the write
	rev := apply(t, s, store.Write{Record: workspace("c", "C")})
	select {
	case e := <-got:
		wantSeen(t, e, rev, "c")
	case <-time.After(patience):
		t.Fatal("a change did not reach the watcher")
	}

	now := time.Now().UTC()
	a.M.DeletedAt = &now
	rev = apply(t, s, store.Put(a))
	wantSeen(t, next(), rev, "a") // a deletion is a change like any other
}

func testWatchGroups(t *testing.T, s store.Store) {
	var batch []store.Write
	var want []string
	for i := range 700 { // more than any driver would read at once
		id := fmt.Sprintf("w%03d", i)
		want = append(want, id)
		batch = append(batch, store.Write{Record: workspace(id, "")})
	}
	apply(t, s, batch...)
	apply(t, s, store.Write{Record: workspace("z", "")}, store.Write{Record: repository("y", "z", "")})
	next := follow(t, s, 0)
	got := next()
	if diff := cmp.Diff(len(want), len(got.IDs)); diff != "" {
		t.Fatalf("a revision was split: %s", diff)
	}
	if got = next(); got.Revision != 2 || len(got.IDs) != 2 {
		t.Errorf("second batch: %+v", got)
	}
}

func testWatchResume(t *testing.T, s store.Store) {
	for i := range 600 {
		apply(t, s, store.Write{Record: workspace(fmt.Sprintf("w%03d", i), "")})
	}
	next := follow(t, s, 0)
	for i := range 300 {
		wantSeen(t, next(), uint64(i)+1, fmt.Sprintf("w%03d", i))
	}
	next = follow(t, s, 300)
	for i := 300; i < 600; i++ {
		wantSeen(t, next(), uint64(i)+1, fmt.Sprintf("w%03d", i))
	}
	next = follow(t, s, 600)
	rev := apply(t, s, store.Write{Record: workspace("new", "")})
	wantSeen(t, next(), rev, "new")
}

// testWatchSlow lets a consumer dawdle over its first batch while records change
// behind it: it must not hold up the writers, must never see a revision go
// backwards, and must end with the newest state of every record.
func testWatchSlow(t *testing.T, s store.Store) {
	const records, rounds = 20, 30
	versions := make([]*store.Workspace, records)
	for i := range versions {
		versions[i] = workspace(fmt.Sprintf("w%02d", i), "")
		apply(t, s, store.Write{Record: versions[i]})
	}
	next := follow(t, s, 0)
	last := next().Revision

	for range rounds {
		for _, w := range versions {
			apply(t, s, store.Write{Record: w, Expect: w.M.Version})
		}
	}
	end, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newest := map[string]uint64{}
	batches := 0
	for last < end {
		got := next()
		if got.Revision <= last {
			t.Fatalf("revision %d after %d", got.Revision, last)
		}
		last = got.Revision
		for _, id := range got.IDs {
			newest[id] = got.Revision
		}
		batches++
	}
	for _, w := range versions {
		if newest[w.M.ID] != w.M.Revision {
			t.Errorf("%s: last seen at revision %d, its newest is %d", w.M.ID, newest[w.M.ID], w.M.Revision)
		}
	}
	if batches > 2*records {
		t.Errorf("%d batches for %d records: the slow consumer was sent states that were already old", batches, records)
	}
}

func testWatchFuture(t *testing.T, s store.Store) {
	rev := apply(t, s, store.Write{Record: workspace("w", "")})
	n := 0
	for events, err := range s.Watch(t.Context(), rev+1) {
		n++
		if events != nil || !errors.Is(err, store.ErrFuture) {
			t.Errorf("Watch from a future revision: %v, %v", events, err)
		}
	}
	if n != 1 {
		t.Errorf("Watch from a future revision yielded %d times, want 1", n)
	}
}

func testWatchContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	apply(t, s, store.Write{Record: workspace("w", "")})
	checkEnds(t, s, ctx, cancel, context.Canceled)
}

func testWatchClose(t *testing.T, s store.Store) {
	apply(t, s, store.Write{Record: workspace("w", "")})
	checkEnds(t, s, t.Context(), func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}, store.ErrClosed)
}

// checkEnds watches, calls end once the watcher has its first batch, and wants
// exactly one error after it.
func checkEnds(t *testing.T, s store.Store, ctx context.Context, end func(), want error) {
	t.Helper()
	started, ended := make(chan struct{}), make(chan []error, 1)
	go func() {
		var errs []error
		for events, err := range s.Watch(ctx, 0) {
			if events != nil && err == nil {
				close(started)
				continue
			}
			errs = append(errs, err)
		}
		ended <- errs
	}()
	<-started
	end()
	select {
	case errs := <-ended:
		if len(errs) != 1 || !errors.Is(errs[0], want) {
			t.Errorf("Watch ended with %v, want [%v]", errs, want)
		}
	case <-time.After(patience):
		t.Fatal("Watch did not end")
	}
}
