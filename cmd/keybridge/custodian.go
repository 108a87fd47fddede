package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"

	"keybridge/store"
	"keybridge/store/audit"
	"keybridge/xds/link"
)

// custodySafe is where a control plane keeps custody and records, for its custodian
// service. It stands here for the same reason as linkSource.
type custodySafe struct {
	store store.Store
	audit *audit.Log

	mu     sync.Mutex
	at     uint64 // revision that sealed was counted at
	sealed map[string]uint64
}

func (s *custodySafe) Kept(ctx context.Context) (*link.Kept, error) {
	rec, err := s.store.Get(ctx, store.KindCustody, store.CustodyID)
	if err != nil {
		return nil, err
	}
	c := rec.(*store.Custody)
	return &link.Kept{Version: c.M.Version, Manifest: c.Manifest, Keyring: c.Keyring, Staged: c.Staged}, nil
}

func (s *custodySafe) Keep(ctx context.Context, next *link.Kept) error {
	_, err := s.store.Apply(ctx, store.Put(&store.Custody{
		M:        store.Meta{ID: store.CustodyID, Version: next.Version},
		Manifest: next.Manifest, Keyring: next.Keyring, Staged: next.Staged,
	}))
	if errors.Is(err, store.ErrConflict) {
		return link.ErrChanged
	}
	return err
}

// Sealed reads every sealed record, unless nothing was written since the last time.
func (s *custodySafe) Sealed(ctx context.Context) (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rev, err := s.store.Revision(ctx)
	if err != nil || s.sealed != nil && rev == s.at {
		return s.sealed, err
	}
	counts := map[string]uint64{}
	for _, kind := range []store.Kind{store.KindCredential, store.KindKey} {
		for r, err := range everything(ctx, s.store, kind) {
			if err != nil {
				return nil, err
			}
			if sealed, _ := sealedOf(r); sealed != nil {
				counts[sealed.Key.KeyID]++
			}
		}
	}
	s.at, s.sealed = rev, counts
	return counts, nil
}

// everything yields all records of a kind, the deleted ones too.
func everything(ctx context.Context, from store.Store, kind store.Kind) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for after := ""; ; {
			page, err := from.List(ctx, kind, store.Page{After: after, Deleted: true})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
				after = r.Meta().ID
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

// backupKinds are in the order in which a backup has them: what others refer to is first.
var backupKinds = []store.Kind{
	store.KindCustody, store.KindWorkspace, store.KindCredential, store.KindConnector, store.KindRepository, store.KindKey, store.KindToken,
}

func (s *custodySafe) Records(ctx context.Context) iter.Seq2[*link.BackupRecord, error] {
	return func(yield func(*link.BackupRecord, error) bool) {
		for _, kind := range backupKinds {
			for r, err := range everything(ctx, s.store, kind) {
				var raw []byte
				if err == nil {
					raw, err = json.Marshal(r)
				}
				if !yield(&link.BackupRecord{Kind: string(kind), Record: raw}, err) || err != nil {
					return
				}
			}
		}
	}
}

func decodeRecord(r *link.BackupRecord) (store.Record, error) {
	out := store.NewRecord(store.Kind(r.Kind))
	if out == nil {
		return nil, fmt.Errorf("a record of unknown kind %q", r.Kind)
	}
	if err := json.Unmarshal(r.Record, out); err != nil {
		return nil, fmt.Errorf("a %s that cannot be read: %w", r.Kind, err)
	}
	m := out.Meta()
	if m.Kind = store.Kind(r.Kind); m.ID == "" || m.Version == 0 {
		return nil, fmt.Errorf("a %s without id or version", r.Kind)
	}
	return out, nil
}

// Restore never brings back what the store knows to be deleted, whatever the versions say.
func (s *custodySafe) Restore(ctx context.Context, r *link.BackupRecord) (bool, error) {
	rec, err := decodeRecord(r)
	if err != nil {
		return false, err
	}
	m := rec.Meta()
	w := store.Put(rec)
	w.Expect, w.AsIs = 0, true
	old, err := s.store.Get(ctx, m.Kind, m.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return false, err
	case old.Meta().DeletedAt != nil && m.DeletedAt == nil, old.Meta().Version >= m.Version:
		return false, nil
	default:
		w.Expect = old.Meta().Version
	}
	_, err = s.store.Apply(ctx, w)
	var taken *store.TakenError
	if errors.As(err, &taken) {
		slog.Warn("not restored: its name belongs to another record", "kind", r.Kind, "record", m.ID, "name", taken.Name)
		return false, nil
	}
	return err == nil, err
}

func (s *custodySafe) Custody(r *link.BackupRecord) (*link.Kept, bool, error) {
	rec, err := decodeRecord(r)
	if err != nil {
		return nil, false, err
	}
	c, ok := rec.(*store.Custody)
	if !ok {
		return nil, false, nil
	}
	return &link.Kept{Manifest: c.Manifest, Keyring: c.Keyring}, true, nil
}

func (s *custodySafe) Audit(ctx context.Context, operator, event string, data map[string]any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.audit.Append(ctx, audit.Event{
		Context: "custody", Event: event, ContextID: store.CustodyID, UserID: "operator/" + operator, Data: raw,
	})
}
