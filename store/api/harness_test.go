package api_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/bolt"
)

// rsaKey is one for all tests: making it is what takes the time.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		panic(err)
	}
	return k
})

const manifest = `{"payload":"bWFuaWZlc3Q=","signature":"c2ln"}`

// env is the real API over a real bolt store, with the private key that only a
// bridge would have.
type env struct {
	t     testing.TB
	file  string
	store store.Store
	pub   *seal.PublicKey
	srv   *httptest.Server
	doc   *document
	log   *bytes.Buffer // of every level; read it after the requests
	admin string        // token: ADMIN of *
	ws    string
}

func newEnv(t testing.TB, change ...func(*api.Config)) *env {
	t.Helper()
	e := &env{t: t, file: filepath.Join(t.TempDir(), "store.db"), log: new(bytes.Buffer)}
	var err error
	if e.pub, err = seal.NewPublicKey(&rsaKey().PublicKey); err != nil {
		t.Fatal(err)
	}
	if e.store, err = bolt.Open(e.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	policy, err := seal.ParseEndpointPolicy([]string{"http://127.0.0.1", "http://minio.test"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	config := api.Config{
		Store: e.store, Policy: policy, Limits: api.Limits{Requests: -1, Failures: -1}, // tests of them set their own
		Seal:     func() (*seal.PublicKey, error) { return e.pub, nil },
		Manifest: func() []byte { return []byte(manifest) },
		Logger:   slog.New(slog.NewJSONHandler(lockedWriter{&mu, e.log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&config)
	}
	e.srv = httptest.NewServer(api.New(config))
	t.Cleanup(e.srv.Close)
	e.doc = loadDocument(t, e.srv.URL)
	e.admin = e.token(map[string]store.Access{"*": store.AccessAdmin})
	e.ws = e.workspace("home")
	return e
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// token stores a new admin token.
func (e *env) token(roles map[string]store.Access) string {
	e.t.Helper()
	token, rec, err := api.NewToken("test", roles)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.store.Apply(e.t.Context(), store.Put(rec)); err != nil {
		e.t.Fatal(err)
	}
	return token
}

// m is a JSON object.
type m = map[string]any

// with returns a copy of an object with some fields set, or removed by nil.
func with(o m, pairs ...any) m {
	out := m{}
	for k, v := range o {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		if out[name] = pairs[i+1]; pairs[i+1] == nil {
			delete(out, name)
		}
	}
	return out
}

type answer struct {
	status int
	header http.Header
	raw    []byte
	value  any
	m      m // nil for an array
}

// as sends a request with a token, checks what must hold for every response, and
// holds the response against the OpenAPI document. body is JSON text or a value.
func (e *env) as(token, method, path string, body any, headers ...string) answer {
	e.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			e.t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(e.t.Context(), method, e.srv.URL+path, r)
	if err != nil {
		e.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := e.srv.Client().Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		e.t.Fatal(err)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		e.t.Errorf("%s %s: Cache-Control %q", method, path, got)
	}
	if err := json.Unmarshal(a.raw, &a.value); err != nil {
		e.t.Fatalf("%s %s: status %d, not JSON: %q", method, path, a.status, a.raw)
	}
	a.m, _ = a.value.(m)
	e.doc.check(e.t, method, req.URL.Path, a)
	return a
}

func (e *env) do(method, path string, body any, headers ...string) answer {
	e.t.Helper()
	return e.as(e.admin, method, path, body, headers...)
}

// ok is do for requests that must succeed.
func (e *env) ok(method, path string, body any, headers ...string) answer {
	e.t.Helper()
	a := e.do(method, path, body, headers...)
	if a.status != http.StatusOK {
		e.t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	return a
}

// refused checks a failure: status, error_code, and a part of the message.
func refused(t testing.TB, what string, a answer, status int, code, part string) {
	t.Helper()
	message, _ := a.m["message"].(string)
	if a.status != status || a.m["error_code"] != code || !strings.Contains(message, part) || a.m["success"] != false {
		t.Errorf("%s: got %d %s; want %d %s with %q", what, a.status, a.raw, status, code, part)
	}
}

// str returns a string field of an answer.
func (a answer) str(t testing.TB, name string) string {
	t.Helper()
	s, ok := a.m[name].(string)
	if !ok || s == "" {
		t.Fatalf("no %s in %s", name, a.raw)
	}
	return s
}

// items returns a list of objects in an answer.
func (a answer) items(t testing.TB, name string) []m {
	t.Helper()
	return objects(t, a.m[name])
}

func objects(t testing.TB, v any) []m {
	t.Helper()
	list, ok := v.([]any)
	if !ok {
		t.Fatalf("not a list: %v", v)
	}
	out := []m{}
	for _, item := range list {
		o, ok := item.(m)
		if !ok {
			t.Fatalf("not an object: %v", item)
		}
		out = append(out, o)
	}
	return out
}

// find returns the item with an id.
func find(t testing.TB, items []m, id string) m {
	t.Helper()
	i := slices.IndexFunc(items, func(o m) bool { return o["id"] == id })
	if i < 0 {
		t.Fatalf("no item %s in %v", id, items)
	}
	return items[i]
}

func (e *env) workspace(name string) string {
	e.t.Helper()
	w, ok := e.ok("POST", "/workspace", m{"name": name}).m["workspace"].(m)
	if !ok {
		e.t.Fatal("no workspace in the answer")
	}
	id, _ := w["id"].(string)
	return id
}

// The secrets of the tests; none may ever be seen again.
const (
	s3Secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	aiSecret = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
)

func (e *env) bucketBody() m {
	return m{"workspaceId": e.ws, "name": "photos", "bucket": "photos-bucket", "storageType": "S3", "key": "AKIAIOSFODNN7EXAMPLE", "secret": s3Secret}
}

func (e *env) llmBody() m {
	return m{"workspaceId": e.ws, "name": "gpt", "aiType": "OPENAI", "secret": aiSecret}
}

func (e *env) bucket(pairs ...any) string {
	e.t.Helper()
	return e.ok("POST", "/bucket", with(e.bucketBody(), pairs...)).str(e.t, "bucketId")
}

func (e *env) llm(pairs ...any) string {
	e.t.Helper()
	return e.ok("POST", "/ai/llm", with(e.llmBody(), pairs...)).str(e.t, "aiLlmId")
}

func (e *env) repo(name string, buckets, llms []string) string {
	e.t.Helper()
	return e.ok("POST", "/repo", repoBody(e.ws, name, buckets, llms)).str(e.t, "repoId")
}

func repoBody(ws, name string, buckets, llms []string) m {
	b, l := []m{}, []m{}
	for _, id := range buckets {
		b = append(b, m{"bucketId": id, "folder": "", "master": false})
	}
	for _, id := range llms {
		l = append(l, m{"aiLlmId": id})
	}
	return m{"workspaceId": ws, "name": name, "storageType": "S3", "mode": "NORMAL", "repoBuckets": b, "repoAiLlms": l}
}

// record reads from the store behind the API.
func record[T store.Record](e *env, id string) T {
	e.t.Helper()
	var zero T
	r, err := e.store.Get(e.t.Context(), store.KindOf(zero), id)
	if err != nil {
		e.t.Fatalf("%T %s: %v", zero, id, err)
	}
	got, ok := r.(T)
	if !ok {
		e.t.Fatalf("a %T", r)
	}
	return got
}

// open decrypts a sealed record as the format's description says, independently
// of package unseal.
func (e *env) open(s *seal.Sealed) string {
	e.t.Helper()
	if s == nil {
		e.t.Fatal("nothing sealed")
	}
	if err := s.Validate(); err != nil {
		e.t.Fatal(err)
	}
	canonical := s.Header.Canonical()
	dek, err := rsa.DecryptOAEP(sha256.New(), nil, rsaKey(), s.Key.Value, seal.Label(canonical, s.Key.Suite, s.Key.KeyID))
	if err != nil {
		e.t.Fatalf("unwrap: %v", err)
	}
	block, err := aes.NewCipher(dek)
	if err != nil {
		e.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		e.t.Fatal(err)
	}
	plain, err := gcm.Open(nil, s.IV, slices.Concat(s.Message, s.AuthTag), canonical)
	if err != nil {
		e.t.Fatalf("open: %v", err)
	}
	return string(plain)
}

// s3Header is the header of bucketBody's credential.
func (e *env) s3Header(id string) seal.Header {
	return seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 1, Binding: seal.Binding{
		Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.us-east-1.amazonaws.com", Port: 443, Scope: "photos-bucket"}}
}

func (e *env) seal(h seal.Header, secret string) *seal.Sealed {
	e.t.Helper()
	s, err := seal.Seal(e.pub, h, []byte(secret))
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func newID() string { return uuid.NewString() }

// clock is a settable time.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
