package lockedmem_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"unsafe"

	"keybridge/keyshare/lockedmem"
)

// A guarded panic wipes, and stays the panic that it was.
func childPanic() (err error) {
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	s, err := a.Copy([]byte("arena"))
	if err != nil {
		return err
	}
	e, err := lockedmem.NewEnclave([]byte("enclave"))
	if err != nil {
		return err
	}
	fine := errors.New("fine")
	if got := lockedmem.Guard(func() error { return fine })(); !errors.Is(got, fine) || s.Bytes() == nil {
		return fmt.Errorf("without a panic: %w, %d bytes left", got, len(s.Bytes()))
	}
	defer func() {
		switch got := recover(); {
		case got != "the reason":
			err = fmt.Errorf("the panic became %v", got)
		case s.Bytes() != nil:
			err = errors.New("the arena survived the panic")
		default:
			if err = checkEnclave(e, ""); errors.Is(err, lockedmem.ErrPurged) {
				err = nil
			} else {
				err = fmt.Errorf("the enclave survived the panic: %w", err)
			}
		}
	}()
	return lockedmem.Guard(func() error { panic("the reason") })()
}

// A reader that never ends must not keep a panicking process alive.
func childPanicWhileOpen() (err error) {
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	s, err := a.Copy([]byte("arena"))
	if err != nil {
		return err
	}
	e, err := lockedmem.NewEnclave([]byte("enclave"))
	if err != nil {
		return err
	}
	opened := make(chan struct{})
	go func() {
		_ = e.Open(func([]byte) error { close(opened); select {} })
	}()
	<-opened
	defer func() {
		if recover() == nil || s.Bytes() != nil {
			err = errors.New("no panic, or the arena survived it")
		}
	}()
	return lockedmem.Guard(func() error { panic("the reason") })()
}

// What every page of an arena and of an opened enclave must be: locked, not in
// core dumps, not in a fork's copy; and before and behind it nothing may be touched.
func childPages() error {
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	for _, n := range []int{1, 32, 4096, 5000, lockedmem.MaxSecret} {
		s, err := a.Copy(bytes.Repeat([]byte{7}, n))
		if err != nil {
			return err
		}
		if err := checkPages(s.Bytes()); err != nil {
			return fmt.Errorf("arena, %d bytes: %w", n, err)
		}
	}
	for _, n := range []int{1, 4096, 20 << 10} {
		e, err := lockedmem.NewEnclave(bytes.Repeat([]byte{7}, n))
		if err != nil {
			return err
		}
		if err := e.Open(checkPages); err != nil {
			return fmt.Errorf("enclave, %d bytes: %w", n, err)
		}
	}
	return nil
}

func checkPages(b []byte) error {
	flags, err := vmFlags(b)
	if err != nil {
		return err
	}
	for _, want := range []string{"lo", "dd", "dc"} { // proc_pid_smaps(5): locked, no dump, no copy on fork
		if !strings.Contains(flags, " "+want+" ") {
			return fmt.Errorf("not %q: flags %q", want, flags)
		}
	}
	return checkGuards(b)
}

// checkGuards touches the bytes before and behind the pages that hold b.
func checkGuards(b []byte) error {
	from, to, err := mapping(b)
	if err != nil {
		return err
	}
	at := uint64(uintptr(unsafe.Pointer(&b[0])))
	for _, edge := range []struct {
		name string
		at   uint64
	}{{"before", from - 1}, {"behind", to}} {
		if !faults(unsafe.Add(unsafe.Pointer(&b[0]), int64(edge.at)-int64(at))) {
			return fmt.Errorf("the byte %s the pages can be read", edge.name)
		}
	}
	if faults(unsafe.Pointer(&b[0])) {
		return errors.New("even the secret cannot be read: this test shows nothing")
	}
	return nil
}

// faults says whether reading one byte is an error of the kernel's.
func faults(p unsafe.Pointer) (yes bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { yes = recover() != nil }()
	sink = *(*byte)(p)
	return false
}

var sink byte

// mapping is where the readable pages that hold b begin and end. The kernel may
// show neighbours of equal flags as one.
func mapping(b []byte) (from, to uint64, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, 0, err
	}
	at := uint64(uintptr(unsafe.Pointer(&b[0])))
	for line := range strings.Lines(string(maps)) {
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 && from <= at && at < to {
			return from, to, nil
		}
	}
	return 0, 0, errors.New("no such mapping")
}

// What the person reads who starts a process that may not lock memory.
func childMessageLimit() error { return checkMessage(64<<10, "64 KiB", "cannot allocate memory") }
func childMessageNone() error  { return checkMessage(0, "0 KiB", "operation not permitted") }

func checkMessage(limit uint64, said, reason string) error {
	if err := limitLocking(limit); err != nil {
		return err
	}
	want := "lockedmem: cannot lock 1024 KiB more memory (RLIMIT_MEMLOCK is " + said + "): mlock: " + reason + "; raise the limit " +
		"(systemd: LimitMEMLOCK=64M, containers: --ulimit memlock=67108864, shells: ulimit -l), grant CAP_IPC_LOCK, " +
		"or accept that secrets may reach swap with --allow-unlocked"
	if _, err := lockedmem.Harden(false); err == nil || err.Error() != want {
		return fmt.Errorf("says %w,\nnot %s", err, want)
	}
	return nil
}

// With CAP_IPC_LOCK the limit does not bind, and nothing is refused.
func childCapability() error {
	if os.Getuid() != 0 {
		return nil // has no capability to keep
	}
	if err := setLockLimit(0); err != nil {
		return err
	}
	if locked, err := lockedmem.Harden(false); err != nil || !locked {
		return fmt.Errorf("Harden with CAP_IPC_LOCK: %v, error %w", locked, err)
	}
	a, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	s, err := a.Copy([]byte("secret"))
	if err != nil {
		return err
	}
	return checkPages(s.Bytes())
}
