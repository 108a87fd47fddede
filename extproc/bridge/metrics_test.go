package bridge_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"keybridge/extproc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/xds/link"
)

// numbers is what the bridge exposes and is not 0, but for histograms and what
// depends on when a provider was asked.
func (w *world) numbers(t *testing.T) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(w.bridge.Metrics()...)
	families, err := r.Gather()
	must(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				out[name] = v
			}
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.adjust = func(cfg *bridge.Config) { cfg.Protocols = map[string]extproc.Protocol{"s3": open{w.live}} }
	o := w.addOne(t)
	// A record that was sealed for another one cannot be opened.
	moved := w.sealedKey(o, 1)
	moved.record.Id = uuid.NewString()
	w.put(t, moved)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	ended := w.request(t, keyID)
	got := w.numbers(t)
	for name, v := range map[string]float64{
		"keybridge_bridge_state ready":                1,
		"keybridge_bridge_state sealed":               0,
		"keybridge_bridge_keys":                       1,
		"keybridge_bridge_control_connected":          1,
		"keybridge_bridge_control_away_seconds":       0,
		"keybridge_bridge_record_opens_total opened":  2,
		"keybridge_bridge_record_opens_total refused": 1,
		"keybridge_bridge_streams_open":               1,
		"keybridge_bridge_streams_ended_total":        0,
		"keybridge_decisions_total open forwarded":    1,
		"keybridge_xds_peers Cluster":                 1,
		"keybridge_xds_nacks_total Cluster":           0,
		"keybridge_xds_peers_refusing Cluster":        0,
	} {
		if got[name] != v {
			t.Errorf("%s is %v, want %v", name, got[name], v)
		}
	}
	good := got["keybridge_bridge_keeper keeper-1 good"] + got["keybridge_bridge_keeper keeper-2 good"] + got["keybridge_bridge_keeper keeper-3 good"]
	if good < 2 {
		t.Errorf("%v good keepers: %v", good, got)
	}

	r := w.source.latest(o.key)
	r.State, r.Sealed = link.State_DELETED, nil
	w.source.put(r)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended as if it were complete")
		}
	case <-time.After(patience):
		t.Fatal("the request of the revoked key goes on")
	}
	w.await(t, func() bool {
		got := w.numbers(t)
		return got["keybridge_bridge_streams_ended_total"] == 1 && got["keybridge_bridge_streams_open"] == 0 && got["keybridge_bridge_keys"] == 0
	})
}

// A bridge that has asked nobody yet says so.
func TestMetricsBeforeTheFirstShare(t *testing.T) {
	w := newWorld(t)
	for _, stop := range w.keepers {
		stop()
	}
	w.start(t)
	w.await(t, func() bool {
		got := w.numbers(t)
		return got["keybridge_bridge_keeper keeper-1 unreachable"] == 1 && got["keybridge_bridge_state ready"] == 0
	})
	if diff := cmp.Diff(1.0, w.numbers(t)["keybridge_bridge_state unsealing"]); diff != "" {
		t.Error(diff)
	}
}
