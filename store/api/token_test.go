package api_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"keybridge/store"
	"keybridge/store/api"
)

func TestTokenRoutes(t *testing.T) {
	now := &clock{now: time.Now()}
	e := newEnv(t, func(c *api.Config) { c.Clock = now.Now })
	foreign := e.workspace("foreign")
	at := now.Now().Add(time.Hour).UTC().Truncate(time.Second)
	a := e.ok("POST", "/token", m{"name": "ci", "roles": m{strings.ToUpper(e.ws): "WRITE"}, "expiresAt": at.Format(time.RFC3339)})
	id, token := a.str(t, "id"), a.str(t, "token")
	rec := record[*store.Token](e, id)
	if string(rec.Hash) != string(hashOf(token)) || rec.Roles[e.ws] != store.AccessWrite || len(rec.Roles) != 1 || !rec.ExpiresAt.Equal(at) || rec.M.CreatedBy == "" {
		t.Errorf("stored: %+v", rec)
	}
	list := e.ok("GET", "/token", nil)
	if bytes.Contains(list.raw, []byte(token)) || bytes.Contains(list.raw, []byte("ash")) || find(t, list.items(t, "tokens"), id)["name"] != "ci" {
		t.Errorf("list: %s", list.raw)
	}
	if a := e.as(token, "GET", "/bucket", nil); a.status != 200 {
		t.Errorf("the new token: %d", a.status)
	}
	now.Add(time.Hour)
	refused(t, "expired", e.as(token, "GET", "/bucket", nil), 401, "UNAUTHORIZED", "")

	// Nobody gives, sees or takes more than they have.
	admin := e.token(map[string]store.Access{e.ws: store.AccessAdmin})
	both := e.token(map[string]store.Access{e.ws: store.AccessAdmin, foreign: store.AccessWrite})
	all := e.token(map[string]store.Access{"*": store.AccessWrite, e.ws: store.AccessAdmin})
	for name, tc := range map[string]struct {
		token string
		roles m
		ok    bool
	}{
		"own":                   {admin, m{e.ws: "ADMIN"}, true},
		"all":                   {admin, m{"*": "READ"}, false},
		"foreign":               {admin, m{foreign: "READ"}, false},
		"own and foreign":       {admin, m{e.ws: "READ", foreign: "READ"}, false},
		"WRITE gives READ":      {both, m{foreign: "READ"}, false},
		"WRITE of all":          {all, m{"*": "READ"}, false},
		"WRITE of all, foreign": {all, m{foreign: "READ"}, false},
		"WRITE of all, own":     {all, m{e.ws: "WRITE"}, true},
	} {
		a := e.as(tc.token, "POST", "/token", m{"name": "t", "roles": tc.roles})
		if tc.ok && a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		} else if !tc.ok {
			refused(t, name, a, 403, "FORBIDDEN", "")
		}
	}
	refused(t, "a workspace that is not there", e.do("POST", "/token", m{"name": "t", "roles": m{newID(): "READ"}}), 404, "NOT_FOUND", "workspace")
	wide := e.ok("POST", "/token", m{"name": "wide", "roles": m{e.ws: "READ", foreign: "READ"}}).str(t, "id")
	if list := e.as(admin, "GET", "/token", nil); bytes.Contains(list.raw, []byte(wide)) || bytes.Contains(list.raw, []byte(`"*"`)) || len(list.items(t, "tokens")) == 0 {
		t.Errorf("what an ADMIN of one workspace sees: %s", list.raw)
	}
	refused(t, "revoke one with a foreign role", e.as(admin, "DELETE", "/token/"+wide, nil), 403, "FORBIDDEN", "")

	// Revoked, it is refused with the next request.
	a = e.ok("POST", "/token", m{"name": "short", "roles": m{e.ws: "READ"}})
	e.ok("DELETE", "/token/"+a.str(t, "id"), nil)
	refused(t, "revoked", e.as(a.str(t, "token"), "GET", "/bucket", nil), 401, "UNAUTHORIZED", "")
	refused(t, "revoke twice", e.do("DELETE", "/token/"+a.str(t, "id"), nil), 404, "NOT_FOUND", "token")
	refused(t, "other version", e.do("DELETE", "/token/"+wide, nil, "If-Match", `"2"`), 412, "VERSION_MISMATCH", "")

	first := e.ok("POST", "/token", m{"name": "once", "roles": m{e.ws: "READ"}}, "Idempotency-Key", "k")
	refused(t, "again", e.do("POST", "/token", m{"name": "once", "roles": m{e.ws: "READ"}}, "Idempotency-Key", "k"), 409, "SECRET_SHOWN_ONCE", first.str(t, "id"))
	refused(t, "again, more", e.do("POST", "/token", m{"name": "once", "roles": m{e.ws: "ADMIN"}}, "Idempotency-Key", "k"), 409, "IDEMPOTENCY_KEY_REUSED", "")
}

// TestLastAdmin: nobody can lock everybody out, though an admin can leave.
func TestLastAdmin(t *testing.T) {
	e := newEnv(t)
	idOf := func(token string) string {
		t.Helper()
		rec, err := e.store.ByUnique(t.Context(), store.TokenName(hashOf(token)))
		if err != nil {
			t.Fatal(err)
		}
		return rec.Meta().ID
	}
	e.ok("POST", "/token", m{"name": "soon gone", "roles": m{"*": "ADMIN"}, "expiresAt": "2100-01-01T00:00:00Z"})
	e.ok("POST", "/token", m{"name": "lesser", "roles": m{"*": "WRITE", e.ws: "ADMIN"}})
	refused(t, "the last", e.do("DELETE", "/token/"+idOf(e.admin), nil), 409, "LAST_ADMIN", "")
	second := e.ok("POST", "/token", m{"name": "second", "roles": m{"*": "ADMIN"}}).str(t, "token")
	e.ok("DELETE", "/token/"+idOf(e.admin), nil)
	refused(t, "the last", e.as(second, "DELETE", "/token/"+idOf(second), nil), 409, "LAST_ADMIN", "")
}

// TestBruteForce: wrong tokens stop an address, not others and not for ever.
func TestBruteForce(t *testing.T) {
	now := &clock{now: time.Now()}
	e := newEnv(t, func(c *api.Config) { c.Clock, c.Limits = now.Now, api.Limits{Failures: 0.5, FailureBurst: 5} })
	for range 10 {
		refused(t, "no token", e.as("", "GET", "/workspace", nil), 401, "UNAUTHORIZED", "") // guesses nothing
	}
	guess := func() answer { t.Helper(); return e.as("kbt-"+strings.Repeat("A", 43), "GET", "/workspace", nil) }
	for range 5 {
		refused(t, "guess", guess(), 401, "UNAUTHORIZED", "")
	}
	a := guess()
	refused(t, "one too many", a, 429, "TOO_MANY_REQUESTS", "address")
	if got := a.header.Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After: %q", got)
	}
	fresh := e.token(map[string]store.Access{"*": store.AccessAdmin})
	refused(t, "a right one from there, never seen", e.as(fresh, "GET", "/workspace", nil), 429, "TOO_MANY_REQUESTS", "")
	e.ok("GET", "/workspace", nil) // who was there before is not shut out
	rec, err := e.store.ByUnique(t.Context(), store.TokenName(hashOf(e.admin)))
	if err != nil {
		t.Fatal(err)
	}
	e.ok("DELETE", "/token/"+rec.Meta().ID, nil) // fresh is the other admin
	refused(t, "who was revoked is heard once more", e.do("GET", "/workspace", nil), 401, "UNAUTHORIZED", "")
	refused(t, "and then shut out", e.do("GET", "/workspace", nil), 429, "TOO_MANY_REQUESTS", "")
	e.admin = fresh
	if a := e.as("", "GET", "/health", nil); a.status != 200 {
		t.Errorf("health: %d", a.status)
	}
	now.Add(2 * time.Second)
	e.ok("GET", "/workspace", nil) // takes nothing of the allowance
	refused(t, "one more guess", guess(), 401, "UNAUTHORIZED", "")
	refused(t, "and no other", guess(), 429, "TOO_MANY_REQUESTS", "")
	now.Add(time.Hour)
	for range 5 {
		refused(t, "after a rest", guess(), 401, "UNAUTHORIZED", "")
	}
	refused(t, "no more than a burst", guess(), 429, "TOO_MANY_REQUESTS", "")
}

// TestBruteForceAddress: what counts as one address, and that it cannot be made up.
func TestBruteForceAddress(t *testing.T) {
	now := &clock{now: time.Now()}
	e := newEnv(t)
	h := api.New(api.Config{Store: e.store, Clock: now.Now, Limits: api.Limits{FailureBurst: 1, Failures: 0.001}})
	status := func(remote, token string, headers ...string) int {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/workspace", nil)
		req.RemoteAddr = remote
		req.Header.Set("Authorization", "Bearer "+token)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	if got := status("192.0.2.1:1000", "wrong"); got != 401 {
		t.Errorf("first: %d", got)
	}
	if got := status("192.0.2.1:2000", "wrong", "X-Forwarded-For", "192.0.2.9", "Forwarded", "for=192.0.2.9"); got != 429 {
		t.Errorf("another port, a forwarded address: %d", got)
	}
	if got := status("[::ffff:192.0.2.1]:2000", "wrong"); got != 429 {
		t.Errorf("the same as IPv6: %d", got)
	}
	if got := status("192.0.2.2:1000", e.admin); got != 200 {
		t.Errorf("another address: %d", got)
	}
	if got := status("[2001:db8::1]:1", "wrong"); got != 401 {
		t.Errorf("IPv6: %d", got)
	}
	if got := status("[2001:db8::ffff:2]:1", "wrong"); got != 429 {
		t.Errorf("the same /64: %d", got)
	}
	if got := status("[2001:db8:0:1::1]:1", e.admin); got != 200 {
		t.Errorf("another /64: %d", got)
	}
	// A flood of addresses costs bounded memory, and the flooder no less.
	for i := range 20000 {
		status("10."+strconv.Itoa(i>>16)+"."+strconv.Itoa(i>>8&255)+"."+strconv.Itoa(i&255)+":1", "wrong")
	}
	if n := api.Remembered(h); n > 8192 {
		t.Errorf("%d addresses remembered", n)
	}
	if got := status("192.0.2.3:1", e.admin); got != 200 {
		t.Errorf("after a flood: %d", got)
	}
}

func TestRequestRate(t *testing.T) {
	now := &clock{now: time.Now()}
	e := newEnv(t, func(c *api.Config) { c.Clock, c.Limits = now.Now, api.Limits{Requests: 10, Burst: 5, Failures: -1} })
	token := e.token(map[string]store.Access{"*": store.AccessRead})
	for range 5 {
		if a := e.as(token, "GET", "/workspace", nil); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
	a := e.as(token, "GET", "/workspace", nil)
	refused(t, "too many", a, 429, "TOO_MANY_REQUESTS", "token")
	if got := a.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After: %q", got)
	}
	e.ok("GET", "/workspace", nil) // another token
	now.Add(100 * time.Millisecond)
	if a := e.as(token, "GET", "/workspace", nil); a.status != http.StatusOK {
		t.Errorf("after a while: %d", a.status)
	}
	refused(t, "and no more", e.as(token, "GET", "/workspace", nil), 429, "TOO_MANY_REQUESTS", "")
}
