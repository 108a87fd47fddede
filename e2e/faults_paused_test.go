package e2e_test

import (
	"syscall"
	"testing"
	"time"

	"keybridge/e2e/stack"
)

// TestFaultPaused stops processes for a while (SIGSTOP), as a host that is short of memory or
// a virtual machine that moves does: to the process, both of its clocks jump.
func TestFaultPaused(t *testing.T) {
	f := startFaults(t)
	clerk := f.startClerk(t)
	f.kill(t, stack.Bridge)
	f.starts(t, stack.Bridge, "--max-stale", "1s")
	f.load.recovers(t, time.Now())
	pauses := func(t *testing.T, name string) (goesOn func()) {
		t.Helper()
		began := time.Now()
		f.signal(t, name, syscall.SIGSTOP)
		resume := func() { _ = syscall.Kill(f.pid(t, name), syscall.SIGCONT) } // it may run already
		t.Cleanup(resume)
		return func() {
			resume()
			t.Logf("%s paused for %v", name, time.Since(began).Round(time.Millisecond))
			f.load.recovers(t, time.Now())
			f.load.outage(t, name+" paused", began)
		}
	}
	t.Run("bridge", func(t *testing.T) {
		goesOn := pauses(t, stack.Bridge)
		f.load.fails(t, time.Now()) // Envoy waits 2 s for it
		goesOn()
		f.says(t, "ready") // for longer than --max-stale, but its control plane is there
	})
	t.Run("Envoy", func(t *testing.T) {
		began := time.Now()
		goesOn := pauses(t, stack.Envoy) // the launcher: nothing happens
		f.load.goesOn(t, began)
		goesOn()
		pid := f.envoyPID(t)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		clerk.goesOn(t)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		f.load.goesOn(t, began) // clients wait, and are served
	})
	t.Run("keepers", func(t *testing.T) {
		began := time.Now()
		first, second := pauses(t, "keeper-1"), pauses(t, "keeper-2")
		f.load.goesOn(t, began)
		f.kill(t, stack.Bridge)
		f.starts(t, stack.Bridge)
		f.says(t, "unsealing", `"keeper-3","state":"good"`)
		f.load.fails(t, time.Now())
		first()
		f.says(t, "ready")
		second()
	})
	clerk.end(t)
	f.takesChanges(t)
}
