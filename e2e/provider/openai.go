package provider

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Models are those that an OpenAI server offers.
var Models = []string{"kb-chat-1", "kb-embed-1"}

// OpenAIConfig configures an OpenAI-compatible server.
type OpenAIConfig struct {
	Key string // the one API key; empty for a fresh one
	// BasePath is the prefix of all paths; empty for "/v1".
	BasePath string
	// Recorder settings; Dial is set by StartOpenAI.
	Recorder RecorderConfig
}

// OpenAI is a running OpenAI-compatible server with a Recorder in front of it.
// A request that is not exactly what a client with the provider's key would have
// sent is answered in OpenAI's error form and noted in Violations.
type OpenAI struct {
	*Recorder
	Key, BasePath string

	server *http.Server
	dir    string
	ended  chan error

	mu         sync.Mutex
	hold       func(ctx context.Context, event int) error
	violations []string
}

// StartOpenAI starts the server; it answers at once.
func StartOpenAI(config OpenAIConfig) (_ *OpenAI, err error) {
	dir, err := os.MkdirTemp("", "kb-ai-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	socket := filepath.Join(dir, "ai.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	o := &OpenAI{Key: config.Key, BasePath: config.BasePath, dir: dir, ended: make(chan error, 1)}
	if o.Key == "" {
		o.Key = "sk-provider-" + rand.Text() + rand.Text()
	}
	if o.BasePath == "" {
		o.BasePath = "/v1"
	}
	config.Recorder.Dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	if o.Recorder, err = Record(config.Recorder); err != nil {
		l.Close()
		return nil, err
	}
	o.server = &http.Server{Handler: o, ReadHeaderTimeout: 10 * time.Second}
	go func() { o.ended <- o.server.Serve(l) }()
	return o, nil
}

// Endpoint is the base URL as an SDK's configuration has it.
func (o *OpenAI) Endpoint() string { return o.URL() + o.BasePath }

// Hold has f called before every event of a stream but the first; the stream
// waits for it, and ends if it fails. A nil f holds nothing.
func (o *OpenAI) Hold(f func(ctx context.Context, event int) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hold = f
}

// Violations are the requests that were refused, and why.
func (o *OpenAI) Violations() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.violations)
}

// Close ends the recorder and the server.
func (o *OpenAI) Close() error {
	err := errors.Join(o.Recorder.Close(), o.server.Close())
	if served := <-o.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, os.RemoveAll(o.dir))
}

// refusal is an answer in OpenAI's error form.
type refusal struct {
	status        int
	kind, message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, format string, args ...any) error {
	kind := "invalid_request_error"
	if status >= 500 {
		kind = "server_error"
	}
	return &refusal{status, kind, fmt.Sprintf(format, args...)}
}

func (o *OpenAI) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("X-Request-Id", "req-"+rand.Text()[:10])
	w.Header().Set("Openai-Processing-Ms", "1")
	err := o.answer(w, q)
	var r *refusal
	if errors.As(err, &r) {
		o.mu.Lock()
		o.violations = append(o.violations, fmt.Sprintf("%s %s: %d %s", q.Method, q.RequestURI, r.status, r.message))
		o.mu.Unlock()
		reply(w, r.status, map[string]any{"error": map[string]any{"message": r.message, "type": r.kind, "param": nil, "code": nil}})
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
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
		list := make([]any, len(Models))
		for i, m := range Models {
			list[i] = modelObject(m)
		}
		reply(w, http.StatusOK, map[string]any{"object": "list", "data": list})
	case isModel && q.Method == http.MethodGet:
		if !slices.Contains(Models, model) {
			return refuse(http.StatusNotFound, "the model %q does not exist", model)
		}
		reply(w, http.StatusOK, modelObject(model))
	case rest == "/chat/completions" && q.Method == http.MethodPost:
		return o.chat(w, q)
	case rest == "/embeddings" && q.Method == http.MethodPost:
		return embed(w, q)
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
		switch n := strings.ToLower(name); {
		case strings.HasPrefix(n, "x-keybridge-"), n == "x-api-key", n == "api-key", n == "cookie", n == "proxy-authorization",
			n == "openai-organization", n == "openai-project":
			return refuse(http.StatusBadRequest, "header %s of a client or a proxy", n)
		}
	}
	return nil
}

// read decodes a JSON body whose length was announced.
func read(q *http.Request, into any) error {
	mediaType, _, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "content-type %q", q.Header.Get("Content-Type"))
	}
	if q.ContentLength < 0 {
		// A body in a header-only ext_proc keeps its length; see PROVIDERS.md.
		return refuse(http.StatusLengthRequired, "no content-length")
	}
	body, err := io.ReadAll(q.Body)
	if err != nil || int64(len(body)) != q.ContentLength {
		return refuse(http.StatusBadRequest, "%d of %d body bytes arrived", len(body), q.ContentLength)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return refuse(http.StatusBadRequest, "body is not the JSON that was expected: %v", err)
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
	case in.Model != Models[0]:
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
	events := make([]map[string]any, 0, len(words)+2)
	for i, word := range words {
		delta := map[string]any{"content": word}
		if i == 0 {
			delta["role"] = "assistant"
		}
		events = append(events, object("chat.completion.chunk", []any{map[string]any{"index": 0, "delta": delta, "finish_reason": nil}}))
	}
	events = append(events, object("chat.completion.chunk", []any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": "stop"}}))
	if in.StreamOptions.IncludeUsage {
		last := object("chat.completion.chunk", []any{})
		last["usage"] = usage
		events = append(events, last)
	}
	return o.stream(w, q, events)
}

// stream sends server-sent events, each flushed on its own.
func (o *OpenAI) stream(w http.ResponseWriter, q *http.Request, events []map[string]any) error {
	o.mu.Lock()
	hold := o.hold
	o.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	for i, e := range events {
		if hold != nil && i > 0 {
			if err := hold(q.Context(), i); err != nil {
				return fmt.Errorf("stream held: %w", err)
			}
		}
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, "data: [DONE]\n\n"); err != nil {
		return err
	}
	return flush()
}

// embed answers a small vector made from each input's hash, so that equal texts
// have equal vectors.
func embed(w http.ResponseWriter, q *http.Request) error {
	var in struct {
		Model string          `json:"model"`
		Input json.RawMessage `json:"input"`
	}
	if err := read(q, &in); err != nil {
		return err
	}
	if in.Model != Models[1] {
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
