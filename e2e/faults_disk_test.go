package e2e_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/e2e/stack"
)

// limit sets the soft limit of a running process, and takes it back when undo is called.
func limit(t *testing.T, pid, resource int, to uint64) (undo func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: to, Max: was.Max}, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := unix.Prlimit(pid, resource, &was, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFaultDiskFull: no file of the control plane may grow beyond a size, which to the writer
// is a full disk (EFBIG of setrlimit(2) for ENOSPC) and needs no privilege: first the store's
// file, then the audit log too, then everything. Changes are refused by name and leave
// nothing behind; when there is room again, they are made again, by the same process.
func TestFaultDiskFull(t *testing.T) {
	f := startFaults(t)
	clerk := f.startClerk(t)
	began := time.Now()
	size := func(name string) uint64 {
		t.Helper()
		fi, err := os.Stat(filepath.Join(f.Dir, "control", name))
		if err != nil {
			t.Fatal(err)
		}
		return uint64(fi.Size())
	}
	for _, full := range []struct {
		name, code string
		at         func() uint64
	}{
		{"store", "STORE_UNWRITABLE", func() uint64 { return size("keybridge.db") }},
		{"pages of the store", "STORE_UNWRITABLE", func() uint64 { return size("keybridge.db") / 2 }},
		{"audit log", "AUDIT_UNAVAILABLE", func() uint64 { return size("audit.log") }},
		{"everything", "AUDIT_UNAVAILABLE", func() uint64 { return 0 }},
	} {
		t.Run(full.name, func(t *testing.T) {
			clerk.goesOn(t)
			undo := limit(t, f.pid(t, stack.Control), unix.RLIMIT_FSIZE, full.at())
			clerk.refused(t, full.code)
			if _, err := f.tenant.StorageKeys(t.Context(), f.repository); err != nil {
				t.Errorf("reading: %v", err)
			}
			undo()
			clerk.goesOn(t)
			clerk.mu.Lock()
			clear(clerk.refusals)
			clerk.mu.Unlock()
		})
	}
	t.Run("killed while it is full", func(t *testing.T) {
		_ = limit(t, f.pid(t, stack.Control), unix.RLIMIT_FSIZE, size("keybridge.db")/2)
		clerk.refused(t, "STORE_UNWRITABLE")
		f.killControl(t)
		clerk.goesOn(t)
	})
	f.load.goesOn(t, began)
	clerk.end(t, "STORE_UNWRITABLE", "AUDIT_UNAVAILABLE", "")
	f.takesChanges(t)
	f.kill(t, stack.Control)
	f.sound(t)
	f.load.goesOn(t, began)
	f.starts(t, stack.Control)
	t.Run("keepers", func(t *testing.T) {
		// A keeper gives no share that it could not write down.
		began := time.Now()
		undo := func() {}
		for _, name := range stack.Keepers[:2] {
			back, one := undo, limit(t, f.pid(t, name), unix.RLIMIT_FSIZE, 0)
			undo = func() { back(); one() }
		}
		f.load.goesOn(t, began)
		f.kill(t, stack.Bridge)
		f.starts(t, stack.Bridge)
		f.says(t, "unsealing", `"keeper-1","state":"refused"`, `"keeper-2","state":"refused"`, `"keeper-3","state":"good"`)
		f.load.fails(t, time.Now())
		undo()
		f.load.recovers(t, time.Now())
		f.load.outage(t, "bridge killed while two keepers' disks are full", began)
	})
}

// TestFaultDiskSlow: what the control plane writes takes seconds to reach the disk. Changes
// wait, reading does not, nor does traffic.
func TestFaultDiskSlow(t *testing.T) {
	f := startFaults(t)
	began := time.Now()
	disk, undo, may := slowDown(t, f.pid(t, stack.Control), time.Second)
	if !may {
		return
	}
	changed := make(chan error, 1)
	go func() {
		_, err := f.tenant.StorageKey(t.Context(), f.repository, "slow", "READ")
		changed <- err
	}()
	f.until(t, "a write that waits", func() error {
		if disk.held.Load() == 0 {
			return errNotYet
		}
		return nil
	})
	if _, err := f.tenant.StorageKeys(t.Context(), f.repository); err != nil {
		t.Errorf("reading: %v", err)
	}
	select {
	case err := <-changed:
		t.Errorf("reading waited for the change, which ended with %v", err)
	default:
	}
	f.load.goesOn(t, began)
	if err := <-changed; err != nil {
		t.Error(err)
	}
	t.Logf("%d writes took a second each", disk.held.Load())
	undo()
	clerk := f.startClerk(t)
	_, undo, _ = slowDown(t, f.pid(t, stack.Control), 100*time.Millisecond)
	clerk.goesOn(t)
	undo()
	clerk.goesOn(t)
	clerk.end(t)
	f.takesChanges(t)
	f.load.goesOn(t, began)
}

// TestFaultControlStalls stops the control plane again and again in the midst of changes.
func TestFaultControlStalls(t *testing.T) {
	f := startFaults(t)
	clerk := f.startClerk(t)
	began := time.Now()
	for range 5 {
		clerk.goesOn(t)
		f.signal(t, stack.Control, syscall.SIGSTOP)
		f.load.goesOn(t, began)
		f.signal(t, stack.Control, syscall.SIGCONT)
	}
	clerk.end(t)
	f.takesChanges(t)
	f.load.goesOn(t, began)
}
