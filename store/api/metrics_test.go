package api_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"keybridge/store/api"
)

// Requests are counted by route, whatever path or method a caller makes up.
func TestMetrics(t *testing.T) {
	metrics := api.NewMetrics()
	e := newEnv(t, func(c *api.Config) { c.Metrics = metrics })
	before := counts(t, metrics)
	for _, r := range []struct{ method, path, token string }{
		{"GET", "/workspace", e.admin},
		{"GET", "/workspace", e.admin},
		{"GET", "/workspace", ""},
		{"GET", "/workspace/" + e.ws, e.admin},
		{"GET", "/workspace/5b0cbd2e-3a4e-4a0e-9e0b-0d5d6a7c8f90", e.admin},
		{"GET", "/nothing/here", e.admin},
		{"GET", "/nothing/there?a=b", e.admin},
		{"BREW", "/workspace", e.admin},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, e.srv.URL+r.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.token != "" {
			req.Header.Set("Authorization", "Bearer "+r.token)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	// The answer may be read before it is counted.
	e.srv.Close()
	got := counts(t, metrics)
	for name, n := range before {
		if got[name] -= n; got[name] == 0 {
			delete(got, name)
		}
	}
	want := map[string]float64{
		"GET /workspace 200":      2,
		"GET /workspace 401":      1,
		"GET /workspace/{id} 200": 1,
		"GET /workspace/{id} 404": 1,
		"(none) 404":              2,
		"(none) 405":              1,
		"GET /workspace":          3,
		"GET /workspace/{id}":     2,
		"(none)":                  3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// counts is every counter and the count of every histogram, by its labels.
func counts(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := ""
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name[1:]] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}
