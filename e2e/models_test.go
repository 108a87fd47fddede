package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
	"keybridge/store/api/client"
)

// models is a tenant with several AI providers: two of OpenAI's API and two of
// Anthropic's, each with models of its own and one that the other has too.
type models struct {
	*world
	gpt, other      *provider.OpenAI
	claude, another *provider.Anthropic
	// Keys of the repository with all four, and of the one with gpt and claude.
	openAI, anthropic, openAISingle, anthropicSingle string
}

// What the lists of all models say, in the repository's order.
var (
	allOpenAI    = []string{"kb-chat-1", "kb-embed-1", "other-chat", "other-embed"}
	allAnthropic = []string{"kb-claude-1", "kb-claude-2", "kb-claude-3"}
)

func startModels(t *testing.T) *models {
	t.Helper()
	m := &models{world: start(t, config{})}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	recorder := provider.RecorderConfig{Forbidden: &m.behindEnvoy}
	var err error
	if m.gpt, err = provider.StartOpenAI(provider.OpenAIConfig{Recorder: recorder}); err == nil {
		m.other, err = provider.StartOpenAI(provider.OpenAIConfig{Recorder: recorder, BasePath: "/proxy/v1", Models: []string{"other-chat", "other-embed", "kb-chat-1"}})
	}
	if err == nil {
		m.claude, err = provider.StartAnthropic(provider.AIConfig{Recorder: recorder})
	}
	if err == nil {
		m.another, err = provider.StartAnthropic(provider.AIConfig{Recorder: recorder, BasePath: "/claude/v1", Models: []string{"kb-claude-2", "kb-claude-3"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{m.gpt, m.other, m.claude, m.another} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	ids := map[string]string{}
	for _, c := range []struct{ name, aiType, endpoint, secret string }{
		{"gpt", "OPENAI", m.gpt.Endpoint(), m.gpt.Key},
		{"other", "OTHER", m.other.Endpoint(), m.other.Key},
		// As Anthropic's SDKs have it, and as all others do.
		{"claude", "ANTHROPIC", m.claude.URL(), m.claude.Key},
		{"another claude", "ANTHROPIC", m.another.Endpoint(), m.another.Key},
	} {
		m.secrets.Add("key of "+c.name, c.secret)
		m.beforeEnvoy.Add("key of "+c.name, c.secret)
		if ids[c.name], err = m.tenant.CreateLLM(ctx, client.LLMSpec{
			WorkspaceID: m.tenant.Workspace, Name: c.name, AIType: c.aiType, Endpoint: c.endpoint, Secret: client.Secret(c.secret),
		}); err != nil {
			t.Fatal(c.name, err)
		}
	}
	all, err := m.tenant.Repository(ctx, "all models", nil, []string{ids["gpt"], ids["other"], ids["claude"], ids["another claude"]})
	if err != nil {
		t.Fatal(err)
	}
	single, err := m.tenant.Repository(ctx, "one of each", nil, []string{ids["claude"], ids["gpt"]})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		repository, aiType string
		to                 *string
	}{
		{all, "OPENAI", &m.openAI}, {all, "ANTHROPIC", &m.anthropic}, {single, "OTHER", &m.openAISingle}, {single, "ANTHROPIC", &m.anthropicSingle},
	} {
		key, err := m.tenant.CreateAIKey(ctx, k.repository, client.KeySpec{Name: strings.ToLower(k.aiType), AIType: k.aiType})
		if err != nil {
			t.Fatal(err)
		}
		*k.to = string(key.Secret)
		m.secrets.Add("AI key", *k.to)
		m.behindEnvoy.Add("AI key", *k.to)
	}
	if err := m.Wait(ctx, func() error {
		for key, want := range map[string][]string{m.openAI: allOpenAI, m.anthropic: allAnthropic, m.openAISingle: provider.Models, m.anthropicSingle: provider.ClaudeModels} {
			a, err := m.askAI(ctx, http.MethodGet, "/v1/models", "", key, "Anthropic-Version", "2023-06-01")
			if got := modelIDs(a.body); err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("models %v, want %v: %v %w", got, want, a, errors.Join(err, errNotYet))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err, "\n", m.logs())
	}
	m.forget()
	return m
}

func modelIDs(list string) (ids []string) {
	var in struct {
		Data []struct{ ID string }
	}
	_ = json.Unmarshal([]byte(list), &in)
	for _, m := range in.Data {
		ids = append(ids, m.ID)
	}
	return ids
}

func (m *models) recorders() map[string]*provider.Recorder {
	return map[string]*provider.Recorder{"gpt": m.gpt.Recorder, "other": m.other.Recorder, "claude": m.claude.Recorder, "another": m.another.Recorder}
}

func (m *models) forget() {
	m.reset()
	for _, r := range m.recorders() {
		r.Reset()
	}
}

// seen are the requests with a body that the providers have seen.
func (m *models) seen() []string {
	var lines []string
	for name, r := range m.recorders() {
		for _, q := range r.Requests() {
			if strings.HasPrefix(q.Line(), http.MethodPost) {
				lines = append(lines, name+" "+q.Line())
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func (m *models) wantSeen(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, m.seen()); diff != "" {
		t.Error("at the providers: ", diff)
	}
}

// clean wants that no provider has refused a request, and that none has seen a key of ours.
func (m *models) clean(t *testing.T) {
	t.Helper()
	for name, r := range m.recorders() {
		for _, l := range r.Leaks() {
			t.Errorf("%s at %s", l, name)
		}
		for _, q := range r.Requests() {
			if q.Malformed != "" || q.Chunked {
				t.Errorf("%s: %s malformed %q, chunked %v", name, q.Line(), q.Malformed, q.Chunked)
			}
		}
	}
	for _, v := range slices.Concat(m.gpt.Violations(), m.other.Violations(), m.claude.Violations(), m.another.Violations()) {
		t.Error("at a provider: ", v)
	}
}

// TestModels has one stack for all that several AI providers in one repository are about.
func TestModels(t *testing.T) {
	m := startModels(t)
	for name, test := range map[string]func(*models, *testing.T){
		"OpenAI SDK":                      (*models).openAISDK,
		"OpenAI SDK, one connector":       (*models).openAISDKSingle,
		"Anthropic SDK":                   (*models).anthropicSDK,
		"Anthropic SDK, one connector":    (*models).anthropicSDKSingle,
		"go-openai":                       (*models).goOpenAI,
		"routing":                         (*models).routing,
		"8 MB, model last":                (*models).largeBody,
		"streams are not buffered":        (*models).streams,
		"refusals":                        (*models).refusals,
		"lists in the form that is asked": (*models).lists,
	} {
		t.Run(name, func(t *testing.T) {
			m.forget()
			test(m, t)
			m.clean(t)
		})
	}
}

// ranSteps runs a script of an SDK with the key in env, and wants it to have done all steps.
func (m *models) ranSteps(t *testing.T, want []string, env, script string, args ...string) {
	t.Helper()
	out, err := python(t.Context(), []string{env}, append([]string{"testdata/" + script}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out), "\n")); diff != "" {
		t.Error(diff)
	}
}

// openAI runs OpenAI's SDK on a repository, or connector, with these models.
func (m *models) runOpenAI(t *testing.T, key, path string, routed bool, all, chat, embed []string) {
	t.Helper()
	want := []string{"models", "model"}
	for _, c := range chat {
		want = append(want, "chat "+c, "stream "+c)
	}
	for _, e := range embed {
		want = append(want, "embeddings "+e)
	}
	want = append(want, "long chat")
	if routed {
		want = append(want, "unknown model")
	}
	m.ranSteps(t, append(want, "files", "wrong key"), "OPENAI_API_KEY="+key, "ai_openai.py", m.frontAI.URL()+path,
		marshal(map[string]any{"all": all, "chat": chat, "embed": embed, "routed": routed}))
}

func (m *models) openAISDK(t *testing.T) {
	m.runOpenAI(t, m.openAI, "/v1", true, allOpenAI, []string{"kb-chat-1", "other-chat"}, []string{"kb-embed-1", "other-embed"})
	m.wantSeen(t,
		"gpt POST /v1/chat/completions", "gpt POST /v1/chat/completions", "gpt POST /v1/chat/completions", "gpt POST /v1/embeddings",
		"other POST /proxy/v1/chat/completions", "other POST /proxy/v1/chat/completions", "other POST /proxy/v1/embeddings")
}

// With one connector, or one by its name, the provider says itself which models it has.
func (m *models) openAISDKSingle(t *testing.T) {
	m.runOpenAI(t, m.openAISingle, "/v1", false, provider.Models, provider.Models[:1], provider.Models[1:])
	m.runOpenAI(t, m.openAI, "/connectors/gpt/v1", false, provider.Models, provider.Models[:1], provider.Models[1:])
}

func (m *models) runAnthropic(t *testing.T, key, path string, routed bool, all []string) {
	t.Helper()
	want := []string{"message by api_key", "message by auth_token", "message by x-api-key"}
	for _, c := range all {
		want = append(want, "message "+c, "stream "+c, "count "+c)
	}
	want = append(want, "models", "models in pages", "model", "beta", "long message")
	if routed {
		want = append(want, "unknown model")
	}
	m.ranSteps(t, append(want, "feature that reaches files", "batches", "files", "wrong key"), "REPOSITORY_KEY="+key, "ai_anthropic.py", m.frontAI.URL()+path,
		marshal(map[string]any{"all": all, "routed": routed}))
}

func (m *models) anthropicSDK(t *testing.T) {
	m.runAnthropic(t, m.anthropic, "", true, allAnthropic)
	counts := map[string]int{}
	for _, line := range m.seen() {
		counts[line]++
	}
	// Three by their authentication, of each model one and a stream, one with features, a long one.
	want := map[string]int{
		"claude POST /v1/messages": 3 + 2*2 + 2, "claude POST /v1/messages/count_tokens": 2,
		"another POST /claude/v1/messages": 2, "another POST /claude/v1/messages/count_tokens": 1,
	}
	// Beta methods of some versions of the SDK say so in the query.
	counts["claude POST /v1/messages"] += counts["claude POST /v1/messages?beta=true"]
	delete(counts, "claude POST /v1/messages?beta=true")
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error("at the providers: ", diff)
	}
	for _, r := range []*provider.Recorder{m.claude.Recorder, m.another.Recorder} {
		for _, q := range r.Requests() {
			if _, one := q.Get("X-Api-Key"); !one {
				t.Errorf("%s arrived without one x-api-key", q.Line())
			}
		}
	}
}

func (m *models) anthropicSDKSingle(t *testing.T) {
	m.runAnthropic(t, m.anthropicSingle, "", false, provider.ClaudeModels)
	m.runAnthropic(t, m.anthropic, "/connectors/claude", false, provider.ClaudeModels)
}

func (m *models) goOpenAI(t *testing.T) {
	ctx, c := t.Context(), m.openai(m.openAI)
	for _, model := range []string{"kb-chat-1", "other-chat"} {
		q := chat("good morning")
		q.Model = model
		if answer, err := c.CreateChatCompletion(ctx, q); err != nil || answer.Model != model || answer.Choices[0].Message.Content != "You said: good morning" {
			t.Errorf("%s: %+v, %v", model, answer, err)
		}
	}
	for _, model := range []string{"kb-embed-1", "other-embed"} {
		if v, err := c.CreateEmbeddings(ctx, openai.EmbeddingRequest{Model: openai.EmbeddingModel(model), Input: []string{"a"}}); err != nil || len(v.Data) != 1 {
			t.Errorf("%s: %+v, %v", model, v, err)
		}
	}
	list, err := c.ListModels(ctx)
	if err != nil || len(list.Models) != len(allOpenAI) || list.Models[0].OwnedBy != "gpt" || list.Models[2].OwnedBy != "other" {
		t.Errorf("%+v, %v", list, err)
	}
	if one, err := c.GetModel(ctx, "other-chat"); err != nil || one.ID != "other-chat" {
		t.Errorf("%+v, %v", one, err)
	}
	q := chat("hi")
	q.Model = "nobody-has-this"
	var refused *openai.APIError
	if _, err := c.CreateChatCompletion(ctx, q); !errors.As(err, &refused) || refused.HTTPStatusCode != http.StatusNotFound || refused.Code != "model_not_found" {
		t.Errorf("%v", err)
	}
	m.wantSeen(t, "gpt POST /v1/chat/completions", "gpt POST /v1/embeddings", "other POST /proxy/v1/chat/completions", "other POST /proxy/v1/embeddings")
}

// routing by bodies that no SDK writes.
func (m *models) routing(t *testing.T) {
	const messages = `"messages":[{"role":"user","content":"hi"}]`
	for _, c := range []struct{ path, key, body, to string }{
		{"/v1/chat/completions", m.openAI, `{"model":"other-chat",` + messages + `}`, "other"},
		{"/v1/chat/completions", m.openAI, `{` + messages + `,"model":"other-chat"}`, "other"},
		{"/v1/chat/completions", m.openAI, ` {"a":{"model":"kb-chat-1"},"m\u006fdel" : "oth\u0065r-chat",` + messages + `} `, "other"},
		{"/v1/chat/completions", m.openAI, `{"model":"kb-chat-1",` + messages + `}`, "gpt"}, // both have it, the first gets it
		{"/v1/messages", m.anthropic, `{"max_tokens":9,` + messages + `,"model":"kb-claude-3"}`, "another"},
		{"/v1/messages", m.anthropic, `{"max_tokens":9,` + messages + `,"model":"kb-claude-2"}`, "claude"},
		{"/connectors/another%20claude/v1/messages", m.anthropic, `{"max_tokens":9,` + messages + `,"model":"kb-claude-2"}`, "another"},
	} {
		m.forget()
		a, err := m.askAI(t.Context(), http.MethodPost, c.path, c.body, c.key, "Anthropic-Version", "2023-06-01")
		if err != nil || a.status != http.StatusOK {
			t.Errorf("%s: %v, %v", c.body, a, err)
		}
		seen := m.seen()
		if len(seen) != 1 || !strings.HasPrefix(seen[0], c.to+" ") {
			t.Errorf("%s went to %v, want %s", c.body, seen, c.to)
		}
	}
}

func (m *models) largeBody(t *testing.T) {
	words := strings.Repeat("all work and no play ", 8_000_000/21)
	for _, c := range []struct{ path, key, model, to string }{
		{"/v1/chat/completions", m.openAI, "other-chat", "other POST /proxy/v1/chat/completions"},
		{"/v1/messages", m.anthropic, "kb-claude-3", "another POST /claude/v1/messages"},
	} {
		m.forget()
		body := `{"max_tokens":9,"messages":[{"role":"user","content":"` + words + `"}],"model":"` + c.model + `"}`
		begun := time.Now()
		a, err := m.askAI(t.Context(), http.MethodPost, c.path, body, c.key, "Anthropic-Version", "2023-06-01")
		if err != nil || a.status != http.StatusOK || !strings.Contains(a.body, words) {
			t.Fatalf("%s: %d, %d bytes, %.300s, %v", c.path, a.status, len(a.body), a.body, err)
		}
		t.Logf("%s: %d bytes there and back in %s", c.path, len(body), time.Since(begun).Round(time.Millisecond))
		m.wantSeen(t, c.to)
	}
	// One that is not found in what the bridge reads: in the words of both APIs, as nobody knows the request by then.
	m.forget()
	a, err := m.askAI(t.Context(), http.MethodPost, "/v1/chat/completions", `{"messages":["`+words+words+`"],"model":"other-chat"}`, m.openAI)
	if err != nil || a.status != http.StatusRequestEntityTooLarge || !strings.Contains(a.body, `"code":"request_too_large"`) || !strings.HasPrefix(a.body, `{"type":"error",`) {
		t.Errorf("%d %.300s, %v", a.status, a.body, err)
	}
	m.wantSeen(t)
}

// The providers hold back every event until the client has had the one before it.
func (m *models) streams(t *testing.T) {
	type server interface {
		Hold(func(context.Context, int) error)
	}
	for name, c := range map[string]struct {
		server          server
		path, key, body string
		events          int
	}{
		"OpenAI, by the body": {m.other, "/v1/chat/completions", m.openAI, `{"model":"other-chat","stream":true,"messages":[{"role":"user","content":"one two"}]}`, 5},
		"Anthropic, by the body": {m.another, "/v1/messages", m.anthropic,
			`{"max_tokens":9,"stream":true,"messages":[{"role":"user","content":"one two"}],"model":"kb-claude-3"}`, 9},
		"Anthropic, one connector": {m.claude, "/v1/messages", m.anthropicSingle,
			`{"max_tokens":9,"stream":true,"messages":[{"role":"user","content":"one two"}],"model":"kb-claude-1"}`, 9},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			confirmed := make(chan struct{})
			c.server.Hold(func(hold context.Context, _ int) error {
				select {
				case <-confirmed:
					return nil
				case <-hold.Done():
					return hold.Err()
				}
			})
			defer c.server.Hold(nil)
			q, err := http.NewRequestWithContext(ctx, http.MethodPost, m.frontAI.URL()+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Content-Type", "application/json")
			q.Header.Set("Authorization", "Bearer "+c.key)
			q.Header.Set("Anthropic-Version", "2023-06-01")
			res, err := once.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			events := 0
			for lines := bufio.NewScanner(res.Body); lines.Scan(); {
				if !strings.HasPrefix(lines.Text(), "data: ") {
					continue
				}
				if events++; events == c.events {
					break
				}
				select {
				case confirmed <- struct{}{}:
				case <-ctx.Done():
					t.Fatalf("after %d events: %v", events, ctx.Err())
				}
			}
			if events != c.events {
				t.Errorf("%d events, want %d", events, c.events)
			}
		})
	}
}

// refusals reach no provider, and have the form of the API that was asked.
func (m *models) refusals(t *testing.T) {
	const (
		invalid = "invalid_request_error"
		post    = http.MethodPost
		chat    = "/v1/chat/completions"
		message = "/v1/messages"
	)
	for _, c := range []struct {
		name, method, path, key, body string
		header                        []string
		status                        int
		kind, code                    string // no code: Anthropic's form
	}{
		{"unknown model", post, chat, m.openAI, `{"model":"nobody-has-this"}`, nil, 404, invalid, "model_not_found"},
		{"Anthropic, unknown model", post, message, m.anthropic, `{"model":"nobody-has-this"}`, nil, 404, "not_found_error", ""},
		{"Anthropic's model at OpenAI's path", post, chat, m.openAI, `{"model":"kb-claude-1"}`, nil, 404, invalid, "model_not_found"},
		{"no model", post, chat, m.openAI, `{"messages":[]}`, nil, 400, invalid, "missing_model"},
		{"Anthropic, no model", post, message, m.anthropic, `{"messages":[]}`, nil, 400, invalid, ""},
		{"two models", post, chat, m.openAI, `{"model":"kb-chat-1","model":"other-chat"}`, nil, 400, invalid, "duplicate_model"},
		{"Anthropic, two models", post, message, m.anthropic, `{"model":"kb-claude-1","mode\u006c":"kb-claude-1"}`, nil, 400, invalid, ""},
		{"no JSON", post, chat, m.openAI, `model=kb-chat-1`, nil, 400, invalid, "invalid_json"},
		{"Anthropic, no JSON", post, message, m.anthropic, `{"model":"kb-claude-1"`, nil, 400, invalid, ""},
		{"no body", post, chat, m.openAI, ``, nil, 400, invalid, "invalid_json"},
		{"nested too deeply", post, chat, m.openAI, strings.Repeat("[", 100_000), nil, 400, invalid, "invalid_json"},
		{"number as model", post, chat, m.openAI, `{"model":7}`, nil, 400, invalid, "invalid_model"},
		{"compressed", post, chat, m.openAI, "\x1f\x8b", []string{"Content-Encoding", "gzip"}, 400, invalid, "unsupported_encoding"},
		{"key of the other type", post, chat, m.anthropic, `{"model":"kb-chat-1"}`, nil, 403, invalid, "key_type"},
		{"Anthropic, key of the other type", post, message, m.openAI, `{"model":"kb-claude-1"}`, nil, 403, "permission_error", ""},
		{"connector of the other type", post, "/connectors/claude" + chat, m.openAI, `{"model":"kb-claude-1"}`, nil, 404, invalid, "connector_not_found"},
		{"Anthropic, no key", post, message, "", `{"model":"kb-claude-1"}`, nil, 401, "authentication_error", ""},
		{"Anthropic, wrong key", post, message, flip(m.anthropic), `{"model":"kb-claude-1"}`, nil, 401, "authentication_error", ""},
		{"Anthropic, the provider's key", post, message, "", `{"model":"kb-claude-1"}`, []string{"X-Api-Key", m.claude.Key + "x"}, 401, "authentication_error", ""},
		{"Anthropic, two keys", post, message, m.anthropic, `{"model":"kb-claude-1"}`, []string{"X-Api-Key", m.anthropic}, 401, "authentication_error", ""},
		{"Anthropic, a storage key", post, message, m.admin.Secret, `{"model":"kb-claude-1"}`, nil, 401, "authentication_error", ""},
		{"Anthropic, batches", post, message + "/batches", m.anthropic, `{"requests":[]}`, nil, 403, "permission_error", ""},
		{"Anthropic, files", http.MethodGet, "/v1/files", m.anthropic, ``, nil, 403, "permission_error", ""},
		{"Anthropic, skills feature", post, message, m.anthropicSingle, `{"model":"kb-claude-1"}`, []string{"Anthropic-Beta", "skills-2025-10-02"}, 400, invalid, ""},
		{"Anthropic, key in the query", post, message + "?api_key=" + m.anthropic, m.anthropic, `{"model":"kb-claude-1"}`, nil, 400, invalid, ""},
		{"files", http.MethodGet, "/connectors/gpt/v1/files", m.openAI, ``, nil, 403, invalid, "operation_not_allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.forget()
			header := c.header
			if c.code == "" {
				header = append(header, "Anthropic-Version", "2023-06-01")
			}
			a, err := m.askAI(t.Context(), c.method, c.path, c.body, c.key, header...)
			if err != nil {
				t.Fatal(err)
			}
			if c.code != "" {
				wantAIError(t, a, c.status, c.kind, c.code)
			} else {
				wantClaudeError(t, a, c.status, c.kind)
			}
			m.wantSeen(t)
		})
	}
}

// wantClaudeError wants an error in Anthropic's form.
func wantClaudeError(t testing.TB, a answer, status int, kind string) {
	t.Helper()
	var doc struct {
		Type  string
		Error struct{ Type, Message string }
	}
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil || doc.Type != "error" || doc.Error.Message == "" {
		t.Errorf("not an Anthropic error (%v): %d %s", err, a.status, a.body)
		return
	}
	if a.status != status || doc.Error.Type != kind || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		t.Errorf("got %d %s %q, want %d %s", a.status, doc.Error.Type, doc.Error.Message, status, kind)
	}
}

func (m *models) lists(t *testing.T) {
	for _, c := range []struct {
		name, key, path string
		header          []string
		want            []string
		claude          bool
	}{
		{"OpenAI", m.openAI, "/v1/models", nil, allOpenAI, false},
		{"OpenAI's in Anthropic's form", m.openAI, "/v1/models", []string{"Anthropic-Version", "2023-06-01"}, allOpenAI, true},
		{"Anthropic", m.anthropic, "/v1/models", []string{"Anthropic-Version", "2023-06-01"}, allAnthropic, true},
		{"Anthropic's page", m.anthropic, "/v1/models?limit=1&after_id=kb-claude-1", []string{"Anthropic-Version", "2023-06-01"}, allAnthropic[1:2], true},
		{"Anthropic's in OpenAI's form", m.anthropic, "/v1/models", nil, allAnthropic, false},
		{"one connector's in the other form", m.anthropicSingle, "/v1/models", nil, provider.ClaudeModels, false},
		{"a named one's", m.openAI, "/connectors/other/v1/models", nil, []string{"other-chat", "other-embed", "kb-chat-1"}, false},
	} {
		a, err := m.askAI(t.Context(), http.MethodGet, c.path, "", c.key, c.header...)
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %v, %v", c.name, a, err)
		}
		if diff := cmp.Diff(c.want, modelIDs(a.body)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if strings.Contains(a.body, `"display_name"`) != c.claude || strings.Contains(a.body, `"owned_by"`) == c.claude {
			t.Errorf("%s: another form: %s", c.name, a.body)
		}
	}
	asked := 0
	for _, r := range m.recorders() {
		asked += len(r.Requests())
	}
	if asked != 1 {
		t.Errorf("%d lists were asked of providers; only that of the named connector is", asked)
	}
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
