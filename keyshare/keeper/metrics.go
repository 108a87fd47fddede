package keeper

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// refusals are the reasons that refusals are counted under.
var refusals = [...]string{"denied", "late", "malformed", "custody", "internal"}

// counters of a running keeper.
type counters struct {
	releases atomic.Uint64
	refused  [len(refusals)]atomic.Uint64
	policy   atomic.Uint64
}

func (c *counters) refuse(code codes.Code) {
	reason := len(refusals) - 1
	switch code {
	case codes.PermissionDenied: // not an enrolled bridge, or not signed by it
		reason = 0
	case codes.DeadlineExceeded:
		reason = 1
	case codes.InvalidArgument:
		reason = 2
	case codes.FailedPrecondition: // not of this set and epoch, or the share does not fit the manifest
		reason = 3
	}
	c.refused[reason].Add(1)
}

// Metrics are the keeper's numbers: keybridge_keeper_releases_total,
// keybridge_keeper_refusals_total{reason}, keybridge_keeper_holds_share,
// keybridge_keeper_retired_shares and keybridge_keeper_audit_lines.
func (s *Server) Metrics() prometheus.Collector {
	releases := prometheus.NewDesc("keybridge_keeper_releases_total", "Shares released to bridges.", nil, nil)
	refused := prometheus.NewDesc("keybridge_keeper_refusals_total", "Requests for the share that were refused.", []string{"reason"}, nil)
	holds := prometheus.NewDesc("keybridge_keeper_holds_share", "1 if the share is the one that the manifest in force gives to this keeper.", nil, nil)
	retired := prometheus.NewDesc("keybridge_keeper_retired_shares", "Shares of sets that are over, not erased yet.", nil, nil)
	lines := prometheus.NewDesc("keybridge_keeper_audit_lines", "Lines in the keeper's audit log.", nil, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		ch <- prometheus.MustNewConstMetric(releases, prometheus.CounterValue, float64(s.counters.releases.Load()))
		for i, reason := range refusals {
			ch <- prometheus.MustNewConstMetric(refused, prometheus.CounterValue, float64(s.counters.refused[i].Load()), reason)
		}
		ch <- prometheus.MustNewConstMetric(refused, prometheus.CounterValue, float64(s.counters.policy.Load()), "policy")
		s.mu.RLock()
		old := len(s.retired)
		s.mu.RUnlock()
		ch <- prometheus.MustNewConstMetric(retired, prometheus.GaugeValue, float64(old))
		holding := 0.0
		if s.holds() == nil {
			holding = 1
		}
		ch <- prometheus.MustNewConstMetric(holds, prometheus.GaugeValue, holding)
		s.audit.mu.Lock()
		n := s.audit.seq
		s.audit.mu.Unlock()
		ch <- prometheus.MustNewConstMetric(lines, prometheus.GaugeValue, float64(n))
	})
}
