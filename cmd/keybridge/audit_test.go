package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store/audit"
)

// auditLog writes a log of three days into the working directory.
func auditLog(t *testing.T) (lines []string, head audit.Head) {
	t.Helper()
	t.Chdir(t.TempDir())
	l, err := audit.Open("audit.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []audit.Event{
		{ID: "1", Time: time.Date(2026, 1, 30, 23, 0, 0, 0, time.UTC), Context: "connector", Event: "created", UserID: "ann"},
		{ID: "2", Time: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Context: "key", Event: "created", UserID: "bob", WorkspaceID: "w", ContextID: "k"},
		{ID: "3", Time: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Context: "key", Event: "deleted", UserID: "ann", Data: json.RawMessage(`{"a":"b"}`)},
	} {
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	head = l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("audit.log")
	if err != nil {
		t.Fatal(err)
	}
	return strings.SplitAfter(string(b), "\n")[:3], head
}

func TestAuditVerify(t *testing.T) {
	lines, head := auditLog(t)
	good := strings.Join(lines, "")
	bad := strings.Replace(good, "bob", "eve", 1)
	for _, c := range []struct {
		name, log      string
		args           []string
		status         int
		stdout, stderr string
	}{
		{"good", good, nil, 0, "3 good lines\nhead " + head.String() + "\n", ""},
		{"good, with its head", good, []string{"--head", head.String()}, 0, "3 good lines\nhead " + head.String() + "\n", ""},
		{"empty", "", nil, 0, "0 good lines\nhead 0:\n", ""},
		{"changed", bad, nil, 1, "", "keybridge: audit.log: line 2: the line does not have the hash that it says: it was changed; up to there 1 good line, head 1:"},
		{"cut", lines[0], nil, 0, "1 good line\nhead 1:", ""},
		{"cut, with its head", lines[0], []string{"--head", head.String()}, 1, "", "line 2: missing: the log once had 3 lines"},
		{"torn", good[:len(good)-5], nil, 1, "", "line 3: the line has no end"},
		{"changed, as JSON", bad, []string{"--json"}, 1, `"badLine": 2`, ""},
		{"good, as JSON", good, []string{"--json"}, 0, "\"ok\": true,\n  \"lines\": 3,\n  \"hash\": \"" + head.Hash + "\"\n", ""},
		{"not a head", good, []string{"--head", "3:zz"}, 1, "", "--head wants LINES:HASH"},
		{"another hash", good, []string{"--head", "3:" + strings.Repeat("0", 64)}, 1, "", "line 3: its hash is " + head.Hash + " where"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile("audit.log", []byte(c.log), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"audit.log", "-"} {
				out, errs, status := run(t, c.log, append([]string{"audit", "verify", file}, c.args...)...)
				if status != c.status || !strings.Contains(out, c.stdout) || !strings.Contains(errs, strings.Replace(c.stderr, "audit.log", file, 1)) {
					t.Errorf("%s: %d\n%s%s", file, status, out, errs)
				}
			}
		})
	}
	if _, errs, status := run(t, "", "audit", "verify", "missing"); status != 1 || !strings.Contains(errs, "missing") {
		t.Errorf("%d, %s", status, errs)
	}
}

func TestAuditExport(t *testing.T) {
	lines, _ := auditLog(t)
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"all", nil, lines},
		{"a day", []string{"--from", "2026-01-31", "--to", "2026-02-01"}, lines[1:2]},
		{"a time", []string{"--from", "2026-01-31T01:00:00+01:00"}, lines[1:]},
		{"a kind", []string{"--context", "key", "--event", "deleted"}, lines[2:]},
		{"a user", []string{"--user", "ann"}, []string{lines[0], lines[2]}},
		{"a thing", []string{"--id", "k", "--workspace-id", "w"}, lines[1:2]},
		{"nothing", []string{"--user", "eve"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.Join(c.want, ""), must(t, append([]string{"audit", "export", "audit.log"}, c.args...)...)); diff != "" {
				t.Error(diff)
			}
		})
	}
	table := must(t, "audit", "export", "audit.log", "--format", "csv", "--from", "2026-02-01")
	if want := "seq,time,context,event,contextId,userId,workspaceId,id,data,hash\n3,2026-02-01T00:00:00Z,key,deleted,,ann,,3,\"{\"\"a\"\":\"\"b\"\"}\","; !strings.HasPrefix(table, want) {
		t.Errorf("%s", table)
	}
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"--format", "xml"}, `format "xml", want json or csv`},
		{[]string{"--from", "yesterday"}, `--from wants a time`},
		{[]string{"--to", "1"}, `--to wants a time`},
	} {
		if out, errs, status := run(t, "", append([]string{"audit", "export", "audit.log"}, c.args...)...); status != 1 || out != "" || !strings.Contains(errs, c.text) {
			t.Errorf("%v: %d\n%s%s", c.args, status, out, errs)
		}
	}
	out, errs, status := run(t, lines[0]+lines[2], "audit", "export", "-")
	if status != 1 || out != lines[0] || !strings.Contains(errs, "after 1 event: line 2: it is number 3") {
		t.Errorf("a line is missing: %d\n%s%s", status, out, errs)
	}
}
