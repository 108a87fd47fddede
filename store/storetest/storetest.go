package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store"
)

// Run checks that the stores which open returns keep the contract of
// store.Store. Each call of open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"GetReturnsWhatApplySet", testApplySetsMeta},
		{"RecordsOfEveryKindRoundTrip", testKinds},
		{"CompareAndSwap", testCompareAndSwap},
		{"IfRevision", testIfRevision},
		{"AsIsKeepsVersionAndTimes", testAsIs},
		{"KeepVersion", testKeepVersion},
		{"BatchIsAtomic", testBatch},
		{"ImpossibleWrites", testImpossible},
		{"UniqueNames", testUnique},
		{"RulesOfNames", testPut},
		{"ListPages", testList},
		{"RecordsBelongToTheCaller", testOwnership},
		{"ConcurrentWritersLoseNothing", testConcurrent},
		{"WatchReplaysThenFollows", testWatch},
		{"WatchGroupsARevision", testWatchGroups},
		{"WatchResumes", testWatchResume},
		{"WatchSlowConsumerSeesNewest", testWatchSlow},
		{"WatchFromTheFuture", testWatchFuture},
		{"WatchEndsWithItsContext", testWatchContext},
		{"WatchEndsWithTheStore", testWatchClose},
		{"ClosedStoreSaysSo", testClosed},
		{"EndedContext", testContext},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			tc.test(t, s)
		})
	}
}

func testAsIs(t *testing.T, s store.Store) {
	then := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	old := func(version uint64) *store.Workspace {
		return &store.Workspace{M: store.Meta{ID: "w", Version: version, CreatedAt: then, UpdatedAt: then.Add(time.Hour)}, Name: "w"}
	}
	for _, w := range []store.Write{{Record: old(7), AsIs: true}, {Record: old(9), AsIs: true, Expect: 7}} {
		want := w.Record.Meta().Version
		rev := apply(t, s, w)
		m := get[*store.Workspace](t, s, "w").M
		if m.Version != want || !m.CreatedAt.Equal(then) || !m.UpdatedAt.Equal(then.Add(time.Hour)) || m.Revision != rev {
			t.Errorf("version %d of %v and %v at revision %d", m.Version, m.CreatedAt, m.UpdatedAt, m.Revision)
		}
	}
	_, err := s.Apply(t.Context(), store.Write{Record: old(9), AsIs: true})
	wantErr(t, "a record that is there", err, store.ErrConflict)
	if _, err := s.Apply(t.Context(), store.Write{Record: &store.Workspace{M: store.Meta{ID: "x"}}, AsIs: true}); err == nil {
		t.Error("a record without a version was stored as it is")
	}
}

func workspace(id, name string) *store.Workspace {
	return &store.Workspace{M: store.Meta{ID: id}, Name: name}
}

func repository(id, ws, name string) *store.Repository {
	return &store.Repository{M: store.Meta{ID: id, Workspace: ws}, Name: name}
}

func apply(t *testing.T, s store.Store, w ...store.Write) uint64 {
	t.Helper()
	rev, err := s.Apply(t.Context(), w...)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return rev
}

func get[T store.Record](t *testing.T, s store.Store, id string) T {
	t.Helper()
	var zero T
	r, err := s.Get(t.Context(), store.KindOf(zero), id)
	if err != nil {
		t.Fatalf("Get %s: %v", id, err)
	}
	got, ok := r.(T)
	if !ok {
		t.Fatalf("Get %s: a %T, want %T", id, r, zero)
	}
	return got
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func testApplySetsMeta(t *testing.T, s store.Store) {
	before := time.Now().Add(-time.Second)
	w := workspace("w1", "one")
	rev := apply(t, s, store.Write{Record: w})
	if rev != 1 {
		t.Errorf("first revision is %d, want 1", rev)
	}
	got := get[*store.Workspace](t, s, "w1")
	if diff := cmp.Diff(w, got); diff != "" {
		t.Errorf("the caller's record and the stored one differ:\n%s", diff)
	}
	if m := got.Meta(); m.Kind != store.KindWorkspace || m.Version != 1 || m.Revision != rev ||
		m.CreatedAt.Before(before) || !m.CreatedAt.Equal(m.UpdatedAt) {
		t.Errorf("meta after create: %+v", m)
	}

	got.Name = "uno"
	rev2 := apply(t, s, store.Write{Record: got, Expect: 1})
	again := get[*store.Workspace](t, s, "w1")
	if m := again.Meta(); rev2 <= rev || m.Version != 2 || m.Revision != rev2 || !m.CreatedAt.Equal(w.M.CreatedAt) ||
		m.UpdatedAt.Before(m.CreatedAt) || again.Name != "uno" {
		t.Errorf("after update at %d: %+v", rev2, again)
	}
	if at, err := s.Revision(t.Context()); err != nil || at != rev2 {
		t.Errorf("Revision: %d, %v; want %d", at, err, rev2)
	}
	_, err := s.Get(t.Context(), store.KindConnector, "w1")
	wantErr(t, "Get of another kind", err, store.ErrNotFound)
}

// sealedJSON has every field of a sealed record; stores keep records whole and judge nothing in them.
const sealedJSON = `{"header":{"format":1,"workspace":"ws","type":"credential","record":"c","version":3,
	"binding":{"use":"s3","key":"AK","scheme":"https","host":"h","port":443,"ca":"d","scope":"bucket","repository":"r"}},
	"key":{"suite":1,"keyId":"id","value":"AQ=="},"iv":"Ag==","authTag":"Aw==","message":"BA=="}`

func testKinds(t *testing.T, s store.Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	m := func(id string) store.Meta {
		return store.Meta{ID: id, Workspace: "ws", CreatedBy: "token", Creation: &store.Creation{Key: "k-" + id, Digest: "d"}}
	}
	credential := &store.Credential{M: m("c"), Key: "AK"}
	if err := json.Unmarshal([]byte(sealedJSON), &credential.Sealed); err != nil {
		t.Fatal(err)
	}
	for _, r := range []store.Record{
		&store.Workspace{M: store.Meta{ID: "a"}, Name: "n"},
		&store.Connector{M: m("b"), Name: "n", Type: store.TypeS3, Bucket: "bucket", Endpoint: "https://s3", Region: "r",
			CACertificate: "pem", CredentialID: "c", AllowBucketConfiguration: true},
		credential,
		&store.Repository{M: m("d"), Name: "n", Disabled: true, AI: []string{"x"}, StorageType: store.TypeS3,
			Storage: []store.RepositoryStorage{{ConnectorID: "b", Master: true}}},
		&store.Key{M: m("e"), Name: "n", Repository: "d", Type: store.TypeS3, Key: "K", Access: store.AccessRead, Disabled: true,
			ExpiresAt: &now, Sealed: credential.Sealed},
		&store.Token{M: store.Meta{ID: "f"}, Name: "n", Hash: []byte{1, 2}, Roles: map[string]store.Access{"*": store.AccessAdmin}, ExpiresAt: &now},
		&store.Custody{M: store.Meta{ID: store.CustodyID}, Manifest: []byte("m"), Keyring: []byte{0, 255}},
	} {
		apply(t, s, store.Put(r))
		got, err := s.Get(t.Context(), store.KindOf(r), r.Meta().ID)
		if err != nil {
			t.Fatalf("Get %T: %v", r, err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("%T changed in the store:\n%s", r, diff)
		}
	}
}

func testCompareAndSwap(t *testing.T, s store.Store) {
	apply(t, s, store.Write{Record: workspace("w1", "one")})
	_, err := s.Apply(t.Context(), store.Write{Record: workspace("w1", "thief")})
	wantErr(t, "create over a record", err, store.ErrConflict)
	for _, expect := range []uint64{2, 99} {
		_, err = s.Apply(t.Context(), store.Write{Record: workspace("w1", "late"), Expect: expect})
		wantErr(t, fmt.Sprintf("update expecting %d", expect), err, store.ErrConflict)
	}
	_, err = s.Apply(t.Context(), store.Write{Record: workspace("w2", "none"), Expect: 1})
	wantErr(t, "update of nothing", err, store.ErrNotFound)

	loser := workspace("w1", "late")
	if _, err := s.Apply(t.Context(), store.Write{Record: loser, Expect: 7}); err == nil || loser.M.Version != 0 {
		t.Errorf("a refused record was marked as written: %v, %+v", err, loser.M)
	}
	if got := get[*store.Workspace](t, s, "w1"); got.Name != "one" || got.M.Version != 1 {
		t.Errorf("a refused write left %+v", got)
	}
	if rev, err := s.Revision(t.Context()); err != nil || rev != 1 {
		t.Errorf("refused writes moved the revision to %d, %v", rev, err)
	}
}

func testIfRevision(t *testing.T, s store.Store) {
	rev := apply(t, s, store.Write{Record: workspace("w1", "one")})
	rev2 := apply(t, s, store.Write{Record: workspace("w2", "two"), IfRevision: rev})
	_, err := s.Apply(t.Context(), store.Write{Record: workspace("w3", "three"), IfRevision: rev})
	wantErr(t, "write at a revision that has passed", err, store.ErrConflict)
	_, err = s.Apply(t.Context(), store.Write{Record: workspace("w3", "three")}, store.Write{Record: workspace("w4", "four"), IfRevision: rev2 + 1})
	wantErr(t, "write at a revision to come", err, store.ErrConflict)
	_, err = s.Get(t.Context(), store.KindWorkspace, "w3")
	wantErr(t, "Get of a refused record", err, store.ErrNotFound)
}

// A write that keeps the version is seen by watchers, not by whoever edits the record.
func testKeepVersion(t *testing.T, s store.Store) {
	apply(t, s, store.Write{Record: workspace("w1", "one")})
	w := get[*store.Workspace](t, s, "w1")
	before := w.M
	w.Name = "uno"
	rev := apply(t, s, store.Write{Record: w, Expect: 1, KeepVersion: true})
	got := get[*store.Workspace](t, s, "w1")
	want := before
	want.Revision = rev
	if rev <= before.Revision || got.Name != "uno" {
		t.Errorf("at revision %d: %+v", rev, got)
	}
	if diff := cmp.Diff(want, got.M); diff != "" {
		t.Errorf("meta:\n%s", diff)
	}
	if diff := cmp.Diff(got, w); diff != "" {
		t.Errorf("the caller's record and the stored one differ:\n%s", diff)
	}
	wantSeen(t, follow(t, s, before.Revision)(), rev, "w1")
	// The compare is on the version as ever, from either side.
	apply(t, s, store.Write{Record: got, Expect: 1})
	_, err := s.Apply(t.Context(), store.Write{Record: w, Expect: 1, KeepVersion: true})
	wantErr(t, "the version was overtaken", err, store.ErrConflict)
	_, err = s.Apply(t.Context(), store.Write{Record: workspace("w2", "two"), KeepVersion: true})
	if err == nil {
		t.Error("a record was made without a version")
	}
}

func testBatch(t *testing.T, s store.Store) {
	rev := apply(t, s, store.Write{Record: workspace("w1", "one")}, store.Write{Record: repository("r1", "w1", "repo")})
	if w, r := get[*store.Workspace](t, s, "w1"), get[*store.Repository](t, s, "r1"); w.M.Revision != rev || r.M.Revision != rev {
		t.Errorf("revisions %d and %d, want both %d", w.M.Revision, r.M.Revision, rev)
	}
	_, err := s.Apply(t.Context(),
		store.Write{Record: workspace("w2", "two"), Unique: []string{"workspace/two"}},
		store.Write{Record: workspace("w1", "changed"), Expect: 42})
	wantErr(t, "batch with one conflict", err, store.ErrConflict)
	_, err = s.Get(t.Context(), store.KindWorkspace, "w2")
	wantErr(t, "Get of a batch that failed", err, store.ErrNotFound)
	_, err = s.ByUnique(t.Context(), "workspace/two")
	wantErr(t, "ByUnique of a batch that failed", err, store.ErrNotFound)
}

func testImpossible(t *testing.T, s store.Store) {
	apply(t, s, store.Write{Record: repository("r1", "w1", "repo")})
	for name, batch := range map[string][]store.Write{
		"empty batch":         nil,
		"no record":           {{}},
		"no id":               {{Record: workspace("", "x")}},
		"NUL in the id":       {{Record: workspace("a\x00b", "x")}},
		"NUL in workspace":    {{Record: repository("r2", "w\x001", "x")}},
		"empty name":          {{Record: workspace("w9", "x"), Unique: []string{""}}},
		"same record twice":   {{Record: workspace("w9", "x")}, {Record: workspace("w9", "y")}},
		"change of workspace": {{Record: repository("r1", "w2", "repo"), Expect: 1}},
	} {
		if _, err := s.Apply(t.Context(), batch...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if rev, err := s.Revision(t.Context()); err != nil || rev != 1 {
		t.Errorf("revision is %d, %v; want 1", rev, err)
	}
}

func testUnique(t *testing.T, s store.Store) {
	a, b := workspace("a", "A"), workspace("b", "B")
	apply(t, s, store.Write{Record: a, Unique: []string{"n/a", "n/extra"}}, store.Write{Record: b, Unique: []string{"n/b"}})

	_, err := s.Apply(t.Context(), store.Write{Record: workspace("c", "C"), Unique: []string{"n/c", "n/a"}})
	var taken *store.TakenError
	if !errors.As(err, &taken) || taken.Name != "n/a" {
		t.Fatalf("taking a held name: %v", err)
	}
	_, err = s.ByUnique(t.Context(), "n/c")
	wantErr(t, "name of a refused record", err, store.ErrNotFound)

	apply(t, s, store.Write{Record: a, Expect: 1, Unique: []string{"n/a"}}) // keeps one, gives one up
	if r, err := s.ByUnique(t.Context(), "n/a"); err != nil || r.Meta().ID != "a" || r.Meta().Kind != store.KindWorkspace {
		t.Errorf("ByUnique n/a: %v, %v", r, err)
	}
	_, err = s.ByUnique(t.Context(), "n/extra")
	wantErr(t, "released name", err, store.ErrNotFound)

	// Names may change hands inside one batch, in either order.
	apply(t, s, store.Write{Record: a, Expect: 2, Unique: []string{"n/b"}}, store.Write{Record: b, Expect: 1, Unique: []string{"n/a"}})
	if r, err := s.ByUnique(t.Context(), "n/b"); err != nil || r.Meta().ID != "a" {
		t.Errorf("after the swap n/b is held by %v, %v", r, err)
	}
	_, err = s.Apply(t.Context(),
		store.Write{Record: workspace("d", "D"), Unique: []string{"n/d"}}, store.Write{Record: workspace("e", "E"), Unique: []string{"n/d"}})
	if !errors.As(err, &taken) {
		t.Errorf("one name twice in a batch: %v", err)
	}
	// The same name may be of records of different kinds only once, too.
	_, err = s.Apply(t.Context(), store.Write{Record: repository("a", "w", "x"), Unique: []string{"n/b"}})
	if !errors.As(err, &taken) {
		t.Errorf("a name across kinds: %v", err)
	}
}

func testPut(t *testing.T, s store.Store) {
	holder := func(name string) string {
		r, err := s.ByUnique(t.Context(), name)
		if errors.Is(err, store.ErrNotFound) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return r.Meta().ID
	}
	key := &store.Key{M: store.Meta{ID: "k", Workspace: "w", Creation: &store.Creation{Key: "c"}}, Key: "AKID"}
	conn := &store.Connector{M: store.Meta{ID: "c", Workspace: "w"}, Name: "n"}
	token := &store.Token{M: store.Meta{ID: "t"}, Hash: []byte{0xab}}
	apply(t, s, store.Put(key), store.Put(conn), store.Put(token))
	got := []string{holder("key/AKID"), holder("creation/c"), holder("connector/w/n"), holder("token/ab")}
	if diff := cmp.Diff([]string{"k", "k", "c", "t"}, got); diff != "" {
		t.Error(diff)
	}
	now := time.Now().UTC()
	key.M.DeletedAt, conn.M.DeletedAt, token.M.DeletedAt = &now, &now, &now
	apply(t, s, store.Put(key), store.Put(conn), store.Put(token)) // Apply left the new versions in the records
	got = []string{holder("key/AKID"), holder("creation/c"), holder("connector/w/n"), holder("token/ab")}
	if diff := cmp.Diff([]string{"k", "", "", ""}, got); diff != "" {
		t.Errorf("after deletion:\n%s", diff)
	}
}

func ids(records []store.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, r.Meta().ID)
	}
	return out
}

func testList(t *testing.T, s store.Store) {
	now := time.Now().UTC()
	var batch []store.Write
	for _, id := range []string{"r5", "r1", "r3", "r2", "r4"} {
		r := repository(id, "w1", id)
		if id == "r3" {
			r.M.DeletedAt = &now
		}
		batch = append(batch, store.Write{Record: r})
	}
	batch = append(batch, store.Write{Record: repository("r0", "w2", "x")}, store.Write{Record: repository("r9", "w", "prefix of w1")},
		store.Write{Record: workspace("r2a", "another kind")})
	apply(t, s, batch...)

	for _, tc := range []struct {
		name string
		page store.Page
		want []string
	}{
		{"all", store.Page{}, []string{"r0", "r1", "r2", "r4", "r5", "r9"}},
		{"with deleted", store.Page{Deleted: true}, []string{"r0", "r1", "r2", "r3", "r4", "r5", "r9"}},
		{"workspace", store.Page{Workspace: "w1"}, []string{"r1", "r2", "r4", "r5"}},
		{"workspace and deleted", store.Page{Workspace: "w1", Deleted: true}, []string{"r1", "r2", "r3", "r4", "r5"}},
		{"workspace that is a prefix", store.Page{Workspace: "w"}, []string{"r9"}},
		{"unknown workspace", store.Page{Workspace: "nobody"}, []string{}},
		{"first page", store.Page{Workspace: "w1", Limit: 2}, []string{"r1", "r2"}},
		{"next page skips deleted", store.Page{Workspace: "w1", Limit: 2, After: "r2"}, []string{"r4", "r5"}},
		{"after the last", store.Page{Workspace: "w1", After: "r5"}, []string{}},
		{"after an id that is not there", store.Page{After: "r33", Limit: 1}, []string{"r4"}},
	} {
		got, err := s.List(t.Context(), store.KindRepository, tc.page)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, ids(got)); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}

	batch = nil
	for i := range 1001 {
		batch = append(batch, store.Write{Record: workspace(fmt.Sprintf("x%04d", i), "")})
	}
	apply(t, s, batch...)
	if got, err := s.List(t.Context(), store.KindWorkspace, store.Page{}); err != nil || len(got) != 1000 {
		t.Errorf("page without a limit has %d records, %v; want 1000", len(got), err)
	}
}

func testOwnership(t *testing.T, s store.Store) {
	tok := &store.Token{M: store.Meta{ID: "t"}, Name: "before", Hash: []byte{1}, Roles: map[string]store.Access{"w": store.AccessRead}}
	apply(t, s, store.Write{Record: tok})
	tok.Hash[0], tok.Roles["w"] = 9, store.AccessAdmin
	got := get[*store.Token](t, s, "t")
	got.Hash[0], got.Roles["*"] = 8, store.AccessAdmin
	again := get[*store.Token](t, s, "t")
	if again.Hash[0] != 1 || !cmp.Equal(again.Roles, map[string]store.Access{"w": store.AccessRead}) {
		t.Errorf("changing a returned record changed the store: %+v", again)
	}
}

func testConcurrent(t *testing.T, s store.Store) {
	const writers, each = 8, 10
	apply(t, s, store.Write{Record: &store.Custody{M: store.Meta{ID: store.CustodyID}}})
	ctx := t.Context()
	errs := make(chan error, writers)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for n := 0; n < each; {
				r, err := s.Get(ctx, store.KindCustody, store.CustodyID)
				if err != nil {
					errs <- err
					return
				}
				c, ok := r.(*store.Custody)
				if !ok {
					errs <- fmt.Errorf("a %T", r)
					return
				}
				c.Manifest = append(c.Manifest, 'x')
				switch _, err = s.Apply(ctx, store.Write{Record: c, Expect: c.M.Version}); {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrConflict):
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if c := get[*store.Custody](t, s, store.CustodyID); len(c.Manifest) != writers*each || c.M.Version != 1+writers*each {
		t.Errorf("%d increments at version %d, want %d", len(c.Manifest), c.M.Version, writers*each)
	}
}

func testClosed(t *testing.T, s store.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(t.Context(), store.KindWorkspace, "x")
	wantErr(t, "Get", err, store.ErrClosed)
	_, err = s.List(t.Context(), store.KindWorkspace, store.Page{})
	wantErr(t, "List", err, store.ErrClosed)
	_, err = s.ByUnique(t.Context(), "x")
	wantErr(t, "ByUnique", err, store.ErrClosed)
	_, err = s.Apply(t.Context(), store.Write{Record: workspace("w", "x")})
	wantErr(t, "Apply", err, store.ErrClosed)
	_, err = s.Revision(t.Context())
	wantErr(t, "Revision", err, store.ErrClosed)
	for _, err := range s.Watch(t.Context(), 0) {
		wantErr(t, "Watch", err, store.ErrClosed)
	}
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, store.KindWorkspace, "x")
	wantErr(t, "Get", err, context.Canceled)
	_, err = s.Apply(ctx, store.Write{Record: workspace("w", "x")})
	wantErr(t, "Apply", err, context.Canceled)
	all, err := s.List(t.Context(), store.KindWorkspace, store.Page{})
	if err != nil || slices.Contains(ids(all), "w") {
		t.Errorf("a write with an ended context: %v, %v", ids(all), err)
	}
}
