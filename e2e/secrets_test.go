package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/leak"
	"keybridge/e2e/stack"
)

// After traffic of every kind with all logs at debug: no secret in the store, in
// what keepers hold, in a log, a temporary or home folder, a command line or an
// environment; nor the unseal key, a share, an RSA key or a record's key. And not
// once all has stopped, either.
func TestNoSecretAtRest(t *testing.T) {
	w := start(t, config{logLevel: "debug"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// The API also takes a secret in clear; it must not be kept so.
	const clear = "sk-posted-in-clear-0123456789abcdef"
	w.secrets.Add("secret posted in clear", clear)
	body, err := json.Marshal(map[string]string{"workspaceId": w.tenant.Workspace, "name": "clear", "aiType": "OTHER", "endpoint": w.ai.Endpoint(), "secret": clear})
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	create, err := http.NewRequestWithContext(ctx, http.MethodPost, w.endpoints.Admin+"/ai/llm?validate=false", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	create.Header.Set("Authorization", "Bearer "+token)
	if a, err := ask(create); err != nil || a.status != http.StatusOK || strings.Contains(a.body, clear) {
		t.Fatalf("%v, %v", a, err)
	}
	for _, q := range []s3Request{
		{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read},
		{method: http.MethodPut, path: "/" + bucket + "/" + present, key: w.read, body: "x"},
		{method: http.MethodPut, path: "/" + bucket + "/scan", key: w.write, body: "x"},
		{method: http.MethodGet, path: "/" + bucket + "/none", key: w.admin},
	} {
		if _, err := w.askS3(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/v1/models", "/v1/files", "/v1/models/none"} {
		if _, err := w.askAI(ctx, http.MethodGet, path, "", w.aiKey); err != nil {
			t.Fatal(err)
		}
	}
	for _, stream := range []string{"false", "true"} {
		chat := `{"model":"kb-chat-1","stream":` + stream + `,"messages":[{"role":"user","content":"hello"}]}`
		if a, err := w.askAI(ctx, http.MethodPost, "/v1/chat/completions", chat, w.aiKey); err != nil || a.status != http.StatusOK {
			t.Fatalf("chat: %v, %v", a, err)
		}
	}
	for name, needle := range w.recover(ctx, t).custodyNeedles() {
		w.secrets.Add(name, string(needle))
	}
	// Refusals are logged at debug level, by the process that has all the secrets.
	w.wantLogged(ctx, t, stack.Bridge, "level=DEBUG")
	w.scan(t)
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	w.scanFiles(t)
}

// scan looks for every secret of the world in all files of the stack and all its
// processes. The admin token's own file is what its operator reads it from.
func (w *world) scan(t *testing.T) {
	t.Helper()
	w.scanFiles(t)
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

func (w *world) scanFiles(t *testing.T) {
	t.Helper()
	found, err := w.secrets.Tree(w.dir, func(rel string) bool { return rel == "state/admin.token" })
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
}
