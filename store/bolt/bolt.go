package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"keybridge/store"
)

const (
	format       = "1"
	defaultLimit = 1000
	// lockWait is how long Open waits for another process to let go of the file: long
	// enough for a predecessor that is just exiting.
	lockWait = time.Second
)

var (
	bucketMeta       = []byte("meta")
	bucketRecords    = []byte("records")
	bucketWorkspaces = []byte("workspaces")
	bucketNames      = []byte("names")
	bucketChanges    = []byte("changes")

	keyFormat   = []byte("format")
	keyRevision = []byte("revision")
)

type db struct {
	bolt *bbolt.DB

	mu      sync.Mutex
	changed chan struct{} // closed and replaced after each write
	closed  chan struct{}
	once    sync.Once
}

// Open opens the store in a file, which it makes if there is none.
func Open(path string) (store.Store, error) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open store: %s has mode %04o, others can read it: set it to 0600", path, fi.Mode().Perm())
	}
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open store: %s is in use by another process", path)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if err := b.Update(prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), b.Close())
	}
	return &db{bolt: b, changed: make(chan struct{}), closed: make(chan struct{})}, nil
}

func prepare(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return errors.New("it is not a Keybridge store")
		}
		for _, name := range [][]byte{bucketMeta, bucketRecords, bucketWorkspaces, bucketNames, bucketChanges} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(format))
	}
	if got := meta.Get(keyFormat); string(got) != format {
		return fmt.Errorf("it has format %q, this program reads %q", got, format)
	}
	return nil
}

func (d *db) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.bolt.Close()
}

func (d *db) view(ctx context.Context, f func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return closedError(d.bolt.View(f))
}

func closedError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

// stored is the JSON form of a record with the names it holds.
type stored struct {
	Unique []string        `json:"unique,omitempty"`
	Record json.RawMessage `json:"record"`
}

// address is the key of a record: kind, 0x00, id.
func address(k store.Kind, id string) []byte {
	return append(append([]byte(k), 0), id...)
}

// workspaceAddress is the key of a record in its workspace's list.
func workspaceAddress(k store.Kind, workspace, id string) []byte {
	return append(append(address(k, workspace), 0), id...)
}

// changeKey is the key of a record in the list of changes.
func changeKey(revision uint64, addr []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, revision), addr...)
}

// read decodes the record at addr; a nil record if there is none.
func read(tx *bbolt.Tx, addr []byte) (store.Record, []string, error) {
	v := tx.Bucket(bucketRecords).Get(addr)
	if v == nil {
		return nil, nil, nil
	}
	kind, _, _ := bytes.Cut(addr, []byte{0})
	r := store.NewRecord(store.Kind(kind))
	if r == nil {
		return nil, nil, fmt.Errorf("store: record of unknown kind %q", kind)
	}
	var s stored
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, nil, fmt.Errorf("store: read record %q: %w", addr, err)
	}
	if err := json.Unmarshal(s.Record, r); err != nil {
		return nil, nil, fmt.Errorf("store: read record %q: %w", addr, err)
	}
	r.Meta().Kind = store.Kind(kind)
	return r, s.Unique, nil
}

func revision(tx *bbolt.Tx) uint64 {
	v := tx.Bucket(bucketMeta).Get(keyRevision)
	if v == nil {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func (d *db) Revision(ctx context.Context) (rev uint64, err error) {
	err = d.view(ctx, func(tx *bbolt.Tx) error {
		rev = revision(tx)
		return nil
	})
	return rev, err
}

func (d *db) Get(ctx context.Context, kind store.Kind, id string) (r store.Record, err error) {
	err = d.view(ctx, func(tx *bbolt.Tx) error {
		r, _, err = read(tx, address(kind, id))
		if err == nil && r == nil {
			err = store.ErrNotFound
		}
		return err
	})
	return r, err
}

func (d *db) ByUnique(ctx context.Context, name string) (r store.Record, err error) {
	err = d.view(ctx, func(tx *bbolt.Tx) error {
		addr := tx.Bucket(bucketNames).Get([]byte(name))
		if addr == nil {
			return store.ErrNotFound
		}
		r, _, err = read(tx, addr)
		if err == nil && r == nil {
			err = fmt.Errorf("store: name %q of a missing record", name)
		}
		return err
	})
	return r, err
}

func (d *db) List(ctx context.Context, kind store.Kind, p store.Page) ([]store.Record, error) {
	limit := p.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	var out []store.Record
	err := d.view(ctx, func(tx *bbolt.Tx) error {
		// Both buckets order one kind (of one workspace) by id after a common prefix.
		c, prefix := tx.Bucket(bucketRecords).Cursor(), address(kind, "")
		if p.Workspace != "" {
			c, prefix = tx.Bucket(bucketWorkspaces).Cursor(), workspaceAddress(kind, p.Workspace, "")
		}
		start := append(bytes.Clone(prefix), p.After...)
		k, _ := c.Seek(start)
		if p.After != "" && bytes.Equal(k, start) {
			k, _ = c.Next()
		}
		for ; k != nil && bytes.HasPrefix(k, prefix) && len(out) < limit; k, _ = c.Next() {
			r, _, err := read(tx, address(kind, string(k[len(prefix):])))
			if err != nil {
				return err
			}
			if r == nil {
				return fmt.Errorf("store: list names a missing record %q", k)
			}
			if r.Meta().DeletedAt == nil || p.Deleted {
				out = append(out, r)
			}
		}
		return nil
	})
	return out, err
}
