package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Config is what Start needs.
type Config struct {
	// Binary is the path of Envoy (Find).
	Binary string
	// Dir is a directory for this Envoy alone: bootstrap and admin socket. It is
	// made if missing, and closed to other users.
	Dir string
	// ADSSocket is the unix socket of the bridge's ADS server.
	ADSSocket string
	// NodeID is what Envoy calls itself towards the bridge.
	NodeID string
	// Concurrency is the number of worker threads; 0: one per CPU.
	Concurrency int
	// Log gets what Envoy writes; nil discards it.
	Log io.Writer
	// Drain is how long Stop lets requests finish; 0: not at all.
	Drain time.Duration
}

// Process is a running Envoy.
type Process struct {
	cmd    *exec.Cmd
	drain  time.Duration
	client *http.Client
	done   chan struct{}
	err    error // why it ended; set before done is closed
}

// killAfter is how long Envoy may take to end after SIGTERM.
const killAfter = 5 * time.Second

// Start starts Envoy and returns at once; see Ready. When ctx ends, Envoy is
// killed; Stop ends it gracefully.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory: 0700 is what closes it to others
		return nil, fmt.Errorf("envoy: %w", err)
	}
	ads, err := filepath.Abs(cfg.ADSSocket)
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	admin := filepath.Join(dir, "admin.sock")
	descriptors, err := raiseDescriptors()
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	config, err := Bootstrap(cfg.NodeID, ads, admin, descriptors)
	if err != nil {
		return nil, err
	}
	bootstrap := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(bootstrap, config, 0o600); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	// A socket left behind would be answered by nobody, or by an Envoy before this one.
	if err := os.Remove(admin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("envoy: %w", err)
	}

	args := []string{
		"--config-path", bootstrap,
		"--log-level", "warning",
		// Without hot restart there is neither a base id to share nor a socket of its
		// own that other processes could find.
		"--disable-hot-restart",
		"--drain-time-s", strconv.Itoa(int((cfg.Drain + time.Second - 1) / time.Second)),
		"--drain-strategy", "immediate",
	}
	if cfg.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(cfg.Concurrency))
	}
	cmd := exec.CommandContext(ctx, cfg.Binary, args...) //nolint:gosec // the operator names the binary
	cmd.Dir = dir
	cmd.Env = []string{} // it needs nothing of ours
	cmd.Stdout, cmd.Stderr = cfg.Log, cfg.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // Ctrl-C at the terminal is for the bridge, which stops Envoy in order
	}
	cmd.WaitDelay = time.Second

	p := &Process{cmd: cmd, drain: cfg.Drain, done: make(chan struct{}), client: &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", admin)
			},
			DisableKeepAlives: true,
		},
	}}
	started := make(chan error, 1)
	go func() {
		// The signal comes when the thread that started the child ends, not the
		// process (prctl(2)): this one stays until Envoy is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		if err := cmd.Wait(); err != nil {
			p.err = fmt.Errorf("envoy: %w", err)
		}
		p.client.CloseIdleConnections()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	return p, nil
}

// raiseDescriptors lets this process, and so its Envoy, have as many descriptors as it may,
// and says how many. Go does so for itself alone: what it starts gets the soft limit that
// there was, of which 1024 is common and soon used up.
func raiseDescriptors() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of descriptors: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of descriptors: %w", err)
	}
	return limit.Cur, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when Envoy has ended; Err then says why.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while Envoy runs, and if it ended with status 0.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Ready returns once Envoy is live: it has had its listeners and clusters from
// the bridge. It fails if Envoy ends before.
func (p *Process) Ready(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		body, err := p.Admin(ctx, "/ready")
		if err == nil && strings.TrimSpace(string(body)) == "LIVE" {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("envoy: ended before it was ready: %w", errors.Join(p.err, errEnded))
		case <-ctx.Done():
			return fmt.Errorf("envoy: not ready: %w", errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

var errEnded = errors.New("process ended")

// Admin asks the admin interface (GET) and returns its answer, whatever its status.
func (p *Process) Admin(ctx context.Context, path string) ([]byte, error) {
	return p.admin(ctx, http.MethodGet, path)
}

func (p *Process) admin(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("envoy: admin: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("envoy: admin: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("envoy: admin: %w", err)
	}
	return body, nil
}

// Stop ends Envoy: no new connections, requests under way may finish until the
// drain time or ctx is over, then SIGTERM, then SIGKILL. It returns when the
// process is gone, with an error if it had ended by itself or had to be killed.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	if p.drain > 0 {
		p.drainRequests(ctx)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("envoy: stopping: %w", err)
	}
	timer := time.NewTimer(killAfter)
	defer timer.Stop()
	select {
	case <-p.done:
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGTERM {
			return nil // it had not come as far as handling the signal
		}
		return p.err
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("envoy: killing: %w", err)
	}
	<-p.done
	return p.err
}

// drainRequests tells load balancers and clients to go elsewhere, and waits until no request is left.
func (p *Process) drainRequests(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.drain)
	defer cancel()
	for _, path := range []string{"/healthcheck/fail", "/drain_listeners?graceful&skip_exit"} {
		if _, err := p.admin(ctx, http.MethodPost, path); err != nil {
			return // nobody to talk to: SIGTERM is what is left
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		active, err := p.activeRequests(ctx)
		if err != nil || active == 0 {
			return
		}
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// activeRequests sums "http.<listener>.downstream_rq_active: <n>" lines.
func (p *Process) activeRequests(ctx context.Context) (int, error) {
	body, err := p.Admin(ctx, `/stats?usedonly&filter=^http\..*\.downstream_rq_active$`)
	if err != nil {
		return 0, err
	}
	total := 0
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "http.admin.") {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("envoy: stat %s: %w", name, err)
		}
		total += n
	}
	return total, nil
}
