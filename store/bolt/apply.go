package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"keybridge/store"
)

// pending is one write of a batch with what it replaces.
type pending struct {
	store.Write
	addr   []byte
	before store.Meta // of Record, as the caller gave it
	old    *store.Meta
	held   []string
}

func (d *db) Apply(ctx context.Context, writes ...store.Write) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	batch := make([]*pending, len(writes))
	seen := map[string]bool{}
	for i, w := range writes {
		p, err := check(w)
		if err != nil {
			return 0, err
		}
		if seen[string(p.addr)] {
			return 0, fmt.Errorf("store: two writes of %s %s in one batch", p.Record.Meta().Kind, p.Record.Meta().ID)
		}
		seen[string(p.addr)] = true
		batch[i] = p
	}
	if len(batch) == 0 {
		return 0, errors.New("store: empty batch")
	}

	var rev uint64
	var refused error // unlike what the file says when it is written at the end
	err := closedError(d.bolt.Update(func(tx *bbolt.Tx) error {
		rev, refused = apply(tx, batch, time.Now().UTC().Truncate(time.Microsecond))
		return refused
	}))
	if err != nil {
		for _, p := range batch {
			*p.Record.Meta() = p.before
		}
		if refused == nil && !errors.Is(err, store.ErrClosed) {
			err = fmt.Errorf("%w: %w", store.ErrUnwritable, err)
		}
		return 0, err
	}

	d.mu.Lock()
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
	return rev, nil
}

// check refuses a write that no store could hold.
func check(w store.Write) (*pending, error) {
	if w.Record == nil {
		return nil, errors.New("store: write without a record")
	}
	kind, m := store.KindOf(w.Record), w.Record.Meta()
	switch {
	case kind == "":
		return nil, fmt.Errorf("store: %T is not a record", w.Record)
	case m.ID == "" || strings.ContainsRune(m.ID, 0) || strings.ContainsRune(m.Workspace, 0):
		return nil, fmt.Errorf("store: %s with an empty or malformed id", kind)
	case w.KeepVersion && w.Expect == 0:
		return nil, fmt.Errorf("store: %s %s cannot be created without a version", kind, m.ID)
	}
	if w.AsIs && m.Version == 0 {
		return nil, fmt.Errorf("store: %s %s without the version that it is to keep", kind, m.ID)
	}
	p := &pending{Write: w, addr: address(kind, m.ID), before: *m}
	for _, name := range w.Unique {
		if name == "" || len(name) > bbolt.MaxKeySize {
			return nil, fmt.Errorf("store: %s %s with an empty or oversized unique name", kind, m.ID)
		}
	}
	m.Kind = kind
	return p, nil
}

func apply(tx *bbolt.Tx, batch []*pending, now time.Time) (uint64, error) {
	last := revision(tx)
	rev := last + 1
	for _, p := range batch {
		if p.IfRevision != 0 && p.IfRevision != last {
			return 0, store.ErrConflict
		}
		if err := compare(tx, p); err != nil {
			return 0, err
		}
	}
	// Names move only after all that are given up are free: two records of one batch may swap theirs.
	names := tx.Bucket(bucketNames)
	for _, p := range batch {
		for _, name := range p.held {
			if err := names.Delete([]byte(name)); err != nil {
				return 0, err
			}
		}
	}
	for _, p := range batch {
		for _, name := range p.Unique {
			if holder := names.Get([]byte(name)); holder != nil && !bytes.Equal(holder, p.addr) {
				return 0, &store.TakenError{Name: name}
			}
			if err := names.Put([]byte(name), p.addr); err != nil {
				return 0, err
			}
		}
		if err := p.put(tx, rev, now); err != nil {
			return 0, fmt.Errorf("store: write %s %s: %w", p.Record.Meta().Kind, p.Record.Meta().ID, err)
		}
	}
	return rev, tx.Bucket(bucketMeta).Put(keyRevision, binary.BigEndian.AppendUint64(nil, rev))
}

// compare is the compare of compare-and-swap.
func compare(tx *bbolt.Tx, p *pending) error {
	old, held, err := read(tx, p.addr)
	m := p.Record.Meta()
	switch {
	case err != nil:
		return err
	case old == nil && p.Expect != 0:
		return store.ErrNotFound
	case old == nil:
		return nil
	case old.Meta().Version != p.Expect:
		return store.ErrConflict
	case old.Meta().Workspace != m.Workspace:
		return fmt.Errorf("store: %s %s cannot change its workspace", m.Kind, m.ID)
	}
	p.old, p.held = old.Meta(), held
	return nil
}

func (p *pending) put(tx *bbolt.Tx, rev uint64, now time.Time) error {
	m, changes := p.Record.Meta(), tx.Bucket(bucketChanges)
	m.Revision = rev
	if !p.AsIs {
		m.Version, m.CreatedAt, m.UpdatedAt = p.Expect+1, now, now
	}
	if p.old != nil {
		switch {
		case p.KeepVersion:
			m.Version, m.CreatedAt, m.UpdatedAt = p.old.Version, p.old.CreatedAt, p.old.UpdatedAt
		case !p.AsIs:
			m.CreatedAt = p.old.CreatedAt
		}
		if err := changes.Delete(changeKey(p.old.Revision, p.addr)); err != nil {
			return err
		}
	} else if m.Workspace != "" {
		if err := tx.Bucket(bucketWorkspaces).Put(workspaceAddress(m.Kind, m.Workspace, m.ID), nil); err != nil {
			return err
		}
	}
	record, err := json.Marshal(p.Record)
	if err != nil {
		return err
	}
	value, err := json.Marshal(stored{Unique: p.Unique, Record: record})
	if err != nil {
		return err
	}
	if err := tx.Bucket(bucketRecords).Put(p.addr, value); err != nil {
		return err
	}
	return changes.Put(changeKey(rev, p.addr), nil)
}
