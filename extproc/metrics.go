package extproc

import (
	"maps"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxReasons bounds the reasons that are counted apart per protocol. There are
	// fewer: this is for a protocol that breaks the rule of Error.Reason.
	maxReasons = 100
	// The reason label of requests that went on, and of what is beyond maxReasons.
	forwarded = "forwarded"
	other     = "other"
	// The histogram's bounds are 1 µs, 2 µs, 4 µs and so on to 2^15 µs = 33 ms: a
	// decision takes some 10 µs, and one that takes longer than that waits for something.
	bounds = 16
)

// Metrics is an Observer that Prometheus can collect from:
//
//	keybridge_decisions_total{protocol,reason}
//	keybridge_decision_seconds{protocol}
//
// Counting takes no lock and allocates nothing, but for the first time that a
// reason appears. The client library's histogram searches its bounds and touches
// more memory; here the bound is the length of a number.
type Metrics struct {
	protocols map[string]*protocolMetrics // never changes; "other" is in it

	decisions, seconds *prometheus.Desc
}

type protocolMetrics struct {
	reasons atomic.Pointer[map[string]*atomic.Uint64] // replaced, never changed
	grow    sync.Mutex
	took    [bounds + 1]atomic.Uint64 // by bound; the last is beyond all
	nanos   atomic.Uint64
}

// NewMetrics counts for protocols of these names (Protocol.Name), and for all
// others together. They are there, at zero, from the start.
func NewMetrics(protocols ...string) *Metrics {
	m := &Metrics{
		protocols: make(map[string]*protocolMetrics),
		decisions: prometheus.NewDesc("keybridge_decisions_total",
			"Requests decided, by the reason of the refusal or forwarded.", []string{"protocol", "reason"}, nil),
		seconds: prometheus.NewDesc("keybridge_decision_seconds",
			"Time that deciding took, without the wait for a body.", []string{"protocol"}, nil),
	}
	for _, name := range append(protocols, other) {
		p := &protocolMetrics{}
		p.reasons.Store(&map[string]*atomic.Uint64{forwarded: {}})
		m.protocols[name] = p
	}
	return m
}

// Decided implements Observer.
func (m *Metrics) Decided(protocol, reason string, took time.Duration) {
	p := m.protocols[protocol]
	if p == nil {
		p = m.protocols[other]
	}
	if reason == "" {
		reason = forwarded
	}
	n := (*p.reasons.Load())[reason]
	if n == nil {
		n = p.learn(reason)
	}
	n.Add(1)
	p.took[bound(took)].Add(1)
	p.nanos.Add(uint64(max(took, 0)))
}

// bound is the first i with took ≤ 2^i µs.
func bound(took time.Duration) int {
	micros := (took + time.Microsecond - 1) / time.Microsecond
	if micros <= 1 {
		return 0
	}
	return min(bits.Len64(uint64(micros-1)), bounds)
}

func (p *protocolMetrics) learn(reason string) *atomic.Uint64 {
	p.grow.Lock()
	defer p.grow.Unlock()
	old := *p.reasons.Load()
	if len(old) >= maxReasons {
		reason = other
	}
	if n := old[reason]; n != nil {
		return n
	}
	more := maps.Clone(old)
	n := new(atomic.Uint64)
	more[reason] = n
	p.reasons.Store(&more)
	return n
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.decisions; ch <- m.seconds }

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for name, p := range m.protocols {
		reasons := *p.reasons.Load()
		for reason, n := range reasons {
			if name == other && len(reasons) == 1 && n.Load() == 0 {
				continue // no such protocol: nothing to show
			}
			ch <- prometheus.MustNewConstMetric(m.decisions, prometheus.CounterValue, float64(n.Load()), name, reason)
		}
		var count uint64
		buckets := make(map[float64]uint64, bounds)
		for i := range p.took {
			count += p.took[i].Load()
			if i < bounds {
				buckets[float64(uint64(1)<<i)/1e6] = count
			}
		}
		if name == other && count == 0 {
			continue
		}
		ch <- prometheus.MustNewConstHistogram(m.seconds, count, float64(p.nanos.Load())/1e9, buckets, name)
	}
}
