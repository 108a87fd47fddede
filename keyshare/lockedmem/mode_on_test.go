//go:build goexperiment.runtimesecret && linux && (amd64 || arm64)

package lockedmem_test

const wantMode = "runtime/secret"
