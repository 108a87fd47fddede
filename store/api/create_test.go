package api_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

func TestSealedCreate(t *testing.T) {
	e := newEnv(t)
	sealed := func(id string, h seal.Header) m {
		return with(e.bucketBody(), "secret", nil, "id", id, "sealedSecret", e.seal(h, s3Secret))
	}
	id := newID()
	if got := e.ok("POST", "/bucket", sealed(id, e.s3Header(id))).str(t, "bucketId"); got != id {
		t.Errorf("made %s, asked for %s", got, id)
	}
	if c := record[*store.Credential](e, id); e.open(c.Sealed) != s3Secret || c.Sealed.Header != e.s3Header(id) {
		t.Errorf("stored %+v", c)
	}
	// An id, once used, is nobody's again: not by the same request, not in another workspace, not after deletion, not for an LLM.
	again := sealed(id, e.s3Header(id))
	refused(t, "same id", e.do("POST", "/bucket", with(again, "name", "again")), 409, "ID_TAKEN", "id")
	foreign := e.workspace("foreign")
	h := e.s3Header(id)
	h.Workspace = foreign
	attacker := e.token(map[string]store.Access{foreign: store.AccessAdmin})
	refused(t, "id of another workspace", e.as(attacker, "POST", "/bucket", with(sealed(id, h), "workspaceId", foreign)), 409, "ID_TAKEN", "id")
	hl := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 1,
		Binding: seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}}
	refused(t, "id for an LLM", e.do("POST", "/ai/llm", with(e.llmBody(), "secret", nil, "id", id, "sealedSecret", e.seal(hl, aiSecret))), 409, "ID_TAKEN", "id")
	e.ok("DELETE", "/bucket/"+id, nil)
	refused(t, "id of a deleted record", e.do("POST", "/bucket", again), 409, "ID_TAKEN", "id")

	// Every header field is compared.
	for name, change := range map[string]func(*seal.Header){
		"header.workspace":       func(h *seal.Header) { h.Workspace = foreign },
		"header.record":          func(h *seal.Header) { h.Record = newID() },
		"header.version":         func(h *seal.Header) { h.Version = 2 },
		"header.binding.key":     func(h *seal.Header) { h.Binding.Key = "AKIAOTHER" },
		"header.binding.scheme":  func(h *seal.Header) { h.Binding.Scheme = "http" },
		"header.binding.host":    func(h *seal.Header) { h.Binding.Host = "evil.example.com" },
		"header.binding.port":    func(h *seal.Header) { h.Binding.Port = 8443 },
		"header.binding.ca":      func(h *seal.Header) { h.Binding.CA = seal.CADigest([]byte("other")) },
		"header.binding.scope":   func(h *seal.Header) { h.Binding.Scope = "other-bucket" },
		"header.binding.scope *": func(h *seal.Header) { h.Binding.Scope = "*" },
		"header.binding.use":     func(h *seal.Header) { h.Binding.Use, h.Binding.Key, h.Binding.Scope = "openai", "", "/v1" },
		"header.type": func(h *seal.Header) {
			h.Type, h.Binding = seal.TypeRepositoryKey, seal.Binding{Use: "s3-key", Key: "AKIA", Repository: newID()}
		},
	} {
		id := newID()
		h := e.s3Header(id)
		change(&h)
		field, _, _ := strings.Cut(name, " ")
		refused(t, name, e.do("POST", "/bucket", sealed(id, h)), 400, "SEALED_MISMATCH", field)
	}

	// A header that was changed after sealing is refused here as far as it can be seen, and cannot be opened otherwise.
	id = newID()
	good := e.seal(e.s3Header(id), s3Secret)
	for name, tc := range map[string]struct {
		change func(o m)
		code   string
	}{
		"format": {func(o m) { o["header"].(m)["format"] = 2 }, "INVALID_FIELD"},
		"suite":  {func(o m) { o["key"].(m)["suite"] = 2 }, "INVALID_FIELD"},
		"suite of a second wrap": {func(o m) {
			o["key"] = m{"suite": 3, "keyId": "record-key-1", "value": strings.Repeat("A", 80)}
		}, "INVALID_FIELD"},
		"key id":         {func(o m) { o["key"].(m)["keyId"] = "x" }, "INVALID_FIELD"},
		"short wrap":     {func(o m) { o["key"].(m)["value"] = "AAAA" }, "INVALID_FIELD"},
		"no iv":          {func(o m) { delete(o, "iv") }, "INVALID_FIELD"},
		"empty message":  {func(o m) { o["message"] = "" }, "INVALID_FIELD"},
		"repository too": {func(o m) { o["header"].(m)["binding"].(m)["repository"] = newID() }, "INVALID_FIELD"},
		"not base64":     {func(o m) { o["authTag"] = "!" }, "INVALID_FIELD"},
	} {
		j, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		var o m
		if err := json.Unmarshal(j, &o); err != nil {
			t.Fatal(err)
		}
		tc.change(o)
		refused(t, name, e.do("POST", "/bucket", with(e.bucketBody(), "secret", nil, "id", id, "sealedSecret", o)), 400, tc.code, "sealedSecret: ")
	}

	refused(t, "without id", e.do("POST", "/bucket", with(sealed(id, e.s3Header(id)), "id", nil)), 400, "INVALID_FIELD", "id: ")
	refused(t, "both secrets", e.do("POST", "/bucket", with(sealed(id, e.s3Header(id)), "secret", "x")), 400, "INVALID_FIELD", "secret: ")
	refused(t, "clear key beside a sealed LLM secret", e.do("POST", "/ai/llm",
		with(e.llmBody(), "secret", nil, "key", "sk-clear", "id", id, "sealedSecret", good)), 400, "INVALID_FIELD", "key: ")

	other, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := seal.NewPublicKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := seal.Seal(pub, e.s3Header(id), []byte(s3Secret))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, "another sealing key", e.do("POST", "/bucket", with(e.bucketBody(), "secret", nil, "id", id, "sealedSecret", wrong)), 409, "SEALING_KEY_CHANGED", "")
	e.ok("POST", "/bucket", sealed(id, e.s3Header(id))) // none of these left a trace

	// A sealed update names the next version and the binding after the update.
	h = e.s3Header(id)
	h.Version, h.Binding.Host = 2, "s3.example.com"
	update := m{"endpoint": "https://s3.example.com", "sealedSecret": e.seal(h, "new")}
	refused(t, "sealed for where it was not moved", e.do("PUT", "/bucket/"+id, with(update, "endpoint", nil)), 400, "SEALED_MISMATCH", "binding.host")
	refused(t, "id of another record", e.do("PUT", "/bucket/"+id, with(update, "id", newID())), 400, "INVALID_FIELD", "id: ")
	e.ok("PUT", "/bucket/"+id, update)
	refused(t, "old version replayed", e.do("PUT", "/bucket/"+id, update), 400, "SEALED_MISMATCH", "header.version (the next is 3)")
	if c := record[*store.Credential](e, id); e.open(c.Sealed) != "new" || c.Sealed.Header != h {
		t.Errorf("updated: %+v", c.Sealed.Header)
	}
}

func TestIdempotency(t *testing.T) {
	e := newEnv(t)
	post := func(token, path string, body any, key string) answer {
		t.Helper()
		return e.as(token, "POST", path, body, "Idempotency-Key", key)
	}
	repo := e.repo("first", nil, nil)
	for _, tc := range []struct {
		path, field string
		body        m
		change      []any
	}{
		{"/bucket", "bucketId", e.bucketBody(), []any{"name", "other"}},
		{"/ai/llm", "aiLlmId", e.llmBody(), []any{"endpoint", "https://other.example.com"}},
		{"/repo", "repoId", repoBody(e.ws, "r", nil, nil), []any{"repoBuckets", []m{{"bucketId": newID()}}}},
	} {
		first := post(e.admin, tc.path, tc.body, "k1")
		if first.status != 200 {
			t.Fatalf("%s: %d %s", tc.path, first.status, first.raw)
		}
		second := post(e.admin, tc.path, with(tc.body, "unknown", newID()), "k1")
		if second.status != 200 || second.m[tc.field] != first.m[tc.field] {
			t.Errorf("%s again: %d %s, first %s", tc.path, second.status, second.raw, first.raw)
		}
		refused(t, tc.path+": another request", post(e.admin, tc.path, with(tc.body, tc.change...), "k1"), 409, "IDEMPOTENCY_KEY_REUSED", "Idempotency-Key")
		refused(t, tc.path+": another key", post(e.admin, tc.path, tc.body, "k2"), 409, "NAME_ALREADY_USED", "name")
		// Another token's keys are its own, and a replay needs the role that the request needs.
		refused(t, tc.path+": another token", post(e.token(map[string]store.Access{"*": store.AccessWrite}), tc.path, tc.body, "k1"), 409, "NAME_ALREADY_USED", "name")
	}
	w := post(e.admin, "/workspace", m{"name": "w"}, "k1")
	if again := post(e.admin, "/workspace", m{"name": "w"}, "k1"); w.status != 200 || string(again.raw) != string(w.raw) {
		t.Errorf("workspace: %s, again %s", w.raw, again.raw)
	}

	for path, body := range map[string]m{"/apikey": {"name": "k", "accessType": "READ"}, "/ai/apikey": {"name": "k", "aiType": "OPENAI"}} {
		first := post(e.admin, "/repo/"+repo+path, body, "k1")
		second := post(e.admin, "/repo/"+repo+path, body, "k1")
		refused(t, path+" again", second, 409, "SECRET_SHOWN_ONCE", first.str(t, "id"))
		if bytes.Contains(second.raw, []byte(first.str(t, "secret"))) {
			t.Errorf("%s: the secret was shown again", path)
		}
		refused(t, path+": another request", post(e.admin, "/repo/"+repo+path, with(body, "name", "other"), "k1"), 409, "IDEMPOTENCY_KEY_REUSED", "")
		e.ok("DELETE", "/repo/"+repo+path+"/"+first.str(t, "id"), nil)
		if a := post(e.admin, "/repo/"+repo+path, body, "k1"); a.status != 200 || a.m["id"] == first.m["id"] {
			t.Errorf("%s after deletion: %d %s", path, a.status, a.raw)
		}
	}
	refused(t, "empty key", post(e.admin, "/workspace", m{"name": "x"}, ""), 400, "INVALID_FIELD", "Idempotency-Key: ")
	refused(t, "long key", post(e.admin, "/workspace", m{"name": "x"}, strings.Repeat("k", 256)), 400, "INVALID_FIELD", "Idempotency-Key: ")

	// A sealed create repeated as it was, and after an update.
	id := newID()
	sealed := with(e.bucketBody(), "name", "sealed", "secret", nil, "id", id, "sealedSecret", e.seal(e.s3Header(id), s3Secret))
	for range 2 {
		if a := post(e.admin, "/bucket", sealed, "k3"); a.status != 200 || a.m["bucketId"] != id {
			t.Errorf("sealed create: %d %s", a.status, a.raw)
		}
		e.ok("PUT", "/bucket/"+id, m{"name": "renamed"})
	}

	// Many at once make one.
	var wg sync.WaitGroup
	ids := make([]any, 8)
	for i := range ids {
		wg.Go(func() { ids[i] = post(e.admin, "/repo", repoBody(e.ws, "many", nil, nil), "many").m["repoId"] })
	}
	wg.Wait()
	for _, id := range ids {
		if id == nil || id != ids[0] {
			t.Errorf("concurrent repetitions made %v", ids)
			break
		}
	}
}
