package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Names of the processes of a stack, as in Dir/pids.json.
const (
	Control = "control"
	Bridge  = "bridge"
	Envoy   = "envoy"
)

// Keepers are the names of the three keepers; two are needed.
var Keepers = []string{"keeper-1", "keeper-2", "keeper-3"}

// Config says how to start a stack.
type Config struct {
	Binary string // the keybridge executable
	Dir    string // state; a second start with the same one finds everything
	// S3, AI and Admin are the addresses to listen on, as host:port. Empty ones
	// are chosen by Start and filled in.
	S3, AI, Admin string
	S3Domains     []string // whose subdomains are buckets
	DNS           string   // server for names of providers; empty for the host's
	TLS           string   // CERT.pem,KEY.pem of the S3 and AI listeners; empty for plain HTTP
	Without       []string // keepers that are not started
	LogLevel      string   // of all processes; empty for the default
	Concurrency   int      // Envoy's worker threads; 0: one per core
	Env           []string // of all processes; nil for the caller's
	Output        io.Writer
}

// Endpoints is what a stack writes once all of it is ready.
type Endpoints struct {
	S3             string `json:"s3"`
	AI             string `json:"ai"`
	Admin          string `json:"admin"`
	AdminTokenFile string `json:"adminTokenFile"`
	OperatorRoot   string `json:"operatorRoot"` // file with the public half
	Health         string `json:"health"`       // of the bridge: /live and /ready
}

// Stack is a running `keybridge dev`.
type Stack struct {
	Config
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of the process; valid once done is closed
}

// Start starts a stack. It returns as soon as the process runs; see Ready.
func Start(config Config) (*Stack, error) {
	if err := config.complete(); err != nil {
		return nil, err
	}
	// What an earlier run left must not be taken for this one's.
	for _, name := range []string{"endpoints.json", "pids.json"} {
		if err := os.Remove(filepath.Join(config.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	args := []string{"dev", "--state", config.Dir, "--s3", config.S3, "--ai", config.AI, "--admin", config.Admin}
	for _, domain := range config.S3Domains {
		args = append(args, "--s3-domain", domain)
	}
	if config.DNS != "" {
		args = append(args, "--dns", config.DNS)
	}
	if config.TLS != "" {
		args = append(args, "--tls", config.TLS)
	}
	if len(config.Without) > 0 {
		args = append(args, "--without", strings.Join(config.Without, ","))
	}
	if config.LogLevel != "" {
		args = append(args, "--log-level", config.LogLevel)
	}
	if config.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(config.Concurrency))
	}
	s := &Stack{Config: config, cmd: exec.Command(config.Binary, args...), done: make(chan struct{})}
	s.cmd.Env = config.Env
	s.cmd.Stdout, s.cmd.Stderr = config.Output, config.Output
	// A group of its own: Ctrl-C reaches the stack through Stop, in order. Should the
	// caller die without that, the stack stops by itself.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("keybridge dev: %w", err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

func (c *Config) complete() error {
	if c.Binary == "" || c.Dir == "" {
		return errors.New("stack: no binary or state folder")
	}
	// Held until all are known, so that they differ.
	for _, address := range []*string{&c.S3, &c.AI, &c.Admin} {
		if *address != "" {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		*address = l.Addr().String()
	}
	if c.Output == nil {
		c.Output = io.Discard
	}
	return nil
}

// Ready waits until the stack has written its endpoints.
func (s *Stack) Ready(ctx context.Context) (Endpoints, error) {
	var e Endpoints
	err := s.Wait(ctx, func() error {
		b, err := os.ReadFile(s.path("endpoints.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &e)
	})
	if err != nil {
		return Endpoints{}, fmt.Errorf("keybridge dev is not ready: %w", err)
	}
	return e, nil
}

// Wait asks holds again and again until it answers nil, the stack ends, or ctx
// does; then it returns the last answer.
func (s *Stack) Wait(ctx context.Context, holds func() error) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return errors.Join(errors.New("keybridge dev has ended"), s.err, err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Stop stops the stack as Ctrl-C does and waits for it. A stack that has not
// ended when ctx does is killed.
func (s *Stack) Stop(ctx context.Context) error {
	_ = s.cmd.Process.Signal(os.Interrupt) // fails only when it has ended
	select {
	case <-s.done:
	case <-ctx.Done():
		_ = s.cmd.Process.Kill()
		<-s.done
		return errors.Join(errors.New("keybridge dev did not stop in time and was killed"), s.err)
	}
	if s.err != nil {
		return fmt.Errorf("keybridge dev: %w", s.err)
	}
	return nil
}

// Done is closed once the stack has ended.
func (s *Stack) Done() <-chan struct{} { return s.done }

func (s *Stack) path(name string) string { return filepath.Join(s.Dir, name) }

// AdminToken reads the admin token of a stack that is, or once was, ready.
func (s *Stack) AdminToken() (string, error) {
	b, err := os.ReadFile(s.path("admin.token"))
	return strings.TrimSpace(string(b)), err
}

// PID is the process id of one of the stack's processes.
func (s *Stack) PID(name string) (int, error) {
	b, err := os.ReadFile(s.path("pids.json"))
	if err != nil {
		return 0, err
	}
	pids := map[string]int{}
	if err := json.Unmarshal(b, &pids); err != nil {
		return 0, fmt.Errorf("pids.json: %w", err)
	}
	if pids[name] == 0 {
		return 0, fmt.Errorf("pids.json names no %s", name)
	}
	return pids[name], nil
}

// PIDs are the ids of all processes of the stack, Envoy below its launcher among
// them, by what the process table says.
func (s *Stack) PIDs() ([]int, error) { return Descendants(s.cmd.Process.Pid) }

// Descendants are a process and those that it has started, as far as they run.
func Descendants(of int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parent := map[int]int{}
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (comm) state ppid …, and comm may hold anything (proc(5)).
		rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		ppid, err2 := strconv.Atoi(rest[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if rest[0] != "Z" {
			parent[pid] = ppid
		}
	}
	all := []int{of}
	for i := 0; i < len(all); i++ {
		for pid, ppid := range parent {
			if ppid == all[i] {
				all = append(all, pid)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// Kill ends one process at once, without a chance to clean up, and waits until
// its process id is free.
func (s *Stack) Kill(ctx context.Context, name string) error {
	pid, err := s.PID(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing %s: %w", name, err)
	}
	return s.Wait(ctx, func() error {
		if syscall.Kill(pid, 0) == nil {
			return fmt.Errorf("%s has not ended", name)
		}
		return nil
	})
}

// Args is the command line of one of the stack's processes.
func (s *Stack) Args(name string) ([]string, error) {
	pid, err := s.PID(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), nil
}

// Log is what one of the stack's processes has logged, over all starts.
func (s *Stack) Log(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.Dir, "logs", name+".log"))
	return string(b), err
}
