package e2e_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/e2e/stack"
)

// manyDescriptors lets the processes that the test starts have so many, as far as it may
// do that itself, and says how many they have.
func manyDescriptors(t *testing.T, n uint64) uint64 {
	t.Helper()
	var was, limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	limit = unix.Rlimit{Cur: max(was.Max, n), Max: max(was.Max, n)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) != nil { // who is not root has no more than there is
		limit = unix.Rlimit{Cur: was.Max, Max: was.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
	return limit.Cur
}

// TestIdleConnections: ten thousand clients that have asked once, or are about to, and then
// say nothing. The others are served, and when the idle ones have gone so has what they took.
func TestIdleConnections(t *testing.T) {
	const most, perConnection = 10_000, 64 << 10
	// Envoy takes half as many clients as it may have descriptors (envoy.connections), of
	// which the load needs some.
	many := int(min(most, manyDescriptors(t, 2*most+2048)/2-512))
	w := start(t, config{})
	l := w.startLoad(t)
	envoy := w.envoyProcess(t)
	w.asked(t, l) // pools and buffers are there
	before := resident(t, envoy)
	conns := make([]net.Conn, many)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	refused, err := http.NewRequest(http.MethodGet, w.endpoints.AI+"/v1/models", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range conns {
		address := w.S3
		if i%2 == 0 {
			address = w.AI
		}
		// Addresses of several hosts, so that a host's ports suffice.
		d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%8))}}
		if conns[i], err = d.DialContext(t.Context(), "tcp", address); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		switch i % 3 {
		case 0: // says nothing
		case 1: // part of a request's head
			_, err = io.WriteString(conns[i], "GET /"+bucket+"/"+present+" HTTP/1.1\r\nHost: x\r\nX-A:")
		case 2: // asked once
			err = refused.Write(conns[i])
			if err == nil {
				var res *http.Response
				if res, err = http.ReadResponse(bufio.NewReader(conns[i]), refused); err == nil {
					_, err = io.Copy(io.Discard, res.Body)
				}
			}
		}
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	took := resident(t, envoy) - before
	t.Logf("%d idle connections: %.1f KiB each", many, took/1024/float64(many))
	if took > float64(many)*perConnection {
		t.Errorf("%d connections take %.0f MiB", many, took/(1<<20))
	}
	if n := w.clientConnections(t); n < many {
		t.Errorf("Envoy has %d connections", n)
	}
	w.asked(t, l)
	for _, q := range []s3Request{ // over new connections
		{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read},
		{method: http.MethodPut, path: "/" + bucket + "/while-idle", key: w.write, body: "x"},
	} {
		if a, err := w.askS3(t.Context(), q); err != nil || a.status != http.StatusOK {
			t.Errorf("%s: %v, %v", q.method, a, err)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Wait(ctx, func() error {
		if n := w.clientConnections(t); n > 100 {
			return fmt.Errorf("Envoy has %d connections %w", n, errNotYet)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	l.end(t, "connections were idle")
}

// asked waits until the load has had many answers from now on.
func (w *world) asked(t *testing.T, l *load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.others(ctx, l, 100); err != nil {
		t.Fatal(err)
	}
}

// envoyProcess is the id of Envoy itself, below its launcher.
func (w *world) envoyProcess(t *testing.T) int {
	t.Helper()
	launcher, err := w.PID(stack.Envoy)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := stack.Descendants(launcher)
	if err != nil || len(pids) != 2 {
		t.Fatal(pids, err)
	}
	return pids[0] + pids[1] - launcher
}

// clientConnections is how many connections Envoy's listeners have.
func (w *world) clientConnections(t *testing.T) int {
	t.Helper()
	var out struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	w.envoyAdmin(t, `/stats?format=json&filter=^http\.(s3|ai)\.downstream_cx_active$`, &out)
	if len(out.Stats) != 2 {
		t.Fatalf("stats %v", out)
	}
	return out.Stats[0].Value + out.Stats[1].Value
}

// refusal is one kind of request that is refused.
type refusal struct {
	protocol, reason string
	ask              func(context.Context, *http.Client) (answer, error)
	want             func(testing.TB, answer)
}

// TestRefusalFlood: clients that try keys and signatures, as fast as they can. Each has its
// refusal, nothing of it reaches a provider, and the others notice nothing; memory, logs
// and the number of metrics stay as they are. e2e/bench says what it costs.
func TestRefusalFlood(t *testing.T) {
	w := start(t, config{})
	l := w.startLoad(t)
	kinds := w.refusalKinds()
	const rounds, workers = 1500, 8
	flood := func(rounds int) {
		t.Helper()
		work := make(chan int, rounds)
		for i := range rounds {
			work <- i
		}
		close(work)
		var all sync.WaitGroup
		for range workers {
			kept := unhurried(t, false)
			all.Go(func() {
				for i := range work {
					c := kept
					if i%10 == 0 {
						c = once
					}
					for _, k := range kinds {
						a, err := k.ask(t.Context(), c)
						if err != nil {
							t.Errorf("%s %s: %v", k.protocol, k.reason, err)
							continue
						}
						k.want(t, a)
					}
				}
			})
		}
		all.Wait()
	}
	bridge, err := w.PID(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{"Envoy": w.envoyProcess(t), "bridge": bridge}
	flood(rounds) // pools and buffers are there after that
	counted, logged, memory := w.metrics(t), w.logSize(t), map[string]float64{}
	for name, pid := range pids {
		memory[name] = resident(t, pid)
	}
	w.asked(t, l)
	flood(rounds)
	now := w.metrics(t)
	for _, k := range kinds {
		name := fmt.Sprintf(`keybridge_decisions_total{protocol=%q,reason=%q}`, k.protocol, k.reason)
		n := 0
		for _, other := range kinds { // those that count the same
			if other.protocol == k.protocol && other.reason == k.reason {
				n += rounds
			}
		}
		if got := now[name] - counted[name]; got != float64(n) {
			t.Errorf("%s grew by %v, want %d", name, got, n)
		}
	}
	for name := range now {
		if _, before := counted[name]; !before && strings.HasPrefix(name, "keybridge_decision") {
			t.Errorf("%s is new", name)
		}
	}
	if grown := w.logSize(t) - logged; grown > 4<<10 {
		t.Errorf("%d bytes of logs by %d refusals:\n%s", grown, rounds*len(kinds), w.logs())
	}
	for name, pid := range pids {
		grown := resident(t, pid) - memory[name]
		t.Logf("%s grew by %.1f MiB in %d refusals", name, grown/(1<<20), rounds*len(kinds))
		if grown > 16<<20 {
			t.Errorf("%s grew by %.1f MiB", name, grown/(1<<20))
		}
	}
	l.end(t, "others were refused")
	for _, line := range w.atProviders() {
		if strings.Contains(line, "refused") {
			t.Errorf("at a provider: %s", line)
		}
	}
	w.noViolations(t)
	w.scan(t)
}

func (w *world) refusalKinds() []refusal {
	s3 := func(reason, code string, key func() stack.Key) refusal {
		return refusal{"s3", reason, func(ctx context.Context, c *http.Client) (answer, error) {
			r, err := signedRequest(ctx, w.endpoints.S3, s3Request{method: http.MethodGet, path: "/" + bucket + "/refused", key: key(), at: time.Now()})
			if err != nil {
				return answer{}, err
			}
			return askAs(c, r, func() {})
		}, func(t testing.TB, a answer) { wantS3Error(t, a, http.StatusForbidden, code) }}
	}
	ai := func(key func() string) refusal {
		return refusal{"ai", "bad_key", func(ctx context.Context, c *http.Client) (answer, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.endpoints.AI+"/v1/chat/completions", strings.NewReader(`{"model":"refused"}`))
			if err != nil {
				return answer{}, err
			}
			r.Header.Set("Authorization", "Bearer "+key())
			return askAs(c, r, func() {})
		}, func(t testing.TB, a answer) {
			wantAIError(t, a, http.StatusUnauthorized, "invalid_request_error", "invalid_api_key")
		}}
	}
	return []refusal{
		s3("unknown_key", "InvalidAccessKeyId", func() stack.Key { return stack.Key{Key: "KB" + rand.Text(), Secret: w.admin.Secret} }),
		s3("bad_signature", "SignatureDoesNotMatch", func() stack.Key { return stack.Key{Key: w.admin.Key, Secret: rand.Text()} }),
		ai(func() string { return "kb-" + rand.Text() + "-" + rand.Text() + rand.Text() }),
		ai(func() string { return w.aiKey[:len(w.aiKey)-10] + rand.Text()[:10] }),
	}
}

var metric = regexp.MustCompile(`(?m)^(keybridge_[^ ]+) (\S+)$`)

// metrics are the bridge's, by name and labels.
func (w *world) metrics(t *testing.T) map[string]float64 {
	t.Helper()
	res, err := http.Get(w.endpoints.Health + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, m := range metric.FindAllStringSubmatch(string(text), -1) {
		if all[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// logSize is the size of all logs.
func (w *world) logSize(t *testing.T) (n int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.Dir, "logs", "*.log"))
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}
