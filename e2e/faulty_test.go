package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// faulty is a world with providers of its own, beside those of the load, which fail
// as they are told: a Fault stands between Envoy and the real server, which has held
// the request against its rules before its answer is spoilt.
type faulty struct {
	*world
	store  *provider.S3
	gpt    *provider.OpenAI
	claude *provider.Anthropic

	key               stack.Key // of a repository with bucket at store
	gptKey, claudeKey string    // of one with one connector each
	object            string    // what is stored there
	demands           []*demand

	mu      sync.Mutex
	refused []string // answers of the servers that a fault was to spoil and that were no success
}

// demand is one request of an application at a faulty provider.
type demand struct {
	name string
	at   *provider.Recorder
	body bool // the request has a large one, the answer none
	make func(ctx context.Context, began func()) (answer, error)
	// whole says what is wrong with an answer that should be the provider's.
	whole func(answer) error
	error func(t testing.TB, a answer, status int)
}

const faultyBucket = "faulty"

func startFaulty(t *testing.T) *faulty {
	t.Helper()
	f := &faulty{world: start(t, config{}), object: text(256 << 10)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	recorder := provider.RecorderConfig{Forbidden: &f.behindEnvoy}
	closing := func(c io.Closer) { t.Cleanup(func() { must(c.Close()) }) }
	f.store, err = provider.StartS3(ctx, provider.S3Config{Recorder: recorder})
	must(err)
	closing(f.store)
	f.gpt, err = provider.StartOpenAI(provider.OpenAIConfig{Recorder: recorder})
	must(err)
	closing(f.gpt)
	f.claude, err = provider.StartAnthropic(provider.AIConfig{Recorder: recorder})
	must(err)
	closing(f.claude)
	for name, secret := range map[string]string{"S3": f.store.Secret, "OpenAI": f.gpt.Key, "Anthropic": f.claude.Key} {
		f.secrets.Add("secret of the faulty "+name+" provider", secret)
		f.beforeEnvoy.Add("secret of the faulty "+name+" provider", secret)
	}
	must(f.store.MakeBucket(ctx, faultyBucket))
	ids := map[string]string{}
	ids["S3"], err = f.tenant.Bucket(ctx, stack.Bucket{
		Name: faultyBucket, Bucket: faultyBucket, Endpoint: f.store.URL(), Region: provider.Region, Key: f.store.Access, Secret: f.store.Secret,
	})
	must(err)
	for name, spec := range map[string]client.LLMSpec{
		"OpenAI":    {AIType: "OPENAI", Endpoint: f.gpt.Endpoint(), Secret: client.Secret(f.gpt.Key)},
		"Anthropic": {AIType: "ANTHROPIC", Endpoint: f.claude.Endpoint(), Secret: client.Secret(f.claude.Key)},
	} {
		spec.WorkspaceID, spec.Name = f.tenant.Workspace, "faulty "+name
		ids[name], err = f.tenant.CreateLLM(ctx, spec)
		must(err)
	}
	repo, err := f.tenant.Repository(ctx, "faulty", []string{ids["S3"]}, []string{ids["OpenAI"], ids["Anthropic"]})
	must(err)
	f.key, err = f.tenant.StorageKey(ctx, repo, "faulty", "ADMIN")
	must(err)
	for aiType, to := range map[string]*string{"OPENAI": &f.gptKey, "ANTHROPIC": &f.claudeKey} {
		k, err := f.tenant.CreateAIKey(ctx, repo, client.KeySpec{Name: aiType, AIType: aiType})
		must(err)
		*to = string(k.Secret)
	}
	for name, secret := range map[string]string{"storage": f.key.Secret, "OpenAI": f.gptKey, "Anthropic": f.claudeKey} {
		f.secrets.Add("faulty "+name+" key", secret)
		f.behindEnvoy.Add("faulty "+name+" key", secret)
	}
	f.demand(t)
	for _, d := range f.demands {
		must(f.Wait(ctx, func() error { return f.served(ctx, d) }))
	}
	return f
}

// demand makes the requests that everything is tried with: each way that a body or
// an answer takes.
func (f *faulty) demand(t *testing.T) {
	http2 := unhurried(t, true)
	isS3Error := func(t testing.TB, a answer, status int) {
		t.Helper()
		wantS3Error(t, a, status, "ServiceUnavailable")
	}
	isAIError := func(t testing.TB, a answer, status int) {
		t.Helper()
		wantAIError(t, a, status, "server_error", "provider_unavailable")
	}
	isClaudeError := func(t testing.TB, a answer, status int) {
		t.Helper()
		wantClaudeError(t, a, status, "api_error")
	}
	add := func(d *demand, c *http.Client, request func(context.Context) (*http.Request, error)) {
		d.make = func(ctx context.Context, began func()) (answer, error) {
			r, err := request(ctx)
			if err != nil {
				return answer{}, err
			}
			return askAs(c, r, began)
		}
		f.demands = append(f.demands, d)
	}
	s3 := func(name string, q s3Request, whole func(answer) error) {
		q.key = f.key
		add(&demand{name: name, at: f.store.Recorder, body: q.method == http.MethodPut, whole: whole, error: isS3Error}, once,
			func(ctx context.Context) (*http.Request, error) { return f.signS3(ctx, q) })
	}
	stored := func(a answer) error {
		if a.status != http.StatusOK {
			return fmt.Errorf("%d %.200s", a.status, a.body)
		}
		return nil
	}
	const path = "/" + faultyBucket + "/object"
	s3("PUT", s3Request{method: http.MethodPut, path: path, body: f.object, hash: "UNSIGNED-PAYLOAD"}, stored)
	s3("PUT in signed chunks", chunkedPut(f.world, path, f.object, 64<<10, "", nil), stored)
	got := func(a answer) error {
		if a.status != http.StatusOK || a.body != f.object {
			return fmt.Errorf("%d with %d of %d bytes: %.200s", a.status, len(a.body), len(f.object), a.body)
		}
		return nil
	}
	s3("GET", s3Request{method: http.MethodGet, path: path}, got)
	add(&demand{name: "GET over HTTP/2", at: f.store.Recorder, whole: got, error: isS3Error}, http2, func(ctx context.Context) (*http.Request, error) {
		return signedRequest(ctx, f.endpoints.S3, s3Request{method: http.MethodGet, path: path, key: f.key, at: time.Now()})
	})
	ai := func(name string, at *provider.Recorder, path, body, key, end string, isError func(testing.TB, answer, int), header ...string) {
		add(&demand{name: name, at: at, error: isError, whole: func(a answer) error {
			if a.status != http.StatusOK || !strings.Contains(a.body, "afternoon") || !strings.HasSuffix(strings.TrimSpace(a.body), end) {
				return fmt.Errorf("%d %.500s", a.status, a.body)
			}
			return nil
		}}, once, func(ctx context.Context) (*http.Request, error) {
			return f.aiRequest(ctx, http.MethodPost, path, body, key, header...)
		})
	}
	const messages, version = `"messages":[{"role":"user","content":"good morning good afternoon"}]`, "2023-06-01"
	ai("chat", f.gpt.Recorder, "/v1/chat/completions", `{"model":"kb-chat-1",`+messages+`}`, f.gptKey, "}", isAIError)
	ai("streamed chat", f.gpt.Recorder, "/v1/chat/completions", `{"model":"kb-chat-1","stream":true,`+messages+`}`, f.gptKey, "data: [DONE]", isAIError)
	ai("message", f.claude.Recorder, "/v1/messages", `{"model":"kb-claude-1","max_tokens":9,`+messages+`}`, f.claudeKey, "}", isClaudeError, "Anthropic-Version", version)
	ai("streamed message", f.claude.Recorder, "/v1/messages", `{"model":"kb-claude-1","max_tokens":9,"stream":true,`+messages+`}`, f.claudeKey, `{"type":"message_stop"}`, isClaudeError, "Anthropic-Version", version)
}

// served wants a demand to be met.
func (f *faulty) served(ctx context.Context, d *demand) error {
	a, err := d.make(ctx, func() {})
	if err == nil {
		err = d.whole(a)
	}
	return err
}

// spoil is a fault of the provider's answer: it has the bytes of one, and knows when the
// client has its beginning.
type spoil func(s *spoilt) (goesOn bool)

type spoilt struct {
	ctx   context.Context
	to    *net.TCPConn
	head  []byte
	body  []byte // as on the wire, chunked perhaps
	began <-chan struct{}
}

// send sends pieces; that the other end has gone is its own affair.
func (s *spoilt) send(pieces ...[]byte) {
	for _, p := range pieces {
		_, _ = s.to.Write(p)
	}
}

// cork has what is sent leave in full segments, and what remains when the connection is
// closed for writing or uncorked (tcp(7), TCP_CORK).
func (s *spoilt) cork() { s.setCork(1) }

func (s *spoilt) uncork() { s.setCork(0) }

func (s *spoilt) setCork(on int) {
	if raw, err := s.to.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) })
	}
}

// await waits until the client has the beginning of the answer.
func (s *spoilt) await() {
	select {
	case <-s.began:
	case <-s.ctx.Done():
	}
}

// half sends head and half of the body, and waits until that has begun to arrive.
func (s *spoilt) half() (rest []byte) {
	n := len(s.body) / 2
	s.send(s.head, s.body[:n])
	s.await()
	return s.body[n:]
}

// fault has the provider's answer to one request spoilt; the bridge's own get theirs.
func (f *faulty) fault(do spoil, began <-chan struct{}) *provider.Fault {
	return &provider.Fault{Do: func(ctx context.Context, c *net.TCPConn, r *bufio.Reader) bool {
		var wire bytes.Buffer
		res, err := http.ReadResponse(bufio.NewReader(io.TeeReader(r, &wire)), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err != nil || res.StatusCode != http.StatusOK {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refused = append(f.refused, fmt.Sprint(err, " ", wire.String()))
			return false
		}
		head, body, _ := bytes.Cut(wire.Bytes(), []byte("\r\n\r\n"))
		return do(&spoilt{ctx: ctx, to: c, head: append(head, "\r\n\r\n"...), body: body, began: began})
	}}
}

// tried is what came of a request to a provider that failed.
type tried struct {
	answer
	err   error
	asked int // how often the provider was
}

// try makes a request of a provider that fails it, and a good one after that.
func (f *faulty) try(t *testing.T, d *demand, fault func(began <-chan struct{}) *provider.Fault) tried {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := make(chan struct{})
	d.at.Reset()
	d.at.Fail(fault(began))
	a, err := d.make(ctx, sync.OnceFunc(func() { close(began) }))
	d.at.Fail(nil)
	out := tried{a, err, len(d.at.Requests())}
	for _, l := range d.at.Leaks() {
		t.Errorf("%s at the provider", l)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.refused {
		t.Error("the server behind the fault refused: ", r)
	}
	f.refused = nil
	if err := f.served(ctx, d); err != nil {
		t.Error("after the fault: ", err)
	}
	return out
}

// others waits until applications have had so many answers more.
func (w *world) others(ctx context.Context, l *load, answers int64) error {
	until := l.made.Load() + answers
	return w.Wait(ctx, func() error {
		if l.made.Load() < until {
			return errNotYet
		}
		return nil
	})
}
