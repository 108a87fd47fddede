package e2e_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// envoyAdmin asks Envoy's admin interface, a unix socket that only its user can reach.
func (w *world) envoyAdmin(t *testing.T, path string, into any) {
	t.Helper()
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(w.Dir, "envoy", "admin.sock"))
		},
	}}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// clusters are the names of Envoy's clusters.
func (w *world) clusters(t *testing.T) []string {
	t.Helper()
	var out struct {
		Clusters []struct {
			Name string `json:"name"`
		} `json:"cluster_statuses"`
	}
	w.envoyAdmin(t, "/clusters?format=json", &out)
	var names []string
	for _, c := range out.Clusters {
		names = append(names, c.Name)
	}
	return names
}
