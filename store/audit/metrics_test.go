package audit_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"keybridge/store/audit"
)

func TestMetrics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	disk := &failing{write: -1}
	l, err := audit.OpenOn(path, func(f *os.File) audit.File { disk.File = f; return disk })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	add(t, l, created(1), created(2))
	disk.write = 0
	for range 3 {
		if err := l.Append(t.Context(), created(3)); err == nil {
			t.Fatal("written to a full disk")
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(l.Metrics())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
	}
	want := map[string]float64{"keybridge_audit_lines": 2, "keybridge_audit_bytes": float64(st.Size()), "keybridge_audit_failures_total": 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// An event that is refused as such is the caller's mistake, not the log's.
	if err := l.Append(t.Context(), audit.Event{}); err == nil {
		t.Error("taken")
	}
}
