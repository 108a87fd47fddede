package e2e_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/stack"
)

// TestS3BrowserForms: forms that aws-sdk-go-v2 signs and curl sends as a browser does. What
// is refused never reaches the provider.
func TestS3BrowserForms(t *testing.T) {
	w := shared(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "holiday.bin")
	content := make([]byte, 3<<19) // several messages of the body
	_, _ = rand.Read(content)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	// post signs a form for object and sends it with the field that is given, and says the status.
	post := func(t *testing.T, key stack.Key, object, field string, args ...string) string {
		t.Helper()
		signed, err := s3.NewPresignClient(w.s3SDK(key)).PresignPostObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: &object},
			func(o *s3.PresignPostOptions) {
				o.Conditions = []any{[]any{"starts-with", "$x-amz-meta-from", ""}, []any{"content-length-range", 1, 2 << 20}}
			})
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--silent", "--show-error", "--max-time", "60", "--output", filepath.Join(dir, "answer"), "--write-out", "%{http_code}")
		for name, value := range signed.Values {
			args = append(args, "--form-string", name+"="+value)
		}
		args = append(args, "--form-string", field, "--form", "file=@"+file, "http://"+w.S3+"/"+bucket)
		out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	answer := func(t *testing.T) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "answer"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, args := range map[string][]string{
		"HTTP/1.1": nil, "chunked": {"--header", "Transfer-Encoding: chunked"}, "HTTP/2": {"--http2-prior-knowledge"}, "expecting": {"--header", "Expect: 100-continue"},
	} {
		t.Run(name, func(t *testing.T) {
			w.reset()
			object := "form/" + name
			if status := post(t, w.admin, object, "x-amz-meta-from=a browser", args...); status != "204" {
				t.Fatalf("%s %s", status, answer(t))
			}
			w.wantObjectIn(t, bucket, object, content)
			head, err := w.s3.Direct().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: &object})
			if err != nil || head.Metadata["from"] != "a browser" {
				t.Errorf("%v, %v", head, err)
			}
		})
	}
	for name, c := range map[string]struct {
		key          stack.Key
		field        string
		status, code string
	}{
		"bad signature":     {stack.Key{Key: w.admin.Key, Secret: flip(w.admin.Secret)}, "x-amz-meta-from=x", "403", "SignatureDoesNotMatch"},
		"READ key":          {w.read, "x-amz-meta-from=x", "403", "AccessDenied"},
		"copy source":       {w.admin, "x-amz-copy-source=/" + otherBucket + "/" + present, "501", "NotImplemented"},
		"two X-Amz-Date":    {w.admin, "X-Amz-Date=20260101T000000Z", "400", "MalformedPOSTRequest"},
		"header in a field": {w.admin, "x-amz-meta-from=a\r\nx-amz-acl: public-read", "400", "MalformedPOSTRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			w.reset()
			if status := post(t, c.key, "form/refused", c.field); status != c.status || !strings.Contains(answer(t), "<Code>"+c.code+"</Code>") {
				t.Errorf("%s %s", status, answer(t))
			}
			w.barrier(t)
		})
	}
	t.Run("what no condition covers", func(t *testing.T) { // the provider holds it against the policy
		if status := post(t, w.admin, "form/refused", "x-amz-meta-other=x"); status != "403" || !strings.Contains(answer(t), "<Code>AccessDenied</Code>") {
			t.Errorf("%s %s", status, answer(t))
		}
	})
}
