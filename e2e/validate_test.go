package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/provider"
)

// tell makes one call of the admin API, as an operator with curl does.
func (w *world) tell(t *testing.T, method, path string, body any) (status int, fields map[string]any) {
	t.Helper()
	token, err := w.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequestWithContext(t.Context(), method, w.endpoints.Admin+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	q.Header.Set("Content-Type", "application/json")
	res, err := once.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&fields); err != nil {
		t.Fatalf("%s %s: %d, %v", method, path, res.StatusCode, err)
	}
	return res.StatusCode, fields
}

// What is made is tried first, by a bridge at the real provider, and the operator
// hears the provider's own words without the secret.
func TestConnectorsAreTriedBeforeTheyAreMade(t *testing.T) {
	w := shared(t)
	llm, err := provider.StartOpenAI(provider.AIConfig{}) // not the shared one, which holds refusals against its clients
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := llm.Close(); err != nil {
			t.Error(err)
		}
	})
	const wrong = "wrong-secret-0123456789-abcdefghijklmn"
	storage := func(name, bucket, endpoint, region, secret string) (int, map[string]any) {
		return w.tell(t, http.MethodPost, "/bucket", map[string]any{
			"workspaceId": w.tenant.Workspace, "name": name, "bucket": bucket, "storageType": "S3",
			"endpoint": endpoint, "region": region, "key": w.s3.Access, "secret": secret,
		})
	}
	ai := func(name, endpoint, secret string) (int, map[string]any) {
		return w.tell(t, http.MethodPost, "/ai/llm", map[string]any{
			"workspaceId": w.tenant.Workspace, "name": name, "aiType": "OTHER", "endpoint": endpoint, "secret": secret,
		})
	}
	for _, test := range []struct {
		name string
		make func(name string) (int, map[string]any)
		says string
	}{
		{"no such bucket", func(n string) (int, map[string]any) {
			return storage(n, "absent", w.s3.URL(), provider.Region, w.s3.Secret)
		}, "NoSuchBucket"},
		{"wrong secret", func(n string) (int, map[string]any) {
			return storage(n, bucket, w.s3.URL(), provider.Region, wrong)
		}, "SignatureDoesNotMatch"},
		{"wrong region", func(n string) (int, map[string]any) {
			return storage(n, bucket, w.s3.URL(), "eu-north-7", w.s3.Secret)
		}, provider.Region},
		{"nobody listens", func(n string) (int, map[string]any) {
			return storage(n, bucket, "http://127.0.0.1:1", provider.Region, w.s3.Secret)
		}, "connection refused"},
		{"wrong AI key", func(n string) (int, map[string]any) { return ai(n, llm.Endpoint(), wrong) }, "incorrect API key"},
		{"wrong AI path", func(n string) (int, map[string]any) { return ai(n, llm.URL()+"/v2", llm.Key) }, "no such path"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, answer := test.make("tried: " + test.name)
			message, _ := answer["message"].(string)
			if status != http.StatusBadRequest || answer["success"] != false || !strings.Contains(message, test.says) {
				t.Errorf("%d %v, want 400 with %q", status, answer, test.says)
			}
			for _, secret := range []string{wrong, w.s3.Secret, llm.Key} {
				if strings.Contains(message, secret) {
					t.Error("the message carries a secret")
				}
			}
		})
	}
}

// A connector can be tried again at any time, and shows how each bridge finds it.
func TestConnectorStatus(t *testing.T) {
	w := shared(t)
	status, made := w.tell(t, http.MethodPost, "/bucket", map[string]any{
		"workspaceId": w.tenant.Workspace, "name": "status", "bucket": bucket, "storageType": "S3",
		"endpoint": w.s3.URL(), "key": w.s3.Access, "secret": w.s3.Secret,
	})
	if status != http.StatusOK {
		t.Fatalf("%d %v", status, made)
	}
	at := "/bucket/" + made["bucketId"].(string)
	defer w.tell(t, http.MethodDelete, at, nil)
	status, valid := w.tell(t, http.MethodPost, at+"/validate", map[string]any{"bucket": bucket})
	if status != http.StatusOK || valid["status"] != "ONLINE" || valid["latency_ms"] == nil {
		t.Errorf("validate: %d %v", status, valid)
	}
	// With a change that would not work: said, not made.
	if status, answer := w.tell(t, http.MethodPost, at+"/validate", map[string]any{"bucket": bucket, "secret": "wrong-secret-0123456789"}); status != http.StatusBadRequest {
		t.Errorf("validate with a wrong secret: %d %v", status, answer)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.Wait(ctx, func() error {
		_, shown := w.tell(t, http.MethodGet, at+"/status", nil)
		for _, n := range shown["nodeStatus"].([]any) {
			if n.(map[string]any)["status"] == "ONLINE" {
				return nil
			}
		}
		return errNotYet
	}); err != nil {
		t.Error("status: ", err)
	}
	_, nodes := w.tell(t, http.MethodGet, "/node", nil)
	if all, _ := nodes["data"].([]any); len(all) != 1 || all[0].(map[string]any)["status"] != "ONLINE" {
		t.Errorf("nodes: %v", nodes)
	}
	_, sync := w.tell(t, http.MethodGet, "/sync", nil)
	if text, _ := json.Marshal(sync); !strings.Contains(string(text), "Cluster") || !strings.Contains(string(text), "Connector") {
		t.Errorf("sync: %s", text)
	}
}
