package main

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/audit"
	"keybridge/store/bolt"
)

// TestRepointed: a connector record that somebody points at another host is written
// down once, and one that agrees with its secret is not.
func TestRepointed(t *testing.T) {
	dir := t.TempDir()
	records, err := bolt.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = records.Close() })
	log, err := audit.Open(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- watchRepointed(ctx, records, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})

	workspace := uuid.NewString()
	add := func(endpoint string) *store.Connector {
		t.Helper()
		id := uuid.NewString()
		c := &store.Connector{M: store.Meta{ID: id, Workspace: workspace}, Name: id, Type: store.TypeS3, Endpoint: endpoint, CredentialID: id}
		cred := &store.Credential{M: store.Meta{ID: id, Workspace: workspace}, Sealed: &seal.Sealed{Header: seal.Header{
			Binding: seal.Binding{Scheme: "https", Host: "s3.example.com", Port: 443},
		}}}
		if _, err := records.Apply(ctx, store.Put(c), store.Put(cred)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := add("https://s3.example.com")
	add("https://S3.example.com:443/")
	good.Endpoint = "https://evil.example.com"
	for range 2 { // the second write says nothing new
		if _, err := records.Apply(ctx, store.Put(good)); err != nil {
			t.Fatal(err)
		}
	}
	broken := add("not an endpoint")

	var lines []audit.Event
	for want := 2; len(lines) < want; { // the watcher is at work
		if ctx.Err() != nil {
			t.Fatal("it was not written down")
		}
		var total int
		if lines, total, err = log.Query(ctx, audit.Filter{Event: "repointed"}); err != nil || total > want {
			t.Fatal(total, err)
		}
	}
	seen := map[string]string{}
	for _, e := range lines {
		seen[e.ContextID] = string(e.Data)
	}
	if got := seen[good.M.ID]; got != `{"record":"https://evil.example.com","sealed":"https://s3.example.com"}` {
		t.Error(got)
	}
	if seen[broken.M.ID] == "" {
		t.Error("a record without a usable endpoint was not written down")
	}
}
