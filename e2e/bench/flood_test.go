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

	"keybridge/e2e/proc"
	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

const (
	floodRounds = 3
	costTime    = 2 * time.Second // of one measurement of CPU time
	delayTime   = 5 * time.Second // of one measurement of latency
	// A refusal costs less than a request that goes on, and delays the others little.
	costBar, delayBar                 = 1.0, 1.5
	floodConnections, goodConnections = 32, 8
	// share is the part of what this machine answers at most at which each of both asks: a
	// machine that has no time left delays everybody.
	share = 0.1
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

func (a answered) rate() float64 { return float64(a.Requests) / (float64(a.Micros) / 1e6) }

// paced is how often each of the connections asks, for a share of the rate.
func (a answered) paced(connections int) time.Duration {
	return time.Duration(float64(connections) / (share * a.rate()) * float64(time.Second))
}

// ask asks for as long as d. An answer that is not the expected one fails the benchmark.
func (f *flooded) ask(b *testing.B, name string, q asked, connections int, every, d time.Duration) answered {
	b.Helper()
	q.Delay = every.Milliseconds()
	var text bytes.Buffer
	must(b, script.Execute(&text, q))
	path := filepath.Join(f.dir, name+".lua")
	must(b, os.WriteFile(path, text.Bytes(), 0o600))
	before := f.cpu(b)
	out, err := exec.CommandContext(b.Context(), f.wrk, "-t1", fmt.Sprint("-c", connections), fmt.Sprint("-d", int(d.Seconds())), "-s", path, q.URL).CombinedOutput()
	a := answered{cpu: f.cpu(b) - before}
	_, result, _ := strings.Cut(string(out), "\nresult ")
	if json.Unmarshal([]byte(result), &a) != nil || err != nil || a.Errors != 0 || a.Requests == 0 {
		b.Errorf("%s: %v %s", name, err, out) // also in a goroutine of its own
	}
	return a
}

// cpu is the time that Envoy and the bridge have had.
func (f *flooded) cpu(b *testing.B) time.Duration {
	b.Helper()
	t, err := proc.CPU(f.pids...)
	must(b, err)
	return t
}

// BenchmarkFlood refuses unknown keys and bad signatures, first for what that costs, then
// while others work.
func BenchmarkFlood(b *testing.B) {
	f, good, floods := startFlooded(b)
	for kind, flood := range floods {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				f.measure(b, good[kind[:2]], flood)
			}
			b.ReportMetric(0, "ns/op") // how long it took says nothing
		})
	}
}

func (f *flooded) measure(b *testing.B, good, flood asked) {
	b.Helper()
	var costs, refusals, calm, stormy, ratios []float64
	for range floodRounds {
		most, refused := f.ask(b, "good", good, 16, 0, costTime), f.ask(b, "flood", flood, 16, 0, costTime)
		costs, refusals = append(costs, most.cost()), append(refusals, refused.cost())
		every, floodEvery := most.paced(goodConnections), refused.paced(floodConnections)
		alone := f.ask(b, "good", good, goodConnections, every, delayTime)
		done := make(chan answered)
		go func() { done <- f.ask(b, "flood", flood, floodConnections, floodEvery, delayTime+time.Second) }()
		under := f.ask(b, "good", good, goodConnections, every, delayTime)
		rate := (<-done).rate()
		b.Logf("good requests: %.0f/s, p99 %d µs alone; %.0f/s, p99 %d µs beside %.0f refusals/s", alone.rate(), alone.P99, under.rate(), under.P99, rate)
		calm, stormy = append(calm, float64(alone.P99)), append(stormy, float64(under.P99))
		ratios = append(ratios, float64(under.P99)/float64(alone.P99))
	}
	cost, delay := median(refusals)/median(costs), median(ratios)
	b.Logf("of Envoy and bridge a refusal takes %.1f µs, a good request %.1f; p99 of good requests %.1f ms alone, %.1f beside the flood",
		median(refusals), median(costs), median(calm)/1e3, median(stormy)/1e3)
	b.ReportMetric(cost, "cost-ratio")
	b.ReportMetric(delay, "p99-ratio")
	if cost >= costBar || delay > delayBar {
		b.Errorf("cost %.2f, want less than %.1f; p99 %.2f, want at most %.1f", cost, costBar, delay, delayBar)
	}
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func startFlooded(b *testing.B) (f *flooded, good, floods map[string]asked) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	wrk, err := provider.FromDistribution("wrk")
	must(b, err)
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
