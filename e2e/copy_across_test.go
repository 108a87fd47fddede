package e2e_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// TestS3CopyAcross: two connectors with different credentials in one copy are refused
// in words that say what to do, and neither provider is asked.
func TestS3CopyAcross(t *testing.T) {
	w := shared(t)
	second, err := provider.StartS3(t.Context(), provider.S3Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	const far = "across-far"
	if err := errors.Join(second.MakeBucket(t.Context(), far), w.s3.MakeBucket(t.Context(), teamBucket)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Direct().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(far), Key: aws.String("k"), Body: strings.NewReader("far")}); err != nil {
		t.Fatal(err)
	}
	id, err := w.tenant.Bucket(t.Context(), stack.Bucket{
		Name: rand.Text(), Bucket: far, Endpoint: second.URL(), Region: provider.Region, Key: second.Access, Secret: second.Secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.secrets.Add("secret of the second provider", second.Secret)
	k := w.repositoryKeys(t, id, w.connector(t, teamBucket))
	w.serves(t, s3Request{method: http.MethodGet, path: "/" + far + "/k", key: k.admin})
	second.Reset()
	w.reset()
	ctx, c := t.Context(), w.s3SDK(k.admin)
	for _, to := range []struct{ bucket, source string }{{teamBucket, far + "/k"}, {far, teamBucket + "/k"}} {
		_, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &to.bucket, Key: aws.String("copy"), CopySource: &to.source})
		if err == nil || !strings.Contains(err.Error(), "NotImplemented") || !strings.Contains(err.Error(), "one credential of one storage provider") ||
			!strings.Contains(err.Error(), "upload it instead") {
			t.Errorf("copy: %v", err)
		}
		_, err = c.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &to.bucket, Key: aws.String("copy"), CopySource: &to.source, UploadId: aws.String("u"), PartNumber: aws.Int32(1),
		})
		if err == nil || !strings.Contains(err.Error(), "NotImplemented") {
			t.Errorf("copy of a part: %v", err)
		}
	}
	if got := slices.Concat(second.Requests(), w.s3.Requests()); len(got) != 0 {
		t.Errorf("at the providers: %v", got)
	}
	// One by one each is served, with its own credential.
	body, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(far), Key: aws.String("k")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(teamBucket), Key: aws.String("across"), Body: strings.NewReader(string(readAll(t, body.Body)))}); err != nil {
		t.Fatal(err)
	}
	w.wantObjectIn(t, teamBucket, "across", []byte("far"))
	if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(teamBucket), Key: aws.String("across")}); err != nil {
		t.Error(err)
	}
}

// serves waits until a request is answered with 200.
func (w *world) serves(t *testing.T, q s3Request) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Wait(ctx, func() error {
		if a, err := w.askS3(ctx, q); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%s %s: %v %w", q.method, q.path, a, errors.Join(err, errNotYet))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
