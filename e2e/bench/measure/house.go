package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/envoy"
)

// house is everything that runs while the benchmark measures.
type house struct {
	dir     string
	closers []func() error

	s3    *provider.S3 // looks at signatures, before anything is timed
	aiKey string       // the AI provider's
	small string       // address of the provider of small requests
	bulk  string       // address of the provider of uploads

	envoy, noop *process
	ports       map[string]string // addresses of the comparisons' listeners

	stack     *stack.Stack
	endpoints stack.Endpoints
	key       stack.Key // repository keys
	chatKey   string
	kbEnvoy   int // process ids of Keybridge's
	kbBridge  int
}

const (
	bucket   = "bench"   // at the provider of small requests
	uploads  = "uploads" // at the provider of uploads
	object   = "object"
	patience = time.Minute
)

var smallObject = strings.Repeat("0123456789abcdef", 64)

//go:embed nginx.conf
var nginxConf string

//go:embed envoys.yaml
var envoysYAML string

// listener is one of the comparisons.
type listener struct {
	Name, Port   string
	Sign         bool
	Processor    string // cluster
	Body         string // mode
	Trailers     string
	ForwardRules string
}

// forwardRules are those of Keybridge's AI listener (xds/translate).
const forwardRules = `{disallowed_headers: {patterns: [{exact: user-agent}, {exact: accept-encoding}, {exact: accept-language}, {prefix: x-stainless-}]}}`

func listeners() []*listener {
	return []*listener{
		{Name: "plain"},
		{Name: "native", Sign: true},
		{Name: "noop", Processor: "noop"},
		{Name: "noop_forward_rules", Processor: "noop", ForwardRules: forwardRules},
		{Name: "echo", Processor: "noop", Body: "FULL_DUPLEX_STREAMED"},
	}
}

func (h *house) close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i]())
	}
	return errors.Join(errs...)
}

func (h *house) onClose(f func() error) { h.closers = append(h.closers, f) }

// newHouse builds and starts everything.
func newHouse(ctx context.Context, binary string, env ...string) (_ *house, err error) {
	h := &house{ports: map[string]string{}, aiKey: "sk-provider-0123456789abcdef0123456789abcdef"}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if h.dir, err = os.MkdirTemp("", "kb-"); err != nil {
		return nil, err
	}
	h.onClose(func() error { return os.RemoveAll(h.dir) })
	if h.s3, err = provider.StartS3(ctx, provider.S3Config{}); err != nil {
		return nil, err
	}
	h.onClose(h.s3.Close)
	if err := h.s3.MakeBucket(ctx, bucket); err != nil {
		return nil, err
	}
	if err := h.putDirect(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{
		h.startProviders, h.startComparisons,
		func(ctx context.Context) error { return h.startKeybridge(ctx, binary, env) },
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// run starts a process that lives as long as the house.
func (h *house) run(name string, env []string, binary string, args ...string) (*process, error) {
	p, err := start(h.dir, name, env, binary, args...)
	if err == nil {
		h.onClose(func() error { p.stop(); return nil })
	}
	return p, err
}

// build builds one of the benchmark's own programs.
func (h *house) build(ctx context.Context, pkg string) (string, error) {
	root, err := provider.ModuleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(h.dir, filepath.Base(pkg)+".bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

func (h *house) startProviders(ctx context.Context) error {
	addresses, err := freeAddresses(2)
	if err != nil {
		return err
	}
	h.small, h.bulk = addresses[0], addresses[1]
	binary, err := h.build(ctx, "./e2e/bench/upstream")
	if err != nil {
		return err
	}
	if _, err := h.run("upstream", nil, binary, h.bulk); err != nil {
		return err
	}
	nginx, err := provider.FromDistribution("nginx")
	if err != nil {
		return err
	}
	conf, err := fill("nginx.conf", nginxConf, map[string]string{
		"Dir": h.dir, "Small": h.small, "Recorder": h.bulk, "S3": h.s3.Addr(),
		"Object": smallObject, "Chat": chatAnswer,
	})
	if err != nil {
		return err
	}
	path := filepath.Join(h.dir, "nginx.conf")
	if err := os.WriteFile(path, conf, 0o600); err != nil {
		return err
	}
	if _, err := h.run("nginx", nil, nginx, "-p", h.dir, "-e", filepath.Join(h.dir, "nginx.log"), "-c", path); err != nil {
		return err
	}
	return errors.Join(h.await(ctx, "upstream", h.bulk), h.await(ctx, "nginx", h.small))
}

// startComparisons starts the frozen no-op processor, and one Envoy for all that is
// compared.
func (h *house) startComparisons(ctx context.Context) error {
	binary, err := h.build(ctx, "./e2e/bench/noop")
	if err != nil {
		return err
	}
	socket := filepath.Join(h.dir, "noop.sock")
	if h.noop, err = h.run("noop", []string{"GOMAXPROCS=1"}, binary, socket); err != nil {
		return err
	}
	all := listeners()
	addresses, err := freeAddresses(len(all))
	if err != nil {
		return err
	}
	for i, l := range all {
		h.ports[l.Name] = addresses[i]
		if _, l.Port, err = net.SplitHostPort(addresses[i]); err != nil {
			return err
		}
	}
	type cluster struct{ Name, Address, Protocol, IdleTimeout string }
	tcp := func(address string) string {
		host, port, _ := net.SplitHostPort(address)
		return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
	}
	conf, err := fill("envoys.yaml", envoysYAML, map[string]any{
		"Admin": filepath.Join(h.dir, "admin.sock"), "Listeners": all,
		"Region": provider.Region, "Small": h.small, "Access": h.s3.Access, "Secret": h.s3.Secret,
		"Clusters": []cluster{
			{"small", tcp(h.small), "{http_protocol_options: {}}", "30s"},
			{"uploads", tcp(h.bulk), "{http_protocol_options: {}}", "30s"},
			{"noop", fmt.Sprintf("{pipe: {path: %q}}", socket), "{http2_protocol_options: {}}", ""},
		},
	})
	if err != nil {
		return err
	}
	path := filepath.Join(h.dir, "envoys.yaml")
	if err := os.WriteFile(path, conf, 0o600); err != nil {
		return err
	}
	found, err := envoy.Find("")
	if err != nil {
		return err
	}
	// As keybridge/envoy starts its own.
	if h.envoy, err = h.run("envoy", nil, found, "--config-path", path, "--log-level", "warning", "--disable-hot-restart", "--concurrency", "1"); err != nil {
		return err
	}
	return h.await(ctx, "envoy", addresses[len(addresses)-1])
}

// startKeybridge starts all of it, with one thread for Go in each process and one
// worker of Envoy, and makes a tenant.
func (h *house) startKeybridge(ctx context.Context, binary string, env []string) (err error) {
	log, err := os.Create(filepath.Join(h.dir, "dev.log"))
	if err != nil {
		return err
	}
	h.onClose(log.Close)
	if h.stack, err = stack.Start(stack.Config{
		Binary: binary, Dir: filepath.Join(h.dir, "state"), Output: log, Concurrency: 1,
		Env: append(append(os.Environ(), "GOMAXPROCS=1"), env...),
	}); err != nil {
		return err
	}
	h.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return h.stack.Stop(ctx)
	})
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if h.endpoints, err = h.stack.Ready(ctx); err != nil {
		return err
	}
	t, err := h.stack.Tenant(ctx, h.endpoints, "bench")
	if err != nil {
		return err
	}
	var buckets []string
	for name, address := range map[string]string{bucket: h.small, uploads: h.bulk} {
		id, err := t.Bucket(ctx, stack.Bucket{
			Name: name, Bucket: name, Endpoint: "http://" + address, Region: provider.Region, Key: h.s3.Access, Secret: h.s3.Secret, Untried: true,
		})
		if err != nil {
			return err
		}
		buckets = append(buckets, id)
	}
	llm, err := t.LLM(ctx, stack.LLM{Name: "chat", Endpoint: "http://" + h.small + "/v1", Secret: h.aiKey, Untried: true})
	if err != nil {
		return err
	}
	repository, err := t.Repository(ctx, "bench", buckets, []string{llm})
	if err != nil {
		return err
	}
	if h.key, err = t.StorageKey(ctx, repository, "bench", "ADMIN"); err != nil {
		return err
	}
	chat, err := t.AIKey(ctx, repository, "bench")
	if err != nil {
		return err
	}
	h.chatKey = chat.Secret
	if h.kbBridge, err = h.stack.PID(stack.Bridge); err != nil {
		return err
	}
	launcher, err := h.stack.PID(stack.Envoy)
	if err != nil {
		return err
	}
	below, err := tree(launcher)
	if err != nil || len(below) != 2 {
		return fmt.Errorf("%d processes below Envoy's launcher: %w", len(below)-1, err)
	}
	h.kbEnvoy = below[1]
	return nil
}

// await waits until something accepts at an address.
func (h *house) await(ctx context.Context, name, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(h.dir, name+".log"))
			return fmt.Errorf("%s does not listen at %s: %w\n%s", name, address, err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func freeAddresses(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are known, so that they differ
		out = append(out, l.Addr().String())
	}
	return out, nil
}

func fill(name, text string, data any) ([]byte, error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// get is the body of a URL.
func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return string(b), err
}
