package llm_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

const (
	workspace      = "0a4f1b2c-0000-4000-8000-000000000001"
	otherWorkspace = "0a4f1b2c-0000-4000-8000-000000000002"
	providerKey    = "sk-provider-0123456789"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is an index under construction.
type world struct {
	t     testing.TB
	arena *lockedmem.Arena
	in    grant.Input
}

func newWorld(t testing.TB) *world {
	t.Helper()
	arena, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arena.Purge)
	return &world{t: t, arena: arena}
}

func (w *world) credential(h seal.Header, secret []byte) *credential.Credential {
	w.t.Helper()
	h.Format, h.Version = 1, 1
	if h.Workspace == "" {
		h.Workspace = workspace
	}
	c, err := credential.New(w.arena, h, secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// connector adds an AI connector whose id is its name. Models that end in "*" are
// patterns of its record, others are listed by the provider.
func (w *world) connector(name, scope, secret string, models ...string) {
	w.t.Helper()
	w.provider(grant.ProviderOpenAI, grant.UseOpenAI, name, scope, secret, models)
}

// claude adds an Anthropic connector.
func (w *world) claude(name, scope, secret string, models ...string) {
	w.t.Helper()
	w.provider(grant.ProviderAnthropic, grant.UseAnthropic, name, scope, secret, models)
}

func (w *world) provider(p grant.Provider, use, name, scope, secret string, models []string) {
	w.t.Helper()
	in := grant.ConnectorInput{
		ID: name, Workspace: workspace, Name: name, Provider: p, Cluster: "cluster-" + name,
		Credential: w.credential(seal.Header{Type: seal.TypeCredential, Record: name, Binding: seal.Binding{
			Use: use, Scheme: "https", Host: name + ".example", Port: 443, Scope: scope,
		}}, []byte(secret)),
	}
	for _, id := range models {
		in.Models = append(in.Models, grant.Model{ID: id, Listed: !strings.HasSuffix(id, "*")})
	}
	w.in.Connectors = append(w.in.Connectors, in)
}

// typed makes a key one of an AI type.
func typed(aiType string) func(*grant.KeyInput, *seal.Binding) {
	return func(k *grant.KeyInput, _ *seal.Binding) { k.AIType = aiType }
}

func (w *world) repository(id string, ai ...string) {
	w.in.Repositories = append(w.in.Repositories, grant.RepositoryInput{ID: id, Workspace: workspace, Name: id, AI: ai})
}

// key adds a repository key and returns its secret.
func (w *world) key(id, repository string, change func(*grant.KeyInput, *seal.Binding)) string {
	w.t.Helper()
	secret := "kb-" + id + "-" + strings.Repeat("r", 43)
	sum := sha256.Sum256([]byte(secret))
	k := grant.KeyInput{ID: "record-" + id, Workspace: workspace}
	b := seal.Binding{Use: grant.UseAIKey, Key: id, Repository: repository}
	if change != nil {
		change(&k, &b)
	}
	k.Credential = w.credential(seal.Header{Type: seal.TypeRepositoryKey, Record: k.ID, Binding: b}, sum[:])
	w.in.Keys = append(w.in.Keys, k)
	return secret
}

func (w *world) protocol() *llm.Protocol {
	w.t.Helper()
	index, problems := grant.Build(w.in)
	if len(problems) != 0 {
		w.t.Fatal(problems)
	}
	var live grant.Live
	live.Store(index)
	return llm.New(&live)
}

// request has a key, if not empty, and further header lines, name and value in turn.
func request(method, path, key string, more ...string) *extproc.Request {
	more = append([]string{":method", method, ":path", path, ":authority", "gateway.example:8443", ":scheme", "http"}, more...)
	if key != "" {
		more = append(more, "authorization", "Bearer "+key)
	}
	var lines []extproc.Header
	for pair := range slices.Chunk(more, 2) {
		lines = append(lines, extproc.Header{Name: pair[0], Value: pair[1]})
	}
	return extproc.NewRequest(method == "GET", lines...)
}

// wire is the error form of OpenAI's API.
type wire struct {
	Error struct {
		Message string
		Type    string
		Param   *string
		Code    *string
	}
}

func parse(t testing.TB, e *extproc.Error) wire {
	t.Helper()
	var w wire
	d := json.NewDecoder(strings.NewReader(string(e.Body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil || w.Error.Message == "" || w.Error.Type == "" || e.ContentType != "application/json" {
		t.Fatalf("not in OpenAI's error form (%v): %s %s", err, e.ContentType, e.Body)
	}
	return w
}

func TestForwards(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.connector("Über/2 + 3", "", "sk-second")
	w.connector("proxy", "/openai/deployments/x/v1/", "sk-third")
	w.repository("single", "main")
	w.repository("several", "main", "Über/2 + 3", "proxy")
	w.repository("root", "Über/2 + 3")
	single, several, root := w.key("A1", "single", nil), w.key("B2", "several", nil), w.key("C3", "root", nil)
	p := w.protocol()
	for _, c := range []struct {
		name, key, method, path string
		cluster, authority, to  string
		secret                  string
	}{
		{"chat", single, "POST", "/v1/chat/completions", "cluster-main", "main.example", "/v1/chat/completions", providerKey},
		{"completions", single, "POST", "/v1/completions", "cluster-main", "main.example", "/v1/completions", providerKey},
		{"embeddings", single, "POST", "/v1/embeddings", "cluster-main", "main.example", "/v1/embeddings", providerKey},
		{"models", single, "GET", "/v1/models", "cluster-main", "main.example", "/v1/models", providerKey},
		{"model", single, "GET", "/v1/models/ft:gpt-4o-mini:acme::7p4", "cluster-main", "main.example", "/v1/models/ft:gpt-4o-mini:acme::7p4", providerKey},
		{"model with slash", single, "GET", "/v1/models/meta/llama-3", "cluster-main", "main.example", "/v1/models/meta/llama-3", providerKey},
		{"model with encoded slash", single, "GET", "/v1/models/meta%2Fllama-3", "cluster-main", "main.example", "/v1/models/meta%2Fllama-3", providerKey},
		{"its only connector by name", single, "POST", "/connectors/main/v1/embeddings", "cluster-main", "main.example", "/v1/embeddings", providerKey},
		{"one of several by name", several, "POST", "/connectors/%C3%9Cber%2F2%20+%203/v1/chat/completions", "cluster-Über/2 + 3", "Über/2 + 3.example", "/chat/completions", "sk-second"},
		{"base path with slash", several, "GET", "/connectors/proxy/v1/models", "cluster-proxy", "proxy.example", "/openai/deployments/x/v1/models", "sk-third"},
		{"no base path", root, "GET", "/v1/models", "cluster-Über/2 + 3", "Über/2 + 3.example", "/models", "sk-second"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request(c.method, c.path, c.key)
			d, e := p.Decide(now, r)
			if e != nil {
				t.Fatalf("refused: %d %s", e.Status, e.Body)
			}
			got := []any{d.Cluster, d.Authority, d.Path, d.Set}
			want := []any{c.cluster, c.authority, c.to, []extproc.Header{{Name: "authorization", Value: "Bearer " + c.secret}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for _, h := range []string{"api-key", "x-api-key", "cookie", "proxy-authorization", "openai-organization", "openai-project", "x-http-method-override"} {
				if !slices.Contains(d.Remove, h) {
					t.Errorf("%s is not removed", h)
				}
			}
			r.Decision() // wipes the decision; what is removed must survive in the next
		})
	}
}

// Servers behind CGI or WSGI take openai_organization for openai-organization.
func TestUnderscoreHeadersStayBehind(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", nil)
	d, e := w.protocol().Decide(now, request("GET", "/v1/models", key, "openai_organization", "org-1"))
	if e != nil {
		t.Fatalf("refused: %d %s", e.Status, e.Body)
	}
	if !slices.Contains(d.Remove, "openai_organization") {
		t.Errorf("removed: %q", d.Remove)
	}
}

func TestBearerForms(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", nil)
	p := w.protocol()
	ok := func(lines ...string) *extproc.Error {
		_, e := p.Decide(now, request("GET", "/v1/models", "", lines...))
		return e
	}
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER "} {
		if e := ok("authorization", scheme+key); e != nil {
			t.Errorf("%q: %s", scheme, e.Body)
		}
	}
	for name, lines := range map[string][]string{
		"none":               nil,
		"other header":       {"x-api-key", key},
		"azure's header":     {"api-key", key},
		"cookie":             {"cookie", "authorization=Bearer " + key},
		"proxy":              {"proxy-authorization", "Bearer " + key},
		"twice the same":     {"authorization", "Bearer " + key, "authorization", "Bearer " + key},
		"joined":             {"authorization", "Bearer " + key + ", Bearer " + key},
		"joined tightly":     {"authorization", "Bearer " + key + ",Bearer"},
		"basic":              {"authorization", "Basic " + key},
		"no scheme":          {"authorization", key},
		"two spaces":         {"authorization", "Bearer  " + key},
		"tab":                {"authorization", "Bearer\t" + key},
		"space after":        {"authorization", "Bearer " + key + " "},
		"empty":              {"authorization", ""},
		"only scheme":        {"authorization", "Bearer "},
		"upper-case prefix":  {"authorization", "Bearer KB" + key[2:]},
		"longer":             {"authorization", "Bearer " + key + "r"},
		"shorter":            {"authorization", "Bearer " + key[:len(key)-1]},
		"no id":              {"authorization", "Bearer kb--" + strings.Repeat("r", 43)},
		"no random":          {"authorization", "Bearer kb-A1-"},
		"nothing":            {"authorization", "Bearer kb-A1"},
		"very long":          {"authorization", "Bearer kb-A1-" + strings.Repeat("r", 100_000)},
		"non-ASCII":          {"authorization", "Bearer kb-A1-" + strings.Repeat("é", 43)},
		"percent":            {"authorization", "Bearer kb-A%31-" + strings.Repeat("r", 43)},
		"a provider's":       {"authorization", "Bearer " + providerKey},
		"the sealed hash":    {"authorization", fmt.Sprintf("Bearer kb-A1-%x", sha256.Sum256([]byte(key)))},
		"SigV4":              {"authorization", "AWS4-HMAC-SHA256 Credential=A1/20261122/us-east-1/s3/aws4_request"},
		"prefix of a scheme": {"authorization", "Bear"},
	} {
		t.Run(name, func(t *testing.T) {
			e := ok(lines...)
			if e == nil || e.Status != 401 {
				t.Fatalf("got %v", e)
			}
			parse(t, e)
			if strings.Contains(string(e.Body), key) {
				t.Error("the key is echoed")
			}
		})
	}
}

// Whatever is wrong with a key, the answer is the same, byte for byte.
func TestNoOracle(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.repository("open", "main")
	w.repository("shut", "main")
	w.in.Repositories[1].Disabled = true
	good := w.key("A1", "open", nil)
	keys := map[string]string{
		"unknown":             "kb-ZZ-" + strings.Repeat("r", 43),
		"wrong":               good[:len(good)-1] + "x",
		"malformed":           "sk-1",
		"disabled":            w.key("B2", "open", func(k *grant.KeyInput, _ *seal.Binding) { k.Disabled = true }),
		"expired":             w.key("C3", "open", func(k *grant.KeyInput, _ *seal.Binding) { k.Expires = now }),
		"disabled repository": w.key("D4", "shut", nil),
		"storage key":         w.key("E5", "open", func(_ *grant.KeyInput, b *seal.Binding) { b.Use = grant.UseStorageKey }),
	}
	later := w.key("F6", "open", func(k *grant.KeyInput, _ *seal.Binding) { k.Expires = now.Add(time.Second) })
	p := w.protocol()
	if _, e := p.Decide(now, request("GET", "/v1/models", later)); e != nil {
		t.Errorf("a key that has not expired: %s", e.Body)
	}
	var first *extproc.Error
	for name, key := range keys {
		for _, path := range []string{"/v1/models", "/v1/files", "/connectors/nope/v1/models", "/"} {
			_, e := p.Decide(now, request("GET", path, key))
			if e == nil {
				t.Fatalf("%s: %s goes through", name, path)
			}
			if first == nil {
				first = e
				if got := parse(t, e); e.Status != 401 || got.Error.Code == nil || *got.Error.Code != "invalid_api_key" {
					t.Errorf("%d %s", e.Status, e.Body)
				}
			}
			if diff := cmp.Diff(first, e); diff != "" {
				t.Errorf("%s on %s: %s", name, path, diff)
			}
		}
	}
}

func TestSealed(t *testing.T) {
	p := llm.New(&grant.Live{})
	for _, e := range []*extproc.Error{p.Unavailable(), p.TooLarge(), p.TooSlow()} {
		// In both forms at once: made without the request.
		var w struct {
			Type  string
			Error struct{ Type, Message, Code string }
		}
		if err := json.Unmarshal(e.Body, &w); err != nil || w.Type != "error" || w.Error.Type == "" || w.Error.Message == "" || w.Error.Code == "" {
			t.Errorf("%v: %s", err, e.Body)
		}
	}
	_, e := p.Decide(now, request("GET", "/v1/models", "kb-A1-x"))
	if e == nil || e.Status != 503 || parse(t, e).Error.Type != "server_error" {
		t.Fatalf("got %+v", e)
	}
	if strings.Contains(strings.ToLower(string(e.Body)), "seal") {
		t.Error("clients learn of custody")
	}
}

func TestPurged(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", nil)
	p := w.protocol()
	w.arena.Purge()
	if _, e := p.Decide(now, request("GET", "/v1/models", key)); e == nil {
		t.Error("a purged bridge lets a request go on")
	}
}

func TestUnusableProviderKey(t *testing.T) {
	for name, secret := range map[string]string{"line break": "sk-1\r\nx-injected: 1", "space": "sk 1", "non-ASCII": "sk-é"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.connector("main", "/v1", secret)
			w.repository("single", "main")
			key := w.key("A1", "single", nil)
			_, e := w.protocol().Decide(now, request("GET", "/v1/models", key))
			if e == nil || e.Status != 503 || parse(t, e).Error.Type != "server_error" {
				t.Errorf("got %+v", e)
			}
		})
	}
}
