package translate_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"keybridge/envoy"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

const (
	nodeID = "envoy-under-test"
	group  = "envoy"
)

// syncBuffer is a log that a process writes and a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// decide is what the test's bridge does with a request's headers: an answer, or
// nil to end the stream cleanly, or an error.
type decide func(authority string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error)

// bridge is a stand-in for a bridge: a real ADS server, a small ext_proc
// server, and the real Envoy that they serve.
type bridge struct {
	t       *testing.T
	dir     string
	xds     *xds.Server
	envoy   *envoy.Process
	log     *syncBuffer
	extproc *grpc.Server
	listen  map[configv1.Protocol]string // host:port

	mu      sync.Mutex
	decide  decide
	reviews []*review
	failing func() error                 // instead of a review
	instead *extprocv3.ImmediateResponse // of every answer that is reviewed; nil: all pass
}

// startBridge renders listeners for both protocols and the endpoints, and waits
// until Envoy serves them.
func startBridge(t *testing.T, endpoints ...translate.Endpoint) *bridge {
	t.Helper()
	b, in := prepareBridge(t, endpoints...)
	b.push(in)
	b.start()
	return b
}

// prepareBridge is startBridge without resources or an Envoy, which push and
// start bring.
func prepareBridge(t *testing.T, endpoints ...translate.Endpoint) (*bridge, translate.Input) {
	t.Helper()
	// t.TempDir is too long for a unix socket's path.
	dir, err := os.MkdirTemp("", "kb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bridge{t: t, dir: dir, log: &syncBuffer{}, listen: make(map[configv1.Protocol]string)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", b.log)
		}
	})

	b.xds, err = xds.NewServer(xds.Config{
		Types:     xds.EnvoyTypes(),
		Authorize: func(context.Context) (string, string, error) { return nodeID, group, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.xds.Close)
	ads := grpc.NewServer()
	b.xds.Register(ads)
	serveUnix(t, ads, filepath.Join(dir, "ads.sock"))
	b.startExtProc()

	var listeners []*configv1.Listener
	for name, p := range map[string]configv1.Protocol{"s3": configv1.Protocol_S3, "ai": configv1.Protocol_AI} {
		port := freePort(t)
		listeners = append(listeners, &configv1.Listener{Name: name, Protocol: p, Address: "127.0.0.1", Port: port})
		b.listen[p] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return b, translate.Input{Listeners: listeners, Endpoints: endpoints, ExtProcSocket: filepath.Join(dir, "ext.sock"), SystemRoots: systemRoots(t)}
}

func (b *bridge) start() {
	b.t.Helper()
	binary, err := envoy.Find("")
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := envoy.Start(context.Background(), envoy.Config{
		Binary: binary, Dir: filepath.Join(b.dir, "envoy"), ADSSocket: filepath.Join(b.dir, "ads.sock"),
		NodeID: nodeID, Concurrency: 1, Log: b.log,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.envoy = p
	b.t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			b.t.Logf("stopping Envoy: %v", err)
		}
	})
	if err := p.Ready(deadline(b.t, 20*time.Second)); err != nil {
		b.t.Fatalf("%v\n%s", err, b.log)
	}
}

// push renders the input and returns once Envoy has taken the clusters.
func (b *bridge) push(in translate.Input) {
	b.t.Helper()
	r, problems := translate.Render(in)
	if len(problems) > 0 {
		b.t.Fatal(problems)
	}
	b.set(r)
}

func (b *bridge) set(r translate.Resources) {
	b.t.Helper()
	for _, part := range []struct {
		url string
		set func() (uint64, error)
	}{
		{resourcev3.ClusterType, func() (uint64, error) { return b.xds.Set(group, resourcev3.ClusterType, r.CDS) }},
		{resourcev3.RouteType, func() (uint64, error) { return b.xds.Set(group, resourcev3.RouteType, r.RDS) }},
		{resourcev3.SecretType, func() (uint64, error) { return b.xds.Set(group, resourcev3.SecretType, r.SDS) }},
		{resourcev3.ListenerType, func() (uint64, error) { return b.xds.Set(group, resourcev3.ListenerType, r.LDS) }},
	} {
		if _, err := part.set(); err != nil {
			b.t.Fatalf("%s: %v", part.url, err)
		}
	}
}

func (b *bridge) startExtProc() {
	b.t.Helper()
	b.extproc = grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(b.extproc, &processor{bridge: b})
	serveUnix(b.t, b.extproc, filepath.Join(b.dir, "ext.sock"))
}

func (b *bridge) onHeaders(d decide) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.decide = d
}

type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	bridge *bridge
}

func (p *processor) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	authority := ""
	if md, ok := metadata.FromIncomingContext(stream.Context()); ok && len(md[":authority"]) == 1 {
		authority = md[":authority"][0]
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	p.bridge.mu.Lock()
	d := p.bridge.decide
	p.bridge.mu.Unlock()
	if req.GetResponseHeaders() != nil {
		return p.bridge.review(authority, req, stream)
	}
	resp, err := d(authority, req.GetRequestHeaders())
	if err != nil || resp == nil {
		return err
	}
	if err := stream.Send(resp); err != nil {
		return err
	}
	_, err = stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// forwardTo is the decision of a bridge that lets a request pass.
func forwardTo(e translate.Endpoint) decide {
	return func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
		return headersResponse(
			pair{translate.ClusterHeader, e.Cluster()},
			pair{":authority", fmt.Sprintf("%s:%d", e.Host, e.Port)},
		), nil
	}
}

type pair struct{ name, value string }

func headersResponse(set ...pair) *extprocv3.ProcessingResponse {
	m := &extprocv3.HeaderMutation{RemoveHeaders: []string{"authorization"}}
	for _, h := range set {
		m.SetHeaders = append(m.SetHeaders, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: h.name, RawValue: []byte(h.value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{HeaderMutation: m, ClearRouteCache: true}},
	}}
}

func header(h *extprocv3.HttpHeaders, name string) (value string, count int) {
	for _, v := range h.GetHeaders().GetHeaders() {
		if v.GetKey() == name {
			value = string(v.GetRawValue())
			count++
		}
	}
	return value, count
}

// provider is an upstream that keeps the head of every request as it arrived.
type provider struct {
	translate.Endpoint
	mu    sync.Mutex
	heads []string
	// Reply is written after each request's head and body; by default 200.
	reply string
	close bool // the connection after each
}

// startProvider serves HTTP/1.1 without Go's own parsing of the head, so that
// tests see the bytes.
func startProvider(t *testing.T, reply string) *provider {
	t.Helper()
	if reply == "" {
		reply = "HTTP/1.1 200 OK\r\nServer: provider\r\nContent-Length: 2\r\n\r\nok"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{reply: reply, Endpoint: translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
	})
	return p
}

func (p *provider) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		var head strings.Builder
		length := 0
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
			_, _ = fmt.Sscanf(strings.ToLower(line), "content-length: %d", &length)
			if line == "\r\n" {
				break
			}
		}
		if strings.Contains(strings.ToLower(head.String()), "\r\nexpect: 100-continue\r\n") {
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
			return
		}
		p.mu.Lock()
		p.heads = append(p.heads, head.String())
		p.mu.Unlock()
		if _, err := io.WriteString(c, p.reply); err != nil || p.close {
			return
		}
	}
}

func (p *provider) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.heads...)
}

// send writes raw bytes to a listener and reads one response.
func (b *bridge) send(p configv1.Protocol, raw string) (*http.Response, string) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.listen[p])
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		b.t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		b.t.Fatalf("no response: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, string(body)
}

func serveUnix(t *testing.T, s *grpc.Server, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
