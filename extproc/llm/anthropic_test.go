package llm_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/protocoltest"
	"keybridge/keyshare/seal"
)

// claudeError is the error form of Anthropic's API.
type claudeError struct {
	Type  string
	Error struct{ Type, Message string }
}

func parseClaude(t testing.TB, e *extproc.Error) claudeError {
	t.Helper()
	var w claudeError
	d := json.NewDecoder(strings.NewReader(string(e.Body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil || w.Type != "error" || w.Error.Type == "" || w.Error.Message == "" || e.ContentType != "application/json" {
		t.Fatalf("not in Anthropic's error form (%v): %s %s", err, e.ContentType, e.Body)
	}
	return w
}

// ask is a request of an Anthropic SDK with the key in x-api-key.
func ask(method, path, key string, more ...string) *extproc.Request {
	return request(method, path, "", append([]string{"anthropic-version", "2023-06-01", "x-api-key", key}, more...)...)
}

func TestConformanceAnthropic(t *testing.T) {
	protocoltest.Run(t, protocoltest.Suite{
		New: func(live *grant.Live) extproc.Protocol { return llm.New(live) },
		Use: grant.UseAIKey,
		LLM: func(in *grant.ConnectorInput, h *seal.Header) {
			in.Provider, h.Binding.Use, h.Binding.Scope = grant.ProviderAnthropic, grant.UseAnthropic, ""
		},
		Key:     func(in *grant.KeyInput, _ *seal.Header) { in.AIType = grant.AITypeAnthropic },
		Request: conformanceRequest("/v1/messages", "POST"),
	})
}

func TestAnthropicForwards(t *testing.T) {
	w := newWorld(t)
	w.claude("main", "", providerKey)
	w.claude("proxy", "/anthropic/v1/", "sk-second")
	w.repository("single", "main")
	w.repository("several", "main", "proxy")
	single, several := w.key("A1", "single", typed(grant.AITypeAnthropic)), w.key("B2", "several", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for _, c := range []struct {
		name, key, method, path string
		cluster, to, secret     string
	}{
		{"messages", single, "POST", "/v1/messages", "cluster-main", "/v1/messages", providerKey},
		{"beta types", single, "POST", "/v1/messages?beta=true", "cluster-main", "/v1/messages?beta=true", providerKey},
		{"count", single, "POST", "/v1/messages/count_tokens", "cluster-main", "/v1/messages/count_tokens", providerKey},
		{"models", single, "GET", "/v1/models", "cluster-main", "/v1/models", providerKey},
		{"page", single, "GET", "/v1/models?limit=100&after_id=claude%3Ax", "cluster-main", "/v1/models?limit=100&after_id=claude%3Ax", providerKey},
		{"model", single, "GET", "/v1/models/claude-1?beta=true", "cluster-main", "/v1/models/claude-1?beta=true", providerKey},
		{"named", several, "POST", "/connectors/proxy/v1/messages", "cluster-proxy", "/anthropic/v1/messages", "sk-second"},
	} {
		for how, r := range map[string]*extproc.Request{
			"x-api-key": ask(c.method, c.path, c.key),
			"bearer":    request(c.method, c.path, c.key, "anthropic-version", "2026-10-21"),
		} {
			t.Run(c.name+" by "+how, func(t *testing.T) {
				d, e := p.Decide(now, r)
				if e != nil {
					t.Fatalf("refused: %d %s", e.Status, e.Body)
				}
				got := []any{d.Cluster, d.Path, d.Set}
				want := []any{c.cluster, c.to, []extproc.Header{{Name: "x-api-key", Value: c.secret}}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				if !slices.Contains(d.Remove, "authorization") || slices.Contains(d.Remove, "anthropic-version") || slices.Contains(d.Remove, "x-api-key") {
					t.Errorf("removes %q", d.Remove)
				}
				if d.Key == "" || strings.Contains(c.key, d.Key) {
					t.Errorf("key record %q", d.Key)
				}
			})
		}
	}
}

func TestAnthropicHeaders(t *testing.T) {
	w := newWorld(t)
	w.claude("main", "", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for _, c := range []struct {
		name   string
		header []string
		ok     bool
		remove string
	}{
		{"version", []string{"anthropic-version", "2026-10-21"}, true, ""},
		{"no version", nil, true, ""}, // the provider's to refuse
		{"two versions", []string{"anthropic-version", "2023-06-01", "anthropic-version", "2023-06-01"}, false, ""},
		{"version of another form", []string{"anthropic-version", "20230601"}, false, ""},
		{"version with more", []string{"anthropic-version", "2023-06-01,x"}, false, ""},
		{"empty version", []string{"anthropic-version", ""}, false, ""},
		{"feature", []string{"anthropic-beta", "interleaved-thinking-2025-05-14"}, true, ""},
		{"later revision of a feature", []string{"anthropic-beta", "interleaved-thinking-2031-01-01"}, true, ""},
		{"features", []string{"anthropic-beta", "claude-code-20250219, context-1m-2025-08-07 ,", "anthropic-beta", "pdfs-2024-09-25"}, true, ""},
		{"no feature", []string{"anthropic-beta", ""}, true, ""},
		{"files", []string{"anthropic-beta", "files-api-2025-04-14"}, false, ""},
		{"files behind another", []string{"anthropic-beta", "pdfs-2024-09-25,files-api-2025-04-14"}, false, ""},
		{"files in a second line", []string{"anthropic-beta", "pdfs-2024-09-25", "anthropic-beta", "files-api-2025-04-14"}, false, ""},
		{"skills", []string{"anthropic-beta", "skills-2025-10-02"}, false, ""},
		{"batches", []string{"anthropic-beta", "message-batches-2024-09-24"}, false, ""},
		{"unknown feature", []string{"anthropic-beta", "time-travel-2027-01-01"}, false, ""},
		{"no date", []string{"anthropic-beta", "pdfs"}, false, ""},
		{"not quite a date", []string{"anthropic-beta", "pdfs-2024-09-2x"}, false, ""},
		{"other case", []string{"anthropic-beta", "PDFS-2024-09-25"}, false, ""},
		{"not text", []string{"anthropic-beta", "\xff"}, false, ""},
		{"workspace", []string{"anthropic-workspace-id", "wrkspc_1"}, true, "anthropic-workspace-id"},
		{"user profile", []string{"anthropic-user-profile-id", "up_1"}, true, "anthropic-user-profile-id"},
		{"unknown header", []string{"anthropic-new", "1"}, true, "anthropic-new"},
		{"browser", []string{"anthropic-dangerous-direct-browser-access", "true"}, true, ""},
		{"OpenAI's organization", []string{"openai-organization", "org"}, true, "openai-organization"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, e := p.Decide(now, request("POST", "/v1/messages", key, c.header...))
			if !c.ok {
				if e == nil {
					t.Fatal("goes through")
				}
				if got := parseClaude(t, e); e.Status != 400 || got.Error.Type != "invalid_request_error" {
					t.Errorf("%d %s", e.Status, e.Body)
				}
				return
			}
			if e != nil {
				t.Fatalf("refused: %s", e.Body)
			}
			for _, h := range d.Remove {
				if strings.HasPrefix(h, "anthropic-") && h != c.remove {
					t.Errorf("%s is removed", h)
				}
			}
			if c.remove != "" && !slices.Contains(d.Remove, c.remove) {
				t.Errorf("%s is not removed", c.remove)
			}
		})
	}
}

func TestAnthropicKeyForms(t *testing.T) {
	w := newWorld(t)
	w.claude("main", "", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for name, lines := range map[string][]string{
		"none":                nil,
		"empty":               {"x-api-key", ""},
		"scheme in x-api-key": {"x-api-key", "Bearer " + key},
		"bare":                {"authorization", key},
		"wrong":               {"x-api-key", key[:len(key)-1] + "x"},
		"longer":              {"x-api-key", key + "r"},
		"space":               {"x-api-key", " " + key},
		"joined":              {"x-api-key", key + ", " + key},
		"twice":               {"x-api-key", key, "x-api-key", key},
		"in both":             {"x-api-key", key, "authorization", "Bearer " + key},
		"and a provider's":    {"x-api-key", key, "authorization", "Bearer sk-ant-1"},
		"bearer twice":        {"authorization", "Bearer " + key, "authorization", "Bearer " + key},
		"a provider's":        {"x-api-key", providerKey},
		"azure's header":      {"api-key", key},
	} {
		t.Run(name, func(t *testing.T) {
			_, e := p.Decide(now, request("POST", "/v1/messages", "", lines...))
			if e == nil || e.Status != 401 {
				t.Fatalf("got %v", e)
			}
			if got := parseClaude(t, e); got.Error.Type != "authentication_error" || strings.Contains(string(e.Body), key) {
				t.Errorf("%s", e.Body)
			}
		})
	}
	// OpenAI's paths take no x-api-key, a header that their SDKs do not send.
	if _, e := p.Decide(now, request("POST", "/v1/chat/completions", "", "x-api-key", key)); e == nil || e.Status != 401 {
		t.Errorf("got %v", e)
	}
}

func TestAnthropicRefusedPaths(t *testing.T) {
	w := newWorld(t)
	w.claude("main", "", providerKey)
	w.repository("single", "main")
	key := w.key("A1", "single", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for _, c := range []struct {
		line   string
		status int
		kind   string
	}{
		{"POST /v1/messages/batches", 403, "permission_error"},
		{"GET /v1/messages/batches", 403, "permission_error"},
		{"GET /v1/messages/batches/msgbatch_1/results", 403, "permission_error"},
		{"POST /v1/messages/batches/msgbatch_1/cancel?beta=true", 403, "permission_error"},
		{"GET /v1/files", 403, "permission_error"},
		{"POST /v1/files?beta=true", 403, "permission_error"},
		{"GET /v1/skills", 403, "permission_error"},
		{"GET /v1/organizations/api_keys", 403, "permission_error"},
		{"POST /v1/agents", 403, "permission_error"},
		{"POST /v1/complete", 403, "permission_error"},
		{"POST /connectors/main/v1/messages/batches", 403, "permission_error"},
		{"GET /v1/messages", 404, "not_found_error"},
		{"POST /v1/messages/", 404, "not_found_error"},
		{"POST /v1/messages/x", 404, "not_found_error"},
		{"POST /v1/messages/../files", 404, "not_found_error"},
		{"POST /v1/messages/%2e%2e/files", 404, "not_found_error"},
		{"POST /v1//messages", 404, "not_found_error"},
		{"POST /messages", 404, "not_found_error"},
		{"DELETE /v1/models/claude", 404, "not_found_error"},
		{"GET /v1/unheard-of", 404, "not_found_error"},
		{"GET /connectors/other/v1/models", 404, "not_found_error"},
		{"POST /v1/messages?", 400, "invalid_request_error"},
		{"POST /v1/messages?beta", 400, "invalid_request_error"},
		{"POST /v1/messages?beta=1", 400, "invalid_request_error"},
		{"POST /v1/messages?beta=true&beta=true", 400, "invalid_request_error"},
		{"POST /v1/messages?beta=true&", 400, "invalid_request_error"},
		{"POST /v1/messages?key=" + key, 400, "invalid_request_error"},
		{"POST /v1/messages?limit=1", 400, "invalid_request_error"},
		{"GET /v1/models?limit=0", 400, "invalid_request_error"},
		{"GET /v1/models?limit=1001", 400, "invalid_request_error"},
		{"GET /v1/models?limit=-1", 400, "invalid_request_error"},
		{"GET /v1/models?after_id=a%26b%zz", 400, "invalid_request_error"},
		{"GET /v1/models?after_id=../x", 400, "invalid_request_error"},
		{"GET /v1/models?after_id=a;b=c", 400, "invalid_request_error"},
		{"GET /v1/models?after_id=a&before_id=b", 400, "invalid_request_error"},
		{"GET /v1/models?page=1", 400, "invalid_request_error"},
		{"GET /v1/models/claude?limit=1", 400, "invalid_request_error"},
	} {
		t.Run(c.line, func(t *testing.T) {
			method, path, _ := strings.Cut(c.line, " ")
			d, e := p.Decide(now, ask(method, path, key))
			if e == nil {
				t.Fatalf("goes to %q", d.Path)
			}
			if got := parseClaude(t, e); e.Status != c.status || got.Error.Type != c.kind || strings.Contains(string(e.Body), key) {
				t.Errorf("%d %s", e.Status, e.Body)
			}
		})
	}
}

// A key's type decides what it reaches, the path in whose words a refusal is.
func TestKeyTypes(t *testing.T) {
	w := newWorld(t)
	w.connector("gpt", "/v1", providerKey, "gpt-1")
	w.claude("claude", "", "sk-second", "claude-1")
	w.repository("both", "gpt", "claude")
	w.repository("openai", "gpt")
	keys := map[string]string{}
	for i, aiType := range []string{"", grant.AITypeOpenAI, grant.AITypeOther, grant.AITypeAnthropic} {
		keys[aiType] = w.key(fmt.Sprint("A", i), "both", typed(aiType))
	}
	lost := w.key("B1", "openai", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for aiType, key := range keys {
		own, other, cluster := request("POST", "/v1/chat/completions", key), ask("POST", "/v1/messages", key), "cluster-gpt"
		if aiType == grant.AITypeAnthropic {
			own, other, cluster = ask("POST", "/v1/messages", key), request("POST", "/v1/chat/completions", key), "cluster-claude"
		}
		if d, e := p.Decide(now, own); e != nil || d.Cluster != cluster {
			t.Errorf("%s: %v, %v", aiType, d, e)
		}
		_, e := p.Decide(now, other)
		if e == nil || e.Status != 403 || e.Reason != "key_type" {
			t.Fatalf("%s: %v", aiType, e)
		}
		if aiType == grant.AITypeAnthropic {
			parse(t, e)
		} else {
			parseClaude(t, e)
		}
	}
	if _, e := p.Decide(now, ask("POST", "/v1/messages", lost)); e == nil || e.Reason != "no_connector" {
		t.Errorf("got %v", e)
	}
	w.in.Keys[0].AIType = "GOOGLE"
	if _, problems := grant.Build(w.in); len(problems) != 1 || !strings.Contains(problems[0].Reason, "unknown AI type") {
		t.Errorf("problems %v", problems)
	}
}
