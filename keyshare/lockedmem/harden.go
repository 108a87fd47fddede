package lockedmem

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// minLocked is how much memory a process must be able to lock before it starts:
// memguard's key and its views (5 pages), an opened keyring of a few RSA keys,
// and the first slabs of an arena. The kernel's default limit is 8 MiB since
// Linux 5.16 and was 64 KiB before.
const minLocked = 1 << 20

// Harden prepares the process for secrets: no core dumps (RLIMIT_CORE 0), no
// ptrace and no /proc/PID/mem by others of the same user (PR_SET_DUMPABLE 0), no
// privileges gained by exec (PR_SET_NO_NEW_PRIVS), and proof that memory can be
// locked. It is called once, before the first secret is read; calling it again
// is harmless.
//
// If memory cannot be locked, Harden fails with an error that says what to
// change; with allowUnlocked it reports locked = false and from then on memory
// that cannot be locked is plain memory.
//
// PR_SET_NO_NEW_PRIVS is a property of threads. In a binary built with cgo the
// Go runtime cannot set it for threads that exist already, and only the calling
// thread and those it starts have it.
func Harden(allowUnlocked bool) (locked bool, err error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return false, fmt.Errorf("lockedmem: disable core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return false, fmt.Errorf("lockedmem: PR_SET_DUMPABLE: %w", err)
	}
	if err := noNewPrivileges(); err != nil {
		return false, fmt.Errorf("lockedmem: PR_SET_NO_NEW_PRIVS: %w", err)
	}

	lock.Lock()
	defer lock.Unlock()
	unlockedAllowed = allowUnlocked
	if err := tryLock(minLocked); err != nil {
		if allowUnlocked {
			return false, nil
		}
		return false, lockError(minLocked, err)
	}
	return true, nil
}

func noNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, syscall.ENOTSUP): // cgo is linked in
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	default:
		return errno
	}
}

// lockError explains a refused mlock to the person who starts the process.
func lockError(need int, err error) error {
	limit := "unknown"
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &r) == nil {
		limit = "unlimited"
		if r.Cur != unix.RLIM_INFINITY {
			limit = fmt.Sprintf("%d KiB", r.Cur>>10)
		}
	}
	return fmt.Errorf("lockedmem: cannot lock %d KiB more memory (RLIMIT_MEMLOCK is %s): %w; raise the limit "+
		"(systemd: LimitMEMLOCK=64M, containers: --ulimit memlock=67108864, shells: ulimit -l), grant CAP_IPC_LOCK, "+
		"or accept that secrets may reach swap with --allow-unlocked", need>>10, limit, err)
}
