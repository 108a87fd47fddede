package e2e_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/proc"
	"keybridge/e2e/stack"
	"keybridge/keyshare/keeper/keepertest"
)

var soak = flag.Duration("soak", 20*time.Second, "how long TestSoak lasts; `make soak` takes 20 minutes")

const (
	// soakPace makes some 65 requests in a second of the four applications.
	soakPace = 60 * time.Millisecond
	// What a process may have more of at the end than at the beginning. Deleted keys keep their
	// metadata, of which the store's file and what is mapped of it grow.
	soakMemory      = 8 << 20
	soakGoroutines  = 10
	soakDescriptors = 8
)

// sample is what a process has at a time.
type sample struct {
	at                              time.Time
	memory, descriptors, goroutines float64 // RSS in bytes; goroutines of Go alone
}

// watched process of a soak, with the address of its metrics if it is Go.
type soaked struct {
	name, metrics string
	pid           int
	samples       []sample
}

func (p *soaked) look(ctx context.Context, t *testing.T) {
	t.Helper()
	s := sample{at: time.Now(), descriptors: float64(descriptors(t, p.pid)), memory: resident(t, p.pid)}
	if p.metrics != "" {
		s.goroutines = goroutines(ctx, t, p.metrics)
	}
	p.samples = append(p.samples, s)
}

// resident is the memory of a process that is in RAM, in bytes.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	n, err := proc.Resident(pid)
	if err != nil {
		t.Fatal(err)
	}
	return float64(n)
}

func goroutines(ctx context.Context, t *testing.T, address string) float64 {
	t.Helper()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ask(q)
	if err != nil || a.status != http.StatusOK {
		t.Fatal(a.status, err)
	}
	for lines := bufio.NewScanner(strings.NewReader(a.body)); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no go_goroutines at %s", address)
	return 0
}

// grown compares the first third of a soak with the last, without the start, in which
// caches and pools fill.
func (p *soaked) grown(t *testing.T) {
	t.Helper()
	warm := p.samples[len(p.samples)/10:]
	third := len(warm) / 3
	mean := func(of []sample, what func(sample) float64) float64 {
		sum := 0.0
		for _, s := range of {
			sum += what(s)
		}
		return sum / float64(len(of))
	}
	memory := func(s sample) float64 { return s.memory }
	minutes := warm[len(warm)-1].at.Sub(warm[0].at).Minutes()
	for _, c := range []struct {
		what       string
		of         func(sample) float64
		unit, more float64
	}{
		{"RSS in MiB", memory, 1 << 20, soakMemory},
		{"descriptors", func(s sample) float64 { return s.descriptors }, 1, soakDescriptors},
		{"goroutines", func(s sample) float64 { return s.goroutines }, 1, soakGoroutines},
	} {
		first, last := mean(warm[:third], c.of), mean(warm[len(warm)-third:], c.of)
		if first == 0 {
			continue // not Go
		}
		// Between the middles of the two thirds lie two thirds of the time.
		t.Logf("%-9s %-11s first third %7.1f, last third %7.1f, %+.2f a minute", p.name, c.what, first/c.unit, last/c.unit, (last-first)/c.unit/(minutes*2/3))
		if last > first+c.more {
			t.Errorf("%s: %s grew from %.1f to %.1f", p.name, c.what, first/c.unit, last/c.unit)
		}
	}
}

// TestSoak: mixed load, and every second a change of configuration. No request fails, and no
// process grows.
func TestSoak(t *testing.T) {
	f := underControl(t)
	processes := []*soaked{{name: stack.Envoy, pid: f.envoyPID(t)}, {name: stack.Bridge, metrics: strings.TrimPrefix(f.endpoints.Health, "http://")}}
	for _, name := range append([]string{stack.Control}, stack.Keepers...) { // again, with metrics
		address := keepertest.FreeAddr(t)
		f.kill(t, name)
		f.starts(t, name, "--metrics", address)
		processes = append(processes, &soaked{name: name, metrics: address})
	}
	for _, p := range processes[1:] {
		p.pid = f.pid(t, p.name)
	}
	f.takesChanges(t)
	token, err := f.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	c := &changes{live: &live{world: f.world, t: t, token: token}}
	c.prepare()

	f.load = f.startSteady(t, soakPace)
	began, tick, n := time.Now(), time.NewTicker(time.Second), 0
	defer tick.Stop()
	for ; time.Since(began) < *soak; <-tick.C {
		c.next()
		n++
		for _, p := range processes {
			p.look(t.Context(), t)
		}
		f.reset() // the recorders' memory is not what is looked at
	}
	f.load.served(t, began, time.Now())
	f.load.outage(t, fmt.Sprintf("soaked for %v, %d changes", time.Since(began).Round(time.Second), n), began)
	f.load.end(t)
	for _, p := range processes {
		p.grown(t)
	}
}

// changes are what operators do, one after the other.
type changes struct {
	*live
	n              int
	photos, models string // connectors that the applications use
	bucket, llm    string // others
	side           string // a repository with those
	key, aiKey     stack.Key
}

func (c *changes) prepare() {
	buckets, err := c.tenant.Buckets(c.t.Context(), c.tenant.Workspace)
	c.must(err)
	llms, err := c.tenant.LLMs(c.t.Context(), c.tenant.Workspace)
	c.must(err)
	for _, b := range buckets {
		if b.Name == "photos" {
			c.photos = b.ID
		}
	}
	for _, l := range llms {
		if l.Name == "models" {
			c.models = l.ID
		}
	}
	c.bucket, c.llm = c.goodBucket(), c.goodLLM()
	c.side = c.repo([]string{c.bucket}, []string{c.llm})
}

func (c *changes) next() {
	steps := []func(){
		func() {
			c.key, c.aiKey = c.storageKey(c.side), c.newAIKey(c.side)
			c.works(c.reads(c.key))
			c.works(c.embeds(c.aiKey))
		},
		func() {
			c.admin(http.MethodPut, "/bucket/"+c.photos, map[string]any{"key": c.s3.Access, "secret": c.s3.Secret})
		},
		func() {
			c.admin(http.MethodPut, "/repo/"+c.side, map[string]any{"repoBuckets": []any{}})
			c.stops(c.reads(c.key), http.StatusForbidden)
		},
		func() {
			c.admin(http.MethodPut, "/ai/llm/"+c.models, map[string]any{"endpoint": c.ai.Endpoint(), "secret": c.ai.Key})
		},
		func() {
			c.admin(http.MethodPut, "/repo/"+c.side, map[string]any{"repoBuckets": []any{map[string]any{"bucketId": c.bucket}}})
			c.works(c.reads(c.key))
		},
		func() {
			c.must(c.tenant.DeleteStorageKey(c.t.Context(), c.side, c.key.ID))
			c.stops(c.reads(c.key), http.StatusForbidden)
			c.must(c.tenant.DeleteAIKey(c.t.Context(), c.side, c.aiKey.ID))
			c.stops(c.embeds(c.aiKey), http.StatusUnauthorized)
		},
		func() { // another connector in place of the repository's
			old := c.bucket
			c.bucket = c.goodBucket()
			c.admin(http.MethodPut, "/repo/"+c.side, map[string]any{"repoBuckets": []any{map[string]any{"bucketId": c.bucket}}})
			c.must(c.tenant.DeleteBucket(c.t.Context(), old))
		},
	}
	steps[c.n%len(steps)]()
	c.n++
}
