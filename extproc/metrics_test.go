package extproc_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"keybridge/extproc"
)

// gather is all values by name and labels; of a histogram its count, sum and buckets.
func gather(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			if h := m.GetHistogram(); h != nil {
				out[name+" count"], out[name+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.GetBucket() {
					out[fmt.Sprintf("%s %v", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
				continue
			}
			out[name] = m.GetCounter().GetValue()
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	m := extproc.NewMetrics("s3", "ai")
	for range 3 {
		m.Decided("s3", "", 2*time.Microsecond)
	}
	m.Decided("s3", "bad_signature", 2*time.Microsecond+1)
	m.Decided("s3", "bad_signature", time.Hour)
	m.Decided("s3", "expired", -time.Second) // a clock that went back
	m.Decided("gcs", "expired", 0)
	got := gather(t, m)
	want := map[string]float64{
		"keybridge_decisions_total s3 forwarded":     3,
		"keybridge_decisions_total s3 bad_signature": 2,
		"keybridge_decisions_total s3 expired":       1,
		"keybridge_decisions_total ai forwarded":     0,
		"keybridge_decisions_total other forwarded":  0,
		"keybridge_decisions_total other expired":    1,
		"keybridge_decision_seconds s3 count":        6,
		"keybridge_decision_seconds s3 1e-06":        1,
		"keybridge_decision_seconds s3 2e-06":        4,
		"keybridge_decision_seconds s3 4e-06":        5,
		"keybridge_decision_seconds s3 0.032768":     5,
		"keybridge_decision_seconds ai count":        0,
		"keybridge_decision_seconds other 1e-06":     1,
	}
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s is %v (%v), want %v", name, g, ok, v)
		}
	}
	if sum := got["keybridge_decision_seconds s3 sum"]; sum < 3600 || sum > 3600.1 {
		t.Errorf("sum %v", sum)
	}
	if fresh := gather(t, extproc.NewMetrics("s3")); len(fresh) != 1+2+16 {
		t.Errorf("a protocol that there is not is shown: %v", fresh)
	}
}

// A protocol whose reasons are not of a fixed set cannot fill the process's memory,
// nor its monitoring's.
func TestMetricsAreBounded(t *testing.T) {
	m := extproc.NewMetrics("s3")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 1000 {
				m.Decided("s3", fmt.Sprint("reason", w, "_", i), 0)
				m.Decided("s3", "known", 0)
			}
		})
	}
	all.Wait()
	got := gather(t, m)
	series, total := 0, 0.0
	for name, v := range got {
		var reason string
		if n, _ := fmt.Sscanf(name, "keybridge_decisions_total s3 %s", &reason); n == 1 {
			series++
			total += v
		}
	}
	if series > 101 || total != 8000 || got["keybridge_decisions_total s3 known"] != 4000 || got["keybridge_decisions_total s3 other"] < 3000 {
		t.Errorf("%d series, %v decisions, known %v, other %v", series, total,
			got["keybridge_decisions_total s3 known"], got["keybridge_decisions_total s3 other"])
	}
}

func TestDecidedAllocatesNothing(t *testing.T) {
	m := extproc.NewMetrics("s3")
	m.Decided("s3", "expired", time.Microsecond)
	if n := testing.AllocsPerRun(1000, func() {
		m.Decided("s3", "", 10*time.Microsecond)
		m.Decided("s3", "expired", 10*time.Microsecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if diff := cmp.Diff(2003.0, gather(t, m)["keybridge_decision_seconds s3 count"]); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkDecided(b *testing.B) {
	m := extproc.NewMetrics("s3", "ai")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Decided("s3", "", 12*time.Microsecond)
		}
	})
}
