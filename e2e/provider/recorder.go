package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"keybridge/e2e/leak"
)

// RecorderConfig says what a Recorder stands in front of.
type RecorderConfig struct {
	// Listen is the address to listen on; empty for a free loopback port.
	Listen string
	// Dial connects to what stands behind.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS, if set, is what the recorder serves with; it speaks plain TCP to what
	// stands behind, as a TLS front of a provider does.
	TLS *tls.Config
	// Forbidden are the secrets that must pass in neither direction.
	Forbidden *leak.Set
}

// Recorder forwards connections and records the HTTP/1 requests on them. It
// alters nothing: a request is parsed from a copy of its bytes, before they are
// sent on, so that a request the provider has acted on is always in Requests.
type Recorder struct {
	config   RecorderConfig
	listener net.Listener
	cancel   context.CancelFunc
	done     sync.WaitGroup
	fault    atomic.Pointer[Fault]

	mu       sync.Mutex
	requests []*Request
	leaks    []string
	conns    map[net.Conn]struct{}
	accepted int
	received int64 // from clients
	sent     int64 // to clients
}

// Record starts a Recorder.
func Record(config RecorderConfig) (*Recorder, error) {
	address := config.Listen
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("recorder: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{config: config, listener: l, cancel: cancel, conns: map[net.Conn]struct{}{}}
	r.done.Go(func() { r.serve(ctx) })
	return r, nil
}

// Addr is host:port, as a client would put it in Host.
func (r *Recorder) Addr() string { return r.listener.Addr().String() }

// URL is the base URL, without a trailing slash.
func (r *Recorder) URL() string {
	if r.config.TLS != nil {
		return "https://" + r.Addr()
	}
	return "http://" + r.Addr()
}

// Requests are all requests whose header has arrived since Reset, in that order,
// but for those that a bridge makes itself: see Probes.
func (r *Recorder) Requests() []Request { return r.choose(false) }

// Probes are the requests that a bridge has made itself, to see whether the
// provider serves, when it likes.
func (r *Recorder) Probes() []Request { return r.choose(true) }

func (r *Recorder) choose(probes bool) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Request, 0, len(r.requests))
	for _, q := range r.requests {
		if agent, _ := q.Get("User-Agent"); (agent == "keybridge-probe") == probes {
			out = append(out, *q)
		}
	}
	return out
}

// Leaks names the forbidden secrets that passed since Reset.
func (r *Recorder) Leaks() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.leaks)
}

// Traffic is the number of connections accepted and of bytes that passed since
// the recorder started.
func (r *Recorder) Traffic() (conns int, received, sent int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted, r.received, r.sent
}

// Reset forgets requests and leaks. Bytes of requests that are under way still
// count, for those.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.leaks = nil, nil
}

// Close stops listening, cuts all connections and waits for the last of them.
func (r *Recorder) Close() error {
	r.cancel()
	err := r.listener.Close()
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.done.Wait()
	return err
}

func (r *Recorder) serve(ctx context.Context) {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.mu.Lock()
		r.accepted++
		r.mu.Unlock()
		r.done.Go(func() { r.forward(ctx, c) })
	}
}

// stream is what *net.TCPConn, *net.UnixConn and *tls.Conn share.
type stream interface {
	net.Conn
	CloseWrite() error
}

func (r *Recorder) forward(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	if !r.hold(ctx, raw) {
		return
	}
	defer r.release(raw)
	client, serverName := raw.(stream), ""
	if r.config.TLS != nil {
		t := tls.Server(raw, r.config.TLS)
		if t.HandshakeContext(ctx) != nil {
			return
		}
		client, serverName = t, t.ConnectionState().ServerName
	}
	up, err := r.config.Dial(ctx)
	if err != nil {
		return
	}
	defer up.Close()
	if !r.hold(ctx, up) {
		return
	}
	defer r.release(up)
	upstream := up.(stream)

	p := &parser{begin: func(q *Request) {
		q.ServerName = serverName
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests = append(r.requests, q)
	}, mu: &r.mu}
	f := &failing{recorder: r, ctx: ctx, client: raw.(*net.TCPConn), upstream: upstream}
	var both sync.WaitGroup
	both.Go(func() { r.copy(upstream, client, &r.received, func(b []byte) outcome { p.feed(b); return f.asked(b) }) })
	both.Go(func() { r.copy(client, upstream, &r.sent, f.answered) })
	both.Wait()
}

// copy forwards until EOF, which it passes on, or an error, which ends both
// directions, as does a fault that watch says is over.
func (r *Recorder) copy(to, from stream, count *int64, watch func([]byte) outcome) {
	scan := io.Discard
	if r.config.Forbidden != nil {
		scan = r.config.Forbidden.Scanner(r.leaked)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			switch watch(buf[:n]) {
			case seenTo:
				continue
			case over:
				to.Close()
				from.Close()
				return
			}
			_, _ = scan.Write(buf[:n]) // a Scanner does not fail
			r.mu.Lock()
			*count += int64(n)
			r.mu.Unlock()
			if _, werr := to.Write(buf[:n]); werr != nil {
				return // what it said before it stopped listening still goes the other way
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if to.CloseWrite() != nil {
				to.Close()
			}
			return
		case err != nil:
			to.Close()
			from.Close()
			return
		}
	}
}

func (r *Recorder) leaked(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.leaks, name) {
		r.leaks = append(r.leaks, name)
	}
}

// hold registers a connection for Close to cut, or says that it is too late.
func (r *Recorder) hold(ctx context.Context, c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	r.conns[c] = struct{}{}
	return true
}

func (r *Recorder) release(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}
