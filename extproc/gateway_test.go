package extproc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"keybridge/envoy"
	"keybridge/extproc"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// scribe decides by the headers, or, below /body, by what the body says first of
// these words: yes! and no!.
type scribe struct {
	cluster string
	// revoked are keys that it refuses.
	revoked sync.Map
	asked   atomic.Int64 // calls with a body
	// rewriters are those of /rewrite that are not closed.
	rewriters atomic.Int64
}

func (*scribe) Name() string { return "scribe" }

func refusal(status int, reason string) *extproc.Error {
	return &extproc.Error{Status: status, ContentType: "text/plain", Body: []byte(reason), Reason: reason}
}

func (*scribe) Unavailable() *extproc.Error { return refusal(503, "unavailable") }
func (*scribe) TooLarge() *extproc.Error    { return refusal(413, "too_large") }
func (*scribe) TooSlow() *extproc.Error     { return refusal(408, "too_slow") }

func (p *scribe) Decide(_ time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	key := r.Header("x-key")
	if _, ok := p.revoked.Load(key); ok {
		return nil, refusal(403, "revoked")
	}
	if len(r.Path) >= 5 && r.Path[:5] == "/body" && !r.EndOfStream {
		r.State = new(int)
		return nil, extproc.NeedBody
	}
	d := p.forward(r)
	if strings.HasPrefix(r.Path, "/rewrite") && !r.EndOfStream {
		p.rewriters.Add(1)
		d.Rewriter = &shout{p: p}
	}
	return d, nil
}

func (p *scribe) DecideBody(_ time.Time, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
	p.asked.Add(1)
	at := r.State.(*int)
	from := max(0, *at-3)
	*at = len(body)
	switch yes, no := bytes.Index(body[from:], []byte("yes!")), bytes.Index(body[from:], []byte("no!")); {
	case yes >= 0 && (no < 0 || yes < no):
		return p.forward(r), nil
	case no >= 0:
		return nil, refusal(403, "no")
	case complete:
		return nil, refusal(404, "neither")
	}
	return nil, extproc.NeedBody
}

// forward takes the key from the header, as a string that lasts.
func (p *scribe) forward(r *extproc.Request) *extproc.Decision {
	d := r.Decision()
	d.Cluster, d.Authority = p.cluster, "provider.example"
	d.Key = string([]byte(r.Header("x-key")))
	d.SetBytes("authorization", []byte("secret"))
	d.Remove = append(d.Remove, "x-key")
	return d
}

// patience is for a machine that has much else to do; nothing is found out by waiting.
const patience = 2 * time.Minute

// gateway is a real Envoy, configured as by a bridge, with a server of ours.
type gateway struct {
	t        *testing.T
	url      string // of the AI listener
	p        *scribe
	server   *extproc.Server
	stop     func() // the server only
	envoy    *envoy.Process
	log      *logBuffer
	upstream *upstream
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startGateway(t *testing.T, opts extproc.Options) *gateway {
	t.Helper()
	binary, err := envoy.Find("")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kb") // t.TempDir is too long for a unix socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &gateway{t: t, p: &scribe{}, log: &logBuffer{}, upstream: startUpstream(t)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", g.log)
		}
	})
	endpoint := g.upstream.endpoint()
	g.p.cluster = endpoint.Cluster()

	socket := filepath.Join(dir, "run", "extproc.sock")
	l, err := extproc.Listen(socket, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	g.server = extproc.NewServer(map[string]extproc.Protocol{translate.AuthorityAI: g.p}, opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.server.Serve(ctx, l) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(g.stop)

	const node, group = "node", "group"
	x, err := xds.NewServer(xds.Config{
		Types:     xds.EnvoyTypes(),
		Authorize: func(context.Context) (string, string, error) { return node, group, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	address := freeAddress(t)
	resources, problems := translate.Render(translate.Input{
		Listeners:     []*configv1.Listener{{Name: "ai", Protocol: configv1.Protocol_AI, Address: "127.0.0.1", Port: uint32(address.Port)}},
		Endpoints:     []translate.Endpoint{endpoint},
		ExtProcSocket: socket,
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for url, r := range map[string]map[string]proto.Message{
		resourcev3.ClusterType: resources.CDS, resourcev3.RouteType: resources.RDS, resourcev3.ListenerType: resources.LDS, resourcev3.SecretType: resources.SDS,
	} {
		if _, err := x.Set(group, url, r); err != nil {
			t.Fatal(err)
		}
	}
	ads := grpc.NewServer()
	x.Register(ads)
	adsSocket := filepath.Join(dir, "ads.sock")
	adsListener, err := net.Listen("unix", adsSocket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = ads.Serve(adsListener)
	}()
	t.Cleanup(func() { ads.Stop(); <-served })

	g.envoy, err = envoy.Start(context.Background(), envoy.Config{
		Binary: binary, Dir: filepath.Join(dir, "envoy"), ADSSocket: adsSocket, NodeID: node, Concurrency: 1, Log: g.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.envoy.Stop(context.Background()); err != nil {
			t.Logf("stopping Envoy: %v", err)
		}
	})
	ready, cancelReady := context.WithTimeout(context.Background(), patience)
	defer cancelReady()
	if err := g.envoy.Ready(ready); err != nil {
		t.Fatal(err)
	}
	g.url = "http://" + address.String()
	return g
}

func freeAddress(t *testing.T) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr)
}

// client speaks HTTP/1.1, or HTTP/2 without TLS.
func (g *gateway) client(http2 bool) *http.Client {
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, Protocols: &http.Protocols{}}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// both runs a test with each version of HTTP.
func both(t *testing.T, f func(t *testing.T, http2 bool)) {
	t.Run("HTTP/1.1", func(t *testing.T) { f(t, false) })
	t.Run("HTTP/2", func(t *testing.T) { f(t, true) })
}

// request makes one with a key; body may be nil.
func (g *gateway) request(ctx context.Context, method, path, key string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("x-key", key)
	return r
}

// upstream is the provider: HTTP/2 over TLS, so that it can send trailers.
type upstream struct {
	*httptest.Server
	requests atomic.Int64  // arrived
	bodies   atomic.Int64  // complete
	bytes    atomic.Int64  // of bodies
	cut      atomic.Int64  // requests that ended before their time
	release  chan struct{} // lets /held and /slow go

	refuse  atomic.Bool  // every connection
	refused atomic.Int64 // connections
}

// refusing is a listener whose connections end at once while u.refuse is set.
type refusing struct {
	net.Listener
	u *upstream
}

func (l refusing) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || !l.u.refuse.Load() {
			return c, err
		}
		l.u.refused.Add(1)
		_ = c.Close()
	}
}

func startUpstream(t *testing.T) *upstream {
	u := &upstream{release: make(chan struct{})}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(u.serve))
	u.Listener = refusing{u.Listener, u}
	u.EnableHTTP2 = true
	u.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 5000} // or Envoy is refused some, and retries but a few
	u.StartTLS()
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

func (u *upstream) endpoint() translate.Endpoint {
	addr := u.Listener.Addr().(*net.TCPAddr)
	return translate.Endpoint{
		Scheme: "https", Host: "127.0.0.1", Port: uint16(addr.Port), HTTP2: true,
		CAPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.Certificate().Raw}),
	}
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	u.requests.Add(1)
	flush := func() { _ = http.NewResponseController(w).Flush() }
	wait := func() bool {
		select {
		case <-u.release:
			return true
		case <-r.Context().Done():
			u.cut.Add(1)
			return false
		}
	}
	switch r.URL.Path {
	case "/download": // headers and bytes, then slowly nothing more
		w.Header().Set("content-length", "2000")
		_, _ = w.Write(make([]byte, 1000))
		flush()
		if wait() {
			_, _ = w.Write(make([]byte, 1000))
		}
		return
	case "/sse":
		w.Header().Set("content-type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		flush()
		if wait() {
			_, _ = io.WriteString(w, "data: 2\n\n")
		}
		return
	case "/headers", "/body/headers": // none for a while, and the body is not read
		if wait() {
			_, _ = io.WriteString(w, "at last")
		}
		return
	}
	sum := sha256.New()
	buf := make([]byte, 64<<10)
	var n int64
	for {
		m, err := r.Body.Read(buf)
		sum.Write(buf[:m])
		n += int64(m)
		u.bytes.Add(int64(m))
		if err == io.EOF {
			break
		}
		if err != nil {
			u.cut.Add(1)
			return
		}
	}
	u.bodies.Add(1)
	w.Header().Set("x-length", strconv.FormatInt(r.ContentLength, 10))
	w.Header().Set("x-trailer-seen", r.Trailer.Get("x-sum"))
	w.Header().Set("x-authorization", r.Header.Get("authorization"))
	w.Header().Set("x-once", r.Header.Get(extproc.OnceHeader))
	if r.URL.Path == "/trailers" || r.URL.Path == "/body/trailers" {
		w.Header().Set("trailer", "x-after")
		defer w.Header().Set("x-after", "trailer")
	}
	fmt.Fprintf(w, "%d %s", n, hex.EncodeToString(sum.Sum(nil)))
}

// eventually waits for what another process or goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(patience), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}
