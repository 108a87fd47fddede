package extproc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"keybridge/extproc"
)

// script is a protocol that does as a test says.
type script struct {
	decide      func(*extproc.Request) (*extproc.Decision, *extproc.Error)
	unavailable func() *extproc.Error
}

func (script) Name() string { return "script" }

func (s script) Decide(_ time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	return s.decide(r)
}

func (s script) Unavailable() *extproc.Error {
	if s.unavailable != nil {
		return s.unavailable()
	}
	return &extproc.Error{Status: 503, ContentType: "text/plain", Body: []byte("not now"), Reason: "sealed"}
}

// echo forwards and tells what it saw.
func echo(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	d := r.Decision()
	d.Cluster, d.Authority, d.Path = "cluster", "provider.example", "/new"+r.Path
	d.SetBytes("authorization", []byte("Bearer "), []byte(r.Header("x-name")))
	d.Set = append(d.Set, extproc.Header{Name: "x-seen", Value: fmt.Sprintf("%s %s %s %s %v %d", r.Method, r.Authority, r.Path, r.Scheme, r.EndOfStream, r.Values("x-name"))})
	d.Remove = append(d.Remove, "x-name")
	return d, nil
}

// serve runs a server with these protocols on a unix socket and returns a dialler.
func serve(t testing.TB, protocols map[string]extproc.Protocol, opts extproc.Options) (dial func(authority string) extprocv3.ExternalProcessorClient, stop func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "extproc.sock")
	l, err := extproc.Listen(path, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- extproc.NewServer(protocols, opts).Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return func(authority string) extprocv3.ExternalProcessorClient { return dialSocket(t, path, authority) }, stop
}

func dialSocket(t testing.TB, path, authority string) extprocv3.ExternalProcessorClient {
	t.Helper()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return extprocv3.NewExternalProcessorClient(c)
}

func open(t testing.TB, c extprocv3.ExternalProcessorClient) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	s, err := c.Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// headers are request headers as Envoy sends them: names and raw values in turn.
func headers(endOfStream bool, pairs ...string) *extprocv3.ProcessingRequest {
	m := &corev3.HeaderMap{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: &extprocv3.HttpHeaders{Headers: m, EndOfStream: endOfStream},
	}}
}

func get(path string, more ...string) *extprocv3.ProcessingRequest {
	return headers(true, append([]string{":method", "GET", ":path", path, ":authority", "front:1", ":scheme", "http"}, more...)...)
}

// ask sends one message and returns the answer and how the stream ended after it.
func ask(t testing.TB, c extprocv3.ExternalProcessorClient, m *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := c.Process(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return s.Recv()
}

func TestForward(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": script{decide: echo}}, extproc.Options{})
	s := open(t, dial("s3"))
	if err := s.Send(get("/a?b", "x-name", "one", "x-name", "two")); err != nil {
		t.Fatal(err)
	}
	answer, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	common := answer.GetRequestHeaders().GetResponse()
	if common.GetStatus() != extprocv3.CommonResponse_CONTINUE || !common.GetClearRouteCache() {
		t.Errorf("status %v, clear route cache %v", common.GetStatus(), common.GetClearRouteCache())
	}
	var got [][2]string
	for _, h := range common.GetHeaderMutation().GetSetHeaders() {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || h.GetHeader().GetValue() != "" {
			t.Errorf("%v", h)
		}
		got = append(got, [2]string{h.GetHeader().GetKey(), string(h.GetHeader().GetRawValue())})
	}
	want := [][2]string{
		{extproc.ClusterHeader, "cluster"},
		{":authority", "provider.example"},
		{":path", "/new/a?b"},
		{"authorization", "Bearer one"},
		{"x-seen", "GET front:1 /a?b http true 2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"x-name"}, common.GetHeaderMutation().GetRemoveHeaders()); diff != "" {
		t.Error(diff)
	}
	// After the answer there is no more to ask.
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestRefuse(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": script{decide: func(*extproc.Request) (*extproc.Decision, *extproc.Error) {
		return nil, &extproc.Error{
			Status: 403, ContentType: "application/xml", Body: []byte("<Error/>"),
			Headers: []extproc.Header{{Name: "x-amz-request-id", Value: "1"}}, Reason: "unknown_key",
		}
	}}}, extproc.Options{})
	answer, err := ask(t, dial("s3"), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	r := answer.GetImmediateResponse()
	if r.GetStatus().GetCode() != 403 || string(r.GetBody()) != "<Error/>" || r.GetDetails() != "unknown_key" {
		t.Errorf("%v", r)
	}
	set := map[string]string{}
	for _, h := range r.GetHeaders().GetSetHeaders() {
		set[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
	}
	if diff := cmp.Diff(map[string]string{"content-type": "application/xml", "x-amz-request-id": "1"}, set); diff != "" {
		t.Error(diff)
	}
}

// TestNoAnswerIsAnError: whatever is not one good request ends in a gRPC error,
// because Envoy forwards the request when a stream is closed cleanly.
func TestNoAnswerIsAnError(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": script{decide: echo}}, extproc.Options{})
	body := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("x")}}}
	responseHeaders := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}}
	for _, tt := range []struct {
		name      string
		authority string
		message   *extprocv3.ProcessingRequest
		code      codes.Code
	}{
		{"body first", "s3", body, codes.InvalidArgument},
		{"response headers first", "s3", responseHeaders, codes.InvalidArgument},
		{"empty message", "s3", &extprocv3.ProcessingRequest{}, codes.InvalidArgument},
		{"no headers", "s3", headers(true), codes.InvalidArgument},
		{"no path", "s3", headers(true, ":method", "GET", ":authority", "a"), codes.InvalidArgument},
		{"no authority", "s3", headers(true, ":method", "GET", ":path", "/"), codes.InvalidArgument},
		{"two paths", "s3", get("/a", ":path", "/b"), codes.InvalidArgument},
		{"two methods", "s3", get("/a", ":method", "PUT"), codes.InvalidArgument},
		{"another authority", "gcs", get("/a"), codes.Unimplemented},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, err := ask(t, dial(tt.authority), tt.message)
			if answer != nil || status.Code(err) != tt.code {
				t.Errorf("%v, %v", answer, err)
			}
		})
	}
	t.Run("closed before the first message", func(t *testing.T) {
		s := open(t, dial("s3"))
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// TestGuard: a protocol that panics or gives half an answer refuses the request.
func TestGuard(t *testing.T) {
	var log safeBuffer
	opts := extproc.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	broken := func() *extproc.Error { panic("also here") }
	for _, tt := range []struct {
		name string
		p    script
		body string
	}{
		{"panic with the client's data", script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) { panic("topsecret " + r.Path) }}, "not now"},
		{"panic of the runtime", script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) { _ = r.Headers()[1000]; return nil, nil }}, "not now"},
		{"panic twice", script{decide: func(*extproc.Request) (*extproc.Decision, *extproc.Error) { panic(1) }, unavailable: broken}, ""},
		{"no answer", script{decide: func(*extproc.Request) (*extproc.Decision, *extproc.Error) { return nil, nil }}, "not now"},
		{"no cluster", script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			d := r.Decision()
			d.Authority = "provider.example"
			return d, nil
		}}, "not now"},
		{"no authority", script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			d := r.Decision()
			d.Cluster = "cluster"
			return d, nil
		}}, "not now"},
		{"decision and error", script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			d, _ := echo(r)
			return d, &extproc.Error{Status: 503, Body: []byte("not now")}
		}}, "not now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dial, _ := serve(t, map[string]extproc.Protocol{"s3": tt.p}, opts)
			c := dial("s3")
			for range 2 { // and it goes on serving
				got, err := ask(t, c, get("/client-data"))
				if err != nil {
					t.Fatal(err)
				}
				r := got.GetImmediateResponse()
				if r.GetStatus().GetCode() != 503 || string(r.GetBody()) != tt.body {
					t.Errorf("%v", got)
				}
			}
		})
	}
	if s := log.String(); strings.Contains(s, "topsecret") || strings.Contains(s, "client-data") || !strings.Contains(s, "index out of range") {
		t.Errorf("logged: %s", s)
	}
}

// TestShutdown: streams that are open end in an error, and new ones too.
func TestShutdown(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	dial, stop := serve(t, map[string]extproc.Protocol{
		"slow": script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			close(entered)
			<-release
			return echo(r)
		}},
		"s3": script{decide: echo},
	}, extproc.Options{Drain: 50 * time.Millisecond})
	waiting, deciding := open(t, dial("s3")), open(t, dial("slow"))
	if err := deciding.Send(get("/")); err != nil {
		t.Fatal(err)
	}
	<-entered
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	if _, err := waiting.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream that waited ended with %v", err)
	}
	if _, err := deciding.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream that was being decided ended with %v", err)
	}
	close(release)
	<-stopped
	if _, err := ask(t, dial("s3"), get("/")); status.Code(err) != codes.Unavailable {
		t.Errorf("after the stop: %v", err)
	}
}

// TestConcurrent: memory that requests share does not mix their answers.
func TestConcurrent(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
		if strings.HasSuffix(r.Path, "7") {
			return nil, &extproc.Error{Status: 403, Body: []byte(strings.Clone(r.Path)), Reason: "no"}
		}
		return echo(r)
	}}}, extproc.Options{})
	c := dial("s3")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				path := fmt.Sprintf("/%d/%s%d", i, strings.Repeat("x", j), j)
				answer, err := ask(t, c, get(path, "x-name", path))
				if err != nil {
					t.Error(err)
					return
				}
				if strings.HasSuffix(path, "7") {
					if got := string(answer.GetImmediateResponse().GetBody()); got != path {
						t.Errorf("got %s, want %s", got, path)
					}
					continue
				}
				for _, h := range answer.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
					if v := string(h.GetHeader().GetRawValue()); h.GetHeader().GetKey() == "authorization" && v != "Bearer "+path {
						t.Errorf("got %s, want %s", v, path)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "extproc.sock")
	l, err := extproc.Listen(path, os.Getuid()+1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- extproc.NewServer(map[string]extproc.Protocol{"s3": script{decide: echo}}, extproc.Options{}).Serve(ctx, l)
	}()
	if _, err := ask(t, dialSocket(t, path, "s3"), get("/")); status.Code(err) != codes.Unavailable {
		t.Errorf("a peer of another user got %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "run", "extproc.sock")
	first, err := extproc.Listen(path, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{filepath.Dir(path): os.ModeDir | 0o700, path: os.ModeSocket | 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := extproc.Listen(path, os.Getuid()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket in use: %v", err)
	}
	_ = first.Close()

	// What a killed process leaves.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	second, err := extproc.Listen(path, os.Getuid())
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	_ = second.Close()

	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := extproc.Listen(path, os.Getuid()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := extproc.Listen(filepath.Join(shared, "s"), os.Getuid()); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a folder that others can read: %v", err)
	}
}

// BenchmarkStream is one request over the socket: a stream, a message each way. A
// client resets it as Envoy does once the request is over, and the server does not
// close it before unless nothing could end the request.
func BenchmarkStream(b *testing.B) {
	m := get("/bucket/key", "x-name", "one", "user-agent", "aws-sdk-go-v2", "accept-encoding", "identity", "x-amz-date", "20261122T120000Z")
	for name, p := range map[string]script{"closed at once": {decide: echo}, "open to the end": {decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
		d, e := echo(r)
		d.Key = "key"
		return d, e
	}}} {
		b.Run(name, func(b *testing.B) {
			dial, _ := serve(b, map[string]extproc.Protocol{"s3": p}, extproc.Options{})
			c := dial("s3")
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				s, err := c.Process(ctx)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Send(m); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Recv(); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
