package lockedmem

import (
	"fmt"
	"sync"

	"github.com/awnumar/memguard"
	"golang.org/x/sys/unix"
)

// Enclave keeps one secret encrypted while nobody uses it. Opening it takes
// about 70 µs under a lock that the whole process shares: never on a request's
// path.
type Enclave struct {
	mu     sync.RWMutex
	sealed *memguard.Enclave // nil: plain
	plain  []byte            // where memory cannot be locked and that is allowed
	length int
	gone   bool
}

// NewEnclave moves src into an enclave and wipes src, also when it fails.
func NewEnclave(src []byte) (*Enclave, error) {
	defer Wipe(src)
	if len(src) == 0 {
		return nil, fmt.Errorf("%w: 0 bytes", ErrSize)
	}
	e := &Enclave{length: len(src)}
	lock.Lock()
	defer lock.Unlock()
	need := enclaveBudget(len(src))
	if err := tryLock(need); err != nil {
		if !unlockedAllowed {
			return nil, lockError(need, err)
		}
		if e.plain, err = plainPages(wholePages(len(src))); err != nil {
			return nil, err
		}
		copy(e.plain, src)
		return e, nil
	}
	e.sealed = memguard.NewEnclave(src)
	return e, nil
}

// Open decrypts the secret into locked memory, calls use, and wipes it. use must
// neither keep the bytes nor write to them. Errors of use are returned as they
// are; after [Enclave.Destroy] or [Purge] the error is [ErrPurged].
func (e *Enclave) Open(use func(b []byte) error) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	reading.RLock()
	defer reading.RUnlock()
	if e.gone {
		return ErrPurged
	}
	if e.sealed == nil {
		return use(e.plain[:e.length:e.length])
	}
	b, err := e.unlock()
	if err != nil {
		return err
	}
	defer b.Destroy()
	return use(b.Bytes())
}

func (e *Enclave) unlock() (*memguard.LockedBuffer, error) {
	lock.Lock()
	defer lock.Unlock()
	need := enclaveBudget(e.length)
	if err := tryLock(need); err != nil {
		// Even where unlocked memory is allowed: memguard knows no other.
		return nil, lockError(need, err)
	}
	b, err := e.sealed.Open()
	if err != nil { // the key that it was encrypted under was purged
		return nil, fmt.Errorf("%w: %w", ErrPurged, err)
	}
	if err := keepFromForks(b.Inner()); err != nil {
		b.Destroy()
		return nil, err
	}
	return b, nil
}

// Destroy forgets the secret, once all that have it open are done.
func (e *Enclave) Destroy() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return
	}
	e.gone, e.sealed = true, nil
	if e.plain != nil {
		drop(e.plain)
		e.plain = nil
	}
}

// enclaveBudget is what memguard may lock while it makes or opens an enclave of
// n bytes: its key in three pages, if it has none yet, a view of the key, and the
// plaintext.
func enclaveBudget(n int) int {
	return 4*unix.Getpagesize() + wholePages(n)
}

func wholePages(n int) int {
	page := unix.Getpagesize()
	return (n + page - 1) / page * page
}
