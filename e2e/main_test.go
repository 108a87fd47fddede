package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keybridge/e2e/provider"
)

// binary is the keybridge executable under test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kb-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if binary, err = keybridge(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := common.close(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the common stack:", err)
		code = max(code, 1)
	}
	return code
}

// keybridge is $KEYBRIDGE_BIN, or built here as the Makefile builds it.
func keybridge(dir string) (string, error) {
	if path := os.Getenv("KEYBRIDGE_BIN"); path != "" {
		path, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("KEYBRIDGE_BIN: %w; build it, or unset it to have it built here", err)
		}
		return path, nil
	}
	root, err := provider.ModuleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "keybridge")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/keybridge")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building keybridge: %w\n%s", err, out)
	}
	return path, nil
}

// common is the stack that tests share which leave it as it was.
var common sharedWorld

type sharedWorld struct {
	mu    sync.Mutex
	world *world
	err   error
}

// shared returns the common world, with empty recorders. Tests that use it are
// not parallel.
func shared(t *testing.T) *world {
	t.Helper()
	common.mu.Lock()
	defer common.mu.Unlock()
	if common.world == nil && common.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		common.world, common.err = newWorld(ctx, config{})
	}
	if common.err != nil {
		t.Fatal(common.err)
	}
	common.world.attach(t)
	return common.world
}

func (s *sharedWorld) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil {
		return nil
	}
	return s.world.close()
}

// start makes a world for one test.
func start(t *testing.T, c config) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := newWorld(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	w.attach(t)
	return w
}

var errNotYet = errors.New("not yet")
