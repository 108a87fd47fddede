package e2e_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/store/api/client"
)

// failHTTP2 is spoilAnswers for a provider that speaks HTTP/2, as most of AI do, by the
// standard library's server: what there is to spoil is the stream and the connection.
func (f *faulty) failHTTP2(t *testing.T, l *load) {
	const answerOf = "You said: good afternoon"
	key := "sk-provider-" + rand.Text()
	f.secrets.Add("key of the HTTP/2 provider", key)
	f.beforeEnvoy.Add("key of the HTTP/2 provider", key)
	type reply func(ctx context.Context, w http.ResponseWriter, c net.Conn, began <-chan struct{})
	good := func(_ context.Context, w http.ResponseWriter, _ net.Conn, _ <-chan struct{}) {
		_, _ = io.WriteString(w, answerOf)
	}
	type mode struct {
		reply reply
		began chan struct{}
	}
	var now atomic.Pointer[mode]
	now.Store(&mode{reply: good})
	var asked atomic.Int64
	type connKey struct{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if q.ProtoMajor != 2 || q.Header.Get("Authorization") != "Bearer "+key || q.URL.Path != "/v1/chat/completions" || err != nil || !strings.Contains(string(body), "good") {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		asked.Add(1)
		m := now.Load()
		m.reply(q.Context(), w, q.Context().Value(connKey{}).(net.Conn), m.began)
	}))
	config, ca, err := provider.Certificate("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	server.TLS, server.EnableHTTP2 = config, true
	server.TLS.NextProtos = nil
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c.(*tls.Conn).NetConn())
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	id, err := f.tenant.CreateLLM(t.Context(), client.LLMSpec{
		WorkspaceID: f.tenant.Workspace, Name: "faulty HTTP2", AIType: "OTHER", Endpoint: server.URL + "/v1", Secret: client.Secret(key), CACertificate: string(ca), SkipValidation: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := f.tenant.Repository(t.Context(), "faulty HTTP/2", nil, []string{id})
	if err != nil {
		t.Fatal(err)
	}
	k, err := f.tenant.AIKey(t.Context(), repo, "faulty HTTP/2")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, began func()) (answer, error) {
		q, err := f.aiRequest(ctx, http.MethodPost, "/v1/chat/completions", `{"messages":["good"]}`, k.Secret)
		if err != nil {
			return answer{}, err
		}
		return askAs(once, q, began)
	}
	isGood := func() error {
		a, err := ask(t.Context(), func() {})
		if err != nil || a.status != http.StatusOK || a.body != answerOf {
			return fmt.Errorf("%v %w", a, errors.Join(err, errNotYet))
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := f.Wait(ctx, isGood); err != nil {
		t.Fatal(err)
	}
	half := func(w http.ResponseWriter, began <-chan struct{}) {
		_, _ = io.WriteString(w, answerOf[:5])
		_ = http.NewResponseController(w).Flush()
		<-began
	}
	for name, c := range map[string]struct {
		want int
		do   reply
	}{
		"headers late": {whole, func(ctx context.Context, w http.ResponseWriter, _ net.Conn, _ <-chan struct{}) {
			_ = f.others(ctx, l, 20)
			_, _ = io.WriteString(w, answerOf)
		}},
		"body pauses": {whole, func(ctx context.Context, w http.ResponseWriter, _ net.Conn, began <-chan struct{}) {
			half(w, began)
			_ = f.others(ctx, l, 20)
			_, _ = io.WriteString(w, answerOf[5:])
		}},
		"stream reset before the answer": {503, func(context.Context, http.ResponseWriter, net.Conn, <-chan struct{}) {
			panic(http.ErrAbortHandler)
		}},
		"stream reset within the answer": {cut, func(_ context.Context, w http.ResponseWriter, _ net.Conn, began <-chan struct{}) {
			half(w, began)
			panic(http.ErrAbortHandler)
		}},
		"connection reset before the answer": {503, func(ctx context.Context, _ http.ResponseWriter, c net.Conn, _ <-chan struct{}) {
			provider.Reset(c.(*net.TCPConn))
			<-ctx.Done()
		}},
		"connection closed within the answer": {cut, func(ctx context.Context, w http.ResponseWriter, c net.Conn, began <-chan struct{}) {
			half(w, began)
			c.Close()
			<-ctx.Done()
		}},
		"frames that are none": {503, func(ctx context.Context, _ http.ResponseWriter, c net.Conn, _ <-chan struct{}) {
			_, _ = io.WriteString(c, strings.Repeat("garbage", 100)) // not even TLS
			<-ctx.Done()
		}},
		"less than its length": {cut, func(_ context.Context, w http.ResponseWriter, _ net.Conn, began <-chan struct{}) {
			w.Header().Set("Content-Length", "50")
			half(w, began)
		}},
		"1 MB of headers": {503, func(_ context.Context, w http.ResponseWriter, _ net.Conn, _ <-chan struct{}) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("a", 1000))
			}
		}},
	} {
		t.Run("HTTP/2, "+name, func(t *testing.T) {
			began := make(chan struct{})
			asked.Store(0)
			now.Store(&mode{c.do, began})
			a, err := ask(t.Context(), sync.OnceFunc(func() { close(began) }))
			now.Store(&mode{reply: good})
			n := asked.Load()
			switch {
			case n != 1:
				t.Errorf("the provider was asked %d times", n)
			case c.want == cut && err == nil:
				t.Errorf("it looks whole: %v", a)
			case c.want == cut:
			case err != nil:
				t.Error(err)
			case c.want == whole && (a.status != http.StatusOK || a.body != answerOf):
				t.Error(a)
			case c.want != whole:
				wantAIError(t, a, c.want, "server_error", "provider_unavailable")
			}
			if err := isGood(); err != nil {
				t.Error("after the fault: ", err)
			}
		})
	}
}
