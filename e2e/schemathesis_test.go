package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Requests made up from openapi.yaml, valid and broken ones: no server error, no
// answer that the document does not describe, no route without a token.
func TestSchemathesis(t *testing.T) {
	libs, err := libraries("schemathesis", "schemathesis")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, config{}) // of its own: it changes whatever it can
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "testdata/schemathesis.sh", w.endpoints.Admin, w.endpoints.AdminTokenFile, "2")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+libs, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
