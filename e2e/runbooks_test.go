package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunbooks runs every runbook as written, each in a house of its own that
// testdata/house.sh makes as docs/several-hosts.md does; see TestGuides.
func TestRunbooks(t *testing.T) {
	house, err := os.ReadFile(filepath.Join("testdata", "house.sh"))
	if err != nil {
		t.Fatal(err)
	}
	eachGuide(t, filepath.Join("docs", "runbooks"), 6, func(t *testing.T, root, script string) {
		dir := shortDir(t)
		startProviders(t).run(t, root, dir, "at=house.sh\n"+trapped(string(house), script), func() string {
			var logs strings.Builder
			files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			for _, file := range files {
				text, _ := os.ReadFile(file) // what is there helps
				logs.WriteString("--- " + filepath.Base(file) + "\n" + tail(string(text)) + "\n")
			}
			return logs.String()
		})
	})
}

// trapped puts a set-up before a page's script, under the same trap for failures.
func trapped(setup, script string) string {
	const prologue = "set -euo pipefail\ntrap 'echo \"failed in the block at line $at\"' ERR\n"
	return prologue + setup + strings.TrimPrefix(script, prologue)
}
