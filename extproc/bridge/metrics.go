package bridge

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/connectivity"

	"keybridge/extproc"
)

// counters of a running bridge, beside those of its rooms.
type counters struct {
	probesOnline, probesOffline atomic.Uint64
	ended                       atomic.Uint64 // open requests, by revocation
}

// probe counts a call at a provider.
func (c *counters) probe(err error) {
	if err == nil {
		c.probesOnline.Add(1)
	} else {
		c.probesOffline.Add(1)
	}
}

// observer counts the decisions of the configured protocols, by their names.
func observer(cfg *Config) *extproc.Metrics {
	var names []string
	for _, p := range cfg.Protocols {
		names = append(names, p.Name())
	}
	return extproc.NewMetrics(names...)
}

// Metrics are the bridge's numbers: those of its decisions (extproc.Metrics), of
// its ADS server (xds.Server.Metrics), keybridge_provider_auth_failures_total, and keybridge_bridge_*. docs/metrics.md says
// what each means.
func (b *Bridge) Metrics() []prometheus.Collector {
	return []prometheus.Collector{b.decisions, b.refusals.failures, b.ads.Metrics(), b.numbers()}
}

func (b *Bridge) numbers() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keybridge_bridge_"+name, help, labels, nil)
	}
	state := desc("state", "1 for the state that the bridge is in, 0 for the others.", "state")
	keys := desc("keys", "Repository keys that are served.")
	problems := desc("problems", "Records, connectors and listeners that are left out of service.")
	connectors := desc("connectors", "Connectors by what their provider last answered.", "health")
	keepers := desc("keeper", "1 for what came of asking each keeper last.", "keeper", "state")
	connected := desc("control_connected", "1 while the connection to the control plane is up.")
	away := desc("control_away_seconds", "For how long the feed of records has been away.")
	records := desc("record_opens_total", "Sealed records that were to be opened, by outcome.", "outcome")
	probes := desc("probes_total", "Calls at providers to check connectors, by outcome.", "outcome")
	open := desc("streams_open", "Requests that were let through and have not ended.")
	ended := desc("streams_ended_total", "Requests that were ended because their key was revoked.")
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		}
		count := func(d *prometheus.Desc, n *atomic.Uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), labels...)
		}
		now := b.State()
		for s := Sealed; s <= Purged; s++ {
			gauge(state, flag(s == now), s.String())
		}
		b.mu.Lock()
		gauge(keys, float64(b.keys))
		gauge(problems, float64(len(b.problems)))
		for _, name := range slices.Sorted(maps.Keys(b.cfg.Keepers)) {
			gauge(keepers, 1, name, cmp.Or(string(b.keepers[name].State), "unasked"))
		}
		b.mu.Unlock()
		for health, n := range b.catalog.health() {
			gauge(connectors, float64(n), health)
		}
		gauge(connected, flag(b.cfg.Control.GetState() == connectivity.Ready))
		gauge(away, b.away().Seconds())
		count(records, &b.records.opens, "opened")
		count(records, &b.records.adopted, "adopted")
		count(records, &b.records.refusals, "refused")
		count(probes, &b.counters.probesOnline, "online")
		count(probes, &b.counters.probesOffline, "offline")
		gauge(open, float64(b.extproc.OpenStreams()))
		count(ended, &b.counters.ended)
	})
}

func flag(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// health counts connectors by what their provider last answered.
func (c *catalog) health() map[string]int {
	n := map[string]int{"online": 0, "offline": 0, "unasked": 0}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		switch {
		case e.status == nil:
			n["unasked"]++
		case e.status.Online:
			n["online"]++
		default:
			n["offline"]++
		}
	}
	return n
}
