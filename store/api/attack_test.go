package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
)

var testCAOnce = sync.OnceValues(func() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, &x509.Certificate{}, &key.PublicKey, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), err
})

// testCA returns a CA certificate in PEM.
func testCA(t *testing.T) string {
	t.Helper()
	ca, err := testCAOnce()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestTokens: what is not exactly a valid token gets 401 on every route that has data.
func TestTokens(t *testing.T) {
	now := &clock{now: time.Now()}
	e := newEnv(t, func(c *api.Config) { c.Clock = now.Now })
	expiring := e.token(map[string]store.Access{"*": store.AccessAdmin})
	revoked := e.token(map[string]store.Access{"*": store.AccessAdmin})
	tokens, err := e.store.List(t.Context(), store.KindToken, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	at := now.Now().Add(time.Hour)
	for _, r := range tokens {
		tok := r.(*store.Token)
		if bytes.Contains([]byte(fmt.Sprintf("%s%x", tok.Hash, tok.Hash)), []byte(e.admin)) || len(tok.Hash) != 32 {
			t.Errorf("a token is stored: %+v", tok)
		}
	}
	set := func(token string, change func(*store.Token)) {
		t.Helper()
		for _, r := range tokens {
			tok := r.(*store.Token)
			if string(tok.Hash) != string(hashOf(token)) {
				continue
			}
			change(tok)
			if _, err := e.store.Apply(t.Context(), store.Put(tok)); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(expiring, func(tok *store.Token) { tok.ExpiresAt = &at })
	set(revoked, func(tok *store.Token) { d := now.Now(); tok.M.DeletedAt = &d })

	if a := e.as(expiring, "GET", "/workspace", nil); a.status != 200 {
		t.Errorf("before it expires: %d", a.status)
	}
	now.Add(time.Hour)
	for name, token := range map[string]string{
		"none": "", "unknown": "kbt-" + strings.Repeat("A", 43), "longer": e.admin + "x", "shorter": e.admin[:len(e.admin)-1],
		"other case": strings.ToLower(e.admin), "expired": expiring, "revoked": revoked, "its hash": fmt.Sprintf("%x", hashOf(e.admin)),
	} {
		for _, route := range api.Routes() {
			method, path, _ := strings.Cut(route, " ")
			if path == "/health" || path == "/openapi.yaml" {
				continue
			}
			a := e.as(token, method, strings.NewReplacer("{id}", newID(), "{keyId}", newID()).Replace(path), nil)
			refused(t, name+" "+route, a, 401, "UNAUTHORIZED", "")
			if a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: no WWW-Authenticate", route)
			}
		}
	}
	for name, header := range map[string][]string{
		"Basic": {"Basic " + e.admin}, "bare": {e.admin}, "two": {"Bearer " + e.admin, "Bearer " + e.admin}, "list": {"Bearer " + e.admin + ", Bearer x"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", e.srv.URL+"/workspace?access_token="+e.admin, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"] = header
		resp, err := e.srv.Client().Do(req)
		if err != nil || resp.StatusCode != 401 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	if a := e.do("GET", "/workspace", nil, "Authorization", "bearer  "+e.admin); a.status != 200 { // RFC 9110 §11.1: the scheme is case-insensitive
		t.Errorf("bearer in lower case: %d", a.status)
	}
}

func TestNewToken(t *testing.T) {
	for name, roles := range map[string]map[string]store.Access{
		"none": {}, "unknown role": {"*": "OWNER"}, "no id": {"home": store.AccessRead}, "upper case id": {strings.ToUpper(newID()): store.AccessRead},
	} {
		if _, _, err := api.NewToken("x", roles); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, _, err := api.NewToken("", map[string]store.Access{"*": store.AccessAdmin}); err == nil {
		t.Error("a token without a name")
	}
}

// TestForeignParts: a member of two workspaces cannot bring their parts together.
func TestForeignParts(t *testing.T) {
	e := newEnv(t)
	foreign := e.workspace("foreign")
	fb := e.bucket("workspaceId", foreign)
	fl := e.llm("workspaceId", foreign)
	fr := e.ok("POST", "/repo", repoBody(foreign, "f", nil, nil)).str(t, "repoId")
	fk := e.ok("POST", "/repo/"+fr+"/apikey", m{"name": "k", "accessType": "READ"}).str(t, "id")
	repo := e.repo("app", nil, nil)
	refused(t, "create with a foreign bucket", e.do("POST", "/repo", repoBody(e.ws, "x", []string{fb}, nil)), 404, "NOT_FOUND", "bucket")
	refused(t, "create with a foreign LLM", e.do("POST", "/repo", repoBody(e.ws, "x", nil, []string{fl})), 404, "NOT_FOUND", "AI connector")
	refused(t, "add a foreign bucket", e.do("PUT", "/repo/"+repo, m{"repoBuckets": []m{{"bucketId": fb}}}), 404, "NOT_FOUND", "bucket")
	refused(t, "move a repository", e.do("PUT", "/repo/"+repo, m{"workspaceId": foreign}), 400, "INVALID_FIELD", "workspaceId")
	refused(t, "foreign key through an own repository", e.do("PUT", "/repo/"+repo+"/apikey/"+fk, m{"accessType": "ADMIN"}), 404, "NOT_FOUND", "key")

	// The same with a token that has no role there: it learns no more.
	member := e.token(map[string]store.Access{e.ws: store.AccessAdmin})
	refused(t, "foreign key through an own repository", e.as(member, "DELETE", "/repo/"+repo+"/apikey/"+fk, nil), 403, "FORBIDDEN", "")
	refused(t, "foreign workspace in the body", e.as(member, "POST", "/bucket", with(e.bucketBody(), "workspaceId", foreign)), 403, "FORBIDDEN", "")
	refused(t, "unknown workspace in the body", e.as(member, "POST", "/bucket", with(e.bucketBody(), "workspaceId", newID())), 403, "FORBIDDEN", "")
}

func TestIfMatch(t *testing.T) {
	e := newEnv(t)
	repo := e.repo("app", nil, nil)
	targets := []string{"/workspace/" + e.ws, "/bucket/" + e.bucket(), "/ai/llm/" + e.llm(), "/repo/" + repo,
		"/repo/" + repo + "/apikey/" + e.ok("POST", "/repo/"+repo+"/apikey", m{"name": "k", "accessType": "READ"}).str(t, "id"),
		"/repo/" + repo + "/ai/apikey/" + e.ok("POST", "/repo/"+repo+"/ai/apikey", m{"name": "k", "aiType": "OPENAI"}).str(t, "id")}
	for _, path := range targets {
		for _, bad := range []string{`"2"`, `W/"1"`, `1`, `"0"`, `""`, `"x", "y"`} {
			refused(t, "PUT "+path+" "+bad, e.do("PUT", path, m{}, "If-Match", bad), 412, "VERSION_MISMATCH", "If-Match")
			refused(t, "DELETE "+path+" "+bad, e.do("DELETE", path, nil, "If-Match", bad), 412, "VERSION_MISMATCH", "If-Match")
		}
		a := e.do("PUT", path, m{}, "If-Match", `"7", "1"`)
		if a.status != 200 || a.header.Get("ETag") != `"2"` {
			t.Errorf("PUT %s: %d %s, ETag %s", path, a.status, a.raw, a.header.Get("ETag"))
		}
		refused(t, "PUT "+path+" again", e.do("PUT", path, m{}, "If-Match", `"1"`), 412, "VERSION_MISMATCH", `"2"`)
	}
	for i := len(targets) - 1; i >= 0; i-- {
		if a := e.do("DELETE", targets[i], nil, "If-Match", "*"); a.status != 200 && a.m["error_code"] != "WORKSPACE_NOT_EMPTY" {
			t.Errorf("DELETE %s: %d %s", targets[i], a.status, a.raw)
		}
	}

	// Of many updates that rest on one version, one wins.
	ws := e.workspace("contended")
	var wg sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		wg.Go(func() {
			statuses[i] = e.do("PUT", "/workspace/"+ws, m{"name": fmt.Sprint("w", i)}, "If-Match", `"1"`).status
		})
	}
	wg.Wait()
	won := 0
	for _, s := range statuses {
		switch s {
		case 200:
			won++
		case 412:
		default:
			t.Errorf("status %d", s)
		}
	}
	if won != 1 {
		t.Errorf("%d updates of version 1 won", won)
	}
}

// TestRaces: two requests that are each allowed must not together leave a
// repository without its connector, or a record in a deleted workspace.
func TestRaces(t *testing.T) {
	e := newEnv(t)
	for i := range 15 {
		bucket := e.bucket("name", fmt.Sprint("b", i))
		var made, deleted answer
		var wg sync.WaitGroup
		wg.Go(func() { made = e.do("POST", "/repo", repoBody(e.ws, fmt.Sprint("r", i), []string{bucket}, nil)) })
		wg.Go(func() { deleted = e.do("DELETE", "/bucket/"+bucket, nil) })
		wg.Wait()
		if (made.status == 200) == (deleted.status == 200) {
			t.Errorf("repository: %s, deletion of its bucket: %s", made.raw, deleted.raw)
		}
		ws := e.workspace(fmt.Sprint("w", i))
		wg.Go(func() { made = e.do("POST", "/bucket", with(e.bucketBody(), "workspaceId", ws)) })
		wg.Go(func() { deleted = e.do("DELETE", "/workspace/"+ws, nil) })
		wg.Wait()
		if (made.status == 200) == (deleted.status == 200) {
			t.Errorf("bucket: %s, deletion of its workspace: %s", made.raw, deleted.raw)
		}
	}
}

// TestSecondControlPlane: with another writer on the store, decisions are made
// anew, and what cannot be decided is a 409, not a lost update.
func TestSecondControlPlane(t *testing.T) {
	writes, attempts := 3, 0
	var e *env
	e = newEnv(t, func(c *api.Config) {
		inner := c.Seal
		c.Seal = func() (*seal.PublicKey, error) { // runs between reading and writing
			if attempts++; attempts <= writes {
				if _, err := e.store.Apply(t.Context(), store.Put(&store.Workspace{M: store.Meta{ID: newID()}, Name: fmt.Sprint("w", attempts)})); err != nil {
					t.Error(err)
				}
			}
			return inner()
		}
	})
	e.bucket()
	if attempts != 4 {
		t.Errorf("decided %d times, want 4", attempts)
	}
	writes, attempts = 1<<30, 100
	refused(t, "busy store", e.do("POST", "/bucket", with(e.bucketBody(), "name", "b2")), 409, "VERSION_CONFLICT", "")
}

func TestBodyLimit(t *testing.T) {
	e := newEnv(t)
	big := `{"name":"` + strings.Repeat("x", 512<<10) + `"}`
	// With a length that says so, and without one (chunked).
	refused(t, "too large", e.do("POST", "/workspace", big), 413, "TOO_LARGE", "")
	req, err := http.NewRequestWithContext(t.Context(), "POST", e.srv.URL+"/workspace", io.MultiReader(strings.NewReader(big)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+e.admin)
	resp, err := e.srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("chunked: %d", resp.StatusCode)
	}
	// Without a token nobody reads the body at all.
	refused(t, "too large, no token", e.as("", "POST", "/workspace", big), 401, "UNAUTHORIZED", "")
	e.ok("POST", "/workspace", `{"name":"large","pad":"`+strings.Repeat("x", 511<<10)+`"}`)
}

// TestPanic: a bug answers 500 with the envelope, and its value, which could be anything, is not logged.
func TestPanic(t *testing.T) {
	e := newEnv(t, func(c *api.Config) { c.Seal = func() (*seal.PublicKey, error) { panic("value with " + s3Secret) } })
	refused(t, "panic", e.do("GET", "/sealing-key", nil), 500, "INTERNAL", "internal error")
	refused(t, "panic while writing is held", e.do("POST", "/bucket", e.bucketBody()), 500, "INTERNAL", "internal error")
	e.workspace("still works")
	e.srv.Close()
	if log := e.log.String(); strings.Contains(log, s3Secret) || !strings.Contains(log, "panic in the admin API") || !strings.Contains(log, "sealingkey.go") {
		t.Errorf("log: %s", log)
	}
}
