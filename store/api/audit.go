package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"keybridge/store"
	"keybridge/store/audit"
)

// Auditor remembers who changed what; *audit.Log is one. A line is written before
// its change is made, so it may say more than what happened, never less.
type Auditor interface {
	Append(ctx context.Context, e audit.Event) error
	Query(ctx context.Context, f audit.Filter) (events []audit.Event, total int, err error)
}

var errAudit = &failure{http.StatusServiceUnavailable, "AUDIT_UNAVAILABLE", "the audit log cannot be written or read; nothing was changed"}

// affected is a record that a change touches.
type affected struct {
	Context string `json:"context"`
	ID      string `json:"id"`
	Event   string `json:"event"`
}

func affectedBy(w store.Write) affected {
	m := w.Record.Meta()
	a := affected{string(store.KindOf(w.Record)), m.ID, "updated"}
	switch {
	case m.DeletedAt != nil:
		a.Event = "deleted"
	case w.Expect == 0:
		a.Event = "created"
	}
	return a
}

// maxNamed is how many of a list's entries a line names; it says how many there are.
const maxNamed = 100

// event is the line for a batch: its first record, and what else it touches.
func (q *call) event(writes []store.Write) audit.Event {
	main := affectedBy(writes[0])
	if q.did != "" {
		main.Event = q.did
	}
	data := auditData(writes[0].Record)
	if also := writes[1:]; len(also) > 0 {
		named := make([]affected, 0, min(len(also), maxNamed))
		for _, w := range also[:min(len(also), maxNamed)] {
			named = append(named, affectedBy(w))
		}
		data["also"], data["alsoTotal"] = named, len(also)
	}
	text, err := json.Marshal(data)
	if err != nil { // strings, numbers and lists of them
		text = nil
	}
	m := writes[0].Record.Meta()
	workspace := m.Workspace
	if _, ok := writes[0].Record.(*store.Workspace); ok {
		workspace = m.ID
	}
	return audit.Event{ID: uuid.NewString(), Context: main.Context, Event: main.Event, ContextID: main.ID,
		UserID: q.token.M.ID, WorkspaceID: workspace, Data: text}
}

// auditData is what a line says of a record: never anything secret or sealed.
func auditData(r store.Record) map[string]any {
	switch r := r.(type) {
	case *store.Workspace:
		return map[string]any{"name": r.Name}
	case *store.Connector:
		return map[string]any{"name": r.Name, "type": r.Type, "bucket": r.Bucket, "endpoint": r.Endpoint, "region": r.Region,
			"credential": r.CredentialID, "allowBucketConfiguration": r.AllowBucketConfiguration}
	case *store.Credential:
		data := map[string]any{"key": r.Key}
		if r.Shared != nil {
			data["provider"], data["endpoint"] = r.Shared.Provider, r.Shared.Endpoint
		}
		if r.Sealed != nil {
			data["secretVersion"] = r.Sealed.Header.Version
		}
		return data
	case *store.Repository:
		data := map[string]any{"name": r.Name, "disabled": r.Disabled, "aiTotal": len(r.AI), "ai": r.AI[:min(len(r.AI), maxNamed)]}
		storage, folders := []string{}, map[string]string{}
		for _, st := range r.Storage[:min(len(r.Storage), maxNamed)] {
			storage = append(storage, st.ConnectorID)
			if st.Folder != "" {
				folders[st.ConnectorID] = st.Folder
			}
		}
		data["storage"], data["storageTotal"], data["folders"] = storage, len(r.Storage), folders
		return data
	case *store.Key:
		return map[string]any{"name": r.Name, "repository": r.Repository, "type": r.Type, "key": r.Key, "access": r.Access,
			"disabled": r.Disabled, "expiresAt": r.ExpiresAt}
	case *store.Token:
		return map[string]any{"name": r.Name, "roles": r.Roles, "expiresAt": r.ExpiresAt}
	}
	return map[string]any{}
}

// audited writes the line of a batch and then makes the change; a change that
// fails after its line gets a second one: before the next change, if it cannot be
// written now. The caller holds writing.
func (s *server) audited(q *call, writes []store.Write, apply func(context.Context) error) error {
	if s.Audit == nil {
		return apply(q.Context())
	}
	line := q.event(writes)
	err := s.payOwed(q.Context())
	if err == nil {
		err = s.Audit.Append(q.Context(), line)
	}
	if err != nil {
		if q.Context().Err() != nil {
			return q.Context().Err()
		}
		s.Logger.ErrorContext(q.Context(), "audit line not written, change refused", "error", err)
		return errAudit
	}
	if err = apply(q.Context()); err == nil {
		return nil
	}
	reason := "the store failed"
	if errors.Is(err, store.ErrConflict) {
		reason = "something else was changed at the same time"
	}
	undone := line
	undone.ID, undone.Event = uuid.NewString(), "failed"
	undone.Data, _ = json.Marshal(map[string]string{"event": line.Event, "line": line.ID, "reason": reason}) // strings
	s.owed = append(s.owed, undone)                                                                          // one at most: no change is made while one is owed
	if aerr := s.payOwed(context.WithoutCancel(q.Context())); aerr != nil {
		s.Logger.ErrorContext(q.Context(), "audit line of a failed change not written yet", "line", line.ID, "error", aerr)
	}
	return err
}

// payOwed writes the line of a failed change for which there was no room in its time.
func (s *server) payOwed(ctx context.Context) error {
	for len(s.owed) > 0 {
		if err := s.Audit.Append(ctx, s.owed[0]); err != nil {
			return err
		}
		s.owed = s.owed[1:]
	}
	return nil
}

// eventItem is a line as the API shows it.
type eventItem struct {
	ID          string          `json:"id"`
	Timestamp   time.Time       `json:"timestamp"`
	ContextID   string          `json:"contextId"`
	Context     string          `json:"context"`
	Event       string          `json:"event"`
	UserID      string          `json:"userId"`
	WorkspaceID string          `json:"workspaceId"`
	JSONData    json.RawMessage `json:"jsonData"`
}

// queryEvents answers lines of the workspaces that the token has a role in; those
// of no workspace take a role in all.
func (s *server) queryEvents(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := audit.Filter{Context: b.text("context"), Event: b.text("event"), ContextID: b.text("contextId"), UserID: b.text("userId"),
		WorkspaceID: b.id("workspaceId"), Skip: b.integer("skip", 0, 0, 1<<31-1), Take: b.integer("take", audit.MaxTake, 0, audit.MaxTake)}
	if t := b.time("from_timestamp"); t != nil {
		f.From = *t
	}
	if t := b.time("to_timestamp"); t != nil {
		f.To = *t
	}
	if *b.err != nil {
		return nil, *b.err
	}
	if f.WorkspaceID != "" {
		if err := q.require(f.WorkspaceID, store.AccessRead); err != nil {
			return nil, err
		}
	} else if !q.everywhere() {
		f.Workspaces = append([]string{}, q.workspaces()...)
	}
	if s.Audit == nil {
		return nil, &failure{http.StatusServiceUnavailable, "AUDIT_UNAVAILABLE", "this control plane keeps no audit log"}
	}
	take := f.Take
	if take == 0 { // only how many there are; to the log 0 is the default
		f.Take = 1
	}
	events, total, err := s.Audit.Query(q.Context(), f)
	if err != nil {
		if q.Context().Err() != nil {
			return nil, q.Context().Err()
		}
		if errors.Is(err, audit.ErrFilter) {
			return nil, badField("from_timestamp", "is not a filter that can be answered")
		}
		s.Logger.ErrorContext(q.Context(), "audit log not read", "error", err)
		return nil, errAudit
	}
	items := []eventItem{}
	for _, e := range events[:min(len(events), take)] {
		items = append(items, eventItem{e.ID, e.Time, e.ContextID, e.Context, e.Event, e.UserID, e.WorkspaceID, e.Data})
	}
	return struct {
		Success bool        `json:"success"`
		Events  []eventItem `json:"events"`
		Total   int         `json:"total"`
		Skip    int         `json:"skip"`
		Take    int         `json:"take"`
	}{true, items, total, f.Skip, take}, nil
}
