package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/api/client"
	"keybridge/store/bolt"
)

var publicKey = sync.OnceValues(func() (*seal.PublicKey, error) {
	k, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return nil, err
	}
	return seal.NewPublicKey(&k.PublicKey)
})

// plane is a real control plane that also writes down all that it was sent.
type plane struct {
	url, token string
	store      store.Store
	key        *seal.PublicKey
	received   bytes.Buffer
}

func newPlane(t *testing.T, change ...func(*api.Config)) *plane {
	t.Helper()
	p := &plane{}
	var err error
	if p.key, err = publicKey(); err != nil {
		t.Fatal(err)
	}
	if p.store, err = bolt.Open(filepath.Join(t.TempDir(), "store.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.store.Close(); err != nil {
			t.Error(err)
		}
	})
	token, rec, err := api.NewToken("test", map[string]store.Access{"*": store.AccessAdmin})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.store.Apply(t.Context(), store.Put(rec)); err != nil {
		t.Fatal(err)
	}
	p.token = token
	policy, err := seal.ParseEndpointPolicy([]string{"http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	config := api.Config{
		Store: p.store, Policy: policy,
		Seal:     func() (*seal.PublicKey, error) { return p.key, nil },
		Manifest: func() []byte { return []byte(`{"payload":"cA==","signature":"cw=="}`) },
	}
	for _, f := range change {
		f(&config)
	}
	h := api.New(config)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p.received.Write(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

func (p *plane) client(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(p.url, p.token, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestEverything(t *testing.T) {
	p := newPlane(t)
	verified := 0
	c := p.client(t, client.Options{VerifySealingKey: func(manifest []byte, keyID string) error {
		verified++
		if string(manifest) != `{"payload":"cA==","signature":"cw=="}` || keyID != p.key.ID() {
			return fmt.Errorf("manifest %s, key %s", manifest, keyID)
		}
		return nil
	}})
	ctx := t.Context()
	ws := must(c.CreateWorkspace(ctx, "home"))(t)
	secret := client.Secret("s3-secret-in-clear")
	bucket := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "AKIA", Secret: secret}))(t)
	llm := must(c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "l", AIType: "OPENAI", Secret: client.Secret("sk-in-clear")}))(t)
	repo := must(c.CreateRepo(ctx, client.RepoSpec{WorkspaceID: ws.ID, Name: "r", Buckets: []client.RepoBucket{{ID: bucket, Folder: "team/"}}, LLMs: []string{llm}}))(t)
	at := time.Now().Add(time.Hour)
	sk := must(c.CreateStorageKey(ctx, repo, client.KeySpec{Name: "k", AccessType: "ADMIN", ExpiresAt: &at}))(t)
	ak := must(c.CreateAIKey(ctx, repo, client.KeySpec{Name: "k", AIType: "OPENAI"}))(t)

	if !bytes.Equal(secret, make([]byte, len(secret))) {
		t.Error("the secret was not overwritten")
	}
	if verified != 2 {
		t.Errorf("the sealing key was verified %d times for 2 secrets", verified)
	}
	if len(sk.Key) != 20 || len(string(sk.Secret)) != 40 || !strings.HasPrefix(string(ak.Secret), "kb-"+ak.Key+"-") {
		t.Errorf("keys %q and %q", sk.Key, ak.Key)
	}
	for _, clearText := range []string{"s3-secret-in-clear", "sk-in-clear"} {
		if bytes.Contains(p.received.Bytes(), []byte(clearText)) {
			t.Errorf("%q was sent in clear", clearText)
		}
	}
	if got := must(c.Workspaces(ctx))(t); len(got) != 1 || got[0] != ws {
		t.Errorf("workspaces: %+v", got)
	}
	if got := must(c.Buckets(ctx, ws.ID))(t); len(got) != 1 || got[0].ID != bucket || got[0].Key != "AKIA" || got[0].SecretVersion != 1 {
		t.Errorf("buckets: %+v", got)
	}
	if got := must(c.LLMs(ctx, ""))(t); len(got) != 1 || got[0].ID != llm || got[0].Endpoint != "https://api.openai.com/v1" {
		t.Errorf("LLMs: %+v", got)
	}
	repos := must(c.Repos(ctx, ws.ID))(t)
	if len(repos) != 1 || repos[0].Buckets[0].Bucket.Bucket != "photos" || repos[0].Buckets[0].ID != bucket || repos[0].Buckets[0].Folder != "team/" || repos[0].LLMs[0].LLM.Name != "l" ||
		repos[0].StorageKeys[0].ID != sk.ID || repos[0].AIKeys[0].ID != ak.ID {
		t.Errorf("repositories: %+v", repos)
	}
	if got := must(c.StorageKeys(ctx, repo))(t); len(got) != 1 || got[0].AccessType != "ADMIN" || got[0].ExpiresAt == nil {
		t.Errorf("storage keys: %+v", got)
	}
	if got := must(c.AIKeys(ctx, repo))(t); len(got) != 1 || got[0].AIType != "OPENAI" || got[0].Key != ak.Key {
		t.Errorf("AI keys: %+v", got)
	}

	var refused *client.Error
	if err := c.DeleteBucket(ctx, bucket); !errors.As(err, &refused) || refused.Status != 403 || refused.Code != "IN_USE" {
		t.Errorf("delete a bucket in use: %v", err)
	}
	if err := c.SetRepoDisabled(ctx, repo, true); err != nil {
		t.Error(err)
	}
	if got := must(c.Repos(ctx, ""))(t); !got[0].Disabled {
		t.Error("the repository is not disabled")
	}
	for _, err := range []error{c.DeleteStorageKey(ctx, repo, sk.ID), c.DeleteAIKey(ctx, repo, ak.ID), c.DeleteRepo(ctx, repo),
		c.DeleteBucket(ctx, bucket), c.DeleteLLM(ctx, llm), c.DeleteWorkspace(ctx, ws.ID)} {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestBindingsAgree: client and server derive the same binding, or every sealed create would be refused.
func TestBindingsAgree(t *testing.T) {
	p := newPlane(t)
	c := p.client(t, client.Options{})
	ws := must(c.CreateWorkspace(t.Context(), "home"))(t)
	for i, endpoint := range []string{"", "https://s3.example.com", "https://S3.Example.com:443/", "https://s3.example.com:9000", "http://127.0.0.1:7070", "https://[2606:4700::1111]:9443"} {
		for _, region := range []string{"", "eu-west-3", "RegionOne"} {
			spec := client.BucketSpec{WorkspaceID: ws.ID, Name: fmt.Sprint("b", i, region), Bucket: "photos", Endpoint: endpoint, Region: region, Key: "AK",
				Secret: client.Secret("secret"), AllowBucketConfiguration: true}
			if _, err := c.CreateBucket(t.Context(), spec); err != nil {
				t.Errorf("%q %q: %v", endpoint, region, err)
			}
		}
	}
	for i, endpoint := range []string{"https://llm.example.com", "https://llm.example.com/", "https://llm.example.com/api/v1", "http://127.0.0.1:11434/v1/"} {
		for _, typ := range []string{"OPENAI", "ANTHROPIC", "OTHER"} {
			spec := client.LLMSpec{WorkspaceID: ws.ID, Name: fmt.Sprint("l", i, typ), AIType: typ, Endpoint: endpoint, Secret: client.Secret("secret")}
			if _, err := c.CreateLLM(t.Context(), spec); err != nil {
				t.Errorf("%q %s: %v", endpoint, typ, err)
			}
		}
	}
}

// TestNothingSealedToTheWrongKey: no secret leaves unless the key is verified.
func TestNothingSealedToTheWrongKey(t *testing.T) {
	p := newPlane(t)
	refuse := errors.New("not signed by the operator")
	c := p.client(t, client.Options{VerifySealingKey: func([]byte, string) error { return refuse }})
	ws := must(c.CreateWorkspace(t.Context(), "home"))(t)
	p.received.Reset()
	_, err := c.CreateBucket(t.Context(), client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "AK", Secret: client.Secret("secret")})
	if !errors.Is(err, refuse) {
		t.Errorf("CreateBucket: %v", err)
	}
	if _, err = c.CreateLLM(t.Context(), client.LLMSpec{WorkspaceID: ws.ID, Name: "l", AIType: "OPENAI", Secret: client.Secret("secret")}); !errors.Is(err, refuse) {
		t.Errorf("CreateLLM: %v", err)
	}
	if p.received.Len() != 0 {
		t.Errorf("something was sent: %s", p.received.String())
	}

	// A server that shows one key and names another.
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.Marshal(map[string]string{"keyId": strings.Repeat("0", 64), "publicKey": string(p.key.PEM())})
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	}))
	defer liar.Close()
	if c, err = client.New(liar.URL, "token", client.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SealingKey(t.Context()); err == nil || !strings.Contains(err.Error(), p.key.ID()) {
		t.Errorf("SealingKey: %v", err)
	}
}

func TestBadSecrets(t *testing.T) {
	p := newPlane(t)
	c := p.client(t, client.Options{})
	for name, secret := range map[string]string{"none": "", "line end": "secret\n", "space": "a b", "not ASCII": "sécret"} {
		_, err := c.CreateLLM(t.Context(), client.LLMSpec{WorkspaceID: "11111111-2222-3333-4444-555555555555", Name: "l", AIType: "OPENAI", Secret: client.Secret(secret)})
		if err == nil || secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNew(t *testing.T) {
	for _, tc := range []struct {
		url, token string
		ok         bool
	}{
		{"https://control.example.com", "t", true}, {"https://control.example.com:8443/", "t", true}, {"http://127.0.0.1:8080", "t", true},
		{"http://[::1]:8080", "t", true}, {"http://localhost:8080", "t", true},
		{"http://control.example.com", "t", false}, {"http://10.0.0.1", "t", false}, {"http://127.0.0.1.example.com", "t", false},
		{"control.example.com", "t", false}, {"ftp://control.example.com", "t", false}, {"https://u:p@control.example.com", "t", false},
		{"https://control.example.com?x=1", "t", false}, {"https://control.example.com", "", false}, {"https://control.example.com", "a\nb", false}, {"", "t", false},
	} {
		if _, err := client.New(tc.url, tc.token, client.Options{}); (err == nil) != tc.ok {
			t.Errorf("New(%q, %q): %v", tc.url, tc.token, err)
		}
	}
}

// TestRedirect: a redirect is an error, and the token does not follow it.
func TestRedirect(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	c, err := client.New(srv.URL, "token", client.Options{HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Workspaces(t.Context())
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusTemporaryRedirect || asked {
		t.Errorf("redirect: %v; followed: %v", err, asked)
	}
}

func TestUnreachable(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	c, err := client.New(srv.URL, "very-secret-token", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var refused *client.Error
	if _, err = c.Workspaces(t.Context()); !errors.As(err, &refused) || refused.Status != 404 || !strings.Contains(err.Error(), "404") {
		t.Errorf("a page that is not the API's: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = c.Workspaces(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	srv.Close()
	if _, err = c.Workspaces(t.Context()); err == nil || strings.Contains(err.Error(), "very-secret-token") {
		t.Errorf("closed server: %v", err)
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	k := client.IssuedKey{ID: "i", Key: "k", Secret: client.Secret("hunter2")}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "k", k, "s", k.Secret)
	fmt.Fprintf(&out, "%v %+v %#v %s %x %d %q", k, k, k, k.Secret, k.Secret, k.Secret, k.Secret)
	for _, leak := range []string{"hunter2", "68756e", "104 117"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("a secret prints itself: %s", out.String())
		}
	}
}
