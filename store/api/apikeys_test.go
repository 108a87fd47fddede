package api_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
)

func (e *env) shared(pairs ...any) string {
	e.t.Helper()
	return e.ok("POST", "/apikeys", with(e.sharedBody(), pairs...)).str(e.t, "apiKeyId")
}

func (e *env) apiKeys(query string) []m {
	e.t.Helper()
	return e.ok("GET", "/apikeys"+query, nil).items(e.t, "apiKeys")
}

func TestSharedCredentials(t *testing.T) {
	e := newEnv(t)
	for _, tc := range []struct {
		name, secret string
		body         []any
		want         seal.Binding
		capability   float64
	}{
		{"AWS", s3Secret, []any{"region", "eu-west-3"}, seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.eu-west-3.amazonaws.com", Port: 443, Scope: "*"}, 1},
		{"S3-compatible", s3Secret, []any{"provider", "OTHER", "endpoint", "http://127.0.0.1:7070"}, seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "http", Host: "127.0.0.1", Port: 7070, Scope: "*"}, 1},
		{"OpenAI", aiSecret, []any{"provider", "OPENAI", "key", nil, "secret", aiSecret}, seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, 2},
		{"OpenAI, sent as key", aiSecret, []any{"provider", "OPENAI", "key", aiSecret, "secret", nil}, seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, 2},
		{"Anthropic", aiSecret, []any{"provider", "ANTHROPIC", "key", nil, "secret", aiSecret}, seal.Binding{Use: "anthropic", Scheme: "https", Host: "api.anthropic.com", Port: 443, Scope: "/v1"}, 2},
		{"OpenAI-compatible", aiSecret, []any{"provider", "OTHER", "key", nil, "secret", aiSecret, "endpoint", "https://llm.example.com/api"},
			seal.Binding{Use: "openai", Scheme: "https", Host: "llm.example.com", Port: 443, Scope: "/api"}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := e.shared(append(tc.body, "description", tc.name, "tenantId", "t", "subscriptionId", "s")...)
			cred := record[*store.Credential](e, id)
			want := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 1, Binding: tc.want}
			if diff := cmp.Diff(want, cred.Sealed.Header); diff != "" || e.open(cred.Sealed) != tc.secret {
				t.Errorf("sealed: %s", diff)
			}
			item := find(t, e.apiKeys(""), id)
			if item["capability"] != tc.capability || item["description"] != tc.name || item["tenantId"] != "t" || item["subscriptionId"] != "s" ||
				(item["key"] != nil) != (tc.capability == 1) {
				t.Errorf("shown as %v", item)
			}
		})
	}
	for query, want := range map[string]int{"": 6, "?capability=255": 6, "?capability=3": 6, "?capability=1": 2, "?capability=2": 4, "?provider=OTHER": 2, "?provider=OTHER&capability=2": 1,
		"?provider=GCP": 0, "?workspaceId=" + e.ws + "&capability=undefined&provider=null": 6, "?workspaceId=" + e.workspace("empty"): 0} {
		if got := e.apiKeys(query); len(got) != want {
			t.Errorf("%s: %d credentials, want %d", query, len(got), want)
		}
	}
	for _, bad := range []string{"0", "256", "-1", "storage"} {
		refused(t, bad, e.do("GET", "/apikeys?capability="+bad, nil), 400, "INVALID_FIELD", "capability: ")
	}

	// Sealed by the caller.
	id := newID()
	h := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 1, Binding: seal.Binding{
		Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.us-east-1.amazonaws.com", Port: 443, Scope: "*"}}
	body := with(e.sharedBody(), "secret", nil, "id", id, "sealedSecret", e.seal(h, s3Secret))
	narrow := h
	narrow.Binding.Scope = "photos-bucket"
	refused(t, "one bucket only", e.do("POST", "/apikeys", with(body, "sealedSecret", e.seal(narrow, s3Secret))), 400, "SEALED_MISMATCH", "scope")
	refused(t, "without id", e.do("POST", "/apikeys", with(body, "id", nil)), 400, "INVALID_FIELD", "id: ")
	e.ok("POST", "/apikeys", body)
	refused(t, "same id", e.do("POST", "/apikeys", body), 409, "ID_TAKEN", "id")
	refused(t, "same id for a connector", e.do("POST", "/bucket", with(e.bucketBody(), "secret", nil, "id", id, "sealedSecret", e.seal(e.s3Header(id), s3Secret))), 409, "ID_TAKEN", "id")
	for range 2 {
		if a := e.ok("POST", "/apikeys", e.sharedBody(), "Idempotency-Key", "k"); a.m["apiKeyId"] != e.ok("POST", "/apikeys", e.sharedBody(), "Idempotency-Key", "k").m["apiKeyId"] {
			t.Errorf("a repeated request made another: %s", a.raw)
		}
	}
}

// TestSharedUse: connectors take a shared credential, only within what it is sealed for.
func TestSharedUse(t *testing.T) {
	e := newEnv(t)
	aws := e.shared()
	compatible := e.shared("provider", "OTHER", "endpoint", "https://s3.example.com", "caCertificate", testCA(t), "region", "garage")
	openai := e.shared("provider", "OPENAI", "key", nil, "secret", aiSecret)
	bucket := func(pairs ...any) m {
		return with(with(e.bucketBody(), "key", nil, "secret", nil, "apiKeyUuid", aws), pairs...)
	}
	one := e.ok("POST", "/bucket", bucket()).str(t, "bucketId")
	two := e.ok("POST", "/bucket", bucket("name", "two", "bucket", "*", "apiKeyUuid", compatible)).str(t, "bucketId")
	llm := e.ok("POST", "/ai/llm", with(e.llmBody(), "secret", nil, "apiKeyUuid", openai)).str(t, "aiLlmId")
	if c := record[*store.Connector](e, two); c.CredentialID != compatible || c.Endpoint != "https://s3.example.com" || c.Region != "garage" || c.CACertificate != testCA(t) {
		t.Errorf("adopted: %+v", c)
	}
	if _, err := e.store.Get(t.Context(), store.KindCredential, one); err == nil {
		t.Error("a connector with a shared credential has one of its own")
	}
	items := e.ok("GET", "/bucket", nil).items(t, "buckets")
	if got := find(t, items, one); got["apiKeyId"] != aws || got["key"] != "AKIAIOSFODNN7EXAMPLE" || got["secretVersion"] != 0.0 {
		t.Errorf("shown as %v", got)
	}
	if got := e.ok("GET", "/ai/llm", nil).items(t, "aiLlms")[0]; got["apiKeyId"] != openai || got["key"] != nil {
		t.Errorf("shown as %v", got)
	}
	if got := find(t, e.apiKeys(""), aws); got["bucket_count"] != 1.0 || got["aillm_count"] != 0.0 {
		t.Errorf("counts: %v", got)
	}
	if got := find(t, e.apiKeys(""), openai); got["bucket_count"] != 0.0 || got["aillm_count"] != 1.0 {
		t.Errorf("counts: %v", got)
	}

	foreign := e.workspace("foreign")
	alien := e.shared("workspaceId", foreign)
	for name, tc := range map[string]struct {
		path  string
		body  m
		field string
	}{
		"other endpoint":        {"/bucket", bucket("endpoint", "https://evil.example.com"), "endpoint: "},
		"region moves the host": {"/bucket", bucket("endpoint", "https://s3.eu-west-1.amazonaws.com"), "endpoint: "},
		"other CA":              {"/bucket", bucket("caCertificate", testCA(t)), "endpoint: "},
		"other key":             {"/bucket", bucket("key", "AKOTHER"), "key: "},
		"with a secret":         {"/bucket", bucket("secret", s3Secret), "apiKeyUuid: "},
		"AI credential":         {"/bucket", bucket("apiKeyUuid", openai), "apiKeyUuid: "},
		"storage credential":    {"/ai/llm", with(e.llmBody(), "secret", nil, "apiKeyUuid", aws), "apiKeyUuid: "},
		"other dialect":         {"/ai/llm", with(e.llmBody(), "secret", nil, "aiType", "ANTHROPIC", "apiKeyUuid", openai), "apiKeyUuid: "},
		"other path":            {"/ai/llm", with(e.llmBody(), "secret", nil, "apiKeyUuid", openai, "endpoint", "https://api.openai.com/v2"), "endpoint: "},
	} {
		refused(t, name, e.do("POST", tc.path, with(tc.body, "name", "x")), 400, "INVALID_FIELD", tc.field)
	}
	for name, id := range map[string]string{"foreign": alien, "unknown": newID(), "a connector's own": e.bucket("name", "own")} {
		refused(t, name, e.do("POST", "/bucket", bucket("name", "x", "apiKeyUuid", id)), 404, "NOT_FOUND", "apiKeyUuid")
	}
	refused(t, "a connector's own credential changed as a shared one", e.do("PUT", "/apikeys/"+e.bucket("name", "own2"), m{"description": "x"}), 404, "NOT_FOUND", "")

	// In use it stays, and moves its connectors along.
	refused(t, "delete in use", e.do("DELETE", "/apikeys/"+compatible, nil), 403, "IN_USE", "1 connectors")
	refused(t, "moved without its secret", e.do("PUT", "/apikeys/"+compatible, m{"endpoint": "https://evil.example.com"}), 400, "INVALID_FIELD", "secret: ")
	refused(t, "another key without its secret", e.do("PUT", "/apikeys/"+compatible, m{"key": "AKOTHER"}), 400, "INVALID_FIELD", "secret: ")
	refused(t, "another provider", e.do("PUT", "/apikeys/"+compatible, m{"provider": "AWS"}), 400, "INVALID_FIELD", "provider: ")
	refused(t, "another workspace", e.do("PUT", "/apikeys/"+compatible, m{"workspaceId": foreign}), 400, "INVALID_FIELD", "workspaceId: ")
	e.ok("PUT", "/apikeys/"+compatible, m{"description": "spare"})
	if c := record[*store.Credential](e, compatible); c.Shared.Description != "spare" || c.Sealed.Header.Version != 1 {
		t.Errorf("after a new description: %+v", c)
	}
	e.ok("PUT", "/apikeys/"+compatible, m{"key": "AKNEW", "secret": "rotated", "endpoint": "https://s3.example.org", "region": "garage2"})
	cred, conn := record[*store.Credential](e, compatible), record[*store.Connector](e, two)
	if cred.Sealed.Header.Version != 2 || cred.Sealed.Header.Binding.Host != "s3.example.org" || cred.Sealed.Header.Binding.Key != "AKNEW" || e.open(cred.Sealed) != "rotated" {
		t.Errorf("rotated: %+v", cred.Sealed.Header)
	}
	if conn.Endpoint != "https://s3.example.org" || conn.Region != "garage2" {
		t.Errorf("its connector: %+v", conn)
	}
	version := conn.M.Version
	e.ok("PUT", "/apikeys/"+compatible, m{"secret": "again"})
	if conn = record[*store.Connector](e, two); conn.M.Version != version {
		t.Error("a connector was written though nothing of it changed")
	}

	// From its own credential to a shared one and back.
	own := e.bucket("name", "both ways")
	e.ok("PUT", "/bucket/"+own, m{"apiKeyUuid": compatible})
	if c, k := record[*store.Connector](e, own), record[*store.Credential](e, own); c.CredentialID != compatible || c.Endpoint != "https://s3.example.org" || k.Sealed != nil || k.M.DeletedAt == nil {
		t.Errorf("shared: %+v, its own %+v", c, k)
	}
	refused(t, "moved away from it", e.do("PUT", "/bucket/"+own, m{"endpoint": "https://evil.example.com"}), 400, "INVALID_FIELD", "endpoint: ")
	e.ok("PUT", "/bucket/"+own, m{"bucket": "any-other"}) // a shared credential is for all buckets
	e.ok("PUT", "/bucket/"+own, m{"apiKeyUuid": aws})
	if c := record[*store.Connector](e, own); c.CredentialID != aws || c.Endpoint != "https://s3.us-east-1.amazonaws.com" || c.CACertificate != "" {
		t.Errorf("another shared one: %+v", c)
	}
	refused(t, "its own without a key", e.do("PUT", "/bucket/"+own, m{"secret": "mine"}), 400, "INVALID_FIELD", "key: ")
	if got := find(t, e.ok("GET", "/bucket", nil).items(t, "buckets"), own); got["secretVersion"] != 1.0 {
		t.Errorf("secret version while shared: %v", got)
	}
	e.ok("PUT", "/bucket/"+own, m{"key": "AKMINE", "secret": "mine"})
	if c, k := record[*store.Connector](e, own), record[*store.Credential](e, own); c.CredentialID != own || k.M.DeletedAt != nil ||
		k.Sealed.Header.Version != 2 || e.open(k.Sealed) != "mine" || k.Sealed.Header.Binding.Scope != "any-other" {
		t.Errorf("its own again: %+v, %+v", c, k)
	}
	e.ok("PUT", "/bucket/"+one, m{"key": "AKMINE", "secret": "mine"}) // never had one
	if k := record[*store.Credential](e, one); k.Sealed.Header.Version != 1 {
		t.Errorf("its first own: %+v", k)
	}

	// Deleting a connector leaves the shared credential; then that can go, and its ciphertext with it.
	e.ok("DELETE", "/ai/llm/"+llm, nil)
	if c := record[*store.Credential](e, openai); c.Sealed == nil {
		t.Error("a shared credential went with a connector")
	}
	e.ok("DELETE", "/apikeys/"+openai, nil)
	if c := record[*store.Credential](e, openai); c.Sealed != nil || c.M.DeletedAt == nil {
		t.Errorf("deleted: %+v", c)
	}
	refused(t, "delete twice", e.do("DELETE", "/apikeys/"+openai, nil), 404, "NOT_FOUND", "")
	refused(t, "other version", e.do("PUT", "/apikeys/"+aws, m{}, "If-Match", `"7"`), 412, "VERSION_MISMATCH", "")
	for _, s := range []string{s3Secret, aiSecret, "ciphertext", "sealedSecret", "authTag"} {
		if bytes.Contains(e.ok("GET", "/apikeys", nil).raw, []byte(s)) {
			t.Errorf("the list shows %q", s)
		}
	}
}

// TestTriedWithShared: the probe names the credential, whose binding the bridge obeys.
func TestTriedWithShared(t *testing.T) {
	e, f := withFleet(t)
	aws := e.shared()
	if got := f.last(); len(got) != 0 {
		t.Errorf("a credential alone was tried: %+v", got)
	}
	id := e.ok("POST", "/bucket", with(e.bucketBody(), "key", nil, "secret", nil, "apiKeyUuid", aws)).str(t, "bucketId")
	e.ok("PUT", "/bucket/"+id, m{"bucket": "two-bucket"})
	e.ok("PUT", "/bucket/"+id, m{"name": "x", "apiKeyUuid": aws})
	want := api.Probe{Credential: aws, Workspace: e.ws, Type: "S3", Bucket: "photos-bucket", Region: "us-east-1"}
	second := want
	second.Bucket = "two-bucket"
	if diff := cmp.Diff([]api.Probe{want, second}, f.last()); diff != "" {
		t.Errorf("tried:\n%s", diff)
	}
}

func TestRacesOverShared(t *testing.T) {
	e := newEnv(t)
	for range 10 {
		id := e.shared()
		made, deleted := make(chan answer, 1), make(chan answer, 1)
		go func() {
			made <- e.do("POST", "/bucket", with(e.bucketBody(), "name", id, "key", nil, "secret", nil, "apiKeyUuid", id))
		}()
		go func() { deleted <- e.do("DELETE", "/apikeys/"+id, nil) }()
		m, d := <-made, <-deleted
		if (m.status == 200) == (d.status == 200) {
			t.Errorf("connector: %s, deletion of its credential: %s", m.raw, d.raw)
		}
		if !strings.Contains(string(m.raw)+string(d.raw), "error_code") {
			t.Error("neither was refused")
		}
	}
}
