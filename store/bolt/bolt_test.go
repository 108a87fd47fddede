package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"keybridge/store"
	"keybridge/store/bolt"
	"keybridge/store/storetest"
)

func open(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "store.db")) })
}

// TestFullDisk: what does not fit is not there, not even in part; what was there is, and
// writing goes on as soon as there is room. RLIMIT_FSIZE (setrlimit(2)) is the full disk.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	var room unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &room); err != nil {
		t.Fatal(err)
	}
	limit := func(cur uint64) {
		t.Helper()
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: cur, Max: room.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(room.Cur)
	name := func(n uint64) string { return fmt.Sprintf("%d%s", n, strings.Repeat("x", 4<<10)) }
	write := func(n uint64) (uint64, error) {
		return s.Apply(t.Context(), store.Put(&store.Workspace{M: store.Meta{ID: fmt.Sprint(n)}, Name: name(n)}))
	}
	var wrote uint64
	// Within the file only its pages are written; half of it leaves the meta pages alone writable.
	for _, share := range []int64{1, 2} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		limit(uint64(fi.Size() / share))
		for {
			rev, err := write(wrote + 1)
			if errors.Is(err, store.ErrUnwritable) {
				break
			}
			if err != nil || rev != wrote+1 {
				t.Fatalf("revision %d, %v", rev, err)
			}
			wrote = rev
		}
		if _, err := write(wrote + 1); !errors.Is(err, store.ErrUnwritable) {
			t.Errorf("again: %v", err)
		}
		if rev, err := s.Revision(t.Context()); err != nil || rev != wrote {
			t.Errorf("revision %d, %v; want %d", rev, err, wrote)
		}
		limit(room.Cur)
		if rev, err := write(wrote + 1); err != nil || rev != wrote+1 {
			t.Errorf("with room again: %d, %v", rev, err)
		}
		wrote++
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	all, err := s.List(t.Context(), store.KindWorkspace, store.Page{})
	if err != nil || uint64(len(all)) != wrote {
		t.Errorf("%d of %d records, %v", len(all), wrote, err)
	}
	for _, r := range all {
		if r.(*store.Workspace).Name != name(r.Meta().Revision) {
			t.Errorf("record %s is not what was written", r.Meta().ID)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	w := &store.Workspace{M: store.Meta{ID: "w"}, Name: "first"}
	if _, err := s.Apply(t.Context(), store.Put(w)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}

	s = open(t, path)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if r, err := s.ByUnique(t.Context(), "workspace/first"); err != nil || r.Meta().ID != "w" {
		t.Errorf("after reopening: %v, %v", r, err)
	}
	for events, err := range s.Watch(t.Context(), 0) {
		if err != nil || events[0].Revision != 1 {
			t.Errorf("Watch after reopening: %v, %v", events, err)
		}
		break
	}
	if rev, err := s.Apply(t.Context(), store.Put(&store.Workspace{M: store.Meta{ID: "v"}, Name: "second"})); err != nil || rev != 2 {
		t.Errorf("revision after reopening: %d, %v; want 2", rev, err)
	}
}

func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Open(path); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a file that the group can read: %v", err)
	}
}

func TestOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	// flock is per open file description, so a second Open here meets what another process would.
	if _, err := bolt.Open(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second Open: %v", err)
	}
}

func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(name string, f func(tx *bbolt.Tx) error) string {
		path := filepath.Join(dir, name)
		b, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.Update(f), b.Close()); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := write("foreign", func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	})
	newer := write("newer", func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return b.Put([]byte("format"), []byte("2"))
	})
	for path, want := range map[string]string{
		garbage:                           "invalid database",
		foreign:                           "not a Keybridge store",
		newer:                             `format "2"`,
		filepath.Join(dir, "no", "where"): "no such file",
	} {
		if _, err := bolt.Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open %s: %v; want an error with %q", filepath.Base(path), err, want)
		}
	}
}
