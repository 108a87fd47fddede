//go:build !(goexperiment.runtimesecret && linux && (amd64 || arm64))

package lockedmem

// SecretMode says how [Do] erases temporaries: "runtime/secret", or "none" when
// the binary was built without GOEXPERIMENT=runtimesecret.
func SecretMode() string { return "none" }

// Do runs f. Without runtime/secret nothing is erased behind it: callers wipe
// what they can reach, in either mode.
func Do(f func()) { f() }
