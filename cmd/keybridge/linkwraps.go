package main

import (
	"context"
	"errors"
	"slices"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/xds/link"
)

// kinds are the store's names for what the feed carries, in the order of Outdated.
var kinds = []struct {
	feed string
	kind store.Kind
}{{seal.TypeCredential, store.KindCredential}, {seal.TypeRepositoryKey, store.KindKey}}

func kindOf(feed string) store.Kind {
	for _, k := range kinds {
		if k.feed == feed {
			return k.kind
		}
	}
	return ""
}

const (
	// outdatedPage is how many records Outdated reads at once, and outdatedMost how many it returns.
	outdatedPage = 1000
	outdatedMost = 256
	// rewrapAttempts bounds how often a batch is tried when its records are changed meanwhile.
	rewrapAttempts = 3
)

func (s linkSource) SealingKey(context.Context) (string, error) { return s.sealing(), nil }

// Rewrap writes all that fits in one batch; where a record is changed at that moment,
// the batch is made anew from what is stored then.
func (s linkSource) Rewrap(ctx context.Context, in []link.Rewrap, allowed func(string) bool) (int, error) {
	for attempt := 1; ; attempt++ {
		writes, err := s.rewrapWrites(ctx, in, allowed)
		if err != nil || len(writes) == 0 {
			return 0, err
		}
		_, err = s.store.Apply(ctx, writes...)
		switch {
		case err == nil:
			return len(writes), nil
		case !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) || attempt == rewrapAttempts:
			return 0, err
		}
	}
}

func (s linkSource) rewrapWrites(ctx context.Context, in []link.Rewrap, allowed func(string) bool) ([]store.Write, error) {
	var writes []store.Write
	changed := map[string]store.Record{} // two wraps of one record are one write
	for _, w := range in {
		ref := w.Type + "/" + w.Id
		rec := changed[ref]
		if rec == nil {
			var err error
			rec, err = s.get(ctx, w.Type, w.Id, allowed)
			if err != nil {
				return nil, err
			}
		}
		if rec == nil || !s.rewrap(rec, w) || changed[ref] != nil {
			continue
		}
		changed[ref] = rec
		write := store.Put(rec)
		write.KeepVersion = true
		writes = append(writes, write)
	}
	return writes, nil
}

// rewrap puts a wrap into a record; false where it does not fit, or is there already.
func (s linkSource) rewrap(rec store.Record, w link.Rewrap) bool {
	sealed, wraps := sealedOf(rec)
	if sealed == nil || sealed.Header.Version != w.Version || w.Suite > seal.SuiteRecordKey {
		return false
	}
	next := *sealed
	next.Key = seal.Wrap{Suite: uint16(w.Suite), KeyID: w.KeyId, Value: slices.Clone(w.Value)}
	if next.Validate() != nil {
		return false
	}
	switch next.Key.Suite {
	case seal.SuiteRecordKey:
		if old := wraps.Adopted; old != nil && old.KeyID == next.Key.KeyID && !w.Replace {
			return false
		}
		wraps.Adopted = &next.Key
	case seal.SuiteRSA3072:
		if next.Key.KeyID != s.sealing() || sealed.Key.KeyID == next.Key.KeyID {
			return false
		}
		former := sealed.Key
		wraps.Former, sealed.Key = &former, next.Key
	}
	return true
}

// get is a record of the feed that the caller may have; nil if there is none.
func (s linkSource) get(ctx context.Context, feed, id string, allowed func(string) bool) (store.Record, error) {
	kind := kindOf(feed)
	if kind == "" || id == "" {
		return nil, nil
	}
	rec, err := s.store.Get(ctx, kind, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !allowed(rec.Meta().Workspace):
		return nil, nil
	}
	return rec, nil
}

func (s linkSource) Originals(ctx context.Context, refs []*link.RecordRef, allowed func(string) bool) (out []*link.Record, err error) {
	for _, ref := range refs {
		rec, err := s.get(ctx, ref.GetType(), ref.GetId(), allowed)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			continue
		}
		sealed, wraps := sealedOf(rec)
		if sealed == nil {
			continue
		}
		e := store.Event{Revision: rec.Meta().Revision, Record: rec}
		out = append(out, encodeRecord(e, sealed))
		if wraps.Former != nil {
			former := *sealed
			former.Key = *wraps.Former
			out = append(out, encodeRecord(e, &former))
		}
	}
	return out, nil
}

func (s linkSource) Outdated(ctx context.Context, after *link.RecordRef, allowed func(string) bool) (out []*link.Record, next *link.RecordRef, err error) {
	current := s.sealing()
	for _, k := range kinds {
		page := store.Page{Limit: outdatedPage}
		switch {
		case after == nil:
		case after.Type == k.feed:
			page.After, after = after.Id, nil
		default:
			continue // it comes before
		}
		for {
			records, err := s.store.List(ctx, k.kind, page)
			if err != nil {
				return nil, nil, err
			}
			for _, rec := range records {
				page.After = rec.Meta().ID
				sealed, _ := sealedOf(rec)
				if sealed == nil || sealed.Key.KeyID == current || !allowed(rec.Meta().Workspace) {
					continue
				}
				out = append(out, encodeRecord(store.Event{Revision: rec.Meta().Revision, Record: rec}, sealed))
				if len(out) == outdatedMost {
					return out, &link.RecordRef{Type: k.feed, Id: page.After}, nil
				}
			}
			if len(records) < outdatedPage {
				break
			}
		}
	}
	return out, nil, nil
}
