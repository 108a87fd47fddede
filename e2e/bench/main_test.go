//go:build !race

package bench_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keybridge/e2e/provider"
	"keybridge/keyshare/lockedmem"
)

// binary is the keybridge executable under test: $KEYBRIDGE_BIN, or built here.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// The bridges run in this process.
	if _, err := lockedmem.Harden(true); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "kb-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if binary = os.Getenv("KEYBRIDGE_BIN"); binary == "" {
		binary = filepath.Join(dir, "keybridge")
		root, err := provider.ModuleRoot()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/keybridge")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building keybridge: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}
