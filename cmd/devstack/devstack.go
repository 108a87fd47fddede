// Package devstack runs the processes of `keybridge dev` on one machine: keepers,
// control plane, bridge, Envoy, started and stopped in the order in which they
// need each other. It holds no secret and knows no protocol.
package devstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is one child: its name (log file, pids.json) and how to know that it is up.
type Process struct {
	Name string
	Args []string // of the keybridge binary
	// Up answers nil once the next process may start. Nil: at once.
	Up func(ctx context.Context) error
	// Grace is how long the process may take to stop before it is killed.
	Grace time.Duration
}

// Stack starts Processes in order and stops them in reverse.
type Stack struct {
	Binary    string // the keybridge executable
	Dir       string // logs/ and pids.json go here
	Processes []Process
	Log       *slog.Logger
}

type child struct {
	Process
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
}

// Run starts every process, calls ready, and blocks until ctx ends; then it stops
// them in reverse order. A process that ends early is reported, not restarted:
// what the others do without it is what the stack is there to show.
func (s *Stack) Run(ctx context.Context, ready func() error) (err error) {
	if err := os.MkdirAll(filepath.Join(s.Dir, "logs"), 0o700); err != nil {
		return err
	}
	var children []*child
	defer func() { err = errors.Join(err, s.stop(children)) }()
	for _, p := range s.Processes {
		c, err := s.start(ctx, p)
		if err != nil {
			return fmt.Errorf("start %s: %w", p.Name, err)
		}
		children = append(children, c)
		if err := writePIDs(s.Dir, children); err != nil {
			return err
		}
		if p.Up == nil {
			continue
		}
		if err := c.waitUp(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // stopped while starting: not a failure
			}
			return fmt.Errorf("%s: %w (see %s)", p.Name, err, s.logFile(p.Name))
		}
	}
	if err := ready(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (s *Stack) logFile(name string) string { return filepath.Join(s.Dir, "logs", name+".log") }

func (s *Stack) start(ctx context.Context, p Process) (*child, error) {
	logFile, err := os.OpenFile(s.logFile(p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	// Not bound to ctx: its end stops the stack in order, it does not kill.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.Binary, p.Args...) //nolint:gosec // our own executable
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true, // a Ctrl-C at the terminal is for the stack alone
		Pdeathsig: syscall.SIGTERM,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{Process: p, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		if err := cmd.Wait(); err != nil {
			s.Log.Warn("process ended", "process", p.Name, "pid", cmd.Process.Pid, "status", err)
		}
	}()
	return c, nil
}

// waitUp asks c.Up until it answers nil, the process ends or ctx does. What answers
// after the process has ended is not it.
func (c *child) waitUp(ctx context.Context) error {
	for {
		err := c.Up(ctx)
		select {
		case <-c.done:
			return errors.New("ended while starting")
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Stack) stop(children []*child) error {
	var errs []error
	for i := len(children) - 1; i >= 0; i-- {
		c := children[i]
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
		select {
		case <-c.done:
		case <-time.After(c.Grace):
			errs = append(errs, fmt.Errorf("%s did not stop within %s and was killed", c.Name, c.Grace))
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
	return errors.Join(errs...)
}

func writePIDs(dir string, children []*child) error {
	pids := map[string]int{}
	for _, c := range children {
		pids[c.Name] = c.cmd.Process.Pid
	}
	raw, err := json.MarshalIndent(pids, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, "pids.json"), raw)
}

// WriteFile replaces path in one step, so that a reader sees all of it or none.
func WriteFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Listening is up once something accepts at a TCP address.
func Listening(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// Answers is up once url answers 200.
func Answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}
