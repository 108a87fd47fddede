package extproc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"keybridge/extproc"
)

// echoWithKey is echo for requests whose key, their path, can be revoked.
func echoWithKey(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	d, e := echo(r)
	d.Key = strings.Clone(r.Path)
	return d, e
}

// serveServer is serve for tests that need the server itself.
func serveServer(t testing.TB, p extproc.Protocol, opts extproc.Options) (*extproc.Server, extprocv3.ExternalProcessorClient) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "extproc.sock")
	l, err := extproc.Listen(path, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	s := extproc.NewServer(map[string]extproc.Protocol{"p": p}, opts)
	ctx, cancel := context.WithCancel(context.Background())
	run(t, cancel, func() error { return s.Serve(ctx, l) })
	return s, dialSocket(t, path, "p")
}

// run runs a server until the test ends.
func run(t testing.TB, stop func(), serve func() error) {
	done := make(chan error, 1)
	go func() { done <- serve() }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOpenStreams(t *testing.T) {
	s, c := serveServer(t, script{decide: echoWithKey}, extproc.Options{})
	streams := map[string]extprocv3.ExternalProcessor_ProcessClient{}
	for _, path := range []string{"/a", "/b", "/c"} {
		streams[path] = open(t, c)
		send(t, streams[path], get(path))
		receive(t, streams[path])
	}
	if n := s.OpenStreams(); n != 3 {
		t.Errorf("%d streams are open", n)
	}
	if n := s.EndStreams(func(key string) bool { return key == "/b" }); n != 1 {
		t.Errorf("ended %d streams", n)
	}
	wantError(t, streams["/b"], codes.Canceled)
	eventually(t, "it is gone", func() bool { return s.OpenStreams() == 2 })
	// The others end when Envoy ends them.
	if err := streams["/a"].CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := streams["/a"].Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	eventually(t, "it is gone", func() bool { return s.OpenStreams() == 1 })
	if n := s.EndStreams(func(key string) bool { return key != "/c" }); n != 0 {
		t.Errorf("ended %d streams that had ended", n)
	}
}

// TestRevokedMeanwhile: a key that is revoked after the protocol looked it up, and
// before the request is known to be open.
func TestRevokedMeanwhile(t *testing.T) {
	t.Run("headers", func(t *testing.T) {
		var s *extproc.Server
		calls := 0
		s, c := serveServer(t, script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			if calls++; calls > 1 {
				return nil, refusal(403, "revoked")
			}
			d, e := echoWithKey(r)
			s.EndStreams(func(string) bool { return true })
			return d, e
		}}, extproc.Options{})
		answer, err := ask(t, c, get("/a"))
		if err != nil || answer.GetImmediateResponse().GetStatus().GetCode() != 403 {
			t.Errorf("%v, %v", answer, err)
		}
		if n := s.OpenStreams(); n != 0 {
			t.Errorf("%d streams are open", n)
		}
	})
	t.Run("while the body comes", func(t *testing.T) {
		var revoked atomic.Bool
		p := onWord("yes!")
		p.decide = func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			if revoked.Load() {
				return nil, refusal(403, "revoked")
			}
			r.State = "valid" // what a protocol knows from the headers
			return nil, extproc.NeedBody
		}
		s, c := serveServer(t, p, extproc.Options{})
		stream := asked(t, c)
		send(t, stream, piece("ye", false))
		revoked.Store(true)
		s.EndStreams(func(string) bool { return true })
		send(t, stream, piece("s!", false))
		if got := receive(t, stream).GetImmediateResponse().GetStatus().GetCode(); got != 403 {
			t.Errorf("status %d", got)
		}
	})
	t.Run("of another key", func(t *testing.T) {
		var s *extproc.Server
		calls := 0
		s, c := serveServer(t, script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
			if calls++; calls == 1 {
				s.EndStreams(func(string) bool { return false })
			}
			if r.State != nil {
				t.Errorf("state %v", r.State)
			}
			r.State = calls
			return echoWithKey(r)
		}}, extproc.Options{})
		stream := open(t, c)
		send(t, stream, get("/a"))
		common := receive(t, stream).GetRequestHeaders().GetResponse()
		if n := len(common.GetHeaderMutation().GetSetHeaders()); n != 5 || calls != 2 {
			t.Errorf("%d headers after %d calls", n, calls)
		}
		if n := s.OpenStreams(); n != 1 {
			t.Errorf("%d streams are open", n)
		}
	})
}

// TestEndWhileRequestsPass: none is left of a key after EndStreams, until it is valid again.
func TestEndWhileRequestsPass(t *testing.T) {
	var revoked [4]atomic.Bool
	key := func(path string) *atomic.Bool { return &revoked[path[1]-'0'] }
	s, c := serveServer(t, script{decide: func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
		if key(r.Path).Load() {
			return nil, refusal(403, "revoked")
		}
		return echoWithKey(r)
	}}, extproc.Options{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				stream := open(t, c)
				send(t, stream, get(fmt.Sprintf("/%d", rand.IntN(len(revoked)))))
				if _, err := stream.Recv(); err == nil && i%2 == 0 {
					_ = stream.CloseSend()
					_, _ = stream.Recv()
				}
			}
		})
	}
	for range 200 {
		i := rand.IntN(len(revoked))
		path := fmt.Sprintf("/%d", i)
		revoked[i].Store(true)
		s.EndStreams(func(key string) bool { return key == path })
		eventually(t, "none is open", func() bool {
			found := false
			s.EndStreams(func(key string) bool { found = found || key == path; return false })
			return !found
		})
		revoked[i].Store(false)
	}
	close(stop)
	wg.Wait()
}

// TestNotServed: streams that did not come through Serve could not be ended.
func TestNotServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(g, extproc.NewServer(map[string]extproc.Protocol{"p": script{decide: echo}}, extproc.Options{}))
	run(t, g.Stop, func() error { return g.Serve(l) })
	s := open(t, dialSocket(t, path, "p"))
	send(t, s, get("/"))
	wantError(t, s, codes.Internal)
}

// counter is an Observer.
type counter struct {
	mu   sync.Mutex
	seen map[string]int
	took time.Duration
}

func (c *counter) Decided(protocol, reason string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]int{}
	}
	c.seen[protocol+" "+reason]++
	c.took += took
}

func (c *counter) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[name]
}

func TestObserver(t *testing.T) {
	seen := &counter{}
	p := onWord("yes!")
	p.decide = func(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
		switch {
		case r.Path == "/no":
			return nil, refusal(403, "no")
		case !r.EndOfStream:
			return nil, extproc.NeedBody
		}
		return echo(r)
	}
	_, c := serveServer(t, p, extproc.Options{Observer: seen, MaxBody: 10, BodyTimeout: 100 * time.Millisecond})
	for _, m := range []*extprocv3.ProcessingRequest{get("/"), get("/"), get("/no")} {
		if _, err := ask(t, c, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []*extprocv3.ProcessingRequest{piece("yes!", true), piece("no", true), piece("much too long", true), piece("slow", false)} {
		s := asked(t, c)
		send(t, s, m)
		receive(t, s)
	}
	for name, want := range map[string]int{
		"script ": 3, "script no": 1, "script no_word": 1, "script too_large": 1, "script too_slow": 1,
	} {
		if got := seen.count(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
	if seen.took <= 0 {
		t.Error("deciding took no time")
	}
}

// BenchmarkEndStreams is a revocation of one key among many open requests.
func BenchmarkEndStreams(b *testing.B) {
	s, c := serveServer(b, script{decide: echoWithKey}, extproc.Options{})
	const n = 1000
	for i := range n {
		stream := open(b, c)
		send(b, stream, get(fmt.Sprintf("/%d", i)))
		receive(b, stream)
	}
	b.ResetTimer()
	for b.Loop() {
		s.EndStreams(func(key string) bool { return key == "none" })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/stream")
}
