package extproc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keybridge/extproc"
)

// shout writes capitals for small letters, a line at a time, and refuses one with a
// digit and a body that does not end with a line.
type shout struct {
	p         *scribe
	at, ready int64
	since     [][]byte // of the line so far
}

func (s *shout) Rewrite(piece []byte, complete bool) (int64, *extproc.Error) {
	s.p.asked.Add(1)
	for len(piece) > 0 {
		line, rest, whole := bytes.Cut(piece, []byte("\n"))
		n := len(line)
		if whole {
			n++
		}
		s.at += int64(n)
		s.since = append(s.since, piece[:n])
		piece = rest
		if bytes.ContainsAny(line, "0123456789") {
			return s.ready, refusal(403, "digit")
		}
		if bytes.Contains(line, []byte("panic!")) {
			panic("at a word")
		}
		if !whole {
			break
		}
		for _, b := range s.since {
			copy(b, bytes.ToUpper(b))
		}
		s.since, s.ready = s.since[:0], s.at
	}
	if complete && s.ready != s.at {
		return s.ready, refusal(400, "no line end")
	}
	return s.ready, nil
}

func (*shout) TooSlow() *extproc.Error { return refusal(408, "too_slow") }
func (s *shout) Close()                { s.p.rewriters.Add(-1) }

// dribble gives small pieces, so that they arrive as they are.
type dribble struct {
	io.Reader
	n int
}

func (d dribble) Read(p []byte) (int, error) { return d.Reader.Read(p[:min(len(p), d.n)]) }

// TestRewrite: the provider gets what the rewriter made of the body, at the length
// that the client told.
func TestRewrite(t *testing.T) {
	g := startGateway(t, extproc.Options{})
	long := strings.Repeat(text(60_000, "a", "\n"), 100)
	both(t, func(t *testing.T, http2 bool) {
		for _, tt := range []struct {
			name, body, expect string
			piece              int
			status             int
			answer             string
			silent             bool // the provider hears nothing of it
		}{
			{name: "a line", body: "hello\n", status: 200},
			{name: "a line at once expected", body: "hello\n", expect: "100-continue", status: 200},
			{name: "lines in small pieces", body: strings.Repeat("hello world\n", 100), piece: 7, status: 200},
			{name: "6 MB", body: long, status: 200},
			{name: "6 MB expected", body: long, expect: "100-continue", status: 200},
			{name: "6 MB in pieces of 5,000", body: long, piece: 5000, status: 200},
			{name: "one line of 3 MB", body: text(3<<20, "", "\n"), status: 200},
			{name: "refused in the first line", body: "hell0\n" + long, status: 403, answer: "digit", silent: true},
			{name: "refused at its end", body: "hello", status: 400, answer: "no line end", silent: true},
			{name: "refused in a later line", body: long + "hell0\n", status: 403, answer: "digit"},
			{name: "refused later, expected", body: long + "hell0\n", expect: "100-continue", status: 403, answer: "digit"},
			{name: "refused at a later end", body: long + "hello", status: 400, answer: "no line end"},
			{name: "panic", body: "panic!\n", status: 503, answer: "unavailable", silent: true},
			{name: "panic later", body: long + "panic!\n", status: 503, answer: "unavailable"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				requests, bodies := g.upstream.requests.Load(), g.upstream.bodies.Load()
				var body io.Reader = strings.NewReader(tt.body)
				if tt.piece > 0 {
					body = dribble{body, tt.piece}
				}
				r := g.request(t.Context(), "POST", "/rewrite", "a", body)
				r.ContentLength = int64(len(tt.body))
				if tt.expect != "" {
					r.Header.Set("expect", tt.expect)
				}
				resp, err := g.client(http2).Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				if tt.status == 200 {
					if want := digest(strings.ToUpper(tt.body)); resp.StatusCode != 200 || string(got) != want {
						t.Errorf("%d %s, want %s", resp.StatusCode, got, want)
					}
					if got := resp.Header.Get("x-length"); got != fmt.Sprint(len(tt.body)) {
						t.Errorf("the provider saw content-length %s, want %d", got, len(tt.body))
					}
					if got := resp.Header.Get("x-authorization"); got != "secret" {
						t.Errorf("the provider saw authorization %q", got)
					}
					if got := resp.Header.Get("x-once"); got != "" {
						t.Errorf("the provider saw %s: %s", extproc.OnceHeader, got)
					}
					return
				}
				if resp.StatusCode != tt.status || string(got) != tt.answer {
					t.Errorf("%d %s, want %d %s", resp.StatusCode, got, tt.status, tt.answer)
				}
				if n := g.upstream.requests.Load() - requests; tt.silent && n != 0 {
					t.Errorf("the provider saw %d requests", n)
				}
				eventually(t, "the provider's request is cut", func() bool { return g.upstream.cut.Load() == g.upstream.requests.Load()-g.upstream.bodies.Load() })
				if g.upstream.bodies.Load() != bodies {
					t.Error("the provider took the body for whole")
				}
			})
		}
	})
	eventually(t, "all streams end", func() bool { return g.server.OpenStreams() == 0 && g.p.rewriters.Load() == 0 })
	if n := g.server.Held(); n != 0 {
		t.Errorf("%d bytes are held after all", n)
	}
}

// TestRewriteStalls: nothing goes on for too long, from the start or later.
func TestRewriteStalls(t *testing.T) {
	g := startGateway(t, extproc.Options{RewriteTimeout: patienceOfServer})
	both(t, func(t *testing.T, http2 bool) {
		for name, first := range map[string]string{"nothing": "", "half a line": "hello", "a line": "hello\n", "a line and a half": "hello\nworld"} {
			g.wantTooSlow(t, http2, "/rewrite", name, slowly(strings.NewReader(first), nil))
		}
		eventually(t, "the provider's requests are cut", func() bool { return g.upstream.cut.Load() == g.upstream.requests.Load() })
	})
}

// TestRewriteMemory: a line that never ends is held to a limit, and no further.
func TestRewriteMemory(t *testing.T) {
	g := startGateway(t, extproc.Options{MaxHeld: 1 << 20})
	for _, first := range []string{"", "hello\n"} {
		resp, err := g.client(false).Do(g.request(t.Context(), "POST", "/rewrite", "a", strings.NewReader(first+text(8<<20, "", "\n"))))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 503 || string(got) != "unavailable" {
			t.Errorf("after %q: %d %s", first, resp.StatusCode, got)
		}
	}
	eventually(t, "all is let go", func() bool { return g.server.Held() == 0 })
}

// TestRewriteManyAtOnce: of many bodies at once no more is held than a line, and a
// message of what Envoy reads ahead, of each.
func TestRewriteManyAtOnce(t *testing.T) {
	g := startGateway(t, extproc.Options{})
	const bodies, size, most = 16, 8 << 20, (512 + 64) << 10 // of 1 MiB and more by default
	line := text(1<<16, "", "\n")
	var held atomic.Int64
	done := make(chan error, bodies)
	for range bodies {
		go func() {
			body := &pieces{n: size >> 16, piece: line, each: func(int) { held.Store(max(held.Load(), g.server.Held())) }}
			r := g.request(t.Context(), "POST", "/rewrite", "a", body)
			r.ContentLength = size
			resp, err := g.client(false).Do(r)
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != 200 {
					err = errors.New(resp.Status)
				}
			}
			done <- err
		}()
	}
	for range bodies {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d bodies of %d MiB: held at most %d KiB", bodies, size>>20, held.Load()>>10)
	if n := held.Load(); n > bodies*most {
		t.Errorf("held %d KiB, more than %d of each", n>>10, most>>10)
	}
}

// TestRewriteRevoked and stopped: half a body never looks whole.
func TestRewriteRevoked(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(g *gateway)
	}{
		{"revoked", func(g *gateway) {
			g.p.revoked.Store("a", true)
			g.server.EndStreams(func(key string) bool { return key == "a" })
		}},
		{"stopped", func(g *gateway) { g.stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, http2 bool) {
				g := startGateway(t, extproc.Options{Drain: 100 * time.Millisecond})
				body := slowly(strings.NewReader("hello\n"), nil)
				done := make(chan int, 1)
				go func() {
					r := g.request(t.Context(), "POST", "/rewrite", "a", body)
					r.ContentLength = 12
					resp, err := g.client(http2).Do(r)
					if err != nil {
						done <- 0
						return
					}
					_ = resp.Body.Close()
					done <- resp.StatusCode
				}()
				eventually(t, "the first line passes", func() bool { return g.upstream.bytes.Load() == 6 })
				tt.end(g)
				eventually(t, "the provider's request is cut", func() bool { return g.upstream.cut.Load() == 1 })
				_ = body.Close() // or net/http waits for it
				if status := <-done; status != 0 && status != 503 {
					t.Errorf("status %d", status)
				}
				if n := g.upstream.bodies.Load(); n != 0 {
					t.Error("the provider took half a body for a whole one")
				}
				eventually(t, "the rewriter is closed", func() bool { return g.p.rewriters.Load() == 0 })
			})
		})
	}
}

// TestRewriteOnce: what passes the bridge is not sent again.
func TestRewriteOnce(t *testing.T) {
	g := startGateway(t, extproc.Options{})
	g.upstream.refuse.Store(true)
	for path, attempts := range map[string]int64{"/": 3, "/rewrite": 1, "/body": 1} {
		before := g.upstream.refused.Load()
		resp, err := g.client(false).Do(g.request(context.Background(), "POST", path, "a", strings.NewReader("yes!\n")))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if n := g.upstream.refused.Load() - before; n != attempts || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %s after %d attempts, want %d", path, resp.Status, n, attempts)
		}
	}
}
