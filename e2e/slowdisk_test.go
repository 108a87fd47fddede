package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"keybridge/e2e/proc"
)

// slowDisk is a disk that takes its time, as one process sees it: every fsync(2) and
// fdatasync(2) of its begins later. The thread that calls one is held at its entry
// (ptrace(2)), as strace's --inject=fsync:delay_enter= does; all others go on.
type slowDisk struct {
	delay time.Duration
	held  atomic.Int64 // calls that were, so far
	stop  chan struct{}
	done  chan error

	// Of the tracing goroutine.
	threads map[int]time.Time // until when each is held; zero: it is not
}

// slowDown slows the disk of a process down until undo. It says whether it may: a kernel or
// container can forbid it. Where CI runs it must be allowed.
func slowDown(t *testing.T, pid int, delay time.Duration) (d *slowDisk, undo func(), may bool) {
	t.Helper()
	d = &slowDisk{delay: delay, stop: make(chan struct{}), done: make(chan error, 1), threads: map[int]time.Time{}}
	attached := make(chan error, 1)
	go func() {
		// All of it comes from the thread that attached.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.attach(pid)
		attached <- err
		if err == nil {
			err = d.run()
		}
		d.done <- errors.Join(err, d.detach())
	}()
	undone := false
	undo = func() {
		t.Helper()
		if undone {
			return
		}
		undone = true
		close(d.stop)
		if err := <-d.done; err != nil {
			t.Error(err)
		}
	}
	if err := <-attached; err != nil {
		if !errors.Is(err, unix.EPERM) || os.Getenv("CI") != "" || os.Getuid() == 0 {
			t.Fatal(err)
		}
		t.Logf("NOT TESTED: the control plane's disk was not slowed down, as ptrace(2) is forbidden (%v)", err)
		return d, func() {}, false
	}
	t.Cleanup(undo)
	return d, undo, true
}

// attach takes all threads of a process; those that it starts later come by themselves.
func (d *slowDisk) attach(pid int) error {
	for found := true; found; {
		found = false
		threads, err := proc.Threads(pid)
		if err != nil {
			return err
		}
		for _, tid := range threads {
			if _, known := d.threads[tid]; known {
				continue
			}
			const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
			if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0); e != 0 {
				if e == unix.ESRCH {
					continue // it ended
				}
				return fmt.Errorf("ptrace thread %d: %w", tid, e)
			}
			d.threads[tid], found = time.Time{}, true
			if err := unix.PtraceInterrupt(tid); err != nil {
				return fmt.Errorf("interrupt thread %d: %w", tid, err)
			}
		}
	}
	return nil
}

// run lets every thread go on from call to call.
func (d *slowDisk) run() error {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return nil
		case <-tick.C:
		}
		for busy := true; busy; {
			busy = false
			for tid, until := range d.threads {
				moved, err := d.step(tid, until)
				if err != nil {
					return err
				}
				busy = busy || moved
			}
		}
	}
}

// step looks at one thread, and says whether it had stopped.
func (d *slowDisk) step(tid int, until time.Time) (moved bool, err error) {
	if !until.IsZero() {
		if time.Now().Before(until) {
			return false, nil
		}
		d.threads[tid] = time.Time{}
		return true, gone(unix.PtraceSyscall(tid, 0))
	}
	var ws unix.WaitStatus
	switch got, err := unix.Wait4(tid, &ws, unix.WNOHANG|unix.WALL, nil); {
	case errors.Is(err, unix.ECHILD), err == nil && got == tid && !ws.Stopped():
		delete(d.threads, tid) // it ended
		return false, nil
	case err != nil:
		return false, fmt.Errorf("wait for thread %d: %w", tid, err)
	case got == 0:
		return false, nil
	}
	signal := 0
	switch s := ws.StopSignal(); {
	case s == unix.SIGTRAP|0x80: // a call begins or ends (PTRACE_O_TRACESYSGOOD)
		if entersSync(tid) {
			d.held.Add(1)
			d.threads[tid] = time.Now().Add(d.delay)
			return true, nil
		}
	case ws.TrapCause() == unix.PTRACE_EVENT_CLONE:
		child, err := unix.PtraceGetEventMsg(tid)
		if err != nil {
			return false, gone(err)
		}
		d.threads[int(child)] = time.Time{}
	case s != unix.SIGTRAP:
		signal = int(s)
	}
	return true, gone(unix.PtraceSyscall(tid, signal))
}

// entersSync says whether a thread that has stopped is about to write to disk.
func entersSync(tid int) bool {
	// The beginning of struct ptrace_syscall_info.
	var info struct {
		op   uint8
		_    [3]uint8
		arch uint32
		_    [2]uint64
		call uint64
	}
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	return e == 0 && info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && (info.call == unix.SYS_FSYNC || info.call == unix.SYS_FDATASYNC)
}

// detach lets all threads go.
func (d *slowDisk) detach() error {
	for tid, until := range d.threads {
		if until.IsZero() {
			if unix.PtraceInterrupt(tid) != nil {
				continue // it ended
			}
			var ws unix.WaitStatus
			if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err != nil || !ws.Stopped() {
				continue
			}
		}
		if err := gone(unix.PtraceDetach(tid)); err != nil {
			return fmt.Errorf("detach thread %d: %w", tid, err)
		}
	}
	return nil
}

// gone lets a thread end at any time.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
