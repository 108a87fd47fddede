package translate_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// expected is a provider that does one of several things with a request that expects
// 100 Continue.
type expected struct {
	translate.Endpoint
	invite, read bool // send 100; read the body before the answer
	requests     atomic.Int32
	bodies       atomic.Int32
}

func startExpected(t *testing.T, invite, read bool) *expected {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &expected{invite: invite, read: read, Endpoint: translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { e.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return e
}

func (e *expected) serve(c net.Conn) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	e.requests.Add(1)
	answer := "HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfinal"
	if e.invite {
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	if e.read {
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != upload {
			return
		}
		e.bodies.Add(1)
		answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone"
	}
	_, _ = io.WriteString(c, answer)
}

const upload = "what the client has to say"

// watched is a body that knows whether anybody asked for it.
type watched struct {
	io.Reader
	touched atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.touched.Store(true)
	return w.Reader.Read(p)
}

// A refused request is not asked for its body, over whatever it came: the answer is
// there before any 100 Continue, and the client has sent nothing.
func TestExpectContinue(t *testing.T) {
	ca := newAuthority(t)
	var providers []*expected
	var endpoints []translate.Endpoint
	for _, does := range [][2]bool{{true, true}, {false, false}, {false, true}} {
		p := startExpected(t, does[0], does[1])
		providers, endpoints = append(providers, p), append(endpoints, p.Endpoint)
	}
	invites, final, silent := providers[0], providers[1], providers[2]
	plain := startBridge(t, endpoints...)
	site, _ := startTLSBridge(t, ca.certificate(t, siteName), endpoints...)
	for name, c := range map[string]struct {
		refuse    bool
		provider  *expected
		patience  time.Duration
		status    int
		body      string
		continues int // 100s that the client gets
		sent      bool
	}{
		"refused":                             {refuse: true, provider: invites, patience: time.Hour, status: 403, body: "no"},
		"provider invites":                    {provider: invites, patience: time.Hour, status: 200, body: "done", continues: 1, sent: true},
		"provider answers without the body":   {provider: final, patience: time.Hour, status: 409, body: "final"},
		"provider waits for the body, silent": {provider: silent, patience: 50 * time.Millisecond, status: 200, body: "done", sent: true},
	} {
		for over, client := range map[string]func(*testing.T, *bridge) *http.Client{
			"HTTP/1.1": nil,
			"TLS and HTTP/1.1": func(t *testing.T, b *bridge) *http.Client {
				return tlsClient(t, b, configv1.Protocol_S3, ca, tls.VersionTLS13, false)
			},
			"TLS and HTTP/2": func(t *testing.T, b *bridge) *http.Client {
				return tlsClient(t, b, configv1.Protocol_S3, ca, tls.VersionTLS13, true)
			},
		} {
			t.Run(name+", "+over, func(t *testing.T) {
				up := c.provider
				up.requests.Store(0)
				up.bodies.Store(0)
				b, url := plain, "http://"+plain.listen[configv1.Protocol_S3]
				http1 := &http.Transport{}
				t.Cleanup(http1.CloseIdleConnections)
				h := &http.Client{Transport: http1, Timeout: 20 * time.Second}
				if client != nil {
					b, url = site, "https://"+siteName
					h = client(t, site)
				}
				b.t = t
				h.Transport.(*http.Transport).ExpectContinueTimeout = c.patience
				b.onHeaders(forwardTo(up.Endpoint))
				if c.refuse {
					b.onHeaders(func(_ string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
						if v, _ := header(h, "expect"); v != "100-continue" {
							t.Errorf("the bridge saw expect %q", v) // which a client may sign
						}
						return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
							ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: 403}, Body: []byte("no")},
						}}, nil
					})
				}
				var continues atomic.Int32
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continues.Add(1) }})
				body := &watched{Reader: strings.NewReader(upload)}
				q, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/b/k", body)
				if err != nil {
					t.Fatal(err)
				}
				q.ContentLength = int64(len(upload))
				q.Header.Set("Expect", "100-continue")
				resp, err := h.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != c.status || string(got) != c.body {
					t.Errorf("got %d %q, %v", resp.StatusCode, got, err)
				}
				if int(continues.Load()) != c.continues || body.touched.Load() != c.sent {
					t.Errorf("100 Continue %d times, body sent: %v", continues.Load(), body.touched.Load())
				}
				if n := up.requests.Load(); n != 0 == c.refuse {
					t.Errorf("%d requests at the provider", n)
				}
				if n := up.bodies.Load(); n != 0 != c.sent {
					t.Errorf("%d bodies at the provider", n)
				}
			})
		}
	}
}
