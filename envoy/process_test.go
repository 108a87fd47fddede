package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"keybridge/envoy"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// shortDir is a directory whose path leaves room for a unix socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func timeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// ads serves an Envoy from a socket in dir.
func ads(t *testing.T, dir string, cds, lds map[string]proto.Message) (socket string) {
	t.Helper()
	s, err := xds.NewServer(xds.Config{
		Types:     xds.EnvoyTypes(),
		Authorize: func(context.Context) (string, string, error) { return "n", "g", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for typeURL, m := range map[string]map[string]proto.Message{resourcev3.ClusterType: cds, resourcev3.RouteType: nil, resourcev3.ListenerType: lds, resourcev3.SecretType: nil} {
		if _, err := s.Set("g", typeURL, m); err != nil {
			t.Fatal(err)
		}
	}
	g := grpc.NewServer()
	s.Register(g)
	socket = filepath.Join(dir, "ads.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		g.Stop()
		<-done
	})
	return socket
}

func start(t *testing.T, cfg envoy.Config) (*envoy.Process, *syncBuffer) {
	t.Helper()
	binary, err := envoy.Find("")
	if err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	cfg.Binary, cfg.NodeID, cfg.Concurrency, cfg.Log = binary, "n", 1, log
	p, err := envoy.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Stop(context.Background())
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", log)
		}
	})
	return p, log
}

func TestLifecycle(t *testing.T) {
	dir := shortDir(t)
	own := filepath.Join(dir, "envoy")
	p, log := start(t, envoy.Config{Dir: own, ADSSocket: ads(t, dir, nil, nil)})
	if err := p.Ready(timeout(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	info, err := p.Admin(t.Context(), "/server_info")
	if err != nil || !bytes.Contains(info, []byte(`"LIVE"`)) || !bytes.Contains(info, []byte("/"+envoy.Version+"/")) {
		t.Errorf("%v: %s", err, info)
	}
	for path, want := range map[string]os.FileMode{own: 0o700, filepath.Join(own, "admin.sock"): 0o600, filepath.Join(own, "bootstrap.json"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, st.Mode().Perm(), err, want)
		}
	}
	if tcp := listeningTCP(t, p.PID()); len(tcp) > 0 {
		t.Errorf("Envoy listens on TCP: %q", tcp)
	}
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID())); err != nil || len(env) > 0 {
		t.Errorf("Envoy's environment: %q, %v", env, err)
	}
	if err := p.Stop(timeout(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("stopped, but not done")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	if !strings.Contains(log.String(), "caught ENVOY_SIGTERM") {
		t.Errorf("the log was not captured: %q", log)
	}
}

// listeningTCP returns the process's sockets that listen on TCP.
func listeningTCP(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	mine := make(map[string]bool)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			mine[target] = true
		}
	}
	var out []string
	for _, table := range []string{"tcp", "tcp6"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && mine["socket:["+f[9]+"]"] {
				out = append(out, line)
			}
		}
	}
	return out
}

func TestEndsByItself(t *testing.T) {
	dir := shortDir(t)
	p, _ := start(t, envoy.Config{Dir: filepath.Join(dir, "envoy"), ADSSocket: ads(t, dir, nil, nil)})
	if err := p.Ready(timeout(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if p.Err() != nil {
		t.Error("an error while it runs")
	}
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
	if err := p.Ready(timeout(t, 20*time.Second)); err == nil {
		t.Error("ready after it ended")
	}
}

func TestStopWithoutBridge(t *testing.T) {
	dir := shortDir(t)
	p, _ := start(t, envoy.Config{Dir: filepath.Join(dir, "envoy"), ADSSocket: filepath.Join(dir, "nobody.sock"), Drain: time.Second})
	if err := p.Stop(timeout(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
}

func TestStartErrors(t *testing.T) {
	dir := shortDir(t)
	for name, cfg := range map[string]envoy.Config{
		"no binary":           {Binary: filepath.Join(dir, "none"), Dir: dir, ADSSocket: "a", NodeID: "n"},
		"long ADS socket":     {Binary: "/bin/true", Dir: dir, ADSSocket: "/" + strings.Repeat("x", 107), NodeID: "n"},
		"long directory":      {Binary: "/bin/true", Dir: filepath.Join(dir, strings.Repeat("x", 100)), ADSSocket: "/a", NodeID: "n"},
		"no node":             {Binary: "/bin/true", Dir: dir, ADSSocket: "/a"},
		"directory is a file": {Binary: "/bin/true", Dir: "/dev/null", ADSSocket: "/a", NodeID: "n"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := envoy.Start(t.Context(), cfg)
			if err == nil {
				_ = p.Stop(t.Context())
				t.Fatal("started")
			}
			t.Log(err)
		})
	}
}

// A request under way is answered before Envoy ends, and the listener takes no new work.
func TestStopDrains(t *testing.T) {
	dir := shortDir(t)
	arrived, finish := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finish
		_, _ = io.WriteString(w, "finished")
	}))
	t.Cleanup(up.Close)
	e := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(up.Listener.Addr().(*net.TCPAddr).Port)}
	cds, lds, addr := plainProxy(t, e)
	p, _ := start(t, envoy.Config{Dir: filepath.Join(dir, "envoy"), ADSSocket: ads(t, dir, cds, lds), Drain: 20 * time.Second})
	if err := p.Ready(timeout(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}

	type result struct {
		body string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		resp, err := http.Get("http://" + addr + "/")
		if err != nil {
			got <- result{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		got <- result{string(body), err}
	}()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(timeout(t, 40*time.Second)) }()
	waitFor(t, p, "DRAINING")
	close(finish)
	if r := <-got; r.err != nil || r.body != "finished" {
		t.Errorf("the request under way: %q, %v", r.body, r.err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// waitFor blocks until Envoy's /ready says so.
func waitFor(t *testing.T, p *envoy.Process, state string) {
	t.Helper()
	ctx := timeout(t, 20*time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if body, err := p.Admin(ctx, "/ready"); err == nil && strings.TrimSpace(string(body)) == state {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("Envoy is not %s", state)
		}
	}
}

// plainProxy is a listener without a bridge: everything goes to the endpoint.
func plainProxy(t *testing.T, e translate.Endpoint) (cds, lds map[string]proto.Message, addr string) {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	_ = probe.Close()
	r, problems := translate.Render(translate.Input{
		Listeners:     []*configv1.Listener{{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: uint32(port)}},
		Endpoints:     []translate.Endpoint{e},
		ExtProcSocket: "/nobody",
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	l, ok := r.LDS["s3"].(*listenerv3.Listener)
	if !ok {
		t.Fatal("no listener")
	}
	filter := l.GetFilterChains()[0].GetFilters()[0]
	var manager hcmv3.HttpConnectionManager
	if err := filter.GetTypedConfig().UnmarshalTo(&manager); err != nil {
		t.Fatal(err)
	}
	manager.HttpFilters = manager.GetHttpFilters()[len(manager.GetHttpFilters())-1:] // the router
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: "plain",
		VirtualHosts: []*routev3.VirtualHost{{
			Name: "plain", Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: e.Cluster()}}},
			}},
		}},
	}}
	packed, err := anypb.New(&manager)
	if err != nil {
		t.Fatal(err)
	}
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	return r.CDS, r.LDS, "127.0.0.1:" + strconv.Itoa(port)
}

const helperEnv = "KEYBRIDGE_TEST_ENVOY_DIR"

// TestMain lets the test binary be the parent that TestDiesWithParent kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		parent(dir)
		return
	}
	os.Exit(m.Run())
}

func parent(dir string) {
	binary, err := envoy.Find("")
	if err == nil {
		var p *envoy.Process
		p, err = envoy.Start(context.Background(), envoy.Config{Binary: binary, Dir: dir, ADSSocket: filepath.Join(dir, "ads.sock"), NodeID: "n"})
		if err == nil {
			fmt.Println(p.PID())
			<-p.Done()
			err = p.Err()
		}
	}
	fmt.Println("ended:", err)
	os.Exit(1)
}

func TestDiesWithParent(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), helperEnv+"="+shortDir(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ctx := timeout(t, 20*time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running(pid) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("Envoy %d outlived its parent", pid)
		}
	}
}

// running is false of a process that is gone, or dead and not yet waited for.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(state, []byte("Z")) && !bytes.HasPrefix(state, []byte("X"))
}
