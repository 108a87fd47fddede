package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/e2e/provider"
)

// TestRunbooks runs every runbook as written, each in a house of its own that
// testdata/house.sh makes as docs/several-hosts.md does; see TestGuides.
func TestRunbooks(t *testing.T) {
	root, err := provider.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	house, err := os.ReadFile(filepath.Join("testdata", "house.sh"))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		script, err := guide(string(text))
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		if script == "" {
			continue // the list of them
		}
		ran++
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
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
	if ran < 6 {
		t.Errorf("%d runbooks", ran)
	}
}

// trapped puts a set-up before a page's script, under the same trap for failures.
func trapped(setup, script string) string {
	const prologue = "set -euo pipefail\ntrap 'echo \"failed in the block at line $at\"' ERR\n"
	return prologue + setup + strings.TrimPrefix(script, prologue)
}
