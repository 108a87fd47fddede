package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/audit"
)

// TestAuditedChanges: one line per change, before the change, without a secret.
func TestAuditedChanges(t *testing.T) {
	log := newAuditor()
	e := newEnv(t, func(c *api.Config) { c.Audit = log })
	admin, err := e.store.ByUnique(t.Context(), store.TokenName(hashOf(e.admin)))
	if err != nil {
		t.Fatal(err)
	}
	var at uint64
	log.before = func() {
		var err error
		if at, err = e.store.Revision(t.Context()); err != nil {
			t.Error(err)
		}
	}
	log.taken()
	change := func(context, event string, do func() string) audit.Event {
		t.Helper()
		before, err := e.store.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		id := do()
		lines := log.taken()
		if len(lines) != 1 {
			t.Fatalf("%s %s: %d lines", context, event, len(lines))
		}
		l := lines[0]
		want := audit.Event{ID: l.ID, Time: seen, Context: context, Event: event, ContextID: id, UserID: admin.Meta().ID, WorkspaceID: e.ws, Data: l.Data}
		if context == "token" {
			want.WorkspaceID = ""
		}
		if diff := cmp.Diff(want, l); diff != "" || !json.Valid(l.Data) {
			t.Errorf("%s %s: %s", context, event, diff)
		}
		if at != before {
			t.Errorf("%s %s: the line was written at revision %d, the change was made at %d", context, event, at, before+1)
		}
		return l
	}
	change("workspace", "updated", func() string { e.ok("PUT", "/workspace/"+e.ws, m{"name": "home2"}); return e.ws })
	var bucket, llm, shared, repo, key, ai, token string
	l := change("connector", "created", func() string { bucket = e.bucket(); return bucket })
	if !strings.Contains(string(l.Data), `"also":[{"context":"credential","id":"`+bucket+`","event":"created"}],"alsoTotal":1`) {
		t.Errorf("%s", l.Data)
	}
	change("connector", "created", func() string { llm = e.llm(); return llm })
	change("connector", "updated", func() string { e.ok("PUT", "/bucket/"+bucket, m{"secret": "rotated"}); return bucket })
	change("credential", "created", func() string { shared = e.shared(); return shared })
	change("credential", "updated", func() string { e.ok("PUT", "/apikeys/"+shared, m{"secret": "rotated"}); return shared })
	change("repository", "created", func() string { repo = e.repo("r", []string{bucket}, []string{llm}); return repo })
	change("repository", "updated", func() string { e.ok("PUT", "/repo/"+repo, m{"disabled": true}); return repo })
	l = change("repository", "updated", func() string {
		e.ok("PUT", "/repo/"+repo, m{"repoBuckets": []m{{"bucketId": bucket, "folder": "team/"}}})
		return repo
	})
	if !strings.Contains(string(l.Data), `"folders":{"`+bucket+`":"team/"}`) {
		t.Errorf("%s", l.Data)
	}
	var issued []string
	issue := func(path string, body m) string {
		a := e.ok("POST", "/repo/"+repo+path, body)
		issued = append(issued, a.str(t, "secret"))
		return a.str(t, "id")
	}
	var lines [][]byte
	keep := func(l audit.Event) { lines = append(lines, l.Data) }
	keep(change("key", "created", func() string { key = issue("/apikey", m{"name": "k", "accessType": "READ"}); return key }))
	keep(change("key", "created", func() string { ai = issue("/ai/apikey", m{"name": "k", "aiType": "OPENAI"}); return ai }))
	keep(change("key", "updated", func() string { e.ok("PUT", "/repo/"+repo+"/apikey/"+key, m{"disabled": true}); return key }))
	l = change("key", "rotated", func() string { return issue("/ai/apikey/"+ai+"/rotate", m{}) })
	keep(l)
	if !strings.Contains(string(l.Data), `{"context":"key","id":"`+ai+`","event":"deleted"}`) {
		t.Errorf("%s", l.Data)
	}
	keep(change("token", "created", func() string {
		a := e.ok("POST", "/token", m{"name": "t", "roles": m{e.ws: "READ"}})
		issued = append(issued, a.str(t, "token"))
		token = a.str(t, "id")
		return token
	}))
	keep(change("token", "deleted", func() string { e.ok("DELETE", "/token/"+token, nil); return token }))
	for range 200 {
		issue("/apikey", m{"name": strings.Repeat("n", 128), "accessType": "READ"})
	}
	log.taken()
	l = change("repository", "deleted", func() string { e.ok("DELETE", "/repo/"+repo, nil); return repo })
	keep(l)
	if !strings.Contains(string(l.Data), `"alsoTotal":202`) || len(l.Data) > 32<<10 {
		t.Errorf("%d bytes: %s", len(l.Data), l.Data)
	}
	change("connector", "deleted", func() string { e.ok("DELETE", "/bucket/"+bucket, nil); return bucket })
	for _, secret := range append(issued, s3Secret, aiSecret, "rotated-", "kbt-") {
		if bytes.Contains(bytes.Join(lines, nil), []byte(secret)) {
			t.Errorf("%q is in the log", secret)
		}
	}
	// What is refused or repeated changes nothing, and is no line.
	e.do("POST", "/bucket", with(e.bucketBody(), "workspaceId", newID()))
	e.do("POST", "/ai/llm", e.llmBody()) // the name is used
	e.do("DELETE", "/workspace/"+e.ws, nil)
	e.ok("POST", "/repo/validate", repoBody(e.ws, "new", nil, nil))
	if lines := log.taken(); len(lines) != 0 {
		t.Errorf("lines of nothing: %+v", lines)
	}
}

// TestAuditAway: what cannot be remembered is not done; reading goes on.
func TestAuditAway(t *testing.T) {
	log := newAuditor()
	e := newEnv(t, func(c *api.Config) { c.Audit = log })
	w := newWorld(e)
	requests, deletions := w.requests(), w.deletions()
	log.fail = errDisk
	before, err := e.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	for _, rq := range append(requests, deletions...) {
		if rq.path == "/systemevent" {
			continue
		}
		a := e.do(rq.method, rq.path, rq.body)
		if rq.method == "GET" && a.status != 200 {
			t.Errorf("%s %s: %d %s", rq.method, rq.path, a.status, a.raw)
		}
		if a.m["error_code"] == "AUDIT_UNAVAILABLE" {
			changes++
		} else if a.status == 200 && rq.method != "GET" && !strings.HasSuffix(rq.path, "/validate") && rq.path != "/ai/models" {
			t.Errorf("%s %s was done: %s", rq.method, rq.path, a.raw)
		}
		if bytes.Contains(a.raw, []byte("disk")) {
			t.Errorf("%s %s tells too much: %s", rq.method, rq.path, a.raw)
		}
	}
	if after, err := e.store.Revision(t.Context()); err != nil || after != before {
		t.Errorf("revision %d became %d, %v", before, after, err)
	}
	if changes < 20 {
		t.Errorf("only %d changes were refused for it", changes)
	}
	refused(t, "reading the log", e.do("POST", "/systemevent", nil), 503, "AUDIT_UNAVAILABLE", "")
}

// brokenStore fails to write, as a full disk does.
type brokenStore struct {
	store.Store
	fail error
}

func (s *brokenStore) Apply(ctx context.Context, writes ...store.Write) (uint64, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	return s.Store.Apply(ctx, writes...)
}

// TestFailedChange: a line whose change did not come about is followed by one that says so.
func TestFailedChange(t *testing.T) {
	log, broken := newAuditor(), &brokenStore{}
	e := newEnv(t, func(c *api.Config) { broken.Store, c.Store, c.Audit = c.Store, broken, log })
	log.taken()
	broken.fail = errors.New("no space left on " + s3Secret)
	refused(t, "create", e.do("POST", "/repo", repoBody(e.ws, "r", nil, nil)), 500, "INTERNAL", "internal error")
	lines := log.taken()
	if len(lines) != 2 || lines[0].Event != "created" || lines[1].Event != "failed" || lines[1].ContextID != lines[0].ContextID || lines[1].ID == lines[0].ID {
		t.Fatalf("lines: %+v", lines)
	}
	var data map[string]string
	if err := json.Unmarshal(lines[1].Data, &data); err != nil || data["line"] != lines[0].ID || data["event"] != "created" || strings.Contains(string(lines[1].Data), s3Secret) {
		t.Errorf("%s, %v", lines[1].Data, err)
	}
}

// TestFullDisk: where neither the store nor then the log can be written, the line that
// takes the change back comes before the next change's.
func TestFullDisk(t *testing.T) {
	log, broken := newAuditor(), &brokenStore{}
	e := newEnv(t, func(c *api.Config) { broken.Store, c.Store, c.Audit = c.Store, broken, log })
	log.taken()
	create := func(name string) answer { return e.do("POST", "/repo", repoBody(e.ws, name, nil, nil)) }
	broken.fail = fmt.Errorf("%w: no space left on device", store.ErrUnwritable)
	appends := 0
	log.before = func() {
		if appends++; appends == 2 {
			log.fail = errDisk
		}
	}
	refused(t, "a full disk", create("r"), 503, "STORE_UNWRITABLE", "nothing was changed")
	refused(t, "a log that owes a line", create("r"), 503, "AUDIT_UNAVAILABLE", "nothing was changed")
	broken.fail, log.fail, log.before = nil, nil, nil
	if a := create("r"); a.status != 200 {
		t.Errorf("with space again: %d %s", a.status, a.raw)
	}
	var events []string
	for _, l := range log.taken() {
		events = append(events, l.Event)
	}
	if diff := cmp.Diff([]string{"created", "failed", "created"}, events); diff != "" {
		t.Error(diff)
	}
}

// TestConflictIsAudited: with another writer, each attempt's line is taken back.
func TestConflictIsAudited(t *testing.T) {
	log, attempts := newAuditor(), 0
	var e *env
	e = newEnv(t, func(c *api.Config) {
		inner := c.Seal
		c.Audit = log
		c.Seal = func() (*seal.PublicKey, error) {
			if attempts++; attempts == 1 {
				if _, err := e.store.Apply(t.Context(), store.Put(&store.Workspace{M: store.Meta{ID: newID()}, Name: "elsewhere"})); err != nil {
					t.Error(err)
				}
			}
			return inner()
		}
	})
	log.taken()
	e.shared()
	var events []string
	for _, l := range log.taken() {
		events = append(events, l.Event)
	}
	if diff := cmp.Diff([]string{"created", "failed", "created"}, events); diff != "" {
		t.Error(diff)
	}
}

// TestSystemEvent asks the real log.
func TestSystemEvent(t *testing.T) {
	log, err := audit.Open(filepath.Join(t.TempDir(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEnv(t, func(c *api.Config) { c.Audit = log })
	foreign := e.workspace("foreign")
	bucket := e.bucket()
	e.ok("PUT", "/bucket/"+bucket, m{"name": "renamed"})
	e.llm("workspaceId", foreign)
	e.ok("POST", "/token", m{"name": "t", "roles": m{"*": "READ"}})
	member := e.token(map[string]store.Access{e.ws: store.AccessRead})
	two := e.token(map[string]store.Access{e.ws: store.AccessRead, foreign: store.AccessRead})
	nobody := e.token(map[string]store.Access{newID(): store.AccessAdmin})
	for _, tc := range []struct {
		name, token string
		body        any
		total, n    int
	}{
		{"all", e.admin, nil, 6, 6},
		{"undefined", e.admin, m{"context": "undefined", "workspaceId": "null", "skip": nil}, 6, 6},
		{"one workspace", e.admin, m{"workspaceId": e.ws}, 3, 3},
		{"context", e.admin, m{"context": "connector"}, 3, 3},
		{"event", e.admin, m{"context": "connector", "event": "updated"}, 1, 1},
		{"record", e.admin, m{"contextId": bucket}, 2, 2},
		{"page", e.admin, m{"skip": 1, "take": 2}, 6, 2},
		{"count only", e.admin, m{"take": 0}, 6, 0},
		{"beyond the end", e.admin, m{"skip": 2147483647}, 6, 0},
		{"later", e.admin, m{"from_timestamp": "2100-01-01T00:00:00Z"}, 0, 0},
		{"earlier", e.admin, m{"to_timestamp": "2000-01-01T00:00:00Z"}, 0, 0},
		{"backwards", e.admin, m{"from_timestamp": "2100-01-01T00:00:00Z", "to_timestamp": "2000-01-01T00:00:00Z"}, 0, 0},
		{"nonsense", e.admin, m{"userId": "x' or 1=1", "context": strings.Repeat("x", 9999)}, 0, 0},
		{"a member", member, nil, 3, 3},
		{"a member of both", two, nil, 5, 5},
		{"a member, by name", member, m{"workspaceId": e.ws, "context": "connector"}, 2, 2},
		{"a stranger", nobody, nil, 0, 0},
	} {
		a := e.as(tc.token, "POST", "/systemevent", tc.body)
		if a.status != 200 || a.m["total"] != float64(tc.total) || len(a.items(t, "events")) != tc.n {
			t.Errorf("%s: %d, %d events, %s", tc.name, a.status, len(a.items(t, "events")), a.raw)
		}
	}
	refused(t, "a foreign workspace", e.as(member, "POST", "/systemevent", m{"workspaceId": foreign}), 403, "FORBIDDEN", "")
	first := e.ok("POST", "/systemevent", m{"contextId": bucket, "event": "created"}).items(t, "events")[0]
	if data, ok := first["jsonData"].(m); !ok || data["name"] != "photos" || first["workspaceId"] != e.ws {
		t.Errorf("%v", first)
	}
	without := newEnv(t)
	refused(t, "no log", without.do("POST", "/systemevent", nil), 503, "AUDIT_UNAVAILABLE", "no audit log")
}
