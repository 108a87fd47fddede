package llm_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

func TestRefusedPaths(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", nil)
	p := w.protocol()
	for _, c := range []struct {
		line   string
		status int
		code   string
	}{
		// Other tenants of the account, or not served.
		{"GET /v1/files", 403, "operation_not_allowed"},
		{"POST /v1/files", 403, "operation_not_allowed"},
		{"GET /v1/files/file-1/content", 403, "operation_not_allowed"},
		{"POST /v1/batches", 403, "operation_not_allowed"},
		{"GET /v1/organization/users", 403, "operation_not_allowed"},
		{"POST /v1/responses", 403, "operation_not_allowed"},
		{"GET /v1/responses/resp_1", 403, "operation_not_allowed"},
		{"GET /v1/chat/completions", 403, "operation_not_allowed"},
		{"GET /v1/chat/completions/chatcmpl-1", 403, "operation_not_allowed"},
		{"DELETE /v1/chat/completions/chatcmpl-1", 403, "operation_not_allowed"},
		{"POST /v1/chat/completions/", 403, "operation_not_allowed"},
		{"GET /v1/vector_stores", 403, "operation_not_allowed"},
		{"POST /v1/images/generations", 403, "operation_not_allowed"},
		{"POST /connectors/main/v1/files", 403, "operation_not_allowed"},
		// Not the method.
		{"DELETE /v1/models/ft:a", 404, "unknown_url"},
		{"POST /v1/models", 404, "unknown_url"},
		{"HEAD /v1/models", 404, "unknown_url"},
		{"PUT /v1/embeddings", 404, "unknown_url"},
		{"OPTIONS /v1/chat/completions", 403, "operation_not_allowed"},
		{"post /v1/embeddings", 404, "unknown_url"},
		{" /v1/models", 404, "unknown_url"},
		// Not the path.
		{"GET ", 404, "unknown_url"},
		{"OPTIONS *", 404, "unknown_url"},
		{"GET /", 404, "unknown_url"},
		{"GET /v1", 404, "unknown_url"},
		{"GET /v1/", 404, "unknown_url"},
		{"GET v1/models", 404, "unknown_url"},
		{"GET /V1/models", 404, "unknown_url"},
		{"GET /v1/Models", 404, "unknown_url"},
		{"GET /v1/models/", 404, "unknown_url"},
		{"GET /v1//models", 404, "unknown_url"},
		{"GET //v1/models", 404, "unknown_url"},
		{"GET /v1/./models", 404, "unknown_url"},
		{"GET /v1/x/../models", 404, "unknown_url"},
		{"GET /v1/%6dodels", 404, "unknown_url"},
		{"GET /v1/models#x", 404, "unknown_url"},
		{"GET /v1/models;x", 404, "unknown_url"},
		{"GET /v1models", 404, "unknown_url"},
		{"GET /v2/models", 404, "unknown_url"},
		{"GET /v1beta/models", 404, "unknown_url"},
		{"GET http://api.example/v1/models", 404, "unknown_url"},
		{"GET /v1/unheard-of", 404, "unknown_url"},
		{"GET /v1/models/" + strings.Repeat("m", 257), 404, "unknown_url"},
		{"GET /v1/models/" + strings.Repeat("m", 100_000), 404, "unknown_url"},
		// Models that would be another path.
		{"GET /v1/models/.", 404, "unknown_url"},
		{"GET /v1/models/..", 404, "unknown_url"},
		{"GET /v1/models/../files", 404, "unknown_url"},
		{"GET /v1/models/%2e%2e/files", 404, "unknown_url"},
		{"GET /v1/models/..%2ffiles", 404, "unknown_url"},
		{"GET /v1/models/%2E%2E%2Ffiles", 404, "unknown_url"},
		{"GET /v1/models/%252e%252e%252ffiles", 404, "unknown_url"},
		{"GET /v1/models/..%5cfiles", 404, "unknown_url"},
		{"GET /v1/models/..\\files", 404, "unknown_url"},
		{"GET /v1/models/a//b", 404, "unknown_url"},
		{"GET /v1/models/a/", 404, "unknown_url"},
		{"GET /v1/models/a/b/c", 404, "unknown_url"},
		{"GET /v1/models/a%", 404, "unknown_url"},
		{"GET /v1/models/a%2", 404, "unknown_url"},
		{"GET /v1/models/a%zz", 404, "unknown_url"},
		{"GET /v1/models/a%00b", 404, "unknown_url"},
		{"GET /v1/models/a%0d%0ab", 404, "unknown_url"},
		{"GET /v1/models/a%ff", 404, "unknown_url"},
		{"GET /v1/models/a\x80", 404, "unknown_url"},
		{"GET /v1/models/a#b", 404, "unknown_url"},
		{"GET /v1/models/a b", 404, "unknown_url"},
		// Queries.
		{"GET /v1/models?", 400, "query_not_allowed"},
		{"GET /v1/models?api_key=kb-1", 400, "query_not_allowed"},
		{"POST /v1/chat/completions?api-version=1", 400, "query_not_allowed"},
		{"GET /v1/models/a?b", 400, "query_not_allowed"},
		// Connectors.
		{"GET /connectors", 404, "unknown_url"},
		{"GET /connectors/", 404, "unknown_url"},
		{"GET /connectors/main", 404, "unknown_url"},
		{"GET /connectors//v1/models", 404, "unknown_url"},
		{"GET /connectors/main//v1/models", 404, "unknown_url"},
		{"GET /connectors/main/../v1/models", 404, "unknown_url"},
		{"GET /connectors/ma%69/v1/models", 404, "connector_not_found"},
		{"GET /connectors/ma%69%6/v1/models", 404, "unknown_url"},
		{"GET /connectors/MAIN/v1/models", 404, "connector_not_found"},
		{"GET /connectors/main%00/v1/models", 404, "unknown_url"},
		{"GET /connectors/main/connectors/main/v1/models", 404, "unknown_url"},
	} {
		t.Run(c.line, func(t *testing.T) {
			method, path, _ := strings.Cut(c.line, " ")
			d, e := p.Decide(now, request(method, path, key))
			if e == nil {
				t.Fatalf("goes to %q", d.Path)
			}
			got := parse(t, e)
			if e.Status != c.status || got.Error.Code == nil || *got.Error.Code != c.code {
				t.Errorf("%d %s", e.Status, e.Body)
			}
			if e.Reason == "" || strings.Contains(e.Reason, "/") {
				t.Errorf("reason %q", e.Reason)
			}
		})
	}
}

func TestNamedConnectors(t *testing.T) {
	w := newWorld(t)
	w.connector("main", "/v1", providerKey)
	w.connector("a b/c", "/v1", providerKey)
	w.connector("hidden", "/v1", providerKey)
	w.claude("other kind", "", providerKey)
	w.repository("several", "main", "a b/c", "other kind")
	w.repository("none")
	several, none := w.key("A1", "several", nil), w.key("B2", "none", nil)
	p := w.protocol()
	refused := func(path, key string, status int, code string) string {
		t.Helper()
		_, e := p.Decide(now, request("GET", path, key))
		if e == nil {
			t.Fatalf("%s goes through", path)
		}
		got := parse(t, e)
		if e.Status != status || got.Error.Code == nil || *got.Error.Code != code {
			t.Errorf("%s: %d %s", path, e.Status, e.Body)
		}
		return got.Error.Message
	}
	for _, message := range []string{
		refused("/connectors/hidden/v1/models", several, 404, "connector_not_found"),
		refused("/connectors/other%20kind/v1/models", several, 404, "connector_not_found"),
		refused("/v1/models/unheard-of", several, 404, "model_not_found"),
	} {
		if !strings.Contains(message, "/connectors/main/v1, /connectors/a%20b%2Fc/v1.") || strings.Contains(message, "hidden") || strings.Contains(message, "kind") {
			t.Errorf("message %q", message)
		}
	}
	refused("/v1/models", none, 400, "no_connector")
	refused("/connectors/main/v1/models", none, 400, "no_connector")
	// The names that the message lists work as they are listed.
	for _, name := range []string{"main", "a%20b%2Fc"} {
		if _, e := p.Decide(now, request("GET", "/connectors/"+name+"/v1/models", several)); e != nil {
			t.Errorf("%s: %s", name, e.Body)
		}
	}
}

func FuzzDecide(f *testing.F) {
	w := newWorld(f)
	w.connector("main", "/base/v1", providerKey)
	w.connector("a b", "/v1", "sk-second", "*")
	w.claude("claude", "", "sk-third")
	w.repository("single", "main", "a b")
	w.repository("other", "claude")
	key, claudeKey := w.key("A1", "single", nil), w.key("B2", "other", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for _, s := range []string{"/v1/models", "/connectors/main/v1/models/a%2Fb", "/connectors/a%20b/v1/chat/completions", "/v1/models/..", "/v1/files?x", "/v1/messages?beta=true", "/v1/models?limit=2&after_id=a%2Fb"} {
		f.Add("GET", s, "Bearer "+key, "2023-06-01")
		f.Add("POST", s, "Bearer "+claudeKey, "2023-06-01")
		f.Add("POST", s, "bearer kb-A1-x", "")
	}
	allowed := []string{"POST /chat/completions", "POST /completions", "POST /embeddings", "POST /messages", "POST /messages/count_tokens", "GET /models"}
	f.Fuzz(func(t *testing.T, method, path, authorization, version string) {
		lines := []extproc.Header{
			{Name: ":method", Value: method}, {Name: ":path", Value: path},
			{Name: ":authority", Value: "g"}, {Name: "authorization", Value: authorization},
		}
		if version != "" {
			lines = append(lines, extproc.Header{Name: "anthropic-version", Value: version})
		}
		d, e := p.Decide(now, extproc.NewRequest(true, lines...))
		if (d == nil) == (e == nil) {
			t.Fatal("neither or both")
		}
		if e != nil {
			if !json.Valid(e.Body) || e.Reason == "" {
				t.Fatalf("%+v", e)
			}
			if strings.Contains(string(e.Body), key) {
				t.Fatal("the key is echoed")
			}
			return
		}
		holds := key
		if d.Cluster == "cluster-claude" {
			holds = claudeKey
		}
		if !strings.EqualFold(authorization, "Bearer "+holds) || !strings.HasSuffix(authorization, holds) {
			t.Fatalf("%q is let through", authorization)
		}
		base := map[string]string{"cluster-main": "/base/v1", "cluster-a b": "/v1", "cluster-claude": "/v1"}[d.Cluster]
		rest, ok := strings.CutPrefix(d.Path, base)
		if !ok || base == "" || !strings.HasSuffix(path, rest) {
			t.Fatalf("%s %q goes to %s %q", method, path, d.Cluster, d.Path)
		}
		rest, query, asked := strings.Cut(rest, "?")
		for name, values := range must(url.ParseQuery(query)) {
			if len(values) != 1 || !slices.Contains([]string{"beta", "limit", "after_id", "before_id"}, name) || len(values[0]) > 256 {
				t.Fatalf("query %q", query)
			}
		}
		if asked && d.Cluster != "cluster-claude" {
			t.Fatalf("query %q", query)
		}
		if model, ok := strings.CutPrefix(rest, "/models/"); ok && method == "GET" {
			// However a provider cleans the path, it stays below /models/.
			decoded, err := url.PathUnescape(model)
			if err != nil || strings.Contains(decoded, "%") {
				t.Fatalf("model %q", model)
			}
			for s := range strings.FieldsFuncSeq(decoded, func(r rune) bool { return r == '/' || r == '\\' }) {
				if s == "." || s == ".." {
					t.Fatalf("model %q", model)
				}
			}
			return
		}
		if !slices.Contains(allowed, method+" "+rest) {
			t.Fatalf("%s %q is let through", method, rest)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkDecide(b *testing.B) {
	w := newWorld(b)
	w.connector("main", "/v1", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", nil)
	for i := range 10_000 {
		w.key("K"+strconv.Itoa(i), "single", nil)
	}
	p := w.protocol()
	r := request("POST", "/v1/chat/completions", key, "content-type", "application/json")
	b.ReportAllocs()
	for b.Loop() {
		if _, e := p.Decide(now, r); e != nil {
			b.Fatal(string(e.Body))
		}
	}
}
