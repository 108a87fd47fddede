package leak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/e2e/proc"
)

// AtExit ends a process with a signal and holds it where it is about to give its
// memory back, everything that it does on its way out done; there it calls look
// with the folder in /proc of the thread that is held. It returns once the process has
// ended, and fails if its status was not 0. It needs what ptrace(2) of that process
// needs, and that it is no child of the caller, whose own wait would see its stops.
//
// ended says whether the process as a whole is on its way out: a thread may end alone.
func AtExit(ctx context.Context, pid int, signal unix.Signal, ended func() bool, look func(proc string) error) error {
	result := make(chan error, 1)
	go func() {
		// A tracer is a thread. Given back and not ended, as processes that were started
		// on it with a Pdeathsig would get that.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		result <- (&tracer{pid: pid, known: map[int]bool{}}).run(ctx, signal, ended, look)
	}()
	return <-result
}

type tracer struct {
	pid   int
	known map[int]bool // threads that are traced
	// status that the process has ended with.
	status unix.WaitStatus
}

const traceOptions = unix.PTRACE_O_TRACEEXIT | unix.PTRACE_O_TRACECLONE

func (t *tracer) run(ctx context.Context, signal unix.Signal, ended func() bool, look func(proc string) error) error {
	for added := true; added; { // threads that start meanwhile
		var err error
		if added, err = t.seize(); err != nil {
			return err
		}
	}
	if err := unix.Kill(t.pid, signal); err != nil {
		return fmt.Errorf("leak: %w", err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	seen, looked := false, errors.New("it was not held")
	for len(t.known) > 0 {
		for _, thread := range t.threads() { // those that cloned threads bring, too
			t.known[thread] = true
		}
		for thread := range t.known {
			held, err := t.serve(thread, ended)
			if err != nil {
				return err
			}
			if held { // every thread is, in turn
				if !seen {
					seen, looked = true, look(fmt.Sprintf("/proc/%d/task/%d", t.pid, thread))
				}
				if err := unix.PtraceCont(thread, 0); err != nil && !errors.Is(err, unix.ESRCH) {
					return errors.Join(looked, os.NewSyscallError("ptrace", err))
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("leak: process %d does not end: %w", t.pid, context.Cause(ctx))
		case <-tick.C:
		}
	}
	if looked != nil {
		return fmt.Errorf("leak: process %d has ended: %w", t.pid, looked)
	}
	if t.status != 0 {
		return fmt.Errorf("leak: process %d has ended with status %#x", t.pid, t.status)
	}
	return nil
}

func (t *tracer) threads() []int {
	all, _ := proc.Threads(t.pid) // none, if it has ended
	return all
}

// seize traces the threads that are not traced yet.
func (t *tracer) seize() (added bool, err error) {
	for _, thread := range t.threads() {
		if t.known[thread] {
			continue
		}
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(thread), 0, traceOptions, 0, 0)
		switch {
		case errno == unix.ESRCH: // ended
			continue
		case errno == unix.EPERM && len(t.known) > 0: // cloned by one that is traced
		case errno != 0:
			return false, fmt.Errorf("leak: tracing process %d: %w", t.pid, os.NewSyscallError("ptrace", errno))
		}
		t.known[thread] = true
		added = true
	}
	return added, nil
}

// serve lets a thread that has stopped go on, but for one that ends with its process.
func (t *tracer) serve(thread int, ended func() bool) (held bool, err error) {
	var status unix.WaitStatus
	id, err := unix.Wait4(thread, &status, unix.WNOHANG|unix.WALL, nil)
	switch {
	case errors.Is(err, unix.ECHILD) || errors.Is(err, unix.ESRCH):
		delete(t.known, thread)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("leak: wait: %w", err)
	case id == 0:
		return false, nil // runs
	case status.Exited() || status.Signaled():
		if thread == t.pid {
			t.status = status
		}
		delete(t.known, thread)
		return false, nil
	}
	deliver := 0
	switch event := int(status>>16) & 0xff; {
	case event == unix.PTRACE_EVENT_EXIT && ended():
		return true, nil
	case event == 0:
		deliver = int(status.StopSignal())
	}
	if err := unix.PtraceCont(thread, deliver); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("leak: continuing thread %d: %w", thread, err)
	}
	return false, nil
}
