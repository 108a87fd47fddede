package lockedmem

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/awnumar/memguard"
	"github.com/awnumar/memguard/core"
	"golang.org/x/sys/unix"
)

// reserve is what arenas leave of the budget, so that a full arena does not keep
// an enclave from opening.
const reserve = 128 << 10

// Memory locks are a budget of the process, and memguard's key is its global, so
// what guards them is global too.
var (
	// lock serialises everything that locks memory: a trial and the call that it
	// was made for must see the same budget.
	lock            sync.Mutex
	unlockedAllowed bool // guarded by lock

	// reading keeps Purge from unmapping an enclave's plaintext while it is read.
	reading sync.RWMutex

	arenas sync.Map // live *Arena → struct{}, for Purge
)

// tryLock proves that n more bytes can be locked. The caller holds lock.
func tryLock(n int) error {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }() // unlocks as well; fails for bad addresses only
	if err := unix.Mlock(b); err != nil {
		return fmt.Errorf("mlock: %w", err)
	}
	return nil
}

// pages returns n zero bytes, n a multiple of the page size, between guard
// pages: locked, or plain where locking fails and that is allowed. Whole pages
// leave memguard no room for a canary, which drop would destroy.
func pages(n int) ([]byte, error) {
	lock.Lock()
	defer lock.Unlock()
	if err := tryLock(n + reserve); err != nil {
		if !unlockedAllowed {
			return nil, lockError(n+reserve, err)
		}
		return plainPages(n)
	}
	// memguard's own list keeps b alive until Purge.
	b, err := core.NewBuffer(n)
	if err != nil {
		return nil, fmt.Errorf("lockedmem: %w", err)
	}
	if err := keepFromForks(b.Inner()); err != nil {
		b.Destroy()
		return nil, err
	}
	return b.Data(), nil
}

// keepFromForks keeps whole pages out of a child that fork makes with a copy of this
// process's memory (MADV_DONTFORK, madvise(2)); such a copy would be neither locked
// nor wiped. Go itself starts programs with CLONE_VM, which copies nothing.
func keepFromForks(pages []byte) error {
	if err := unix.Madvise(pages, unix.MADV_DONTFORK); err != nil {
		return fmt.Errorf("lockedmem: MADV_DONTFORK: %w", err)
	}
	return nil
}

func plainPages(n int) ([]byte, error) {
	page := unix.Getpagesize()
	b, err := unix.Mmap(-1, 0, n+2*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("lockedmem: mmap: %w", err)
	}
	inner := b[page : page+n : page+n]
	if err := unix.Mprotect(inner, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		_ = unix.Munmap(b) // the first error is the one to report
		return nil, fmt.Errorf("lockedmem: mprotect: %w", err)
	}
	if err := unix.Madvise(inner, unix.MADV_DONTDUMP); err != nil {
		_ = unix.Munmap(b)
		return nil, fmt.Errorf("lockedmem: MADV_DONTDUMP: %w", err)
	}
	if err := keepFromForks(inner); err != nil {
		_ = unix.Munmap(b)
		return nil, err
	}
	return inner, nil
}

// drop wipes pages and gives them back to the kernel, but keeps their addresses:
// a reader that still holds a view sees zeros, where after an unmap it would
// take the process down.
func drop(b []byte) {
	Wipe(b)
	// MADV_DONTNEED is refused for locked pages. Both can fail for bad
	// arguments only, and the bytes are zero already.
	_ = unix.Munlock(b)
	_ = unix.Madvise(b, unix.MADV_DONTNEED)
}

// Wipe overwrites b with zeros.
//
//go:noinline
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}

// Purge wipes every arena and everything that memguard holds, for the exit path:
// after it every [Secret] is gone and no [Enclave] opens. It unmaps memguard's
// pages, so the goroutines that read secrets have ended before it is called.
func Purge() {
	purgeArenas()
	reading.Lock()
	defer reading.Unlock()
	lock.Lock()
	defer lock.Unlock()
	memguard.Purge()
}

func purgeArenas() {
	arenas.Range(func(a, _ any) bool {
		a.(*Arena).Purge()
		return true
	})
}
