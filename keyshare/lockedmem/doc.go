// Package lockedmem keeps secrets in memory that the kernel neither swaps nor
// dumps, and wipes what passes through ordinary memory on the way there.
//
// It has four parts:
//
//   - [Harden] prepares the process, once, before anything secret is read.
//   - An [Arena] holds many small secrets (provider keys, derived signing keys)
//     for as long as a bridge serves. Reading one is a pointer and a bounds
//     check: no lock, no copy, no decryption.
//   - An [Enclave] holds one large secret that is rarely needed (the keyring),
//     encrypted in ordinary memory under a key that memguard keeps in locked
//     memory and moves every half second.
//   - [Do] runs a function whose stack, registers and heap allocations are erased,
//     when the binary was built with GOEXPERIMENT=runtimesecret; [SecretMode] says
//     whether it was.
//
// # Why memguard is reached only through this package
//
// memguard treats a failed mlock as fatal: it wipes every buffer of the process
// and panics, and where it does so while it holds its own key lock it deadlocks
// instead (measured, memguard 0.23.0). So each call that may lock memory is
// preceded by a trial of the same size, under one mutex that serialises all of
// them; RLIMIT_MEMLOCK is counted per process, so a trial that succeeds holds
// until the call behind it. No other package of Keybridge may import memguard.
//
// Where the kernel refuses to lock memory and the operator has allowed that
// (--allow-unlocked), memory comes from plain mappings instead: excluded from
// core dumps, but they can be swapped.
//
// Pages that hold secrets are locked, left out of core dumps (MADV_DONTDUMP) and of
// what fork copies (MADV_DONTFORK), and lie between pages that cannot be touched.
// The pages of memguard's own key are out of reach for the third of these.
//
// # What is not promised
//
// Root on the machine reads all of it. A slice that a caller keeps from
// [Secret.Bytes] is outside the promise. memguard installs no signal handlers
// here: whoever owns the process calls [Purge] on its way out, and runs its
// goroutines under [Guard].
//
// Linux only.
package lockedmem
