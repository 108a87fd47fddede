package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/provider"
)

// sealers are two implementations of the record format that share nothing with ours:
// Python with the cryptography package, and JavaScript with WebCrypto.
func sealers(t *testing.T) map[string]func(ctx context.Context, env []string, stdin []byte, args ...string) (string, error) {
	t.Helper()
	libs, err := libraries("py", "cryptography")
	if err != nil {
		t.Fatal(err)
	}
	run := func(program string, script string, more ...string) func(context.Context, []string, []byte, ...string) (string, error) {
		return func(ctx context.Context, env []string, stdin []byte, args ...string) (string, error) {
			cmd := exec.CommandContext(ctx, program, append([]string{script}, args...)...)
			cmd.Env = append(append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.TempDir()), more...)
			cmd.Stdin = bytes.NewReader(stdin)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return "", fmt.Errorf("%s: %w\n%s%s", script, err, out, stderr.String())
			}
			return strings.TrimSpace(string(out)), nil
		}
	}
	return map[string]func(context.Context, []string, []byte, ...string) (string, error){
		"Python":     run("python3", "testdata/seal_record.py", "PYTHONPATH="+libs, "PYTHONDONTWRITEBYTECODE=1"),
		"JavaScript": run("node", "testdata/seal_node.mjs"),
	}
}

// Both hold against the frozen vectors, and what they seal for a real stack, to the
// key of a manifest that they checked, a bridge opens and serves with.
func TestOtherImplementationsSeal(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	token, err := w.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	for name, run := range sealers(t) {
		t.Run(name, func(t *testing.T) {
			out, err := run(ctx, nil, nil, "vectors", "../keyshare/seal/testdata/records-v1.json", "../keyshare/testdata/custody-v1.json")
			if err != nil || !strings.HasPrefix(out, "vectors hold") {
				t.Fatalf("%s, %v", out, err)
			}
			request, err := json.Marshal(map[string]string{
				"workspaceId": w.tenant.Workspace, "name": "sealed by " + name, "bucket": bucket, "storageType": "S3",
				"endpoint": w.s3.URL(), "region": provider.Region, "key": w.s3.Access, "secret": w.s3.Secret,
			})
			if err != nil {
				t.Fatal(err)
			}
			id, err := run(ctx, []string{"ADMIN_TOKEN=" + token}, request, "bucket", w.endpoints.Admin, w.endpoints.OperatorRoot)
			if err != nil {
				t.Fatal(err)
			}
			remove := func(what func() error) { // the stack is shared
				t.Cleanup(func() {
					if err := what(); err != nil {
						t.Error(err)
					}
				})
			}
			remove(func() error { return w.tenant.DeleteBucket(context.Background(), id) })
			repository, err := w.tenant.Repository(ctx, "sealed by "+name, []string{id}, nil)
			if err != nil {
				t.Fatal(err)
			}
			remove(func() error { return w.tenant.DeleteRepo(context.Background(), repository) })
			key, err := w.tenant.StorageKey(ctx, repository, name, "READ")
			if err != nil {
				t.Fatal(err)
			}
			remove(func() error { return w.tenant.DeleteStorageKey(context.Background(), repository, key.ID) })
			if err := w.Wait(ctx, func() error {
				a, err := w.askS3(ctx, s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: key})
				if err == nil && (a.status != http.StatusOK || a.body != "hello from "+bucket) {
					err = fmt.Errorf("%v %w", a, errNotYet)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
}
