package e2e_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/extproc"
)

// barrier makes one request that goes through. The providers' recorders then hold
// it and nothing else, unless something before it went through too.
func (w *world) barrier(t *testing.T) {
	t.Helper()
	a, err := w.askS3(t.Context(), s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read})
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("the request that should go through: %v, %v", a, err)
	}
	if diff := cmp.Diff([]string{"GET /" + bucket + "/" + present}, w.atProviders()); diff != "" {
		t.Errorf("at the providers: %s", diff)
	}
}

// flip makes another secret of the same form.
func flip(s string) string {
	last := "A"
	if strings.HasSuffix(s, last) {
		last = "B"
	}
	return s[:len(s)-1] + last
}

func TestS3Refusals(t *testing.T) {
	w := shared(t)
	object, foreign := "/"+bucket+"/"+present, "/"+otherBucket+"/"+present
	get, put := http.MethodGet, http.MethodPut
	for _, c := range []struct {
		name   string
		q      s3Request
		status int
		code   string
	}{
		{"no credentials", s3Request{method: get, path: object, anonymous: true}, 403, "AccessDenied"},
		{"unknown key", s3Request{method: get, path: object, key: stack.Key{Key: "AKIAUNKNOWNUNKNOWN00", Secret: w.admin.Secret}}, 403, "InvalidAccessKeyId"},
		{"the provider's key", s3Request{method: get, path: object, key: stack.Key{Key: w.s3.Access + "X", Secret: w.s3.Secret}}, 403, "InvalidAccessKeyId"},
		{"wrong secret", s3Request{method: get, path: object, key: stack.Key{Key: w.admin.Key, Secret: flip(w.admin.Secret)}}, 403, "SignatureDoesNotMatch"},
		{"secret of another key", s3Request{method: get, path: object, key: stack.Key{Key: w.admin.Key, Secret: w.read.Secret}}, 403, "SignatureDoesNotMatch"},
		{"clock slow", s3Request{method: get, path: object, key: w.admin, at: time.Now().Add(-16 * time.Minute)}, 403, "RequestTimeTooSkewed"},
		{"clock fast", s3Request{method: get, path: object, key: w.admin, at: time.Now().Add(16 * time.Minute)}, 403, "RequestTimeTooSkewed"},
		{"READ key writing", s3Request{method: put, path: object, key: w.read, body: "x"}, 403, "AccessDenied"},
		{"READ key deleting", s3Request{method: http.MethodDelete, path: object, key: w.read}, 403, "AccessDenied"},
		{"READ key beginning an upload", s3Request{method: http.MethodPost, path: object + "?uploads=", key: w.read}, 403, "AccessDenied"},
		{"WRITE key reading", s3Request{method: get, path: object, key: w.write}, 403, "AccessDenied"},
		{"WRITE key listing", s3Request{method: get, path: "/" + bucket + "?list-type=2", key: w.write}, 403, "AccessDenied"},
		{"foreign bucket", s3Request{method: get, path: foreign, key: w.admin}, 403, "AccessDenied"},
		{"writing to a foreign bucket", s3Request{method: put, path: foreign, key: w.admin, body: "x"}, 403, "AccessDenied"},
		{"bucket that does not exist", s3Request{method: get, path: "/nobody-has-this/x", key: w.admin}, 403, "AccessDenied"},
		{"header that was not signed", s3Request{method: put, path: object, key: w.admin, body: "x", unsigned: []string{"X-Amz-Acl", "public-read"}}, 403, "AccessDenied"},
		{"metadata that was not signed", s3Request{method: put, path: object, key: w.admin, body: "x", unsigned: []string{"X-Amz-Meta-Owner", "me"}}, 403, "AccessDenied"},
		{"publishing", s3Request{method: put, path: object, key: w.admin, body: "x", header: []string{"X-Amz-Acl", "public-read"}}, 403, "AccessDenied"},
		{"presigned, expired", s3Request{method: get, path: object, key: w.admin, presign: true, at: time.Now().Add(-301 * time.Second)}, 403, "AccessDenied"},
		{"presigned, of the future", s3Request{method: get, path: object, key: w.admin, presign: true, at: time.Now().Add(16 * time.Minute)}, 403, "AccessDenied"},
		{"presigned, wrong secret", s3Request{method: get, path: object, key: stack.Key{Key: w.read.Key, Secret: flip(w.read.Secret)}, presign: true}, 403, "SignatureDoesNotMatch"},
		{"presigned, header added", s3Request{method: put, path: object, key: w.admin, presign: true, unsigned: []string{"X-Amz-Acl", "public-read"}}, 403, "AccessDenied"},
		{"presigned, and a header's authorization", s3Request{method: get, path: object, key: w.admin, presign: true, unsigned: []string{"Authorization", "AWS4-HMAC-SHA256 x"}}, 400, "InvalidArgument"},
		{"presigned, READ key writing", s3Request{method: put, path: object, key: w.read, presign: true}, 403, "AccessDenied"},
		{"presigned, foreign bucket", s3Request{method: get, path: foreign, key: w.admin, presign: true}, 403, "AccessDenied"},
		{"signed chunks of no announced length", s3Request{method: put, path: object, key: w.admin, body: "x", hash: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, 411, "MissingContentLength"},
		{"chunks of another algorithm", s3Request{method: put, path: object, key: w.admin, body: "x", hash: "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"}, 501, "NotImplemented"},
		{"copy", s3Request{method: put, path: "/" + bucket + "/copy", key: w.admin, header: []string{"X-Amz-Copy-Source", foreign}}, 403, "AccessDenied"},
		{"WRITE key copying", s3Request{method: put, path: "/" + bucket + "/copy", key: w.write, header: []string{"X-Amz-Copy-Source", object}}, 403, "AccessDenied"},
		{"WRITE key listing buckets", s3Request{method: get, path: "/", key: w.write}, 403, "AccessDenied"},
		{"creating a bucket", s3Request{method: put, path: "/brand-new-bucket", key: w.admin}, 403, "AccessDenied"},
		{"deleting a bucket", s3Request{method: http.MethodDelete, path: "/" + bucket, key: w.admin}, 403, "AccessDenied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.reset()
			a, err := w.askS3(t.Context(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			wantS3Error(t, a, c.status, c.code)
			w.barrier(t)
		})
	}
	t.Run("HEAD has no body", func(t *testing.T) {
		w.reset()
		a, err := w.askS3(t.Context(), s3Request{method: http.MethodHead, path: foreign, key: w.admin})
		if err != nil || a.status != http.StatusForbidden || a.body != "" {
			t.Errorf("%v, %v", a, err)
		}
		w.barrier(t)
	})
}

func TestAIRefusals(t *testing.T) {
	w := shared(t)
	const (
		invalid = "invalid_request_error"
		models  = "/v1/models"
	)
	for _, c := range []struct {
		name, method, path, key string
		status                  int
		code                    string
		header                  []string
	}{
		{"no key", "GET", models, "", 401, "", nil},
		{"unknown key", "GET", models, "kb-unknown-" + strings.Repeat("x", 43), 401, "invalid_api_key", nil},
		{"wrong secret", "GET", models, flip(w.aiKey), 401, "invalid_api_key", nil},
		{"the provider's key", "GET", models, w.ai.Key + "x", 401, "invalid_api_key", nil},
		{"a storage key", "GET", models, w.admin.Secret, 401, "invalid_api_key", nil},
		{"key in another header", "GET", models, "", 401, "", []string{"X-Api-Key", w.aiKey}},
		{"key twice", "GET", models, w.aiKey, 401, "invalid_api_key", []string{"Authorization", "Bearer " + w.aiKey}},
		{"connector of another repository", "GET", "/connectors/more%20models/v1/models", w.aiKey, 404, "connector_not_found", nil},
		{"files", "GET", "/v1/files", w.aiKey, 403, "operation_not_allowed", nil},
		{"responses", "POST", "/v1/responses", w.aiKey, 403, "operation_not_allowed", nil},
		{"organization", "GET", "/v1/organization/users", w.aiKey, 403, "operation_not_allowed", nil},
		{"stored chats", "GET", "/v1/chat/completions", w.aiKey, 403, "operation_not_allowed", nil},
		{"deleting a model", "DELETE", "/v1/models/kb-chat-1", w.aiKey, 404, "unknown_url", nil},
		{"dot segments", "GET", "/v1/models/../files", w.aiKey, 404, "unknown_url", nil},
		{"encoded dot segments", "GET", "/v1/models/%2e%2e/files", w.aiKey, 404, "unknown_url", nil},
		{"query", "GET", models + "?api_key=" + w.aiKey, w.aiKey, 400, "query_not_allowed", nil},
		{"another API", "POST", "/v1beta/models/x:generateContent", w.aiKey, 404, "unknown_url", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.reset()
			a, err := w.askAI(t.Context(), c.method, c.path, "", c.key, c.header...)
			if err != nil {
				t.Fatal(err)
			}
			wantAIError(t, a, c.status, invalid, c.code)
			if strings.Contains(a.body, w.aiKey) || strings.Contains(a.body, w.admin.Secret) {
				t.Errorf("the key is echoed: %s", a.body)
			}
			w.barrier(t)
		})
	}
}

// A client cannot route: with the name of every cluster that Envoy has, it gets
// as far as without.
func TestClientCannotRoute(t *testing.T) {
	w := shared(t)
	clusters := w.clusters(t)
	if len(clusters) < 2 {
		t.Fatalf("Envoy has clusters %v", clusters)
	}
	for _, cluster := range clusters {
		for _, name := range []string{extproc.ClusterHeader, "X-Keybridge-Cluster", "x-keybridge-anything"} {
			w.reset()
			a, err := w.askS3(t.Context(), s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, anonymous: true, unsigned: []string{name, cluster}})
			if err != nil {
				t.Fatal(err)
			}
			wantS3Error(t, a, 403, "AccessDenied")
			if a, err = w.askAI(t.Context(), http.MethodGet, "/v1/models", "", "", name, cluster); err != nil {
				t.Fatal(err)
			}
			wantAIError(t, a, 401, "invalid_request_error", "")
			w.barrier(t)
		}
	}
	// With a key they mean nothing, and do not reach the provider (attach).
	a, err := w.askAI(t.Context(), http.MethodGet, "/v1/models", "", w.aiKey, extproc.ClusterHeader, "nowhere", extproc.ClusterHeader, clusters[0])
	if err != nil || a.status != http.StatusOK {
		t.Errorf("%v, %v", a, err)
	}
}

// What a client sends beside its key is not what the provider gets.
func TestClientCredentialsStayBehind(t *testing.T) {
	w := shared(t)
	a, err := w.askAI(t.Context(), http.MethodGet, "/v1/models", "", w.aiKey,
		"X-Api-Key", w.aiKey, "Api-Key", w.aiKey, "Cookie", "session="+w.aiKey, "Proxy-Authorization", "Bearer "+w.aiKey,
		"OpenAI-Organization", "org-mine", "OpenAI-Project", "proj-mine", "X-HTTP-Method-Override", "DELETE")
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%v, %v", a, err)
	}
	w.noViolations(t)
	seen := w.ai.Requests()
	if len(seen) != 1 {
		t.Fatalf("at the provider: %v", w.atProviders())
	}
	for _, h := range []string{"x-api-key", "api-key", "cookie", "proxy-authorization", "openai-organization", "openai-project", "x-http-method-override"} {
		if slices.ContainsFunc(seen[0].Header, func(f provider.Field) bool { return strings.EqualFold(f.Name, h) }) {
			t.Errorf("%s at the provider", h)
		}
	}
}

// A revoked key stops working while everything runs.
func TestRevokedKey(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	key, err := w.tenant.StorageKey(ctx, w.repository, "short-lived", "READ")
	if err != nil {
		t.Fatal(err)
	}
	q := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: key}
	until := func(status int) answer {
		t.Helper()
		var a answer
		if err := w.Wait(ctx, func() (err error) {
			if a, err = w.askS3(ctx, q); err != nil || a.status != status {
				return errNotYet
			}
			return nil
		}); err != nil {
			t.Fatalf("status %d: %v", a.status, err)
		}
		return a
	}
	until(http.StatusOK)
	revoked := time.Now()
	if err := w.tenant.DeleteStorageKey(ctx, w.repository, key.ID); err != nil {
		t.Fatal(err)
	}
	wantS3Error(t, until(http.StatusForbidden), 403, "InvalidAccessKeyId")
	t.Logf("revoked within %s", time.Since(revoked).Round(time.Millisecond))
	w.reset()
	if _, err := w.askS3(ctx, q); err != nil {
		t.Fatal(err)
	}
	w.barrier(t)
}
