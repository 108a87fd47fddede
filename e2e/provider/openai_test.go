package provider_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
)

func openAI(t *testing.T, config provider.OpenAIConfig) *provider.OpenAI {
	t.Helper()
	o, err := provider.StartOpenAI(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func sdk(o *provider.OpenAI) *openai.Client {
	c := openai.DefaultConfig(o.Key)
	c.BaseURL = o.Endpoint()
	return openai.NewClientWithConfig(c)
}

func hello(words string) openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{
		Model:         provider.Models[0],
		Messages:      []openai.ChatCompletionMessage{{Role: "user", Content: words}},
		StreamOptions: nil,
	}
}

func TestOpenAIAnswersTheSDK(t *testing.T) {
	o := openAI(t, provider.OpenAIConfig{BasePath: "/proxy/v1"})
	ctx := t.Context()
	chat, err := sdk(o).CreateChatCompletion(ctx, hello("good morning"))
	if err != nil {
		t.Fatal(err)
	}
	if got := chat.Choices[0].Message.Content; got != "You said: good morning" || chat.Usage.PromptTokens != 2 {
		t.Errorf("%q, usage %+v", got, chat.Usage)
	}
	list, err := sdk(o).ListModels(ctx)
	if err != nil || len(list.Models) != 2 {
		t.Errorf("models %v, %v", list, err)
	}
	if m, err := sdk(o).GetModel(ctx, "kb-chat-1"); err != nil || m.ID != "kb-chat-1" {
		t.Errorf("model %v, %v", m, err)
	}
	vectors, err := sdk(o).CreateEmbeddings(ctx, openai.EmbeddingRequest{Model: "kb-embed-1", Input: []string{"a", "b", "a"}})
	if err != nil || len(vectors.Data) != 3 || vectors.Data[0].Embedding[0] != vectors.Data[2].Embedding[0] {
		t.Errorf("embeddings %v, %v", vectors, err)
	}
	if v := o.Violations(); len(v) != 0 {
		t.Error(v)
	}
	if n := len(o.Requests()); n != 4 {
		t.Errorf("%d requests recorded", n)
	}
}

func TestOpenAIHoldsTheStream(t *testing.T) {
	o := openAI(t, provider.OpenAIConfig{})
	confirmed := make(chan struct{})
	o.Hold(func(ctx context.Context, event int) error {
		if event != 1 {
			return nil
		}
		select {
		case <-confirmed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	q := hello("one two")
	q.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	stream, err := sdk(o).CreateChatCompletionStream(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var text strings.Builder
	var usage *openai.Usage
	for first := true; ; first = false {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if first {
			close(confirmed)
		}
		if e.Usage != nil {
			usage = e.Usage
		}
		for _, c := range e.Choices {
			text.WriteString(c.Delta.Content)
		}
	}
	if text.String() != "You said: one two" || usage == nil || usage.CompletionTokens != 4 {
		t.Errorf("%q, usage %+v", text.String(), usage)
	}
}

func TestOpenAIRefuses(t *testing.T) {
	o := openAI(t, provider.OpenAIConfig{})
	good := func() *http.Request {
		body := `{"model":"kb-chat-1","messages":[{"role":"user","content":"hi"}]}`
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, o.Endpoint()+"/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+o.Key)
		q.Header.Set("Content-Type", "application/json")
		return q
	}
	for _, c := range []struct {
		name   string
		spoil  func(*http.Request)
		status int
	}{
		{"nothing wrong", func(*http.Request) {}, 200},
		{"no key", func(q *http.Request) { q.Header.Del("Authorization") }, 401},
		{"another key", func(q *http.Request) { q.Header.Set("Authorization", "Bearer kb-1-2") }, 401},
		{"two keys", func(q *http.Request) { q.Header.Add("Authorization", "Bearer kb-1-2") }, 401},
		{"another host", func(q *http.Request) { q.Host = "gateway.example" }, 421},
		{"bridge header", func(q *http.Request) { q.Header.Set("X-Keybridge-Cluster", "c") }, 400},
		{"client header", func(q *http.Request) { q.Header.Set("Api-Key", "kb-1-2") }, 400},
		{"form", func(q *http.Request) { q.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415},
		{"no length", func(q *http.Request) { q.ContentLength = -1 }, 411},
		{"no JSON", func(q *http.Request) { q.Body, q.ContentLength = io.NopCloser(strings.NewReader("hello")), 5 }, 400},
		{"other base", func(q *http.Request) { q.URL.Path = "/v2/chat/completions" }, 404},
		{"query", func(q *http.Request) { q.URL.RawQuery = "x=1" }, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(o.Violations())
			q := good()
			c.spoil(q)
			res, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("status %d, want %d", res.StatusCode, c.status)
			}
			noted := len(o.Violations()) - before
			if (c.status != 200) != (noted == 1) {
				t.Errorf("%d violations noted: %v", noted, o.Violations())
			}
		})
	}
}
