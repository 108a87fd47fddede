package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"keybridge/extproc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/s3"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/store/api"
	"keybridge/store/audit"
	"keybridge/xds"
	"keybridge/xds/link"
	"keybridge/xds/translate"
)

// registries are those of the three kinds of process, each made of real parts that
// do not run.
func registries(t *testing.T) map[string]*prometheus.Registry {
	t.Helper()
	records := environment(t)
	log := slog.New(slog.DiscardHandler)

	events, err := audit.Open("audit.log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = events.Close() })
	requests := api.NewMetrics()
	api.New(api.Config{Store: records, Metrics: requests}).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/health", nil))
	ads, err := xds.NewServer(xds.Config{Types: xds.BridgeTypes(), Authorize: func(context.Context) (node, group string, err error) { return "", "", errors.New("nobody") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ads.Close)

	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	live := &grant.Live{}
	b, err := bridge.New(bridge.Config{
		Control: conn, Keepers: map[string]string{"keeper-1": "127.0.0.1:1"}, Live: live, Logger: log, Dir: t.TempDir(),
		Protocols: map[string]extproc.Protocol{translate.AuthorityS3: s3.New(live, s3.Options{}), translate.AuthorityAI: llm.New(live)},
	})
	if err != nil {
		t.Fatal(err)
	}

	dir, err := initialised()
	if err != nil {
		t.Fatal(err)
	}
	root, err := readRoot(filepath.Join(dir, "operator", rootPublicFile))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := keeper.KeyFileLock(filepath.Join(dir, devKeepers[0]+".key"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := keeper.New(keeper.Config{Dir: filepath.Join(dir, devKeepers[0]), Lock: lock, Root: root, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return map[string]*prometheus.Registry{
		"control": controlMetrics(records, events, requests, link.NewHub(log), ads, ending(t, k.Trust().Manifest())),
		"bridge":  bridgeMetrics(b),
		"keeper":  keeperMetrics(k),
	}
}

// ending trusts a manifest in which an enrolment ends.
func ending(t *testing.T, m *keyshare.Manifest) *identity.Trust {
	t.Helper()
	public, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, end := *m, time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Bridges = slices.Clone(m.Bridges)
	c.Bridges[0].NotAfter = &end
	signed, err := keyshare.Sign(root, &c)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	trust := identity.NewTrust(public)
	if _, err := trust.Update(raw); err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestExpiring(t *testing.T) {
	dir, err := initialised()
	if err != nil {
		t.Fatal(err)
	}
	root, err := readRoot(filepath.Join(dir, "operator", rootPublicFile))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "operator", manifestFile))
	if err != nil {
		t.Fatal(err)
	}
	m, err := keyshare.Verify(root, raw)
	if err != nil {
		t.Fatal(err)
	}
	trust, end := ending(t, m), time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	want := []api.Expiring{{Role: "bridge", Name: m.Bridges[0].Name, NotAfter: end}}
	for now, want := range map[time.Time][]api.Expiring{end.Add(-expirySoon - time.Second): nil, end.Add(-expirySoon): want, end.Add(time.Hour): want} {
		if diff := cmp.Diff(want, expiring(trust, now)); diff != "" {
			t.Errorf("at %v: %s", now, diff)
		}
	}
	if got := expiring(identity.NewTrust(root), end); got != nil {
		t.Errorf("of no manifest: %v", got)
	}
}

// TestMetricsDocument holds the table of docs/metrics.md to what the processes
// expose: names, types, labels and processes, and no metric more or less.
func TestMetricsDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	row := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\| ([^|]*) \\| [^|]+ \\| [^|]+ \\|$")
	for _, m := range row.FindAllStringSubmatch(strings.ReplaceAll(string(page), "| |", "|  |"), -1) {
		documented[m[1]] = fmt.Sprintf("%s of %s: %s", m[2], strings.TrimSpace(m[4]), strings.TrimSpace(m[3]))
	}
	if rows := strings.Count(string(page), "\n| `"); rows != len(documented) {
		t.Errorf("%d rows, %d understood", rows, len(documented))
	}

	type metric struct {
		kind      string
		labels    []string
		processes []string
	}
	found := map[string]*metric{}
	for process, r := range registries(t) {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "keybridge_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
		for _, f := range families {
			if name := f.GetName(); strings.HasPrefix(name, "keybridge_") {
				if found[name] == nil {
					found[name] = &metric{kind: strings.ToLower(f.GetType().String())}
					for _, l := range f.GetMetric()[0].GetLabel() {
						found[name].labels = append(found[name].labels, l.GetName())
					}
				}
				found[name].processes = append(found[name].processes, process)
			}
		}
	}
	exposed := map[string]string{}
	for name, m := range found {
		slices.Sort(m.processes)
		processes := strings.Join(m.processes, ", ")
		if len(m.processes) == 3 {
			processes = "all"
		}
		exposed[name] = fmt.Sprintf("%s of %s: %s", m.kind, processes, strings.Join(m.labels, ", "))
	}
	if diff := cmp.Diff(exposed, documented); diff != "" {
		t.Errorf("docs/metrics.md (-exposed +documented):\n%s", diff)
	}
	for name := range namesIn(string(page)) {
		if exposed[name] == "" {
			t.Errorf("docs/metrics.md speaks of %s", name)
		}
	}
}

func namesIn(page string) map[string]bool {
	out := map[string]bool{}
	for _, name := range regexp.MustCompile(`keybridge_[a-z_]+`).FindAllString(page, -1) {
		out[name] = true
	}
	return out
}

func TestMetricsHandler(t *testing.T) {
	r := registries(t)["keeper"]
	get := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		metricsHandler(r).ServeHTTP(w, httptest.NewRequest(method, path, nil))
		b, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(b)
	}
	status, body := get("GET", "/metrics")
	for _, line := range []string{"keybridge_keeper_holds_share 1\n", "\nkeybridge_keeper_audit_lines 1\n", `keybridge_keeper_refusals_total{reason="denied"} 0`, "go_goroutines"} {
		if status != 200 || !strings.Contains(body, line) {
			t.Errorf("%d, without %q:\n%s", status, line, body)
		}
	}
	for _, c := range [][2]string{{"GET", "/"}, {"POST", "/metrics"}, {"GET", "/debug/pprof/"}} {
		if status, _ := get(c[0], c[1]); status < 400 {
			t.Errorf("%s %s: %d", c[0], c[1], status)
		}
	}
}
