package link_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	f := newFleet()
	numbers := func() map[string]float64 {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(f.Metrics())
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				if v := m.GetGauge().GetValue(); v != 0 {
					out[name] = v
				}
			}
		}
		return out
	}
	f.join(t, "a", "ready", []string{"*"}, says("a"))
	f.join(t, "b", "ready", []string{"*"}, says("b"))
	f.join(t, "c", "dancing", []string{"*"}, says("c"))
	gone := f.join(t, "d", "ready", []string{"*"}, says("d"))
	gone.stop()
	f.await(t, func() bool { s, _ := f.state("d"); return !s.Connected })
	want := map[string]float64{"keybridge_bridges ready": 2, "keybridge_bridges other": 1, "keybridge_bridges disconnected": 1}
	if diff := cmp.Diff(want, numbers()); diff != "" {
		t.Error(diff)
	}
}
