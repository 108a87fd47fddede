//go:build !race

package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

const (
	floodRounds = 3
	floodTime   = 3 * time.Second
	// A refusal costs less than a request that goes on, and delays the others little.
	costBar, delayBar = 1.0, 1.5
	// The flood asks every floodEvery over each of floodConnections, the others likewise.
	floodConnections, goodConnections = 32, 8
	floodEvery, goodEvery             = 8 * time.Millisecond, 10 * time.Millisecond
)

// flooded is a stack with a real provider of each kind, and what is asked of it.
type flooded struct {
	*stack.Stack
	dir  string
	pids []int // of Envoy and the bridge
	wrk  string
}

// asked is a request that wrk sends again and again. In path and headers, RANDOM is 16
// characters that differ each time.
type asked struct {
	Method, URL, Body string
	Header            map[string]string
	Status            int // of all answers
	Delay             int64
}

// script has wrk count the answers that have another status.
var script = template.Must(template.New("wrk").Funcs(template.FuncMap{"q": func(s string) string { return fmt.Sprintf("%q", s) }}).Parse(`
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() wrong = 0; math.randomseed(os.time()) end
local path, body, headers = wrk.path, {{q .Body}}, { {{range $k, $v := .Header}}[{{q $k}}] = {{q $v}}, {{end}} }
local function random(text)
  return (text:gsub("RANDOM", function() return string.format("%08X%08X", math.random(0, 0xffffffff), math.random(0, 0xffffffff)) end))
end
function request()
  local h = {}
  for k, v in pairs(headers) do h[k] = random(v) end
  return wrk.format({{q .Method}}, path, h, body)
end
{{if .Delay}}function delay() return {{.Delay}} end{{end}}
function response(status) if status ~= {{.Status}} then wrong = wrong + 1 end end
function done(summary, latency)
  local e, wrong = summary.errors, 0
  for _, t in ipairs(threads) do wrong = wrong + t:get("wrong") end
  io.write(string.format('\nresult {"requests":%d,"micros":%d,"p50":%d,"p99":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout + wrong))
end
`))

// answered is what wrk measured.
type answered struct {
	Requests, Micros, P50, P99, Errors int64
	cpu                                time.Duration // of Envoy and the bridge meanwhile
}

func (a answered) cost() float64 { return float64(a.cpu.Nanoseconds()) / 1e3 / float64(a.Requests) }

// ask asks for as long as d. An answer that is not the expected one fails the benchmark.
func (f *flooded) ask(ctx context.Context, b *testing.B, name string, q asked, connections int, every, d time.Duration) answered {
	b.Helper()
	q.Delay = every.Milliseconds()
	var text bytes.Buffer
	must(b, script.Execute(&text, q))
	path := filepath.Join(f.dir, name+".lua")
	must(b, os.WriteFile(path, text.Bytes(), 0o600))
	before := f.cpu(b)
	out, err := exec.CommandContext(ctx, f.wrk, "-t1", fmt.Sprint("-c", connections), fmt.Sprint("-d", int(d.Seconds())), "-s", path, q.URL).CombinedOutput()
	if ctx.Err() != nil {
		return answered{}
	}
	a := answered{cpu: f.cpu(b) - before}
	_, result, _ := strings.Cut(string(out), "\nresult ")
	if json.Unmarshal([]byte(result), &a) != nil || err != nil || a.Errors != 0 || a.Requests == 0 {
		b.Fatalf("%s: %v %s", name, err, out)
	}
	return a
}

// cpu is the time that Envoy and the bridge have had, by their CPU clocks
// (clock_getcpuclockid(3); the clock's number is the kernel's CPUCLOCK_SCHED).
func (f *flooded) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, pid := range f.pids {
		var t unix.Timespec
		must(b, unix.ClockGettime(int32(^pid<<3|2), &t))
		sum += time.Duration(t.Nano())
	}
	return sum
}

// BenchmarkFlood refuses unknown keys and bad signatures while others work.
func BenchmarkFlood(b *testing.B) {
	f, good, floods := startFlooded(b)
	for b.Loop() {
		for kind, flood := range floods {
			g := good[strings.Split(kind, " ")[0]]
			var costs, refusals, alone, under, delays []float64
			for range floodRounds {
				of := f.ask(b.Context(), b, "good", g, 16, 0, floodTime)
				refusal := f.ask(b.Context(), b, "flood", flood, 16, 0, floodTime)
				costs, refusals = append(costs, of.cost()), append(refusals, refusal.cost())
				calm := f.ask(b.Context(), b, "good", g, goodConnections, goodEvery, floodTime)
				rate := make(chan answered, 1)
				go func() {
					rate <- f.ask(b.Context(), b, "flood", flood, floodConnections, floodEvery, floodTime+time.Second)
				}()
				storm := f.ask(b.Context(), b, "good", g, goodConnections, goodEvery, floodTime)
				r := <-rate
				alone, under = append(alone, float64(calm.P99)), append(under, float64(storm.P99))
				delays = append(delays, float64(storm.P99)/float64(calm.P99))
				b.Logf("%s: good %.1f µs, refusal %.1f µs; good alone %d/s p50 %d p99 %d, under %d refusals/s: %d/s p50 %d p99 %d µs", kind, of.cost(), refusal.cost(),
					calm.Requests*1e6/calm.Micros, calm.P50, calm.P99, r.Requests*1e6/r.Micros, storm.Requests*1e6/storm.Micros, storm.P50, storm.P99)
			}
			cost, delay := median(refusals)/median(costs), median(delays)
			b.Logf("%s: a refusal costs %.1f µs of Envoy and bridge, a good request %.1f: %.2f; p99 of good requests %.0f µs alone, %.0f under the flood: %.2f",
				kind, median(refusals), median(costs), cost, median(alone), median(under), delay)
			if cost >= costBar || delay > delayBar {
				b.Errorf("%s: cost %.2f, want less than %.1f; delay %.2f, want at most %.1f", kind, cost, costBar, delay, delayBar)
			}
			name := strings.ReplaceAll(kind, " ", "-")
			b.ReportMetric(cost, name+"-cost")
			b.ReportMetric(delay, name+"-p99")
		}
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func startFlooded(b *testing.B) (f *flooded, good, floods map[string]asked) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	wrk, err := exec.LookPath("wrk")
	if err != nil { // or where `make bench-tools` unpacks it
		root, err := provider.ModuleRoot()
		must(b, err)
		wrk = filepath.Join(root, ".tools", "debian", "usr", "bin", "wrk")
	}
	dir, err := os.MkdirTemp("", "kb-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	storage, err := provider.StartS3(ctx, provider.S3Config{})
	must(b, err)
	b.Cleanup(func() { must(b, storage.Close()) })
	ai, err := provider.StartOpenAI(provider.OpenAIConfig{})
	must(b, err)
	b.Cleanup(func() { must(b, ai.Close()) })
	s, err := stack.Start(stack.Config{Binary: binary, Dir: filepath.Join(dir, "state"), Env: append(os.Environ(), "GOMAXPROCS=1")})
	must(b, err)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		must(b, s.Stop(ctx))
	})
	e, err := s.Ready(ctx)
	must(b, err)
	const bucket, object = "flooded", "object"
	must(b, storage.MakeBucket(ctx, bucket))
	_, err = storage.Direct().PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(object), Body: strings.NewReader(strings.Repeat("x", 1024))})
	must(b, err)
	t, err := s.Tenant(ctx, e, "acme")
	must(b, err)
	connector, err := t.Bucket(ctx, stack.Bucket{Name: bucket, Bucket: bucket, Endpoint: storage.URL(), Region: provider.Region, Key: storage.Access, Secret: storage.Secret})
	must(b, err)
	llm, err := t.LLM(ctx, stack.LLM{Name: "models", Endpoint: ai.Endpoint(), Secret: ai.Key})
	must(b, err)
	repo, err := t.Repository(ctx, "app", []string{connector}, []string{llm})
	must(b, err)
	key, err := t.StorageKey(ctx, repo, "key", "READ")
	must(b, err)
	bearer, err := t.AIKey(ctx, repo, "key")
	must(b, err)
	f = &flooded{Stack: s, dir: dir, wrk: wrk}
	for _, name := range []string{stack.Envoy, stack.Bridge} {
		pid, err := s.PID(name)
		must(b, err)
		pids, err := stack.Descendants(pid) // Envoy's launcher, and Envoy
		must(b, err)
		f.pids = append(f.pids, pids...)
	}

	get := func(id, secret string, status int) asked {
		var made *http.Request
		c := s3.New(s3.Options{
			Region: provider.Region, BaseEndpoint: aws.String(e.S3), UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""),
			HTTPClient: roundTrip(func(r *http.Request) (*http.Response, error) {
				made = r
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}}, nil
			}),
		})
		_, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(object)})
		must(b, err)
		q := asked{Method: made.Method, URL: made.URL.String(), Header: map[string]string{}, Status: status}
		for name := range made.Header {
			q.Header[name] = made.Header.Get(name)
		}
		return q
	}
	chat := func(bearer string, status int) asked {
		return asked{
			Method: http.MethodPost, URL: e.AI + "/v1/chat/completions", Body: `{"model":"kb-chat-1","messages":[{"role":"user","content":"good morning"}]}`,
			Header: map[string]string{"Authorization": "Bearer " + bearer, "Content-Type": "application/json"}, Status: status,
		}
	}
	good = map[string]asked{"S3": get(key.Key, key.Secret, http.StatusOK), "AI": chat(bearer.Secret, http.StatusOK)}
	// The end of the secret: what is before it finds the key.
	floods = map[string]asked{
		"S3 unknown key":   get("KBRANDOM", key.Secret, http.StatusForbidden),
		"S3 bad signature": get(key.Key, key.Secret+"x", http.StatusForbidden),
		"AI unknown key":   chat("kb-RANDOM-RANDOMRANDOMRANDOM", http.StatusUnauthorized),
		"AI bad secret":    chat(bearer.Secret[:len(bearer.Secret)-16]+"RANDOM", http.StatusUnauthorized),
	}
	must(b, f.Wait(ctx, func() error {
		for _, q := range good {
			r, err := http.NewRequestWithContext(ctx, q.Method, q.URL, strings.NewReader(q.Body))
			if err != nil {
				return err
			}
			for k, v := range q.Header {
				r.Header.Set(k, v)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", q.URL, res.Status)
			}
		}
		return nil
	}))
	return f, good, floods
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }
