package bolt

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"keybridge/store"
)

// watchBatch is about how many records one read transaction of a Watch fetches.
// No transaction is open while the consumer works: an open one keeps freed pages
// from reuse and a growing file from being mapped anew.
const watchBatch = 256

func (d *db) Watch(ctx context.Context, from uint64) iter.Seq2[[]store.Event, error] {
	return func(yield func([]store.Event, error) bool) {
		for first := true; ; first = false {
			d.mu.Lock()
			changed := d.changed
			d.mu.Unlock()

			groups, err := d.changesAfter(ctx, from, first)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, events := range groups {
				from = events[0].Revision
				if !yield(events, nil) {
					return
				}
			}
			if len(groups) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-d.closed:
				yield(nil, store.ErrClosed)
				return
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

// changesAfter reads the next revisions after one, each whole.
func (d *db) changesAfter(ctx context.Context, from uint64, first bool) (groups [][]store.Event, err error) {
	err = d.view(ctx, func(tx *bbolt.Tx) error {
		if first && from > revision(tx) {
			return fmt.Errorf("watch from revision %d: %w", from, store.ErrFuture)
		}
		c, n := tx.Bucket(bucketChanges).Cursor(), 0
		for k, _ := c.Seek(changeKey(from+1, nil)); k != nil; k, _ = c.Next() {
			rev, addr := binary.BigEndian.Uint64(k), k[8:]
			last := len(groups) - 1
			if last < 0 || groups[last][0].Revision != rev {
				if n >= watchBatch {
					return nil
				}
				groups = append(groups, nil)
				last++
			}
			r, _, err := read(tx, addr)
			if err != nil {
				return err
			}
			if r == nil {
				return fmt.Errorf("store: change of a missing record %q", addr)
			}
			groups[last] = append(groups[last], store.Event{Revision: rev, Record: r})
			n++
		}
		return nil
	})
	return groups, err
}
