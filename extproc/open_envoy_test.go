package extproc_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
)

// TestEndStreams: what a revoked key has open ends at once, in whatever state it
// is; what another key has goes on to its end.
func TestEndStreams(t *testing.T) {
	g := startGateway(t, extproc.Options{})
	both(t, func(t *testing.T, http2 bool) {
		g.upstream.release = make(chan struct{})
		client := g.client(http2)
		type result struct {
			name, key string
			status    int
			body      string
			err       error
			at        time.Time
		}
		started, results := make(chan string, 20), make(chan result, 20)
		finish := make(chan struct{})
		run := func(name, key, method, path string, body io.Reader) {
			r := result{name: name, key: key}
			resp, err := client.Do(g.request(t.Context(), method, path, key, body))
			if err != nil {
				r.err, r.at = err, time.Now()
				results <- r
				return
			}
			defer resp.Body.Close()
			r.status = resp.StatusCode
			in := bufio.NewReader(resp.Body)
			if _, err := in.Peek(1); err == nil {
				started <- name
			}
			all, err := io.ReadAll(in)
			r.body, r.err, r.at = string(all), err, time.Now()
			results <- r
		}
		before := g.upstream.bytes.Load()
		cut := g.upstream.cut.Load()
		for _, key := range []string{"lost", "kept"} {
			go run("download", key, "GET", "/download", nil)
			go run("events", key, "GET", "/sse", nil)
			go run("answer", key, "GET", "/headers", nil)
			go run("upload", key, "PUT", "/upload", slowly(strings.NewReader(text(100<<10, "", "")), finish))
			go run("body", key, "POST", "/body", slowly(strings.NewReader(text(100<<10, "yes!", "")), finish))
		}
		for range 4 { // downloads and events
			<-started
		}
		eventually(t, "uploads are half done, all are open", func() bool {
			return g.upstream.bytes.Load()-before == 4*100<<10 && g.server.OpenStreams() == 10
		})

		revoked := time.Now()
		if n := g.server.EndStreams(func(key string) bool { return key == "lost" }); n != 5 {
			t.Errorf("ended %d streams", n)
		}
		for range 5 {
			r := <-results
			t.Logf("%s of %s ended after %v: %d, %v", r.name, r.key, r.at.Sub(revoked), r.status, r.err)
			switch {
			case r.key != "lost":
				t.Errorf("%s of the other key ended too: %d, %v", r.name, r.status, r.err)
			case timedOut(r.err): // nothing else would have ended it before those of the other key
				t.Errorf("%s did not end: %v", r.name, r.err)
			case r.name == "download" || r.name == "events":
				if r.err == nil {
					t.Errorf("%s ended as if it were complete", r.name)
				}
			case r.err == nil && r.status != 503:
				t.Errorf("%s: status %d", r.name, r.status)
			}
		}
		eventually(t, "the provider's side is cut", func() bool { return g.upstream.cut.Load()-cut == 5 })
		if n := g.server.EndStreams(func(key string) bool { return key == "lost" }); n != 0 {
			t.Errorf("ended %d streams that had ended", n)
		}
		if n := g.server.OpenStreams(); n != 5 {
			t.Errorf("%d streams are open", n)
		}

		close(g.upstream.release)
		close(finish)
		for range 5 {
			if r := <-results; r.key != "kept" || r.status != 200 || r.err != nil {
				t.Errorf("%s of %s: %d, %v", r.name, r.key, r.status, r.err)
			}
		}
		eventually(t, "all streams end", func() bool { return g.server.OpenStreams() == 0 })
	})
}

// TestManyOpen: no limit of Envoy's or gRPC's on the way to the bridge stops
// requests that are open at the same time (Envoy's defaults are 1024).
func TestManyOpen(t *testing.T) {
	g := startGateway(t, extproc.Options{})
	const n = 1200
	client := g.client(true)
	failed := make(chan error, n)
	for i := range n {
		// They are opened a few at a time: how many can be open is asked, not how many
		// a busy machine decides on before Envoy's message_timeout, 2 s.
		eventually(t, "all are open", func() bool { return int64(i)-g.upstream.requests.Load() < 16 })
		go func() {
			resp, err := client.Do(g.request(t.Context(), "GET", "/headers", "a", nil))
			if err == nil {
				_ = resp.Body.Close()
				err = errors.New(resp.Status)
			}
			failed <- err
		}()
	}
	t.Cleanup(func() {
		if len(failed) > 0 {
			t.Log(g.upstream.requests.Load(), g.server.OpenStreams(), len(failed), <-failed)
			s, _ := g.envoy.Admin(context.Background(), "/stats?usedonly&filter=overflow|pending|cx_total|rq_total|reset|cx_active|extproc.*timeout|local_reply|failed")
			t.Logf("%s", s)
		}
	})
	eventually(t, "all are open", func() bool { return g.upstream.requests.Load() == n })
	if open := g.server.OpenStreams(); open != n {
		t.Errorf("%d streams are open", open)
	}
	start := time.Now()
	if ended := g.server.EndStreams(func(string) bool { return true }); ended != n {
		t.Errorf("ended %d streams", ended)
	}
	t.Logf("EndStreams of %d took %v", n, time.Since(start))
	for range n {
		if err := <-failed; !strings.Contains(err.Error(), "503") {
			t.Error(err)
		}
	}
	t.Logf("all had ended after %v", time.Since(start))
}

// timedOut tells a client that lost its patience from one whose request ended.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestBridgeGone: the requests of a bridge that is gone end: nobody could revoke them.
func TestBridgeGone(t *testing.T) {
	g := startGateway(t, extproc.Options{Drain: time.Millisecond})
	resp, err := g.client(false).Do(g.request(t.Context(), "GET", "/sse", "a", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	g.stop()
	if _, err := io.ReadAll(resp.Body); err == nil || timedOut(err) {
		t.Errorf("the events ended with %v", err)
	}
	again, err := g.client(false).Do(g.request(t.Context(), "GET", "/", "a", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	if again.StatusCode != 503 {
		t.Errorf("status %d", again.StatusCode)
	}
}
