package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
)

// A dry run of init goes through all of it and leaves nothing; the run itself says
// each step and the result as JSON.
func TestInitDryRunAndJSON(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	var flags []string
	for _, name := range []string{"keeper-1", "keeper-2"} {
		lock, err := newKeyFile(at(name + ".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enrol(identity.RoleKeeper, name, at(name), lock); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--enrolment", filepath.Join(at(name), enrolmentFile))
	}
	if err := keeper.CreateKeyFile(at("root.key")); err != nil {
		t.Fatal(err)
	}
	flags = append(flags, "--out", at("out"), "--store", at("store.db"), "--key-file", at("root.key"), "--json")
	run := func(more ...string) []map[string]any {
		t.Helper()
		var out bytes.Buffer
		cmd := root()
		cmd.SetOut(&out)
		cmd.SetArgs(append(append([]string{"init"}, flags...), more...))
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		var lines []map[string]any
		for line := range strings.Lines(out.String()) {
			var l map[string]any
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			lines = append(lines, l)
		}
		return lines
	}
	lines := run("--dry-run")
	if last := lines[len(lines)-1]; len(lines) < 3 || last["result"] != "planned" || last["adminToken"] != nil {
		t.Errorf("dry run: %v", lines)
	}
	for _, name := range []string{"out", "store.db"} {
		if _, err := os.Stat(at(name)); !os.IsNotExist(err) {
			t.Errorf("the dry run left %s: %v", name, err)
		}
	}
	lines = run()
	if last := lines[len(lines)-1]; last["result"] != "done" || last["adminToken"] == nil {
		t.Errorf("init: %v", lines)
	}
	if _, err := os.Stat(at("store.db")); err != nil {
		t.Error(err)
	}
}
