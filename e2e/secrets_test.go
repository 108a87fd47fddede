package e2e_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/e2e/leak"
	"keybridge/e2e/stack"
)

// After traffic of every kind with all logs at debug: no secret in the store, in
// what keepers hold, in a log, a command line or an environment.
func TestNoSecretAtRest(t *testing.T) {
	w := start(t, config{logLevel: "debug"})
	for _, q := range []s3Request{
		{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read},
		{method: http.MethodPut, path: "/" + bucket + "/" + present, key: w.read, body: "x"},
		{method: http.MethodPut, path: "/" + bucket + "/scan", key: w.write, body: "x"},
		{method: http.MethodGet, path: "/" + bucket + "/none", key: w.admin},
	} {
		if _, err := w.askS3(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/v1/models", "/v1/files", "/v1/models/none"} {
		if _, err := w.askAI(t.Context(), http.MethodGet, path, "", w.aiKey); err != nil {
			t.Fatal(err)
		}
	}
	for _, process := range []string{stack.Control, stack.Bridge, stack.Keepers[0]} {
		text, err := w.Log(process)
		if err != nil || !strings.Contains(text, "level=DEBUG") {
			t.Errorf("%s does not log at debug level: this proves less than it should (%v)", process, err)
		}
	}
	w.scan(t)
}

// scan looks for every secret of the world in all files of the stack and all its
// processes. The admin token's own file is what its operator reads it from.
func (w *world) scan(t *testing.T) {
	t.Helper()
	found, err := w.secrets.Tree(w.Dir, func(rel string) bool { return rel == "admin.token" })
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error("at rest: ", f)
	}
	var token leak.Set
	text, err := w.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	token.Add("admin token", text)
	if hits, err := token.Tree(w.Dir, nil); err != nil || len(hits) == 0 {
		t.Errorf("the scan does not even find the admin token in %s: %v", filepath.Join(w.Dir, "admin.token"), err)
	}
	pids, err := w.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	if len(pids) < 5 { // dev, a keeper, control, bridge, Envoy at the least
		t.Errorf("only processes %v found", pids)
	}
	for _, pid := range pids {
		found, err := w.secrets.Process(pid)
		if err != nil {
			t.Error(err)
		}
		for _, f := range found {
			t.Errorf("process %d: %s", pid, f)
		}
	}
}
