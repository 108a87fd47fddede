package xds_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
)

func TestMetrics(t *testing.T) {
	w, ctx := newWorld(t), timeout(t)
	numbers := func() map[string]float64 {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(w.server.Metrics())
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if m.GetLabel()[0].GetValue() == "Connector" {
					out[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				} else if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
					t.Errorf("%s of a type that nobody asked for: %v", f.GetName(), m)
				}
			}
		}
		return out
	}
	want := func(peers, behind, refusing, nacks float64) {
		t.Helper()
		if diff := cmp.Diff(map[string]float64{
			"keybridge_xds_peers": peers, "keybridge_xds_peers_behind": behind,
			"keybridge_xds_peers_refusing": refusing, "keybridge_xds_nacks_total": nacks,
		}, numbers()); diff != "" {
			t.Error(diff)
		}
	}
	want(0, 0, 0, 0)
	v := w.set("g", connectors, map[string]proto.Message{"a": connector("a")})
	p := w.connect(ctx, "b", "g")
	p.subscribe("b", connectors, nil)
	resp := p.want("a")
	want(1, 1, 0, 0) // it was sent, there is no answer
	p.nack(resp, "no")
	if err := w.server.WaitAcked(ctx, "b", connectors, v); err == nil {
		t.Fatal("accepted")
	}
	want(1, 1, 1, 1)
	v = w.set("g", connectors, map[string]proto.Message{"a": connector("a2")})
	p.ack(p.want("a"))
	if err := w.server.WaitAcked(ctx, "b", connectors, v); err != nil {
		t.Fatal(err)
	}
	want(1, 0, 0, 1)
}
