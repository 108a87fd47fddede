package e2e_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
)

func (w *world) openai(key string) *openai.Client {
	c := openai.DefaultConfig(key)
	c.BaseURL = w.frontAI.URL() + "/v1"
	return openai.NewClientWithConfig(c)
}

func chat(words string) openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{
		Model: provider.Models[0], Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: words}},
	}
}

func (w *world) noViolations(t *testing.T) {
	t.Helper()
	for _, v := range w.ai.Violations() {
		t.Error("at the provider: ", v)
	}
}

func TestAIByGoSDK(t *testing.T) {
	w := shared(t)
	ctx, c := t.Context(), w.openai(w.aiKey)
	answer, err := c.CreateChatCompletion(ctx, chat("good morning"))
	if err != nil {
		t.Fatal("chat: ", err)
	}
	if got := answer.Choices[0].Message.Content; got != "You said: good morning" || answer.Usage.TotalTokens == 0 {
		t.Errorf("chat: %q, usage %+v", got, answer.Usage)
	}
	long := strings.Repeat("all work and no play ", 100_000) // 2 MB
	if answer, err = c.CreateChatCompletion(ctx, chat(long)); err != nil || !strings.HasSuffix(answer.Choices[0].Message.Content, long) {
		t.Errorf("long chat: %d bytes, %v", len(answer.Choices[0].Message.Content), err)
	}
	vectors, err := c.CreateEmbeddings(ctx, openai.EmbeddingRequest{Model: openai.EmbeddingModel(provider.Models[1]), Input: []string{"a", "b"}})
	if err != nil || len(vectors.Data) != 2 {
		t.Errorf("embeddings: %v, %v", vectors, err)
	}
	models, err := c.ListModels(ctx)
	if err != nil || len(models.Models) != len(provider.Models) {
		t.Errorf("models: %v, %v", models, err)
	}
	if m, err := c.GetModel(ctx, provider.Models[0]); err != nil || m.ID != provider.Models[0] {
		t.Errorf("model: %v, %v", m, err)
	}
	w.noViolations(t)
	for _, q := range w.ai.Requests() {
		if auth, one := q.Get("Authorization"); !one || auth != "Bearer "+w.ai.Key {
			t.Errorf("%s arrived with Authorization %q", q.Line(), auth)
		}
	}
}

// The provider holds back every event until the client has had the one before it:
// whoever buffers, blocks.
func TestAIStreamIsNotBuffered(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	confirmed := make(chan struct{})
	w.ai.Hold(func(hold context.Context, _ int) error {
		select {
		case <-confirmed:
			return nil
		case <-hold.Done():
			return hold.Err()
		}
	})
	defer w.ai.Hold(nil)
	q := chat("one two three")
	q.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	stream, err := w.openai(w.aiKey).CreateChatCompletionStream(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var text strings.Builder
	var usage *openai.Usage
	events := 0
	for ; ; events++ {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d events: %v", events, err)
		}
		for _, c := range e.Choices {
			text.WriteString(c.Delta.Content)
		}
		if e.Usage != nil {
			usage = e.Usage
		} else {
			select { // the provider waits for this before it sends the next
			case confirmed <- struct{}{}:
			case <-ctx.Done():
				t.Fatalf("after %d events: the provider waits for nothing: %v", events, ctx.Err())
			}
		}
	}
	if text.String() != "You said: one two three" || usage == nil || usage.CompletionTokens != 5 {
		t.Errorf("%d events: %q, usage %+v", events, text.String(), usage)
	}
	w.noViolations(t)
}

// A client that goes away ends the stream at the provider: what is not read is not paid for.
func TestAIStreamEndsWithTheClient(t *testing.T) {
	w := shared(t)
	ended := make(chan struct{})
	w.ai.Hold(func(hold context.Context, _ int) error { // the first of the stream's holds is its last
		<-hold.Done()
		close(ended)
		return hold.Err()
	})
	defer w.ai.Hold(nil)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := w.openai(w.aiKey).CreateChatCompletionStream(ctx, chat("one two three"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = stream.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the provider is still streaming")
	}
}

func TestAIConnectorByName(t *testing.T) {
	w := shared(t)
	const body = `{"model":"kb-chat-1","messages":[{"role":"user","content":"hi"}]}`
	for name, c := range map[string]struct{ path, key string }{
		"the only one":       {"/connectors/models/v1/chat/completions", w.aiKey},
		"one of two":         {"/connectors/models/v1/chat/completions", w.severalKey},
		"with a space in it": {"/connectors/more%20models/v1/chat/completions", w.severalKey},
	} {
		a, err := w.askAI(t.Context(), http.MethodPost, c.path, body, c.key)
		if err != nil || a.status != http.StatusOK {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	if got := w.atProviders(); len(got) != 3 {
		t.Errorf("at the provider: %v", got)
	}
	w.noViolations(t)
}
