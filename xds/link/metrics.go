package link

import "github.com/prometheus/client_golang/prometheus"

// states are what bridges report themselves to be in; see extproc/bridge.State.
var states = []string{"sealed", "unsealing", "syncing", "ready", "stale", "purged"}

// Metrics are the hub's numbers: keybridge_bridges{state} counts the connected
// bridges by the state that they report, and, as "disconnected", those that have
// attached since the control plane started and are gone. keybridge_bridges_problems
// sums up what connected bridges leave out of service.
func (h *Hub) Metrics() prometheus.Collector {
	bridges := prometheus.NewDesc("keybridge_bridges", "Bridges by the state that they report.", []string{"state"}, nil)
	problems := prometheus.NewDesc("keybridge_bridges_problems", "What connected bridges leave out of service, summed up.", nil, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		n := map[string]int{"disconnected": 0, "other": 0}
		for _, s := range states {
			n[s] = 0
		}
		left := 0
		for _, b := range h.Bridges() {
			state := b.Report.GetState()
			if _, ok := n[state]; !ok { // of a newer bridge
				state = "other"
			}
			if !b.Connected {
				state = "disconnected"
			} else {
				left += len(b.Report.GetProblems())
			}
			n[state]++
		}
		for state, count := range n {
			ch <- prometheus.MustNewConstMetric(bridges, prometheus.GaugeValue, float64(count), state)
		}
		ch <- prometheus.MustNewConstMetric(problems, prometheus.GaugeValue, float64(left))
	})
}
