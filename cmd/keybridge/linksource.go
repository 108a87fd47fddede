package main

import (
	"context"
	"iter"
	"log/slog"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/xds/link"
)

// linkSource serves the store's sealed records to bridges. It stands here because
// neither room may know the other: the feed carries no store type, the store no wire type.
type linkSource struct {
	store store.Store
	// sealing is the id of the current sealing key.
	sealing func() string
}

func (s linkSource) Custody(ctx context.Context) (manifest, keyring []byte, err error) {
	rec, err := s.store.Get(ctx, store.KindCustody, store.CustodyID)
	if err != nil {
		return nil, nil, err
	}
	c := rec.(*store.Custody)
	return c.Manifest, c.Keyring, nil
}

func (s linkSource) Revision(ctx context.Context) (uint64, error) { return s.store.Revision(ctx) }

func (s linkSource) Watch(ctx context.Context, from uint64) iter.Seq2[link.Batch, error] {
	return func(yield func(link.Batch, error) bool) {
		for events, err := range s.store.Watch(ctx, from) {
			batch := link.Batch{}
			for _, e := range events {
				batch.Revision = e.Revision
				if r := linkRecord(e); r != nil {
					batch.Records = append(batch.Records, r)
				}
			}
			if !yield(batch, err) || err != nil {
				return
			}
		}
	}
}

// linkRecord is e as the feed carries it: with the second wrap, where there is one, in
// place of the RSA wrap. It is nil when bridges do not need it. A record that cannot be
// encoded is carried as deleted: it fails alone.
func linkRecord(e store.Event) *link.Record {
	sealed, wraps := sealedOf(e.Record)
	if sealed != nil && wraps.Adopted != nil {
		adopted := *sealed
		adopted.Key = *wraps.Adopted
		if adopted.Validate() == nil {
			sealed = &adopted
		}
	}
	return encodeRecord(e, sealed)
}

// sealedOf is what a record has sealed, and its further wraps; nil once deleted.
func sealedOf(r store.Record) (*seal.Sealed, *store.Wraps) {
	if r.Meta().DeletedAt != nil {
		return nil, nil
	}
	switch r := r.(type) {
	case *store.Credential:
		return r.Sealed, &r.Wraps
	case *store.Key:
		return r.Sealed, &r.Wraps
	}
	return nil, nil
}

func encodeRecord(e store.Event, sealed *seal.Sealed) *link.Record {
	meta := e.Record.Meta()
	out := &link.Record{Id: meta.ID, Workspace: meta.Workspace, Revision: e.Revision}
	switch r := e.Record.(type) {
	case *store.Credential:
		out.Type = seal.TypeCredential
	case *store.Key:
		out.Type = seal.TypeRepositoryKey
		out.Access = link.Access(link.Access_value[string(r.Access)])
		if r.Type != store.TypeS3 {
			out.AiType = string(r.Type)
		}
		if r.Disabled {
			out.State = link.State_DISABLED
		}
		if r.ExpiresAt != nil {
			if out.Expires = r.ExpiresAt.Unix(); out.Expires <= 0 {
				out.Expires = 1 // on the wire 0 is a key without end
			}
		}
	default:
		return nil
	}
	if sealed == nil {
		out.State = link.State_DELETED
		return out
	}
	raw, err := sealed.MarshalBinary()
	if err != nil {
		slog.Error("sealed record withheld", "type", out.Type, "record", out.Id, "error", err)
		out.State = link.State_DELETED
	}
	out.Sealed = raw
	return out
}
