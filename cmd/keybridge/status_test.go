package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store/api"
)

// bridges are what a control plane knows of its fleet: the command line is tested
// against the real API, the fleet end to end.
type bridges struct {
	nodes      []api.Node
	connectors map[string][]api.NodeStatus
	sync       []api.SyncStatus
	probe      api.ProbeResult
	expiring   []api.Expiring
}

func (b *bridges) Probe(context.Context, api.Probe) (api.ProbeResult, error) { return b.probe, nil }
func (b *bridges) Nodes() []api.Node                                         { return b.nodes }
func (b *bridges) ConnectorStatus(id string) []api.NodeStatus                { return b.connectors[id] }
func (b *bridges) Sync() []api.SyncStatus                                    { return b.sync }

func TestStatus(t *testing.T) {
	online := api.Node{
		Name: "bridge-1", IP: "10.0.0.7", Region: "eu", Version: "v1", Status: api.StatusOnline, Latency: 3 * time.Millisecond,
		LastUpdated: time.Now(), URL: "https://10.0.0.7:9000", Services: 3,
		Keepers: []api.KeeperStatus{{Name: "keeper-1", State: "good"}, {Name: "keeper-2", State: "good"}},
	}
	synced := api.SyncStatus{Node: "bridge-1", Bridge: "bridge-1", Type: "keybridge.config.v1.Connector", Sent: 4, Acked: 4, Connected: true}
	for _, c := range []struct {
		name   string
		fleet  bridges
		change func(t *testing.T, b *bridges)
		args   []string
		status int
	}{
		{name: "well", fleet: bridges{nodes: []api.Node{online}, sync: []api.SyncStatus{synced}, probe: api.ProbeResult{OK: true}}, change: furnish},
		{name: "nothing runs", status: 1},
		{name: "everything is wrong", status: 1, fleet: bridges{probe: api.ProbeResult{OK: true}}, change: func(t *testing.T, b *bridges) {
			furnish(t, b)
			must(t, "key", "create", "--name", "old", "--expires-in", "73h")
			must(t, "repo", "create", "closed", "--connector", "photos")
			must(t, "repo", "disable", "closed")
			must(t, "token", "create", "--name", "ci", "--role", "team-a=READ", "--expires-in", "49h")
			away, sealed := online, online
			away.Name, away.Status, away.LastUpdated = "bridge-2", api.StatusDisconnected, time.Now().Add(-time.Hour-time.Minute)
			away.Keepers = []api.KeeperStatus{{Name: "keeper-2", State: "unreachable", Detail: "connection refused"}, {Name: "keeper-3", State: "bad", Detail: "share of another set"}}
			sealed.Name, sealed.Status, sealed.Reason = "bridge-3", api.StatusOffline, "1 of 2 shares"
			one := online
			one.Problems = []string{"key K1: its repository has no connector\x1b[31m"}
			b.nodes = []api.Node{one, away, sealed}
			for id := range b.connectors {
				b.connectors[id] = append(b.connectors[id], api.NodeStatus{Node: away, Message: "last known"},
					api.NodeStatus{Node: api.Node{Name: "bridge-3", Status: api.StatusOffline}, Message: "403 InvalidAccessKeyId"})
				b.connectors[id][0].Status = api.StatusOffline
			}
			refused := synced
			refused.Node, refused.Type, refused.Acked, refused.Nack = "envoy", "type.googleapis.com/envoy.config.listener.v3.Listener", 3, "address in use"
			b.sync = []api.SyncStatus{synced, refused}
			b.expiring = []api.Expiring{{Role: "keeper", Name: "keeper-1", NotAfter: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)}}
		}},
		{name: "another operator", status: 1, fleet: bridges{nodes: []api.Node{online}}, args: []string{"--operator-root", "other.pub"}, change: func(t *testing.T, _ *bridges) {
			other := base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))[ed25519.SeedSize:])
			if err := os.WriteFile("other.pub", []byte(other), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "wrong token", status: 2, args: []string{"--token-file", "secret.txt"}},
		{name: "nobody answers", status: 2, args: []string{"--admin", "http://127.0.0.1:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden, err := filepath.Abs(filepath.Join("testdata", "status", strings.ReplaceAll(c.name, " ", "-")+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			environment(t, func(config *api.Config) {
				config.Fleet, config.Expiring = &c.fleet, func() []api.Expiring { return c.fleet.expiring }
			})
			if c.change != nil {
				c.change(t, &c.fleet)
			}
			out, errs, status := run(t, "", append([]string{"status"}, c.args...)...)
			if status != c.status || errs != "" {
				t.Errorf("status %d, standard error %q", status, errs)
			}
			out = stable(regexp.MustCompile(`answers in \S+`).ReplaceAllString(out, "answers in 1ms"))
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out); diff != "" {
				t.Error("differs; -update if that is meant (-want +got):\n", diff)
			}
			// The same as JSON.
			raw, _, status := run(t, "", append([]string{"status", "--json"}, c.args...)...)
			var p picture
			if err := json.Unmarshal([]byte(raw), &p); err != nil || status != c.status {
				t.Fatalf("--json: status %d, %v\n%s", status, err, raw)
			}
			if want := []string{"ok", "problems", "unknown"}[c.status]; p.Status != want {
				t.Errorf("--json says %q", p.Status)
			}
			if len(p.Problems) != strings.Count(out, "✗") {
				t.Errorf("--json has %d problems", len(p.Problems))
			}
		})
	}
}

// furnish makes a tenant whose connectors the fleet's first bridge finds well.
func furnish(t *testing.T, b *bridges) {
	must(t, "workspace", "create", "team-a")
	must(t, "connector", "create", "photos", "--type", "S3", "--bucket", "photos", "--key", "AKIA1", "--secret-file", "secret.txt")
	must(t, "connector", "create", "gpt", "--type", "OPENAI", "--secret-file", "secret.txt")
	must(t, "repo", "create", "web", "--connector", "photos", "--connector", "gpt")
	must(t, "key", "create", "--name", "web-1", "--repo", "web")
	var all []connector
	if err := json.Unmarshal([]byte(must(t, "connector", "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	b.connectors = map[string][]api.NodeStatus{}
	for _, c := range all[:1] { // of the other nobody has said anything yet
		b.connectors[c.ID] = []api.NodeStatus{{Node: api.Node{Name: "bridge-1", Status: api.StatusOnline}}}
	}
}

// TestFleet: what asks bridges.
func TestFleet(t *testing.T) {
	fleet := &bridges{
		nodes: []api.Node{{Name: "bridge-1", IP: "10.0.0.7", Region: "eu", Version: "v1", Status: api.StatusOnline, Latency: 3 * time.Millisecond, URL: "https://10.0.0.7:9000", Services: 3,
			Keepers: []api.KeeperStatus{{Name: "keeper-1", State: "good"}, {Name: "keeper-2", State: "bad", Detail: "share of keeper keeper-2: it is truncated"}}}},
		sync: []api.SyncStatus{
			{Node: "bridge-1", Bridge: "bridge-1", Type: "Connector", Sent: 4, Acked: 4, Connected: true},
			{Node: "envoy", Bridge: "bridge-1", Type: "Cluster", Sent: 4, Acked: 3, Nack: "no such\nfile", Connected: true},
			{Node: "envoy", Bridge: "bridge-1", Type: "Listener", Sent: 4, Acked: 3, Connected: true},
			{Node: "bridge-2", Bridge: "bridge-2", Type: "Connector", Sent: 4, Acked: 4},
		},
		probe: api.ProbeResult{OK: true, Latency: 12 * time.Millisecond, Models: []api.Model{{ID: "gpt-5"}, {ID: "o3"}}},
	}
	environment(t, func(c *api.Config) { c.Fleet = fleet })
	must(t, "workspace", "create", "team-a")
	create := []string{"connector", "create", "gpt", "--type", "OPENAI", "--secret-file", "secret.txt"}
	fleet.probe.OK, fleet.probe.Message = false, "401 Incorrect API key provided"
	check := func(wantStatus int, want string, args ...string) {
		t.Helper()
		out, errs, status := run(t, "", args...)
		if got := out + errs; status != wantStatus || got != want {
			t.Errorf("keybridge %s: status %d\n%s", strings.Join(args, " "), status, cmp.Diff(want, got))
		}
	}
	check(1, "keybridge: admin API: 401 Incorrect API key provided (PROVIDER_REFUSED)\n"+
		"  hint: that is the provider's answer; check key, secret, bucket, region and endpoint\n", create...)
	fleet.probe.OK = true
	must(t, create...)
	must(t, "repo", "create", "bot", "--connector", "gpt")
	check(0, "MODEL  CONNECTOR  API\ngpt-5  gpt        OPENAI\no3     gpt        OPENAI\n", "repo", "models", "bot")
	check(0, "connector gpt works: the provider accepts the credential, 12 ms, 2 models\n", "connector", "validate", "gpt")
	fleet.probe.OK = false
	check(1, "keybridge: connector gpt: 401 Incorrect API key provided\n"+
		"  hint: that is the provider's answer; check key, secret, bucket, region and endpoint\n", "connector", "validate", "gpt")
	check(0, `NAME      STATUS  REGION  IP        URL                    LATENCY  VERSION  HEARD
bridge-1  ONLINE  eu      10.0.0.7  https://10.0.0.7:9000  3 ms     v1       never
`, "node", "list")
	check(0, `BRIDGE    NODE      TYPE       SENT  ACKED  STATE    REFUSED
bridge-1  bridge-1  Connector  4     4      ok       -
bridge-1  envoy     Cluster    4     3      refused  no such file
bridge-1  envoy     Listener   4     3      waiting  -
bridge-2  bridge-2  Connector  4     4      away     -
bridge-1  keeper-1  Share      -     -      good     -
bridge-1  keeper-2  Share      -     -      bad      share of keeper keeper-2: it is truncated
`, "sync")
}
