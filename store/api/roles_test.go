package api_test

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"keybridge/store"
	"keybridge/store/api"
)

// request is one of each operation, and the role in the workspace that it takes.
type request struct {
	method, path string
	body         any
	need         store.Access // "": any token
	everywhere   bool         // the role must be in all workspaces
}

// world is one of everything in e.ws.
type world struct {
	*env
	bucket, llm, repo, key, ai, shared, token string
	n                                         int
}

func newWorld(e *env) *world {
	w := &world{env: e, bucket: e.bucket(), llm: e.llm()}
	w.repo = e.repo("app", nil, nil)
	w.key = e.ok("POST", "/repo/"+w.repo+"/apikey", m{"name": "k", "accessType": "READ"}).str(e.t, "id")
	w.ai = e.ok("POST", "/repo/"+w.repo+"/ai/apikey", m{"name": "k", "aiType": "OPENAI"}).str(e.t, "id")
	w.shared = e.ok("POST", "/apikeys", w.sharedBody()).str(e.t, "apiKeyId")
	w.token = e.ok("POST", "/token", m{"name": "t", "roles": m{e.ws: "READ"}}).str(e.t, "id")
	return w
}

func (e *env) sharedBody() m {
	return m{"workspaceId": e.ws, "provider": "AWS", "key": "AKIAIOSFODNN7EXAMPLE", "secret": s3Secret}
}

func (w *world) fresh() string { w.n++; return fmt.Sprintf("n%d", w.n) }

// requests are all that leave something for the next round.
func (w *world) requests() []request {
	const read, write, admin = store.AccessRead, store.AccessWrite, store.AccessAdmin
	apikey, aikey := "/repo/"+w.repo+"/apikey", "/repo/"+w.repo+"/ai/apikey"
	// What a rotation replaces is made by whoever may do everything.
	oldKey := w.ok("POST", apikey, m{"name": "old", "accessType": "READ"}).str(w.t, "id")
	oldAI := w.ok("POST", aikey, m{"name": "old", "aiType": "OPENAI"}).str(w.t, "id")
	return []request{
		{"GET", "/sealing-key", nil, "", false},
		{"GET", "/node", nil, "", false},
		{"GET", "/sync", nil, read, true},
		{"POST", "/systemevent", m{"workspaceId": w.ws}, read, false},
		{"GET", "/token", nil, "", false},
		{"POST", "/token", m{"name": "t", "roles": m{w.ws: "READ"}}, admin, false},
		{"GET", "/workspace", nil, "", false},
		{"POST", "/workspace", m{"name": w.fresh()}, admin, true},
		{"GET", "/workspace/" + w.ws, nil, read, false},
		{"PUT", "/workspace/" + w.ws, m{"name": "home"}, admin, false},
		{"POST", "/apikeys", w.sharedBody(), write, false},
		{"GET", "/apikeys?workspaceId=" + w.ws, nil, read, false},
		{"PUT", "/apikeys/" + w.shared, m{}, write, false},
		{"POST", "/bucket", with(w.bucketBody(), "name", w.fresh()), write, false},
		{"GET", "/bucket?workspaceId=" + w.ws, nil, read, false},
		{"GET", "/bucket/available?workspaceId=" + w.ws, nil, read, false},
		{"PUT", "/bucket/" + w.bucket, m{}, write, false},
		{"POST", "/bucket/" + w.bucket + "/validate", m{}, write, false},
		{"GET", "/bucket/" + w.bucket + "/status", nil, read, false},
		{"POST", "/ai/llm", with(w.llmBody(), "name", w.fresh()), write, false},
		{"GET", "/ai/llm?workspaceId=" + w.ws, nil, read, false},
		{"GET", "/ai/llm/available?workspaceId=" + w.ws, nil, read, false},
		{"PUT", "/ai/llm/" + w.llm, m{}, write, false},
		{"POST", "/ai/llm/" + w.llm + "/validate", m{}, write, false},
		{"GET", "/ai/llm/" + w.llm + "/status", nil, read, false},
		{"POST", "/ai/models", m{"repoId": w.repo}, read, false},
		{"POST", "/repo", repoBody(w.ws, w.fresh(), nil, nil), write, false},
		{"GET", "/repo?workspaceId=" + w.ws, nil, read, false},
		{"PUT", "/repo/" + w.repo, m{}, write, false},
		{"POST", "/repo/validate", repoBody(w.ws, w.fresh(), nil, nil), write, false},
		{"POST", "/repo/" + w.repo + "/validate", m{}, write, false},
		{"POST", apikey, m{"name": "k", "accessType": "READ"}, write, false},
		{"GET", apikey, nil, read, false},
		{"PUT", apikey + "/" + w.key, m{"accessType": "READ"}, write, false},
		{"POST", apikey + "/" + oldKey + "/rotate", m{}, write, false},
		{"POST", aikey, m{"name": "k", "aiType": "OPENAI"}, write, false},
		{"GET", aikey, nil, read, false},
		{"PUT", aikey + "/" + w.ai, m{}, write, false},
		{"POST", aikey + "/" + oldAI + "/rotate", m{}, write, false},
	}
}

// deletions come last, from the leaves up; only those that are refused leave something to try next.
func (w *world) deletions() []request {
	return []request{
		{"DELETE", "/repo/" + w.repo + "/apikey/" + w.key, nil, store.AccessWrite, false},
		{"DELETE", "/repo/" + w.repo + "/ai/apikey/" + w.ai, nil, store.AccessWrite, false},
		{"DELETE", "/repo/" + w.repo, nil, store.AccessWrite, false},
		{"DELETE", "/bucket/" + w.bucket, nil, store.AccessWrite, false},
		{"DELETE", "/ai/llm/" + w.llm, nil, store.AccessWrite, false},
		{"DELETE", "/apikeys/" + w.shared, nil, store.AccessWrite, false},
		{"DELETE", "/token/" + w.token, nil, store.AccessAdmin, false},
		{"DELETE", "/workspace/" + w.ws, nil, store.AccessAdmin, false},
	}
}

// TestRoles tries every route with tokens of every role, of this workspace, of
// another and of all.
func TestRoles(t *testing.T) {
	e := newEnv(t, func(c *api.Config) { c.Fleet, c.Audit = newFleet(t), newAuditor() })
	foreign := e.workspace("foreign")
	w := newWorld(e)
	w.checkComplete(t)
	rank := map[store.Access]int{"": 0, store.AccessRead: 1, store.AccessWrite: 2, store.AccessAdmin: 3}
	try := func(who, token string, role store.Access, everywhere bool, requests []request) {
		t.Helper()
		for _, rq := range requests {
			what := fmt.Sprintf("%s: %s %s", who, rq.method, rq.path)
			allowed := rank[role] >= rank[rq.need] && (everywhere || !rq.everywhere)
			if rq.method == "DELETE" && allowed {
				continue // below
			}
			a := e.as(token, rq.method, rq.path, rq.body)
			if allowed && a.status != 200 {
				t.Errorf("%s: %d %s", what, a.status, a.raw)
			} else if !allowed {
				refused(t, what, a, 403, "FORBIDDEN", "")
			}
		}
	}
	for _, role := range []store.Access{store.AccessRead, store.AccessWrite, store.AccessAdmin} {
		stranger := e.token(map[string]store.Access{foreign: role})
		try(fmt.Sprint(role, " of another workspace"), stranger, "", false, append(w.requests(), w.deletions()...))
		for _, path := range []string{"/bucket", "/ai/llm", "/apikeys", "/repo", "/repo?repoId=" + w.repo, "/workspace", "/token"} {
			a := e.as(stranger, "GET", path, nil)
			if a.status != 200 || bytes.Contains(a.raw, []byte(e.ws)) {
				t.Errorf("%s of another workspace: GET %s: %d %s", role, path, a.status, a.raw)
			}
		}
		if a := e.as(stranger, "POST", "/systemevent", nil); a.status != 200 || bytes.Contains(a.raw, []byte(e.ws)) {
			t.Errorf("%s of another workspace: POST /systemevent: %d %s", role, a.status, a.raw)
		}
		try(fmt.Sprint(role), e.token(map[string]store.Access{e.ws: role}), role, false, append(w.requests(), w.deletions()...))
		try(fmt.Sprint(role, " of all"), e.token(map[string]store.Access{"*": role, e.ws: store.AccessRead}), role, true, append(w.requests(), w.deletions()...))
	}
	member := e.token(map[string]store.Access{e.ws: store.AccessAdmin})
	for _, rq := range w.deletions()[:7] {
		if a := e.as(member, rq.method, rq.path, nil); a.status != 200 {
			t.Errorf("%s %s: %d %s", rq.method, rq.path, a.status, a.raw)
		}
	}
	refused(t, "delete the workspace", e.as(member, "DELETE", "/workspace/"+e.ws, nil), 409, "WORKSPACE_NOT_EMPTY", "")
}

// checkComplete holds the table against the server's routes.
func (w *world) checkComplete(t *testing.T) {
	t.Helper()
	tried := map[string]bool{"GET /health": true, "GET /openapi.yaml": true}
	for _, rq := range append(w.requests(), w.deletions()...) {
		path, _, _ := strings.Cut(rq.path, "?")
		ids := 0
		path = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).ReplaceAllStringFunc(path, func(string) string {
			ids++
			return []string{"{id}", "{keyId}"}[ids-1]
		})
		tried[rq.method+" "+path] = true
	}
	routes := api.Routes()
	for _, r := range routes {
		if !tried[r] {
			t.Errorf("%s has no row", r)
		}
		delete(tried, r)
	}
	if len(tried) > 0 {
		t.Errorf("no such routes: %v", slices.Sorted(maps.Keys(tried)))
	}
}
