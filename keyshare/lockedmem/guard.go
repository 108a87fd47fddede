package lockedmem

import "time"

// guardPatience is how long a panicking process waits for readers of an enclave.
const guardPatience = time.Second

// Guard returns a function that runs f and, should f panic, wipes every arena and
// enclave before the panic ends the process. It does not recover: the panic goes
// on with its message and stack as it was, unless another goroutine touches what
// [Purge] has unmapped meanwhile: then the process ends with that fault instead.
//
// A panic of a goroutine that nobody guards ends the process without a wipe.
// What then keeps its memory from others is the kernel: [Harden] has seen to it
// that no core is written, and pages are cleared before they are used again. The
// same holds for SIGKILL and for the runtime's own fatal errors.
func Guard(f func() error) func() error {
	return func() error {
		done := false
		defer func() {
			if !done { // f panicked, or called runtime.Goexit
				purgeWithin(guardPatience)
			}
		}()
		err := f()
		done = true
		return err
	}
}

// purgeWithin does not let a reader that will never be done keep the process alive.
// Arenas need no reader to be done, and go first.
func purgeWithin(d time.Duration) {
	purgeArenas()
	purged := make(chan struct{})
	go func() {
		defer close(purged)
		Purge()
	}()
	select {
	case <-purged:
	case <-time.After(d):
	}
}
