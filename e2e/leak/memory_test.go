package leak_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"keybridge/e2e/leak"
)

// The scan of a process's memory is what other tests rest on: it finds what is there,
// says where, and counts across the seams of its reads.
func TestMemory(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CI") != "" {
		t.Fatal("CI runs as root, so that the memory of other processes can be looked at")
	}
	plain, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Munmap(plain), unix.Munmap(locked) }()
	if err := unix.Mlock(locked); err != nil {
		t.Fatal(err)
	}
	// Written byte by byte, so that the needle itself is the one copy beyond these.
	write := func(b []byte) {
		for i := range 24 {
			b[i] = byte(200 - 3*i)
		}
	}
	write(locked[100:])
	for _, at := range []int{0, 1<<20 - 10, 3<<20 + 1, 4<<20 - 24} {
		write(plain[at:])
	}
	needle := make([]byte, 24)
	write(needle)
	found, err := leak.Memory("/proc/self", map[string][]byte{"needle": needle})
	if err != nil {
		t.Fatal(err)
	}
	if f := found["needle"]; f.Locked != 1 || f.Unlocked != 5 || len(f.Where) == 0 {
		t.Errorf("%+v, want 1 locked and 5 unlocked (the needle is one of them)", f)
	}
}
