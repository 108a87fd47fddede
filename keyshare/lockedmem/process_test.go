package lockedmem_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"keybridge/keyshare/lockedmem"
)

// What these tests change belongs to the process and cannot be changed back, so
// each runs in a child: this binary again, told by childEnv which body to run.
const childEnv = "LOCKEDMEM_TEST_CHILD"

var children = map[string]func() error{
	"harden":            childHarden,
	"locking refused":   childRefused,
	"unlocked allowed":  childUnlocked,
	"budget exhausted":  childExhausted,
	"budget, unlocked":  childExhaustedUnlocked,
	"purge the process": childPurge,
	"panic":             childPanic,
	"panic while open":  childPanicWhileOpen,
	"pages":             childPages,
	"message, limit":    childMessageLimit,
	"message, no limit": childMessageNone,
	"capability":        childCapability,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		if err := children[name](); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestProcess(t *testing.T) {
	for name := range children {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// limitLocking sets RLIMIT_MEMLOCK and gives up root, whom it does not bind.
func limitLocking(limit uint64) error {
	if err := setLockLimit(limit); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return nil
	}
	const nobody = 65534
	if err := syscall.Setgid(nobody); err != nil {
		return err
	}
	return syscall.Setuid(nobody)
}

func setLockLimit(limit uint64) error {
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit})
}

func childHarden() error {
	locked, err := lockedmem.Harden(false)
	if err != nil || !locked {
		return fmt.Errorf("Harden: %v, error %w", locked, err)
	}
	if _, err := lockedmem.Harden(false); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		return fmt.Errorf("RLIMIT_CORE: %+v, error %w", core, err)
	}
	if d, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || d != 0 {
		return fmt.Errorf("PR_GET_DUMPABLE: %d, error %w", d, err)
	}
	if cgo() {
		return nil // then not all threads have it, as documented
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no threads: error %w", err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil || !bytes.Contains(status, []byte("NoNewPrivs:\t1\n")) {
			return fmt.Errorf("%s lacks no_new_privs: error %w", thread, err)
		}
	}
	return nil
}

func cgo() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" {
			return s.Value == "1"
		}
	}
	return false
}

func childRefused() error {
	if err := limitLocking(64 << 10); err != nil {
		return err
	}
	locked, err := lockedmem.Harden(false)
	if err == nil || locked {
		return fmt.Errorf("Harden: %v, error %w", locked, err)
	}
	for _, want := range []string{"RLIMIT_MEMLOCK is 64 KiB", "CAP_IPC_LOCK", "--allow-unlocked", "LimitMEMLOCK"} {
		if !strings.Contains(err.Error(), want) {
			return fmt.Errorf("does not say %q: %w", want, err)
		}
	}
	// Nor may what was not asked for permission fall back to plain memory, panic
	// or hang.
	if _, err := lockedmem.NewArena(); err == nil {
		return errors.New("NewArena went on with plain memory")
	}
	src := make([]byte, 100<<10)
	src[0] = 1
	if _, err := lockedmem.NewEnclave(src); err == nil {
		return errors.New("NewEnclave went on with plain memory")
	}
	if src[0] != 0 {
		return errors.New("NewEnclave did not wipe its source")
	}
	lockedmem.Purge()
	return nil
}

func childUnlocked() error {
	if err := limitLocking(0); err != nil {
		return err
	}
	if locked, err := lockedmem.Harden(true); err != nil || locked {
		return fmt.Errorf("Harden: %v, error %w", locked, err)
	}
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	s, err := a.Copy([]byte("arena"))
	if err != nil || string(s.Bytes()) != "arena" {
		return fmt.Errorf("Copy: %q, %w", s.Bytes(), err)
	}
	if flags, err := vmFlags(s.Bytes()); err != nil || !strings.Contains(flags, " dd ") || !strings.Contains(flags, " dc ") {
		return fmt.Errorf("plain memory can be dumped or copied by a fork: flags %q, %w", flags, err)
	}
	if err := checkGuards(s.Bytes()); err != nil {
		return fmt.Errorf("plain memory: %w", err)
	}
	e, err := lockedmem.NewEnclave([]byte("enclave"))
	if err != nil {
		return err
	}
	if err := checkEnclave(e, "enclave"); err != nil {
		return err
	}
	e.Destroy()
	if err := checkEnclave(e, ""); !errors.Is(err, lockedmem.ErrPurged) {
		return fmt.Errorf("destroyed enclave: %w", err)
	}
	view := s.Bytes()
	lockedmem.Purge()
	if s.Bytes() != nil || !bytes.Equal(view, make([]byte, 5)) {
		return errors.New("the secret survived Purge")
	}
	return nil
}

// fill copies secrets until one is refused, and checks that no secret was lost.
func fill(a *lockedmem.Arena, most int) (int, error) {
	var all []lockedmem.Secret
	for i := range most {
		s, err := a.Copy(bytes.Repeat([]byte{1 + byte(i%200)}, 4096))
		if err != nil {
			for i, s := range all {
				if b := s.Bytes(); len(b) != 4096 || b[4095] != 1+byte(i%200) {
					return 0, fmt.Errorf("secret %d was lost", i)
				}
			}
			return len(all), err
		}
		all = append(all, s)
	}
	return len(all), nil
}

// A full arena must say so: memguard itself would wipe everything and panic. And
// the keyring must still open.
func childExhausted() error {
	if err := limitLocking(2 << 20); err != nil {
		return err
	}
	if _, err := lockedmem.Harden(false); err != nil {
		return err
	}
	e, err := lockedmem.NewEnclave(bytes.Repeat([]byte{'k'}, 20<<10))
	if err != nil {
		return err
	}
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	n, err := fill(a, 1000)
	if err == nil || n < 200 {
		return fmt.Errorf("%d secrets of 4 KiB in 2 MiB: %w", n, err)
	}
	if !strings.Contains(err.Error(), "RLIMIT_MEMLOCK is 2048 KiB") {
		return fmt.Errorf("does not explain itself: %w", err)
	}
	if err := checkEnclave(e, strings.Repeat("k", 20<<10)); err != nil {
		return fmt.Errorf("the full arena keeps the enclave shut: %w", err)
	}
	a.Purge()
	b, err := lockedmem.NewArena()
	if err != nil {
		return fmt.Errorf("Purge did not give the memory back: %w", err)
	}
	if again, _ := fill(b, 1000); again < n {
		return fmt.Errorf("after Purge %d secrets fit, before %d", again, n)
	}
	return nil
}

func childExhaustedUnlocked() error {
	if err := limitLocking(2 << 20); err != nil {
		return err
	}
	if locked, err := lockedmem.Harden(true); err != nil || !locked {
		return fmt.Errorf("Harden: %v, error %w", locked, err)
	}
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	if n, err := fill(a, 1000); err != nil || n != 1000 {
		return fmt.Errorf("%d secrets: %w", n, err)
	}
	e, err := lockedmem.NewEnclave([]byte("enclave"))
	if err != nil {
		return err
	}
	return checkEnclave(e, "enclave")
}

func childPurge() error {
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	s, err := a.Copy([]byte("arena"))
	if err != nil {
		return err
	}
	if flags, err := vmFlags(s.Bytes()); err != nil || !strings.Contains(flags, " lo ") || !strings.Contains(flags, " dd ") {
		return fmt.Errorf("memory is not locked, or can be dumped: flags %q, %w", flags, err)
	}
	e, err := lockedmem.NewEnclave([]byte("enclave"))
	if err != nil {
		return err
	}
	lockedmem.Purge()
	lockedmem.Purge()
	if s.Bytes() != nil {
		return errors.New("the secret survived")
	}
	if err := checkEnclave(e, ""); !errors.Is(err, lockedmem.ErrPurged) {
		return fmt.Errorf("enclave: %w", err)
	}
	return nil
}

// vmFlags are the kernel's flags of the mapping that holds b: " lo " locked,
// " dd " not dumped (proc_pid_smaps(5)).
func vmFlags(b []byte) (string, error) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return "", err
	}
	address := fmt.Sprintf("%p", b)
	at, err := strconv.ParseUint(address, 0, 64)
	if err != nil {
		return "", err
	}
	inside := false
	for line := range strings.Lines(string(smaps)) {
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return flags, nil
		}
	}
	runtime.KeepAlive(b)
	return "", errors.New("no such mapping")
}
