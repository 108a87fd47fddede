package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/bolt"
	"keybridge/xds/link"
)

// sealingKeys are an older and the current key, made once for all tests.
var sealingKeys = sync.OnceValue(func() (keys [2]*seal.PublicKey) {
	for i := range keys {
		private, err := rsa.GenerateKey(rand.Reader, 3072)
		if err != nil {
			panic(err)
		}
		if keys[i], err = seal.NewPublicKey(&private.PublicKey); err != nil {
			panic(err)
		}
	}
	return keys
})

const ours = "11111111-1111-4111-8111-111111111111"

type wrapsWorld struct {
	linkSource
	older, current *seal.PublicKey
}

func newWrapsWorld(t *testing.T) *wrapsWorld {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	keys := sealingKeys()
	return &wrapsWorld{linkSource{s, keys[1].ID}, keys[0], keys[1]}
}

// key stores a repository key that is sealed to `to`.
func (w *wrapsWorld) key(t *testing.T, to *seal.PublicKey, workspace string) *store.Key {
	t.Helper()
	id := uuid.NewString()
	k := &store.Key{M: store.Meta{ID: id, Workspace: workspace}, Key: "AK" + id[:8], Type: store.TypeS3, Repository: uuid.NewString()}
	var err error
	if k.Sealed, err = seal.Seal(to, seal.Header{
		Format: seal.Format, Workspace: workspace, Type: seal.TypeRepositoryKey, Record: id, Version: 3,
		Binding: seal.Binding{Use: seal.UseS3Key, Key: k.Key, Repository: k.Repository},
	}, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Apply(t.Context(), store.Put(k)); err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *wrapsWorld) stored(t *testing.T, id string) *store.Key {
	t.Helper()
	r, err := w.store.Get(t.Context(), store.KindKey, id)
	if err != nil {
		t.Fatal(err)
	}
	return r.(*store.Key)
}

// fed is the record as the feed brings it now.
func (w *wrapsWorld) fed(t *testing.T, id string) *seal.Sealed {
	t.Helper()
	for batch, err := range w.Watch(t.Context(), w.stored(t, id).M.Revision-1) {
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch.Records {
			if r.Id == id {
				s := new(seal.Sealed)
				if err := s.UnmarshalBinary(r.Sealed); err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
	}
	t.Fatal("not in the feed")
	return nil
}

func offer(k *store.Key, suite uint32, keyID string, size int) link.Rewrap {
	return link.Rewrap{Rewrapped: &link.Rewrapped{
		Type: seal.TypeRepositoryKey, Id: k.M.ID, Version: 3, Suite: suite, KeyId: keyID, Value: bytes.Repeat([]byte{7}, size),
	}}
}

func only(workspace string) func(string) bool { return func(ws string) bool { return ws == workspace } }

func TestRewrapStoresWrapsAlone(t *testing.T) {
	w := newWrapsWorld(t)
	k := w.key(t, w.older, ours)
	before := w.stored(t, k.M.ID)
	if n, err := w.Rewrap(t.Context(), []link.Rewrap{
		offer(k, 3, "record-key-1", 60), offer(k, 1, w.current.ID(), 384),
	}, only(ours)); err != nil || n != 1 {
		t.Fatalf("stored %d, %v", n, err)
	}
	after := w.stored(t, k.M.ID)
	if after.M.Version != before.M.Version || !after.M.UpdatedAt.Equal(before.M.UpdatedAt) {
		t.Errorf("the record's version moved: %+v", after.M)
	}
	if after.Wraps.Adopted == nil || after.Wraps.Adopted.KeyID != "record-key-1" || after.Sealed.Key.KeyID != w.current.ID() {
		t.Errorf("wraps = %+v, key %+v", after.Wraps, after.Sealed.Key)
	}
	if f := after.Wraps.Former; f == nil || f.KeyID != w.older.ID() || !bytes.Equal(f.Value, before.Sealed.Key.Value) {
		t.Errorf("former = %+v", f)
	}
	if s := w.fed(t, k.M.ID); s.Key.Suite != seal.SuiteRecordKey || !bytes.Equal(s.Message, before.Sealed.Message) {
		t.Errorf("fed %+v", s.Key)
	}
	// The original is there for who asks, the former wrap behind it.
	records, err := w.Originals(t.Context(), []*link.RecordRef{{Type: seal.TypeRepositoryKey, Id: k.M.ID}}, only(ours))
	if err != nil || len(records) != 2 {
		t.Fatalf("%d originals, %v", len(records), err)
	}
	for i, want := range []string{w.current.ID(), w.older.ID()} {
		var s seal.Sealed
		if err := s.UnmarshalBinary(records[i].Sealed); err != nil || s.Key.KeyID != want {
			t.Errorf("original %d is under %s, %v", i, s.Key.KeyID, err)
		}
	}
}

func TestRewrapRefuses(t *testing.T) {
	w := newWrapsWorld(t)
	k := w.key(t, w.older, ours)
	gone := w.key(t, w.older, ours)
	deleted := w.stored(t, gone.M.ID)
	now := deleted.M.CreatedAt
	deleted.M.DeletedAt, deleted.Sealed = &now, nil
	if _, err := w.store.Apply(t.Context(), store.Put(deleted)); err != nil {
		t.Fatal(err)
	}
	change := func(r link.Rewrap, f func(r *link.Rewrapped)) link.Rewrap { f(r.Rewrapped); return r }
	good := func() link.Rewrap { return offer(k, 3, "record-key-1", 60) }
	for name, tt := range map[string]struct {
		in      link.Rewrap
		allowed func(string) bool
	}{
		"older version":        {change(good(), func(r *link.Rewrapped) { r.Version = 2 }), only(ours)},
		"newer version":        {change(good(), func(r *link.Rewrapped) { r.Version = 4 }), only(ours)},
		"foreign workspace":    {good(), only("22222222-2222-4222-8222-222222222222")},
		"unknown record":       {change(good(), func(r *link.Rewrapped) { r.Id = uuid.NewString() }), only(ours)},
		"other type":           {change(good(), func(r *link.Rewrapped) { r.Type = seal.TypeCredential }), only(ours)},
		"no type":              {change(good(), func(r *link.Rewrapped) { r.Type = "custody" }), only(ours)},
		"short":                {offer(k, 3, "record-key-1", 59), only(ours)},
		"malformed key id":     {offer(k, 3, "record-key-", 60), only(ours)},
		"unknown suite":        {offer(k, 2, "record-key-1", 60), only(ours)},
		"suite beyond 16 bits": {offer(k, 1<<16+3, "record-key-1", 60), only(ours)},
		"older sealing key":    {offer(k, 1, w.older.ID(), 384), only(ours)},
		"foreign sealing key":  {offer(k, 1, strings.Repeat("ab", 32), 384), only(ours)},
		"deleted":              {offer(gone, 3, "record-key-1", 60), only(ours)},
	} {
		if n, err := w.Rewrap(t.Context(), []link.Rewrap{tt.in}, tt.allowed); n != 0 || err != nil {
			t.Errorf("%s: stored %d, %v", name, n, err)
		}
	}
	if got := w.stored(t, k.M.ID); got.M.Revision != k.M.Revision {
		t.Errorf("written after all: %+v", got)
	}
	// The first wrap under a key stays, but for whoever may replace it.
	again := offer(k, 3, "record-key-1", 60)
	again.Value[0] = 8
	for i, tt := range []struct {
		in   link.Rewrap
		want int
	}{{good(), 1}, {again, 0}, {link.Rewrap{Rewrapped: again.Rewrapped, Replace: true}, 1}, {offer(k, 3, "record-key-2", 60), 1}} {
		if n, err := w.Rewrap(t.Context(), []link.Rewrap{tt.in}, only(ours)); n != tt.want || err != nil {
			t.Errorf("%d: stored %d, %v; want %d", i, n, err, tt.want)
		}
	}
	if records, err := w.Originals(t.Context(), []*link.RecordRef{{Type: seal.TypeRepositoryKey, Id: k.M.ID}, nil}, only("other")); len(records) != 0 || err != nil {
		t.Errorf("originals of a foreign workspace: %v, %v", records, err)
	}
}

func TestOutdated(t *testing.T) {
	w := newWrapsWorld(t)
	want := map[string]bool{}
	for range 3 {
		want[w.key(t, w.older, ours).M.ID] = true
		w.key(t, w.current, ours)
		w.key(t, w.older, "22222222-2222-4222-8222-222222222222")
	}
	collect := func() map[string]bool {
		got := map[string]bool{}
		var after *link.RecordRef
		for {
			records, next, err := w.Outdated(context.Background(), after, only(ours))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				got[r.Id] = true
			}
			if after = next; next == nil {
				return got
			}
		}
	}
	got := collect()
	for id := range want {
		if !got[id] || len(got) != len(want) {
			t.Fatalf("outdated are %v, want %v", got, want)
		}
		if n, err := w.Rewrap(t.Context(), []link.Rewrap{offer(w.stored(t, id), 1, w.current.ID(), 384)}, only(ours)); n != 1 || err != nil {
			t.Fatalf("stored %d, %v", n, err)
		}
	}
	if got := collect(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}
