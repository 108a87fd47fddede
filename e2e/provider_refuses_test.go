package e2e_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// admin administers the S3 provider's users, as its operator does.
func (w *world) adminS3(t *testing.T, args ...string) {
	t.Helper()
	binary, err := provider.Versitygw()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"admin", "--region", provider.Region, "--endpoint-url", w.s3.URL()}, args...)...)
	cmd.Env = append(cmd.Environ(), "ADMIN_ACCESS_KEY="+w.s3.Access, "ADMIN_SECRET_KEY="+w.s3.Secret)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// authFailures is what the bridge counts of a code.
func (w *world) authFailures(t *testing.T, protocol, code string) int {
	t.Helper()
	n, ok := w.metrics(t)[fmt.Sprintf("keybridge_provider_auth_failures_total{code=%q,protocol=%q}", code, protocol)]
	if !ok {
		t.Fatalf("no number for %s, %s", protocol, code)
	}
	return int(n)
}

// awaitStatus waits until the bridge's picture of a connector is as wanted.
func (w *world) awaitStatus(ctx context.Context, t *testing.T, status func(context.Context, string) ([]client.Node, error), id, want, message string) {
	t.Helper()
	if err := w.Wait(ctx, func() error {
		nodes, err := status(ctx, id)
		if err != nil || len(nodes) != 1 || nodes[0].Status != want || !strings.Contains(nodes[0].Message, message) {
			return fmt.Errorf("%+v %w", nodes, errors.Join(err, errNotYet))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestProviderRefusesUs changes the secret of the provider's user, then removes the
// user, under the bridge's feet. The application's key is not to blame, and it hears
// nothing of the provider's; the operator sees which connector it is.
func TestProviderRefusesUs(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	user, secret, rotated := "USERKEY"+rand.Text()[:13], rand.Text()+rand.Text(), rand.Text()+rand.Text()
	b := "refused-" + strings.ToLower(rand.Text()[:8])
	for name, s := range map[string]string{"user's key id": user, "user's secret": secret, "user's rotated secret": rotated} {
		w.beforeEnvoy.Add(name, s)
	}
	w.secrets.Add("user's secret", secret)
	w.adminS3(t, "create-user", "--access", user, "--secret", secret, "--role", "admin")
	fatal(w.s3.MakeBucket(ctx, b))
	fatal(w.putDirect(ctx, b, present, "hello"))
	connector, err := w.tenant.Bucket(ctx, stack.Bucket{Name: b, Bucket: b, Endpoint: w.s3.URL(), Region: provider.Region, Key: user, Secret: secret})
	fatal(err)
	repo, err := w.tenant.Repository(ctx, b, []string{connector}, nil)
	fatal(err)
	key, err := w.tenant.StorageKey(ctx, repo, "key", "ADMIN")
	fatal(err)
	w.behindEnvoy.Add("key id", key.Key)
	w.behindEnvoy.Add("key secret", key.Secret)
	get := s3Request{method: http.MethodGet, path: "/" + b + "/" + present, key: key}
	serves := func() {
		t.Helper()
		fatal(w.Wait(ctx, func() error {
			if a, err := w.askS3(ctx, get); err != nil || a.status != http.StatusOK || a.body != "hello" {
				return fmt.Errorf("%v %w", a, errors.Join(err, errNotYet))
			}
			return nil
		}))
		w.awaitStatus(ctx, t, w.tenant.BucketStatus, connector, "ONLINE", "")
	}
	serves()
	sdk := w.s3SDK(key)
	upload, err := sdk.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: aws.String("parts")})
	fatal(err)
	part := "/" + b + "/parts?partNumber=1&uploadId=" + aws.ToString(upload.UploadId)

	// What the provider itself has to say passes, as it came.
	passes := func(q s3Request, status int, code string) {
		t.Helper()
		a, err := w.askS3(ctx, q)
		fatal(err)
		wantS3Error(t, a, status, code)
		if a.header.Get("Server") != "VERSITYGW" || !strings.Contains(a.body, "<HostId>") {
			t.Errorf("not as the provider said it: %v", a)
		}
	}
	passes(s3Request{method: http.MethodGet, path: "/" + b + "/absent", key: key}, 404, "NoSuchKey")
	passes(s3Request{method: http.MethodPut, path: "/" + b + "/x", key: key, body: "x", header: []string{"Content-Md5", "AAAAAAAAAAAAAAAAAAAAAA=="}}, 400, "BadDigest")
	before := w.authFailures(t, "s3", "SignatureDoesNotMatch")

	// It sends a body when it is asked to, if it says that it expects 100 Continue.
	patient := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}, Timeout: time.Minute}
	// hasty are bodies that the provider does not read to their end: it hangs up, and
	// Envoy may notice that before it has read the answer. What it says then leaks no more.
	hasty := func(q s3Request) bool { return len(q.body) > 1<<20 && len(q.header) == 0 || q.chunks != nil }
	refused := func(q s3Request) {
		t.Helper()
		r, err := w.signS3(ctx, q)
		fatal(err)
		res, err := patient.Do(r)
		fatal(err)
		a := answer{res.StatusCode, res.Header, string(readAll(t, res.Body))}
		if q.method == http.MethodHead {
			if a.status != http.StatusServiceUnavailable {
				t.Errorf("HEAD: %d", a.status)
			}
		} else {
			wantS3Error(t, a, 503, "ServiceUnavailable")
			if !strings.Contains(a.body, "Your access key is fine") && !hasty(q) {
				t.Errorf("%s %s: %s", q.method, q.path, a.body)
			}
		}
		for _, gone := range []string{"Server", "X-Amz-Id-2"} {
			if v := a.header.Get(gone); v != "" {
				t.Errorf("%s %s: %s %q of the provider", q.method, q.path, gone, v)
			}
		}
		for _, leak := range []string{user, "CanonicalRequest", "StringToSign", "Credential"} {
			if strings.Contains(fmt.Sprint(a), leak) {
				t.Errorf("%s %s: %q in %v", q.method, q.path, leak, a)
			}
		}
	}
	large := text(4 << 20)
	w.adminS3(t, "update-user", "--access", user, "--secret", rotated)
	chunks := chunkedPut(w, "/"+b+"/chunks", large, 64<<10, "", nil)
	chunks.key = key
	all := []s3Request{
		get,
		{method: http.MethodHead, path: "/" + b + "/" + present, key: key}, // it is known by now
		{method: http.MethodHead, path: "/" + b, key: key},
		{method: http.MethodGet, path: "/" + b + "?list-type=2", key: key},
		{method: http.MethodGet, path: "/" + b + "/" + present, key: key, presign: true},
		{method: http.MethodPut, path: "/" + b + "/small", key: key, body: "x"},
		{method: http.MethodPut, path: "/" + b + "/large", key: key, body: large},
		{method: http.MethodPut, path: "/" + b + "/unsigned", key: key, body: large, hash: "UNSIGNED-PAYLOAD"},
		{method: http.MethodPut, path: "/" + b + "/expected", key: key, body: large, header: []string{"Expect", "100-continue"}},
		chunks,
		{method: http.MethodPost, path: "/" + b + "/more?uploads=", key: key},
		{method: http.MethodPut, path: part, key: key, body: large},
		{method: http.MethodPost, path: strings.Replace(part, "partNumber=1&", "", 1), key: key, body: "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>"},
		{method: http.MethodDelete, path: "/" + b + "/" + present, key: key},
	}
	least, most := 0, 0
	for _, q := range all {
		refused(q)
		if q.method != http.MethodHead {
			most++
			if !hasty(q) {
				least++
			}
		}
	}
	if n := w.authFailures(t, "s3", "SignatureDoesNotMatch") - before; n < least || n > most {
		t.Errorf("counted %d, want %d to %d", n, least, most)
	}
	if n := w.authFailures(t, "s3", "no_body"); n < 2 {
		t.Errorf("counted %d refused HEADs", n)
	}
	w.awaitStatus(ctx, t, w.tenant.BucketStatus, connector, "OFFLINE", "SignatureDoesNotMatch")
	// An SDK tries again, and does not say that its key is wrong.
	w.frontS3.Reset()
	retries := s3.New(sdk.Options(), func(o *s3.Options) {
		o.RetryMaxAttempts = 0
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 3, time.Millisecond })
	})
	_, err = retries.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String(present)})
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "ServiceUnavailable" || len(w.frontS3.Requests()) != 3 {
		t.Errorf("the SDK made %d requests and says %v", len(w.frontS3.Requests()), err)
	}
	// Others at the same provider go on.
	if a, err := w.askS3(ctx, s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read}); err != nil || a.status != http.StatusOK {
		t.Errorf("another connector: %v, %v", a, err)
	}

	w.adminS3(t, "delete-user", "--access", user)
	before = w.authFailures(t, "s3", "InvalidAccessKeyId")
	refused(get)
	refused(s3Request{method: http.MethodPut, path: "/" + b + "/small", key: key, body: "x"})
	if n := w.authFailures(t, "s3", "InvalidAccessKeyId") - before; n != 2 {
		t.Errorf("counted %d", n)
	}
	w.awaitStatus(ctx, t, w.tenant.BucketStatus, connector, "OFFLINE", "InvalidAccessKeyId")
	log, err := w.Log(stack.Bridge)
	fatal(err)
	if !strings.Contains(log, "the provider refuses the credential of a connector") || !strings.Contains(log, connector) || strings.Contains(log, user) {
		t.Errorf("the bridge's log: %s", log)
	}

	// All is well again once it is mended, and nothing was done meanwhile.
	w.adminS3(t, "create-user", "--access", user, "--secret", secret, "--role", "admin")
	serves()
	list, err := sdk.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b})
	fatal(err)
	if len(list.Contents) != 1 || aws.ToString(list.Contents[0].Key) != present {
		t.Errorf("the bucket holds %v", list.Contents)
	}
	if a, err := w.askS3(ctx, s3Request{method: http.MethodPut, path: part, key: key, body: large}); err != nil || a.status != http.StatusOK {
		t.Errorf("the upload does not go on: %v, %v", a, err)
	}
	passes(s3Request{method: http.MethodGet, path: "/" + b + "/absent", key: key}, 404, "NoSuchKey")
}

// A connector whose AI key is refused, made so and then mended.
func TestAIProviderRefusesUs(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := provider.StartOpenAI(provider.OpenAIConfig{}) // not the shared one, which holds refusals against its clients
	fatal(err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	wrong := "sk-revoked-" + rand.Text()
	w.beforeEnvoy.Add("revoked AI key", wrong)
	name := "refused " + rand.Text()
	llm, err := w.tenant.LLM(ctx, stack.LLM{Name: name, Endpoint: p.Endpoint(), Secret: wrong, Untried: true})
	fatal(err)
	repo, err := w.tenant.Repository(ctx, name, nil, []string{llm})
	fatal(err)
	key, err := w.tenant.AIKey(ctx, repo, "key")
	fatal(err)
	before := w.authFailures(t, "ai", "unauthorized")
	until := func(path string, status int) (a answer) {
		t.Helper()
		fatal(w.Wait(ctx, func() (err error) {
			if a, err = w.askAI(ctx, http.MethodGet, path, "", key.Secret); err != nil || a.status != status {
				return fmt.Errorf("%v %w", a, errors.Join(err, errNotYet))
			}
			return nil
		}))
		return a
	}
	wantAIError(t, until("/v1/models", http.StatusServiceUnavailable), 503, "api_error", "provider_refused")
	chat := `{"model":"` + provider.Models[0] + `","messages":[{"role":"user","content":"hi"}]}`
	a, err := w.askAI(ctx, http.MethodPost, "/v1/chat/completions", chat, key.Secret)
	fatal(err)
	wantAIError(t, a, 503, "server_error", "provider_refused")
	if a.header.Get("Openai-Processing-Ms") != "" || a.header.Get("Www-Authenticate") != "" {
		t.Errorf("headers of the provider: %v", a.header)
	}
	if n := w.authFailures(t, "ai", "unauthorized") - before; n < 2 {
		t.Errorf("counted %d", n)
	}
	w.awaitStatus(ctx, t, w.tenant.LLMStatus, llm, "OFFLINE", "401")
	if _, err := w.tenant.UpdateLLM(ctx, llm, client.LLMUpdate{Secret: client.Secret(p.Key)}); err != nil {
		t.Fatal(err)
	}
	until("/v1/models", http.StatusOK)
	w.awaitStatus(ctx, t, w.tenant.LLMStatus, llm, "ONLINE", "")
}
