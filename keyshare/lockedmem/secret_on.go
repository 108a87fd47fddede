//go:build goexperiment.runtimesecret && linux && (amd64 || arm64)

package lockedmem

import "runtime/secret"

// SecretMode says how [Do] erases temporaries: "runtime/secret", or "none" when
// the binary was built without GOEXPERIMENT=runtimesecret.
func SecretMode() string { return "runtime/secret" }

// Do runs f. In mode "runtime/secret" its registers and stack are erased before
// Do returns, also when f panics, and its heap allocations as soon as the
// garbage collector finds them unreachable. Results must therefore be copied
// into memory that the caller allocated before Do. Goroutines that f starts are
// not covered: each calls Do itself.
func Do(f func()) { secret.Do(f) }
