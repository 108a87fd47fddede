package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/audit"
)

// repointed watches for connectors whose record names another endpoint than their
// credential is sealed for. The admin API makes none: somebody wrote to the store. It
// changes nothing, since bridges go by what is sealed, but it is written down.
type repointed struct {
	audit *audit.Log
	// By id; a shared credential has several connectors.
	connectors map[string]*store.Connector
	sealedFor  map[string]seal.Endpoint // by credential; without a path
	told       map[string]string        // by connector: the endpoint that was written down
}

// watchRepointed looks at everything that is stored, then at each change.
func watchRepointed(ctx context.Context, records store.Store, log *audit.Log) error {
	w := &repointed{log, map[string]*store.Connector{}, map[string]seal.Endpoint{}, map[string]string{}}
	for events, err := range records.Watch(ctx, 0) {
		if err != nil {
			return err
		}
		for _, e := range events {
			w.take(e.Record)
		}
		// After the whole revision: a connector and its secret change together.
		for _, e := range events {
			switch r := e.Record.(type) {
			case *store.Connector:
				w.check(ctx, r)
			case *store.Credential:
				for _, c := range w.connectors {
					if c.CredentialID == r.M.ID {
						w.check(ctx, c)
					}
				}
			}
		}
	}
	return ctx.Err()
}

func (w *repointed) take(r store.Record) {
	id, gone := r.Meta().ID, r.Meta().DeletedAt != nil
	switch r := r.(type) {
	case *store.Connector:
		if w.connectors[id] = r; gone {
			delete(w.connectors, id)
			delete(w.told, id)
		}
	case *store.Credential:
		if gone || r.Sealed == nil {
			delete(w.sealedFor, id)
			return
		}
		b := r.Sealed.Header.Binding
		w.sealedFor[id] = seal.Endpoint{Scheme: b.Scheme, Host: b.Host, Port: b.Port}
	}
}

func (w *repointed) check(ctx context.Context, c *store.Connector) {
	want, known := w.sealedFor[c.CredentialID]
	if !known || w.connectors[c.M.ID] == nil {
		return
	}
	named, err := seal.ParseEndpoint(c.Endpoint)
	named.Path = ""
	if err == nil && named == want {
		delete(w.told, c.M.ID)
		return
	}
	if w.told[c.M.ID] == c.Endpoint {
		return
	}
	w.told[c.M.ID] = c.Endpoint
	says := "something that is no endpoint"
	if err == nil {
		says = named.String()
	}
	slog.Error("a connector's record was pointed elsewhere; its secret goes where it is sealed for", "connector", c.M.ID, "record", says, "sealed", want.String())
	data, _ := json.Marshal(map[string]string{"record": says, "sealed": want.String()}) // two strings
	if err := w.audit.Append(ctx, audit.Event{
		Context: "connector", Event: "repointed", ContextID: c.M.ID, WorkspaceID: c.M.Workspace, Data: data,
	}); err != nil && ctx.Err() == nil {
		slog.Error("audit", "error", fmt.Errorf("connector %s repointed: %w", c.M.ID, err))
	}
}
