package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"keybridge/e2e/proc"
	"keybridge/e2e/provider"
)

// peer is another's product on the same requests.
type peer struct {
	name string
	make func(context.Context) (request, error)
	pids func() ([]int, error) // of all its processes
}

// peersRow is a line of peers.json: CPU is that of all processes of the product.
type peersRow struct {
	Name        string  `json:"name"`
	Connections int     `json:"connections"`
	RPS         float64 `json:"rps"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
	CPU         float64 `json:"cpu_us"`
}

//go:embed passthrough.conf
var passthroughConf string

//go:embed litellm.yaml
var litellmYAML string

// startPeers starts them in front of the provider of small requests.
func (h *house) startPeers(ctx context.Context) ([]*peer, error) {
	root, err := provider.ModuleRoot()
	if err != nil {
		return nil, err
	}
	tools := filepath.Join(root, ".tools")
	a, err := freeAddresses(4)
	if err != nil {
		return nil, err
	}
	var all []*peer
	add := func(name string, p *process, make func(context.Context) (request, error)) {
		all = append(all, &peer{name, make, func() ([]int, error) { return tree(p.pid) }})
	}
	chatAt := func(address, key string, extra ...[2]string) func(context.Context) (request, error) {
		return func(context.Context) (request, error) {
			q := h.chat("http://"+address, key)
			q.header = append(q.header, extra...)
			return q, nil
		}
	}
	s3At := func(address string) func(context.Context) (request, error) {
		return func(ctx context.Context) (request, error) { return h.getObject(ctx, "http://"+address) }
	}

	nginx, err := provider.FromDistribution("nginx")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(h.dir, "passthrough")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	conf, err := fill("passthrough.conf", passthroughConf, map[string]string{"Dir": dir, "Listen": a[0], "Small": h.small})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), conf, 0o600); err != nil {
		return nil, err
	}
	p, err := h.run("passthrough", nil, nginx, "-p", dir, "-e", filepath.Join(dir, "nginx.log"), "-c", filepath.Join(dir, "nginx.conf"))
	if err != nil {
		return nil, err
	}
	add("s3-nginx", p, s3At(a[0]))
	add("ai-nginx", p, chatAt(a[0], h.chatKey))

	// Portkey's gateway takes the provider's key from the client, and where it is from headers.
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	gateway := filepath.Join(tools, "portkey", "node_modules", "@portkey-ai", "gateway", "build", "start-server.js")
	if p, err = h.run("portkey", []string{"NODE_ENV=production", "TRUSTED_CUSTOM_HOSTS=127.0.0.1"}, node, gateway, "--headless", "--port="+port(a[1])); err != nil {
		return nil, err
	}
	add("ai-portkey", p, chatAt(a[1], h.aiKey, [2]string{"x-portkey-provider", "openai"}, [2]string{"x-portkey-custom-host", "http://" + h.small + "/v1"}))

	conf, err = fill("litellm.yaml", litellmYAML, map[string]string{"Small": h.small, "ProviderKey": h.aiKey, "Key": litellmKey})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(h.dir, "litellm.yaml")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		return nil, err
	}
	litellm := filepath.Join(tools, "litellm")
	env := []string{"PYTHONPATH=" + litellm, "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_TELEMETRY=False", "LITELLM_LOG=ERROR", "LITELLM_MODE=PRODUCTION", "HOME=" + h.dir}
	python, err := exec.LookPath("python3")
	if err != nil {
		return nil, err
	}
	if p, err = h.run("litellm", env, python, filepath.Join(litellm, "bin", "litellm"), "--config", file, "--host", "127.0.0.1", "--port", port(a[2]), "--num_workers", "1"); err != nil {
		return nil, err
	}
	add("ai-litellm", p, chatAt(a[2], litellmKey))

	// versitygw's S3 backend asks with its own credential for what it was asked for.
	versitygw, err := provider.Versitygw()
	if err != nil {
		return nil, err
	}
	if p, err = h.run("versitygw", []string{"ROOT_ACCESS_KEY=" + h.key.Key, "ROOT_SECRET_KEY=" + h.key.Secret, "GOMAXPROCS=1", "AWS_CA_BUNDLE="}, versitygw,
		"--port", a[3], "--region", provider.Region, "--keep-alive", "--quiet",
		"s3", "--access", h.s3.Access, "--secret", h.s3.Secret, "--endpoint", "http://"+h.small, "--region", provider.Region, "--use-path-style", "--disable-checksum"); err != nil {
		return nil, err
	}
	add("s3-versitygw", p, s3At(a[3]))
	for name, address := range map[string]string{"passthrough": a[0], "portkey": a[1], "litellm": a[2], "versitygw": a[3]} {
		if err := h.await(ctx, name, address); err != nil {
			return nil, err
		}
	}
	for _, s := range h.subjects() {
		if s.name == "s3-keybridge" || s.name == "ai-keybridge" {
			all = append(all, &peer{s.name, s.make, func() ([]int, error) { return []int{s.envoy, s.processor}, nil }})
		}
	}
	return all, nil
}

const litellmKey = "sk-bench-0123456789abcdef"

// peers measures the others' products and Keybridge in the same rounds.
func (h *house) peers(ctx context.Context, o options) ([]peersRow, error) {
	all, err := h.startPeers(ctx)
	if err != nil {
		return nil, err
	}
	rounds := map[string][]peersRow{}
	for round := range o.rounds + 1 {
		for _, p := range all {
			if round == 0 { // pools and caches fill, and what does not work shows
				if err := h.ready(ctx, p); err != nil {
					return nil, err
				}
			}
			for _, n := range connections {
				d := time.Duration(o.seconds) * time.Second
				if round == 0 {
					d = time.Second
				}
				r, err := h.timePeer(ctx, p, n, d)
				if err != nil {
					return nil, err
				}
				if round > 0 {
					key := fmt.Sprint(p.name, n)
					rounds[key] = append(rounds[key], r)
					fmt.Fprintf(os.Stderr, "round %d %-14s %2d  %7.0f/s  p50 %6.0f  p99 %7.0f  CPU %7.1f µs\n", round, p.name, n, r.RPS, r.P50, r.P99, r.CPU)
				}
			}
		}
	}
	var rows []peersRow
	for _, p := range all {
		for _, n := range connections {
			of := rounds[fmt.Sprint(p.name, n)]
			column := func(f func(peersRow) float64) float64 {
				var v []float64
				for _, r := range of {
					v = append(v, f(r))
				}
				return median(v)
			}
			rows = append(rows, peersRow{
				p.name, n, round(column(func(r peersRow) float64 { return r.RPS }), 0), round(column(func(r peersRow) float64 { return r.P50 }), 0),
				round(column(func(r peersRow) float64 { return r.P99 }), 0), round(column(func(r peersRow) float64 { return r.CPU }), 1),
			})
		}
	}
	return rows, nil
}

// ready waits until a peer answers what the provider does: some listen before they can.
func (h *house) ready(ctx context.Context, p *peer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := p.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not do what it is there for: %w", p.name, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (p *peer) check(ctx context.Context) error {
	q, err := p.make(ctx)
	if err != nil {
		return err
	}
	req, err := q.http(ctx)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || !strings.Contains(string(body), "Small answers cost little.") && string(body) != smallObject {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return nil
}

func (h *house) timePeer(ctx context.Context, p *peer, n int, d time.Duration) (peersRow, error) {
	q, err := p.make(ctx)
	if err != nil {
		return peersRow{}, err
	}
	pids, err := p.pids()
	if err != nil {
		return peersRow{}, err
	}
	answered, err := h.answered(ctx)
	if err != nil {
		return peersRow{}, err
	}
	before, err := proc.CPU(pids...)
	if err != nil {
		return peersRow{}, err
	}
	l, err := drive(ctx, h.dir, q, n, d)
	if err != nil {
		return peersRow{}, fmt.Errorf("%s: %w", p.name, err)
	}
	after, err := proc.CPU(pids...)
	if err != nil {
		return peersRow{}, err
	}
	now, err := h.answered(ctx)
	if err != nil {
		return peersRow{}, err
	}
	if now-answered < l.Requests {
		return peersRow{}, fmt.Errorf("%s: the provider saw only %d of %d requests", p.name, now-answered, l.Requests)
	}
	return peersRow{p.name, n, l.rps(), float64(l.P50), float64(l.P99), float64(after-before) / 1e3 / float64(l.Requests)}, nil
}

func printPeers(w io.Writer, rows []peersRow) {
	fmt.Fprint(w, "\n| on the same provider | connections | requests/s | p50 µs | p99 µs | CPU µs |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(w, "| %s | %d | %.0f | %.0f | %.0f | %.1f |\n", r.Name, r.Connections, r.RPS, r.P50, r.P99, r.CPU)
	}
}

// runPeers is `make bench-peers`.
func runPeers(ctx context.Context, o options) (err error) {
	h, err := newHouse(ctx, o.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	rows, err := h.peers(ctx, o)
	if err != nil {
		return err
	}
	printPeers(os.Stdout, rows)
	return save(filepath.Join(o.out, "e2e", "bench", "peers.json"), map[string]any{"rows": rows})
}
