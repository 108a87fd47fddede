package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keybridge/e2e/stack"
)

// faults is a world under load whose processes a test breaks. docs/faults.md says of each
// fault what clients see; these tests are what it rests on.
type faults struct {
	*world
	load *steady
	args map[string][]string // of each process, as the stack started it
	own  map[string]*restarted
}

// restarted is a process that the test has started in place of the stack's.
type restarted struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startFaults(t *testing.T) *faults {
	t.Helper()
	f := underControl(t)
	f.load = f.startSteady(t, pace)
	t.Cleanup(func() { f.load.end(t) })
	return f
}

// underControl is the world without the load.
func underControl(t *testing.T) *faults {
	t.Helper()
	w := start(t, config{})
	f := &faults{world: w, args: map[string][]string{}, own: map[string]*restarted{}}
	for _, name := range append([]string{stack.Control, stack.Bridge, stack.Envoy}, stack.Keepers...) {
		args, err := w.Args(name)
		if err != nil {
			t.Fatal(err)
		}
		f.args[name] = args
	}
	// They end after the load, which is started later.
	t.Cleanup(func() {
		for name, p := range f.own {
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			select {
			case <-p.done:
			case <-time.After(20 * time.Second):
				t.Errorf("%s does not stop", name)
				_ = p.cmd.Process.Kill()
				<-p.done
			}
		}
		w.scanFiles(t)
	})
	return f
}

// pid is that of a process, whoever started it; of Envoy's launcher, not of Envoy.
func (f *faults) pid(t *testing.T, name string) int {
	t.Helper()
	if p := f.own[name]; p != nil {
		return p.cmd.Process.Pid
	}
	pid, err := f.PID(name)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// envoyPID is that of Envoy itself.
func (f *faults) envoyPID(t *testing.T) int {
	t.Helper()
	pids, err := stack.Descendants(f.pid(t, stack.Envoy))
	if err != nil || len(pids) != 2 {
		t.Fatalf("Envoy's launcher and its children are %v: %v", pids, err)
	}
	for _, pid := range pids {
		if pid != f.pid(t, stack.Envoy) {
			return pid
		}
	}
	return 0
}

func (f *faults) signal(t *testing.T, name string, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(f.pid(t, name), s); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// kill ends a process at once and waits until it is gone.
func (f *faults) kill(t *testing.T, name string) {
	t.Helper()
	if name == stack.Envoy { // the launcher then ends by itself
		if err := syscall.Kill(f.envoyPID(t), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	} else {
		f.signal(t, name, syscall.SIGKILL)
	}
	f.ends(t, name)
}

// ends waits until a process has ended.
func (f *faults) ends(t *testing.T, name string) {
	t.Helper()
	pid := f.pid(t, name)
	f.until(t, name+" ends", func() error {
		if syscall.Kill(pid, 0) == nil {
			return errNotYet
		}
		return nil
	})
}

// starts starts a process that has ended, as whatever supervises it would: with the command
// line that it had, and more.
func (f *faults) starts(t *testing.T, name string, more ...string) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(f.Dir, "logs", name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := f.args[name]
	cmd := exec.Command(args[0], append(args[1:len(args):len(args)], more...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = f.Env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &restarted{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it may be killed; its log says what else there is to say
		close(p.done)
	}()
	f.own[name] = p
}

// says waits until the bridge is in a state, and what it says of that has all words.
func (f *faults) says(t *testing.T, state string, words ...string) {
	t.Helper()
	f.until(t, "the bridge is "+state, func() error {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.endpoints.Health+"/ready", http.NoBody)
		if err != nil {
			return err
		}
		a, err := ask(q)
		if err != nil {
			return err
		}
		for _, word := range append(words, fmt.Sprintf(`"state":%q`, state)) {
			if !strings.Contains(a.body, word) || (a.status == http.StatusOK) != (state == "ready") {
				return fmt.Errorf("it says %d %s", a.status, a.body)
			}
		}
		return nil
	})
}

// answers waits until a request has a status.
func (f *faults) answers(t *testing.T, what string, q s3Request, status int) {
	t.Helper()
	f.until(t, what, func() error {
		if a, err := f.askS3(t.Context(), q); err != nil || a.status != status {
			return fmt.Errorf("%v: %w", a, errors.Join(err, errNotYet))
		}
		return nil
	})
}

// TestFaultKilled kills each process with SIGKILL and starts it again, as often as it says.
func TestFaultKilled(t *testing.T) {
	f := startFaults(t)
	for _, name := range []string{stack.Bridge, stack.Envoy} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			f.kill(t, name)
			f.load.fails(t, time.Now())
			f.starts(t, name)
			f.load.recovers(t, time.Now())
			f.load.outage(t, name+" killed", began)
		})
	}
	t.Run("control plane", func(t *testing.T) {
		began, clerk := time.Now(), f.startClerk(t)
		for range 5 {
			clerk.goesOn(t)
			f.killControl(t)
			f.load.goesOn(t, began)
		}
		clerk.end(t, "", "UNAVAILABLE")
		f.takesChanges(t)
		f.load.goesOn(t, began)
	})
	t.Run("Envoy without a control plane", func(t *testing.T) {
		f.kill(t, stack.Control)
		f.kill(t, stack.Envoy)
		f.starts(t, stack.Envoy)
		f.load.recovers(t, time.Now())
		f.starts(t, stack.Control)
		f.takesChanges(t)
	})
	t.Run("one keeper", func(t *testing.T) {
		began := time.Now()
		f.kill(t, "keeper-1")
		f.load.goesOn(t, began)
		f.kill(t, stack.Bridge)
		f.starts(t, stack.Bridge)
		f.says(t, "ready")
		f.load.recovers(t, time.Now())
	})
	t.Run("two keepers", func(t *testing.T) {
		began := time.Now()
		f.kill(t, "keeper-2")
		f.load.goesOn(t, began)
		f.kill(t, stack.Bridge)
		f.starts(t, stack.Bridge)
		f.says(t, "unsealing", `"keeper-1","state":"unreachable"`, `"keeper-2","state":"unreachable"`, `"keeper-3","state":"good"`)
		f.load.fails(t, time.Now())
		f.starts(t, "keeper-2")
		f.load.recovers(t, time.Now())
		f.starts(t, "keeper-1")
		f.load.outage(t, "keepers killed, then the bridge", began)
	})
}

// takesChanges waits until a key that is made now works, and one that is deleted does not.
func (f *faults) takesChanges(t *testing.T) {
	t.Helper()
	var key stack.Key
	f.until(t, "a new key", func() (err error) {
		key, err = f.tenant.StorageKey(t.Context(), f.repository, "made after a fault", "READ")
		return err
	})
	get := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: key}
	f.answers(t, "a new key in use", get, http.StatusOK)
	if err := f.tenant.DeleteStorageKey(t.Context(), f.repository, key.ID); err != nil {
		t.Fatal(err)
	}
	f.answers(t, "a deleted key", get, http.StatusForbidden)
}
