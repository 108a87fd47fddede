package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const top = "../.."

// declared are the names of all tests of the module.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() != ".." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

// shown finds the tests that a page shows.
var shown = regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")

// TestSecurityDocument: every test that SECURITY.md shows for a promise exists.
func TestSecurityDocument(t *testing.T) {
	tests := declared(t)
	page, err := os.ReadFile(filepath.Join(top, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := shown.FindAllSubmatch(page, -1)
	if len(named) < 20 {
		t.Errorf("SECURITY.md names %d tests", len(named))
	}
	for _, m := range named {
		if !tests[string(m[1])] {
			t.Errorf("SECURITY.md shows %s, which does not exist", m[1])
		}
	}
}

// TestFaultsDocument: every row of docs/faults.md shows tests that exist, and every fault
// that is tested has a row.
func TestFaultsDocument(t *testing.T) {
	tests := declared(t)
	page, err := os.ReadFile(filepath.Join(top, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows, all := 0, map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| what happens") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSpace(line), " | ")
		named := shown.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(named) == 0 {
			t.Errorf("no test for %s", line)
		}
		for _, m := range named {
			if all[m[1]] = true; !tests[m[1]] {
				t.Errorf("docs/faults.md shows %s, which does not exist", m[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("docs/faults.md has %d rows", rows)
	}
	for name := range tests {
		if strings.HasPrefix(name, "TestFault") && name != "TestFaultsDocument" && !all[name] {
			t.Errorf("docs/faults.md does not show %s", name)
		}
	}
}
