package e2e_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDevBesideAnother starts a second `keybridge dev` where one runs: with the state
// of the first, and at an address of it. Either says so and leaves the first alone.
func TestDevBesideAnother(t *testing.T) {
	w := shared(t)
	before, err := w.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := "127.0.0.1:1" // is not got as far as
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"same state", []string{"--state", w.Dir, "--s3", elsewhere, "--ai", elsewhere, "--admin", elsewhere}, "another `keybridge dev` is running with this state"},
		{"same S3 address", []string{"--state", filepath.Join(w.dir, "second"), "--s3", w.S3, "--ai", w.AI, "--admin", w.Admin}, "--s3 " + w.S3},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), binary, append([]string{"dev"}, c.args...)...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) || !strings.Contains(string(out), "hint: stop") {
				t.Errorf("%v\n%s", err, out)
			}
			if e, err := w.Ready(t.Context()); err != nil || e != w.endpoints {
				t.Errorf("endpoints.json of the first: %+v, %v", e, err)
			}
			after, err := w.PIDs()
			if diff := cmp.Diff(before, after); err != nil || diff != "" {
				t.Errorf("pids.json of the first: %v %s", err, diff)
			}
		})
	}
}
