package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/bolt"
	"keybridge/xds/link"
)

// vault is the store of a stack that is stopped, in the hands of who can write it.
type vault struct {
	t     *testing.T
	store store.Store
}

func (w *world) openVault(t *testing.T) *vault {
	t.Helper()
	s, err := bolt.Open(filepath.Join(w.Dir, "control", "keybridge.db"))
	if err != nil {
		t.Fatal(err)
	}
	return &vault{t, s}
}

func get[R store.Record](v *vault, kind store.Kind, id string) R {
	v.t.Helper()
	r, err := v.store.Get(context.Background(), kind, id)
	if err != nil {
		v.t.Fatal(err)
	}
	return r.(R)
}

func (v *vault) put(r store.Record) {
	v.t.Helper()
	if _, err := v.store.Apply(context.Background(), store.Put(r)); err != nil {
		v.t.Fatal(err)
	}
}

// moveRecord changes the workspace that a record says it is of, in the file itself.
func (w *world) moveRecord(t *testing.T, id, from, to string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(w.Dir, "control", "keybridge.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	changed := 0
	if err := db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket([]byte("records"))
		return records.ForEach(func(k, v []byte) error {
			if !bytes.Contains(k, []byte(id)) {
				return nil
			}
			changed++
			return records.Put(bytes.Clone(k), bytes.Replace(v, []byte(`"workspace":"`+from), []byte(`"workspace":"`+to), 1))
		})
	}); err != nil || changed != 1 {
		t.Fatalf("%d records moved: %v", changed, err)
	}
}

// What who can write the database may try with ciphertext that is genuine, all at
// once: each attempt costs the record that it was made on, which the bridge names,
// and nothing else; no request of those records reaches a provider.
func TestSwapped(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	newKey := func(tenant *stack.Tenant, repository, name string) stack.Key {
		t.Helper()
		k, err := tenant.StorageKey(ctx, repository, name, "READ")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	// Another tenant of the same stack, at the same provider.
	rival, err := w.Tenant(ctx, w.endpoints, "rival")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := rival.Bucket(ctx, stack.Bucket{Name: "theirs", Bucket: otherBucket, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret})
	if err != nil {
		t.Fatal(err)
	}
	rivalRepository, err := rival.Repository(ctx, "rival", []string{theirs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rivalKey := newKey(rival, rivalRepository, "rival")

	type attempt struct {
		name  string
		swap  func(v *vault, victim *store.Key)
		named string // in the log of the bridge
		first bool   // changes nothing but the first wrap, which a record with a second does not need
	}
	other := func(v *vault) *seal.Sealed { return get[*store.Key](v, store.KindKey, w.read.ID).Sealed }
	attempts := []attempt{
		{"another record's", func(v *vault, k *store.Key) { k.Sealed = other(v) }, "sealed for repository-key", false},
		{"another record's, relabelled", func(v *vault, k *store.Key) {
			h := k.Sealed.Header
			k.Sealed = other(v)
			k.Sealed.Header = h
		}, "does not open", false},
		{"another workspace's", func(v *vault, k *store.Key) { k.Sealed = get[*store.Key](v, store.KindKey, rivalKey.ID).Sealed }, "sealed for repository-key", false},
		{"relabelled for another workspace", func(_ *vault, k *store.Key) { k.Sealed.Header.Workspace = rival.Workspace }, "of workspace " + rival.Workspace, false},
		{"relabelled as another version", func(_ *vault, k *store.Key) { k.Sealed.Header.Version++ }, "does not open", false},
		{"relabelled for another repository", func(_ *vault, k *store.Key) { k.Sealed.Header.Binding.Repository = rivalRepository }, "does not open", false},
		{"relabelled as another key id", func(_ *vault, k *store.Key) { k.Sealed.Header.Binding.Key = w.admin.Key }, "does not open", false},
		{"another sealing key's id", func(_ *vault, k *store.Key) { k.Sealed.Key.KeyID = strings.Repeat("ab", 32) }, "unknown sealing key", true},
		{"another record's wrap", func(v *vault, k *store.Key) { k.Sealed.Key.Value = other(v).Key.Value }, "does not open", true},
		{"another record's body", func(v *vault, k *store.Key) {
			o := other(v)
			k.Sealed.IV, k.Sealed.AuthTag, k.Sealed.Message = o.IV, o.AuthTag, o.Message
		}, "does not open", false},
		{"a credential's", func(v *vault, k *store.Key) {
			k.Sealed = get[*store.Credential](v, store.KindCredential, theirs).Sealed
		}, "sealed for credential", false},
	}
	// Each on a record as it was sealed, and on one with the second wrap that a bridge
	// has made: where that does not open, the first one decides.
	victims, adopted := make([]stack.Key, len(attempts)), make([]stack.Key, len(attempts))
	for i, a := range attempts {
		victims[i] = newKey(w.tenant, w.repository, a.name)
		adopted[i] = newKey(w.tenant, w.repository, a.name+", adopted")
	}
	spoilt := newKey(w.tenant, w.repository, "with a spoilt second wrap")

	// Chains of which every record is genuine, but of two workspaces.
	bucketOf := func(name string) string {
		t.Helper()
		id, err := w.tenant.Bucket(ctx, stack.Bucket{Name: name, Bucket: bucket, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	repositoryOf := func(name, connector string) (id string, key stack.Key) {
		t.Helper()
		id, err := w.tenant.Repository(ctx, name, []string{connector}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return id, newKey(w.tenant, id, name)
	}
	lent := bucketOf("lent")
	_, lentKey := repositoryOf("with a lent credential", lent)
	foreign, foreignKey := repositoryOf("with a foreign connector", bucketOf("replaced"))
	moved, movedKey := repositoryOf("moved", bucketOf("of the moved"))
	// And one connector whose record is pointed at another host.
	pointed := bucketOf("pointed")
	_, pointedKey := repositoryOf("pointed elsewhere", pointed)
	thief, calls := w.thief(t)
	// Until all that is above was opened and wrapped again.
	w.wantAdopted(ctx, t, append(slices.Clone(adopted), spoilt)...)

	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	v := w.openVault(t)
	for i, a := range attempts {
		victim := get[*store.Key](v, store.KindKey, victims[i].ID)
		victim.Wraps = store.Wraps{}
		a.swap(v, victim)
		v.put(victim)
		if a.first {
			continue
		}
		victim = get[*store.Key](v, store.KindKey, adopted[i].ID)
		a.swap(v, victim)
		v.put(victim)
	}
	k := get[*store.Key](v, store.KindKey, spoilt.ID)
	k.Wraps = get[*store.Key](v, store.KindKey, w.read.ID).Wraps
	v.put(k)
	c := get[*store.Connector](v, store.KindConnector, lent)
	c.CredentialID = theirs
	v.put(c)
	r := get[*store.Repository](v, store.KindRepository, foreign)
	r.Storage[0].ConnectorID = theirs
	v.put(r)
	c = get[*store.Connector](v, store.KindConnector, pointed)
	c.Endpoint = thief
	v.put(c)
	if err := v.store.Close(); err != nil {
		t.Fatal(err)
	}
	// The store itself keeps a record in its workspace.
	w.moveRecord(t, moved, w.tenant.Workspace, rival.Workspace)

	s, err := stack.Start(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	w.Stack = s
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.serving(ctx); err != nil {
		t.Fatal("what was left alone must go on: ", err)
	}
	for i, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			all := []stack.Key{victims[i], adopted[i]}
			if a.first {
				all = all[:1]
			}
			for _, victim := range all {
				w.wantRefused(ctx, t, victim, bucket)
				w.wantLogged(ctx, t, stack.Bridge, `msg="record refused".* record=`+victim.ID+` .*`+a.named)
			}
		})
	}
	t.Run("another record's second wrap", func(t *testing.T) {
		w.wantLogged(ctx, t, stack.Bridge, `second wrap does not open.* record=`+spoilt.ID)
		q := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: spoilt}
		if a, err := w.askS3(ctx, q); err != nil || a.status != http.StatusOK {
			t.Errorf("opened by its first wrap: %v, %v", a, err)
		}
	})
	t.Run("a credential of another workspace", func(t *testing.T) {
		w.wantRefused(ctx, t, lentKey, bucket)
		w.wantLogged(ctx, t, stack.Bridge, `msg="left out".*`+lent+`.*workspace`)
	})
	t.Run("a connector of another workspace", func(t *testing.T) {
		for _, b := range []string{bucket, otherBucket} {
			w.wantRefused(ctx, t, foreignKey, b)
		}
		w.wantLogged(ctx, t, stack.Bridge, `msg="left out".*`+foreign+`.*`+theirs)
	})
	t.Run("a repository of another workspace", func(t *testing.T) {
		w.wantRefused(ctx, t, movedKey, bucket)
		w.wantLogged(ctx, t, stack.Bridge, `msg="left out".*`+movedKey.ID+`.*its repository belongs to another workspace`)
	})
	t.Run("a connector pointed elsewhere", func(t *testing.T) {
		q := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: pointedKey}
		if a, err := w.askS3(ctx, q); err != nil || a.status != http.StatusOK || a.body != "hello from "+bucket {
			t.Errorf("the binding's host: %v, %v", a, err)
		}
		if n := calls.Load(); n != 0 {
			t.Errorf("the other host was called %d times", n)
		}
	})
}

// wantAdopted waits until keys are in the feed with their second wrap.
func (w *world) wantAdopted(ctx context.Context, t *testing.T, keys ...stack.Key) {
	t.Helper()
	if err := w.Wait(ctx, func() error {
		m := &material{}
		w.feed(ctx, t, m)
		for _, r := range m.feed {
			if !slices.ContainsFunc(keys, func(k stack.Key) bool { return k.ID == r.Id }) {
				continue
			}
			var s seal.Sealed
			if err := s.UnmarshalBinary(r.Sealed); err != nil {
				return err
			}
			if s.Key.Suite != seal.SuiteRecordKey {
				return fmt.Errorf("key %s has no second wrap %w", r.Id, errNotYet)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// thief is a server that nothing may call.
func (w *world) thief(t *testing.T) (url string, calls *atomic.Int64) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	calls = &atomic.Int64{}
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			conn.Close()
		}
	}()
	return "http://" + lis.Addr().String(), calls
}

// wantRefused wants a request of a key refused before it reaches a provider.
func (w *world) wantRefused(ctx context.Context, t *testing.T, key stack.Key, in string) {
	t.Helper()
	w.reset()
	a, err := w.askS3(ctx, s3Request{method: http.MethodGet, path: "/" + in + "/" + present, key: key})
	if err != nil || a.status < 400 || a.status >= 500 {
		t.Errorf("GET /%s with key %s: %v, %v", in, key.ID, a, err)
	}
	// The bridge's own probes come from another client; a GET of the object is ours.
	if lines := w.atProviders(); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "/"+present) }) {
		t.Errorf("the provider was asked: %q", lines)
	}
}

// Deleting destroys the ciphertext: in the store's record, and in what bridges get.
func TestDeletionDestroysCiphertext(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id, err := w.tenant.Bucket(ctx, stack.Bucket{Name: "gone", Bucket: bucket, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret})
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.tenant.StorageKey(ctx, w.repository, "gone", "READ")
	if err != nil {
		t.Fatal(err)
	}
	var sealed [][]byte
	for _, r := range w.recover(ctx, t).feed {
		if r.Id == id || r.Id == key.ID {
			sealed = append(sealed, r.Sealed)
		}
	}
	if len(sealed) != 2 || len(sealed[0]) == 0 || len(sealed[1]) == 0 {
		t.Fatalf("%d sealed records before the deletion", len(sealed))
	}
	if err := w.tenant.DeleteBucket(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := w.tenant.DeleteStorageKey(ctx, w.repository, key.ID); err != nil {
		t.Fatal(err)
	}
	deleted := 0
	for _, r := range w.recover(ctx, t).feed {
		if r.Id == id || r.Id == key.ID {
			deleted++
			if r.State != link.State_DELETED || len(r.Sealed) != 0 {
				t.Errorf("the feed says of %s %s: %s, %d bytes sealed", r.Type, r.Id, r.State, len(r.Sealed))
			}
		}
	}
	if deleted != 2 {
		t.Errorf("the feed has %d of the 2 records", deleted)
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	v := w.openVault(t)
	if c := get[*store.Credential](v, store.KindCredential, id); c.Sealed != nil || c.M.DeletedAt == nil || c.Wraps != (store.Wraps{}) {
		t.Errorf("credential %+v", c)
	}
	if k := get[*store.Key](v, store.KindKey, key.ID); k.Sealed != nil || k.M.DeletedAt == nil || k.Wraps != (store.Wraps{}) || k.Name != "gone" {
		t.Errorf("key %+v", k)
	}
	// Nor is it anywhere else in the store.
	for _, kind := range []store.Kind{store.KindCredential, store.KindKey} {
		all, err := v.store.List(ctx, kind, store.Page{Deleted: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			for _, s := range sealed {
				if raw := sealedOf(t, r); raw != nil && bytes.Equal(raw, s) {
					t.Errorf("%s %s still has the ciphertext", kind, r.Meta().ID)
				}
			}
		}
	}
	if err := v.store.Close(); err != nil {
		t.Fatal(err)
	}
}

func sealedOf(t *testing.T, r store.Record) []byte {
	t.Helper()
	var s *seal.Sealed
	switch r := r.(type) {
	case *store.Credential:
		s = r.Sealed
	case *store.Key:
		s = r.Sealed
	}
	if s == nil {
		return nil
	}
	raw, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
