package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/stack"
)

// TestStatus asks `keybridge status` about a stack with a keeper missing, then
// with Envoy dead, then with the bridge, then without its control plane.
func TestStatus(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "kb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, func() error { return os.RemoveAll(dir) }) })
	s, err := stack.Start(stack.Config{Binary: binary, Dir: filepath.Join(dir, "state"), Without: stack.Keepers[2:]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		_ = s.Stop(ctx) // it ends with an error when its processes are killed, as they are here
	})
	e, err := s.Ready(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// says waits until the exit status is what is wanted, with a problem that has all words.
	says := func(want int, words ...string) {
		t.Helper()
		err := s.Wait(ctx, func() error {
			cmd := exec.CommandContext(ctx, binary, "status", "--json", "--admin", e.Admin, "--token-file", e.AdminTokenFile)
			out, err := cmd.Output()
			var ended *exec.ExitError
			if err != nil && !errors.As(err, &ended) {
				return err
			}
			var picture struct{ Problems []struct{ What string } }
			if err := json.Unmarshal(out, &picture); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, p := range picture.Problems {
				if status := cmd.ProcessState.ExitCode(); status == want && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p.What, w) }) {
					return nil
				}
			}
			return fmt.Errorf("exit status %d: %s", cmd.ProcessState.ExitCode(), out)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	says(1, "keeper-3", "unreachable")
	if err := s.Kill(ctx, stack.Envoy); err != nil {
		t.Fatal(err)
	}
	says(1, "Envoy of bridge", "not connected")
	if err := s.Kill(ctx, stack.Bridge); err != nil {
		t.Fatal(err)
	}
	says(1, "bridge", "not connected")
	if err := s.Kill(ctx, stack.Control); err != nil {
		t.Fatal(err)
	}
	says(2, "admin API")
}
