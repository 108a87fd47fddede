package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"keybridge/store"
)

// live reads a record that is not deleted; 404 naming what otherwise.
func live[T store.Record](ctx context.Context, s *server, id, what string) (T, error) {
	var zero T
	r, err := s.Store.Get(ctx, store.KindOf(zero), id)
	if errors.Is(err, store.ErrNotFound) {
		return zero, notFound(what)
	}
	if err != nil {
		return zero, err
	}
	got, ok := r.(T)
	if !ok {
		return zero, fmt.Errorf("store: a %T where a %T was asked for", r, zero)
	}
	if got.Meta().DeletedAt != nil {
		return zero, notFound(what)
	}
	return got, nil
}

// addressed is live for the record that a path names, with the role it takes.
func addressed[T store.Record](s *server, q *call, param, what string, need store.Access) (T, error) {
	var zero T
	id, ok := parseID(q.PathValue(param))
	if !ok {
		return zero, notFound(what)
	}
	r, err := live[T](q.Context(), s, id, what)
	if err != nil {
		return zero, err
	}
	workspace := r.Meta().Workspace
	if r.Meta().Kind == store.KindWorkspace {
		workspace = id
	}
	return r, q.require(workspace, need)
}

// all reads every live record of a type, of one workspace or (empty) of all.
func all[T store.Record](ctx context.Context, s *server, workspace string) ([]T, error) {
	var zero T
	var out []T
	for page := (store.Page{Workspace: workspace}); ; {
		records, err := s.Store.List(ctx, store.KindOf(zero), page)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 {
			return out, nil
		}
		for _, r := range records {
			got, ok := r.(T)
			if !ok {
				return nil, fmt.Errorf("store: a %T in a list of %T", r, zero)
			}
			out = append(out, got)
		}
		page.After = records[len(records)-1].Meta().ID
	}
}

// visible is all for what a token may see, limited to one workspace unless that is empty.
func visible[T store.Record](s *server, q *call, workspace string) ([]T, error) {
	if workspace != "" {
		if err := q.require(workspace, store.AccessRead); err != nil {
			return nil, err
		}
		return all[T](q.Context(), s, workspace)
	}
	if q.everywhere() {
		return all[T](q.Context(), s, "")
	}
	var out []T
	for _, id := range q.workspaces() {
		part, err := all[T](q.Context(), s, id)
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, nil
}

// oldestFirst orders the records of an answer.
func oldestFirst[T store.Record](a, b T) int {
	if c := a.Meta().CreatedAt.Compare(b.Meta().CreatedAt); c != 0 {
		return c
	}
	return strings.Compare(a.Meta().ID, b.Meta().ID)
}

// commitAttempts is how often a decision is made anew because something else was
// written meanwhile; with writing held that takes another control plane.
const commitAttempts = 8

// commit lets decide read, check and name its writes, and applies them, once they
// are in the audit log, only if nothing was written to the store since before it
// read. One request at a time does so here: they would otherwise fail each other's
// comparison. decide may run several times, and may name no writes.
func (s *server) commit(q *call, decide func() ([]store.Write, error)) error {
	ctx := q.Context()
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for range commitAttempts {
		revision, err := s.Store.Revision(ctx)
		if err != nil {
			return err
		}
		writes, err := decide()
		if err != nil || len(writes) == 0 {
			return err
		}
		if err := s.checkNames(ctx, writes); err != nil {
			return err
		}
		writes[0].IfRevision = revision
		err = s.audited(q, writes, func(ctx context.Context) error {
			_, err := s.Store.Apply(ctx, writes...)
			return err
		})
		var taken *store.TakenError
		switch {
		case errors.As(err, &taken):
			return takenFailure(taken)
		case errors.Is(err, store.ErrConflict):
			continue
		}
		return err
	}
	return conflict("VERSION_CONFLICT", "too much was changed at the same time; try again")
}

// checkNames finds out beforehand whether a name belongs to another record, for
// what must not be done in vain: a provider call, an audit line.
func (s *server) checkNames(ctx context.Context, writes []store.Write) error {
	for _, w := range writes {
		for _, name := range w.Unique {
			holder, err := s.Store.ByUnique(ctx, name)
			switch {
			case errors.Is(err, store.ErrNotFound):
			case err != nil:
				return err
			case store.KindOf(holder) != store.KindOf(w.Record) || holder.Meta().ID != w.Record.Meta().ID:
				return takenFailure(&store.TakenError{Name: name})
			}
		}
	}
	return nil
}

// replay finds the record that an earlier request with the same Idempotency-Key made.
func replay[T store.Record](ctx context.Context, s *server, c *store.Creation) (earlier T, found bool, err error) {
	if c == nil {
		return earlier, false, nil
	}
	r, err := s.Store.ByUnique(ctx, store.CreationName(c.Key))
	if errors.Is(err, store.ErrNotFound) {
		return earlier, false, nil
	}
	if err != nil {
		return earlier, false, err
	}
	earlier, ok := r.(T)
	if !ok || r.Meta().Creation == nil || r.Meta().Creation.Digest != c.Digest {
		return earlier, false, conflict("IDEMPOTENCY_KEY_REUSED", "Idempotency-Key: it was used for a different request")
	}
	return earlier, true, nil
}

// newMeta is the Meta of a record that a request creates.
func newMeta(q *call, id, workspace string, c *store.Creation) store.Meta {
	if id == "" {
		id = uuid.NewString()
	}
	return store.Meta{ID: id, Workspace: workspace, CreatedBy: q.token.M.ID, Creation: c}
}

// remove marks a record as deleted and returns the write that does so.
func (s *server) remove(r store.Record) store.Write {
	now := s.Clock().UTC().Truncate(time.Microsecond)
	r.Meta().DeletedAt = &now
	switch r := r.(type) {
	case *store.Credential:
		r.Sealed, r.Wraps = nil, store.Wraps{}
	case *store.Key:
		r.Sealed, r.Wraps = nil, store.Wraps{}
	}
	return store.Put(r)
}

// checkName holds names to what can be shown and typed.
func checkName(name string) error {
	switch {
	case name == "":
		return badField("name", "is required")
	case len(name) > 128:
		return badField("name", "is longer than 128 bytes")
	case strings.TrimSpace(name) != name:
		return badField("name", "begins or ends with a space")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return badField("name", "has control characters")
	}
	return nil
}
