package provider

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ClaudeModels are those that an Anthropic server offers if it is not told others.
var ClaudeModels = []string{"kb-claude-1", "kb-claude-2"}

// claudeVersions are the versions of the API that SDKs speak.
var claudeVersions = []string{"2023-06-01", "2026-10-21"}

// Anthropic is a running server of Anthropic's API with a Recorder in front of it.
// It is as strict as [OpenAI], in Anthropic's error form.
type Anthropic struct{ *ai }

// StartAnthropic starts the server; it answers at once.
func StartAnthropic(config AIConfig) (*Anthropic, error) {
	a := &Anthropic{}
	var err error
	a.ai, err = startAI(config, "sk-ant-provider-", ClaudeModels, a.serve)
	return a, err
}

func (a *Anthropic) serve(w http.ResponseWriter, q *http.Request) *refusal {
	id := "req_" + rand.Text()
	w.Header().Set("Request-Id", id)
	w.Header().Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-000000000000")
	r := refused(a.answer(w, q))
	if r != nil {
		kind := map[int]string{401: "authentication_error", 403: "permission_error", 404: "not_found_error", 421: "api_error"}[r.status]
		if kind == "" {
			kind = "invalid_request_error"
		}
		reply(w, r.status, map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": r.message}, "request_id": id})
	}
	return r
}

func (a *Anthropic) answer(w http.ResponseWriter, q *http.Request) error {
	if err := a.check(q); err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(q.URL.EscapedPath(), a.BasePath)
	if !ok {
		return refuse(http.StatusNotFound, "no such path: %s", q.RequestURI)
	}
	model, isModel := strings.CutPrefix(rest, "/models/")
	switch {
	case rest == "/models" && q.Method == http.MethodGet:
		return a.list(w, q)
	case isModel && q.Method == http.MethodGet:
		if !slices.Contains(a.models, model) {
			return refuse(http.StatusNotFound, "model: %s", model)
		}
		reply(w, http.StatusOK, claudeModel(model))
		return nil
	case rest == "/messages" && q.Method == http.MethodPost:
		return a.message(w, q)
	case rest == "/messages/count_tokens" && q.Method == http.MethodPost:
		in, err := a.read(q)
		if err == nil {
			reply(w, http.StatusOK, map[string]any{"input_tokens": in.tokens()})
		}
		return err
	}
	return refuse(http.StatusNotFound, "unknown request: %s %s", q.Method, q.RequestURI)
}

// check is what every request must satisfy whatever it asks for.
func (a *Anthropic) check(q *http.Request) error {
	key, version := q.Header["X-Api-Key"], q.Header["Anthropic-Version"]
	switch {
	case len(key) != 1:
		return refuse(http.StatusUnauthorized, "%d x-api-key headers", len(key))
	case key[0] != a.Key:
		return refuse(http.StatusUnauthorized, "invalid x-api-key")
	case len(version) != 1 || !slices.Contains(claudeVersions, version[0]):
		return refuse(http.StatusBadRequest, "anthropic-version: %q", version)
	case q.Host != a.Addr():
		return refuse(http.StatusMisdirectedRequest, "this is %s, not %s", a.Addr(), q.Host)
	}
	for name := range q.Header {
		if n := strings.ToLower(name); fromClient(n) || n == "authorization" || n == "anthropic-workspace-id" || n == "anthropic-user-profile-id" {
			return refuse(http.StatusBadRequest, "header %s of a client or a proxy", n)
		}
	}
	for name, values := range q.URL.Query() {
		if name != "beta" && name != "limit" && name != "after_id" && name != "before_id" || len(values) != 1 {
			return refuse(http.StatusBadRequest, "%s: unexpected", name)
		}
	}
	return nil
}

func claudeModel(id string) map[string]any {
	return map[string]any{"type": "model", "id": id, "display_name": strings.ToUpper(id), "created_at": "2026-01-01T00:00:00Z"}
}

// list answers one page of models.
func (a *Anthropic) list(w http.ResponseWriter, q *http.Request) error {
	limit, begin := 20, 0
	if s := q.URL.Query().Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return refuse(http.StatusBadRequest, "limit: %s", s)
		}
		limit = n
	}
	if after := q.URL.Query().Get("after_id"); after != "" {
		begin = slices.Index(a.models, after) + 1
	}
	end := min(begin+limit, len(a.models))
	data := []any{}
	for _, m := range a.models[begin:end] {
		data = append(data, claudeModel(m))
	}
	out := map[string]any{"data": data, "has_more": end < len(a.models), "first_id": nil, "last_id": nil}
	if begin < end {
		out["first_id"], out["last_id"] = a.models[begin], a.models[end-1]
	}
	reply(w, http.StatusOK, out)
	return nil
}

// question is the body of a message request.
type question struct {
	Model     string `json:"model"`
	MaxTokens int    `json:"max_tokens"`
	Messages  []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Stream bool `json:"stream"`
	said   string
}

func (q *question) tokens() int { return len(strings.Fields(q.said)) }

// read reads a question and what was said last in it.
func (a *Anthropic) read(q *http.Request) (*question, error) {
	in := &question{}
	if err := read(q, in); err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(a.models, in.Model):
		return nil, refuse(http.StatusNotFound, "model: %s", in.Model)
	case len(in.Messages) == 0:
		return nil, refuse(http.StatusBadRequest, "messages: at least one message is required")
	}
	content := in.Messages[len(in.Messages)-1].Content
	if json.Unmarshal(content, &in.said) == nil {
		return in, nil
	}
	var blocks []struct{ Type, Text string }
	if err := json.Unmarshal(content, &blocks); err != nil {
		return nil, refuse(http.StatusBadRequest, "content: a string or a list of blocks")
	}
	for _, b := range blocks {
		if b.Type != "text" {
			return nil, refuse(http.StatusBadRequest, "content: block of type %q", b.Type)
		}
		in.said += b.Text
	}
	return in, nil
}

func (a *Anthropic) message(w http.ResponseWriter, q *http.Request) error {
	in, err := a.read(q)
	switch {
	case err != nil:
		return err
	case in.MaxTokens < 1:
		return refuse(http.StatusBadRequest, "max_tokens: field required")
	}
	words := strings.SplitAfter("You said: "+in.said, " ")
	usage := map[string]any{"input_tokens": in.tokens(), "output_tokens": len(words)}
	message := map[string]any{
		"id": "msg_1", "type": "message", "role": "assistant", "model": in.Model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil, "usage": usage,
	}
	if !in.Stream {
		message["content"] = []any{map[string]any{"type": "text", "text": strings.Join(words, "")}}
		message["stop_reason"] = "end_turn"
		reply(w, http.StatusOK, message)
		return nil
	}
	// "Streaming Messages", Claude API guides: every event has its type as its name.
	var events []event
	add := func(kind string, more map[string]any) {
		more["type"] = kind
		events = append(events, event{kind, more})
	}
	add("message_start", map[string]any{"message": message})
	add("content_block_start", map[string]any{"index": 0, "content_block": map[string]any{"type": "text", "text": ""}})
	for _, word := range words {
		add("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "text_delta", "text": word}})
	}
	add("content_block_stop", map[string]any{"index": 0})
	add("message_delta", map[string]any{"delta": map[string]any{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": usage})
	add("message_stop", map[string]any{})
	return a.stream(w, q, events, "")
}
