//go:build !race

package bench_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"keybridge/extproc/grant"
	"keybridge/store/api/client"
)

const (
	bridges     = 20
	revocations = 200
	// bar is DESIGN.md §8: a revoked key stops on every connected bridge within this, at p99.
	bar = 250 * time.Millisecond
)

// tenant is a repository with a few keys that stay.
type tenant struct {
	*fleet
	t          testing.TB
	repository string
	made       int
}

func newTenant(t testing.TB, f *fleet, keys int) *tenant {
	t.Helper()
	w, err := f.admin.CreateWorkspace(t.Context(), "acme")
	must(t, err)
	repository, err := f.admin.CreateRepo(t.Context(), client.RepoSpec{WorkspaceID: w.ID, Name: "app"})
	must(t, err)
	n := &tenant{fleet: f, t: t, repository: repository}
	for range keys {
		n.key()
	}
	return n
}

// key issues a key and waits until all bridges serve it.
func (n *tenant) key() client.IssuedKey {
	n.t.Helper()
	n.made++
	k, err := n.admin.CreateStorageKey(n.t.Context(), n.repository, client.KeySpec{Name: fmt.Sprintf("key %d", n.made), AccessType: "READ"})
	must(n.t, err)
	n.await(n.t, func(l *grant.Live) bool { return l.Load().Lookup(k.Key) != nil })
	return k
}

// revoke is how long it takes from the admin's request until each bridge refuses the key.
func (n *tenant) revoke(k client.IssuedKey) []time.Duration {
	n.t.Helper()
	start := time.Now()
	must(n.t, n.admin.DeleteStorageKey(n.t.Context(), n.repository, k.ID))
	return n.times(n.t, start, func(l *grant.Live) bool { return l.Load().Lookup(k.Key) == nil })
}

// disable is the same for all keys of the repository.
func (n *tenant) disable(k client.IssuedKey) []time.Duration {
	n.t.Helper()
	start := time.Now()
	must(n.t, n.admin.SetRepoDisabled(n.t.Context(), n.repository, true))
	took := n.times(n.t, start, func(l *grant.Live) bool { return l.Load().Lookup(k.Key).Repository().Disabled })
	must(n.t, n.admin.SetRepoDisabled(n.t.Context(), n.repository, false))
	n.await(n.t, func(l *grant.Live) bool { return !l.Load().Lookup(k.Key).Repository().Disabled })
	return took
}

func quantile(d []time.Duration, q float64) time.Duration {
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// A revoked key stops everywhere soon: 20 bridges, keys deleted one by one and
// repositories disabled, from the request to the admin API on.
func TestRevocation(t *testing.T) {
	n := newTenant(t, startFleet(t, bridges), 20)
	for _, c := range []struct {
		name   string
		times  int
		revoke func() []time.Duration
	}{
		{"key deleted", revocations, func() []time.Duration { return n.revoke(n.key()) }},
		{"repository disabled", revocations / 4, func() func() []time.Duration {
			k := n.key()
			return func() []time.Duration { return n.disable(k) }
		}()},
	} {
		var took []time.Duration
		for range c.times {
			took = append(took, c.revoke()...)
		}
		slices.Sort(took)
		p99 := quantile(took, .99)
		t.Logf("%s: %d × %d bridges: p50 %v, p99 %v, worst %v", c.name, c.times, bridges,
			quantile(took, .5).Round(100*time.Microsecond), p99.Round(100*time.Microsecond), took[len(took)-1].Round(100*time.Microsecond))
		if p99 > bar {
			t.Errorf("%s: p99 %v, want at most %v", c.name, p99, bar)
		}
	}
}

func BenchmarkRevocation(b *testing.B) {
	n := newTenant(b, startFleet(b, bridges), 20)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		k := n.key()
		b.StartTimer()
		took = append(took, n.revoke(k)...)
	}
	slices.Sort(took)
	b.ReportMetric(float64(quantile(took, .5).Microseconds())/1e3, "p50-ms")
	b.ReportMetric(float64(quantile(took, .99).Microseconds())/1e3, "p99-ms")
}
