package provider

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// Models are those that an OpenAI server offers if it is not told others.
var Models = []string{"kb-chat-1", "kb-embed-1"}

// OpenAIConfig configures an OpenAI-compatible server.
type OpenAIConfig = AIConfig

// OpenAI is a running OpenAI-compatible server with a Recorder in front of it.
// A request that is not exactly what a client with the provider's key would have
// sent is answered in OpenAI's error form and noted in Violations.
type OpenAI struct{ *ai }

// StartOpenAI starts the server; it answers at once. Of its models the first chats,
// the second embeds.
func StartOpenAI(config AIConfig) (*OpenAI, error) {
	o := &OpenAI{}
	var err error
	o.ai, err = startAI(config, "sk-provider-", Models, o.serve)
	return o, err
}

func (o *OpenAI) serve(w http.ResponseWriter, q *http.Request) *refusal {
	w.Header().Set("X-Request-Id", "req-"+rand.Text()[:10])
	w.Header().Set("Openai-Processing-Ms", "1")
	r := refused(o.answer(w, q))
	if r != nil {
		kind := "invalid_request_error"
		if r.status >= 500 {
			kind = "server_error"
		}
		reply(w, r.status, map[string]any{"error": map[string]any{"message": r.message, "type": kind, "param": nil, "code": nil}})
	}
	return r
}

func (o *OpenAI) answer(w http.ResponseWriter, q *http.Request) error {
	if err := o.check(q); err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(q.RequestURI, o.BasePath)
	if !ok {
		return refuse(http.StatusNotFound, "no such path: %s", q.RequestURI)
	}
	model, isModel := strings.CutPrefix(rest, "/models/")
	switch {
	case rest == "/models" && q.Method == http.MethodGet:
		list := make([]any, len(o.models))
		for i, m := range o.models {
			list[i] = modelObject(m)
		}
		reply(w, http.StatusOK, map[string]any{"object": "list", "data": list})
	case isModel && q.Method == http.MethodGet:
		if !slices.Contains(o.models, model) {
			return refuse(http.StatusNotFound, "the model %q does not exist", model)
		}
		reply(w, http.StatusOK, modelObject(model))
	case rest == "/chat/completions" && q.Method == http.MethodPost:
		return o.chat(w, q)
	case rest == "/embeddings" && q.Method == http.MethodPost:
		return o.embed(w, q)
	default:
		return refuse(http.StatusNotFound, "unknown request: %s %s", q.Method, q.RequestURI)
	}
	return nil
}

func modelObject(id string) map[string]any {
	return map[string]any{"id": id, "object": "model", "created": 1767225600, "owned_by": "keybridge-e2e"}
}

// check is what every request must satisfy whatever it asks for.
func (o *OpenAI) check(q *http.Request) error {
	auth := q.Header["Authorization"]
	switch {
	case len(auth) != 1:
		return refuse(http.StatusUnauthorized, "%d authorization headers", len(auth))
	case auth[0] != "Bearer "+o.Key:
		return refuse(http.StatusUnauthorized, "incorrect API key provided")
	case q.Host != o.Addr():
		return refuse(http.StatusMisdirectedRequest, "this is %s, not %s", o.Addr(), q.Host)
	}
	for name := range q.Header {
		if n := strings.ToLower(name); fromClient(n) || n == "x-api-key" {
			return refuse(http.StatusBadRequest, "header %s of a client or a proxy", n)
		}
	}
	return nil
}

func (o *OpenAI) chat(w http.ResponseWriter, q *http.Request) error {
	var in struct {
		Model    string `json:"model"`
		Messages []struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		} `json:"messages"`
		Stream        bool `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := read(q, &in); err != nil {
		return err
	}
	switch {
	case in.Model != o.models[0]:
		return refuse(http.StatusNotFound, "the model %q does not exist", in.Model)
	case len(in.Messages) == 0:
		return refuse(http.StatusBadRequest, "messages is empty")
	}
	prompt := 0
	for _, m := range in.Messages {
		prompt += len(strings.Fields(m.Content))
	}
	words := strings.SplitAfter("You said: "+in.Messages[len(in.Messages)-1].Content, " ")
	usage := map[string]any{"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}
	object := func(kind string, choices []any) map[string]any {
		return map[string]any{"id": "chatcmpl-1", "object": kind, "created": 1767225600, "model": in.Model, "choices": choices}
	}
	if !in.Stream {
		out := object("chat.completion", []any{map[string]any{
			"index": 0, "finish_reason": "stop",
			"message": map[string]any{"role": "assistant", "content": strings.Join(words, "")},
		}})
		out["usage"] = usage
		reply(w, http.StatusOK, out)
		return nil
	}
	events := make([]event, 0, len(words)+3)
	for i, word := range words {
		delta := map[string]any{"content": word}
		if i == 0 {
			delta["role"] = "assistant"
		}
		events = append(events, event{data: object("chat.completion.chunk", []any{map[string]any{"index": 0, "delta": delta, "finish_reason": nil}})})
	}
	events = append(events, event{data: object("chat.completion.chunk", []any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": "stop"}})})
	if in.StreamOptions.IncludeUsage {
		last := object("chat.completion.chunk", []any{})
		last["usage"] = usage
		events = append(events, event{data: last})
	}
	return o.stream(w, q, events, "data: [DONE]\n\n")
}

// embed answers a small vector made from each input's hash, so that equal texts
// have equal vectors.
func (o *OpenAI) embed(w http.ResponseWriter, q *http.Request) error {
	var in struct {
		Model string          `json:"model"`
		Input json.RawMessage `json:"input"`
	}
	if err := read(q, &in); err != nil {
		return err
	}
	if in.Model != o.models[1] {
		return refuse(http.StatusNotFound, "the model %q does not exist", in.Model)
	}
	var texts []string
	if json.Unmarshal(in.Input, &texts) != nil {
		var one string
		if err := json.Unmarshal(in.Input, &one); err != nil {
			return refuse(http.StatusBadRequest, "input must be a string or a list of strings")
		}
		texts = []string{one}
	}
	tokens, data := 0, make([]any, len(texts))
	for i, text := range texts {
		sum := sha256.Sum256([]byte(text))
		vector := make([]float32, 8)
		for j := range vector {
			vector[j] = float32(binary.BigEndian.Uint16(sum[2*j:])) / (1 << 16)
		}
		tokens += len(strings.Fields(text))
		data[i] = map[string]any{"object": "embedding", "index": i, "embedding": vector}
	}
	reply(w, http.StatusOK, map[string]any{
		"object": "list", "model": in.Model, "data": data,
		"usage": map[string]any{"prompt_tokens": tokens, "total_tokens": tokens},
	})
	return nil
}
