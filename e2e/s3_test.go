package e2e_test

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"keybridge/e2e/provider"
)

// Everything an application does first, by the SDK, each step on what the one
// before it left.
func TestS3ByGoSDK(t *testing.T) {
	w := shared(t)
	ctx, c := t.Context(), w.s3SDK(w.admin)
	// What SigV4 and URLs treat specially, and what proxies like to normalise.
	const key = "sdk/.b/..c/ü €+%2F=&'()*~!$;:@,.txt"
	body := make([]byte, 100_000)
	_, _ = rand.Read(body)

	put, err := c.PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(bucket), Key: aws.String(key), Body: bytes.NewReader(body),
		ContentType: aws.String("text/x-test"), Metadata: map[string]string{"note": "from the go sdk"},
	})
	if err != nil {
		t.Fatal("put: ", err)
	}
	if got, want := aws.ToString(put.ETag), fmt.Sprintf(`"%x"`, md5.Sum(body)); got != want {
		t.Errorf("put: ETag %s, want %s", got, want)
	}
	direct, err := w.s3.Direct().HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil || aws.ToInt64(direct.ContentLength) != int64(len(body)) {
		t.Errorf("at the provider, under the same key: %v, %v", direct, err)
	}
	get, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil {
		t.Fatal("get: ", err)
	}
	if got := readAll(t, get.Body); !bytes.Equal(got, body) || aws.ToString(get.ContentType) != "text/x-test" || get.Metadata["note"] != "from the go sdk" {
		t.Errorf("get: %d bytes, %s, %v", len(got), aws.ToString(get.ContentType), get.Metadata)
	}
	part, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key), Range: aws.String("bytes=1000-1999")})
	if err != nil {
		t.Fatal("range: ", err)
	}
	if got := readAll(t, part.Body); !bytes.Equal(got, body[1000:2000]) || aws.ToString(part.ContentRange) != "bytes 1000-1999/100000" {
		t.Errorf("range: %d bytes, %s", len(got), aws.ToString(part.ContentRange))
	}
	head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil || aws.ToInt64(head.ContentLength) != int64(len(body)) {
		t.Errorf("head: %v, %v", head, err)
	}
	for i := range 3 {
		if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(fmt.Sprint("sdk/list/", i)), Body: strings.NewReader("")}); err != nil {
			t.Fatal("put of nothing: ", err)
		}
	}
	var keys []string
	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: aws.String(bucket), Prefix: aws.String("sdk/"), MaxKeys: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal("list: ", err)
		}
		for _, o := range page.Contents {
			keys = append(keys, aws.ToString(o.Key))
		}
	}
	if diff := cmp.Diff([]string{key, "sdk/list/0", "sdk/list/1", "sdk/list/2"}, keys); diff != "" {
		t.Error("list: ", diff)
	}
	for _, k := range keys {
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String(k)}); err != nil {
			t.Error("delete: ", err)
		}
	}
	_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	var gone *types.NoSuchKey // the provider's own error, passed on
	if !errors.As(err, &gone) {
		t.Errorf("after delete: %v", err)
	}
}

func readAll(t *testing.T, r io.ReadCloser) []byte {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// 64 MiB in 8 MiB parts, four at a time, and back in ranges.
func TestS3MultipartByGoSDK(t *testing.T) {
	w := shared(t)
	ctx, c := t.Context(), w.s3SDK(w.admin)
	const size = 64 << 20
	body := make([]byte, size)
	_, _ = rand.Read(body)
	//nolint:staticcheck // its successor is young; this one is what applications use
	up, err := manager.NewUploader(c, func(u *manager.Uploader) { u.PartSize, u.Concurrency = 8<<20, 4 }).Upload(ctx,
		&s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("big"), Body: bytes.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	if up.UploadID == "" || len(up.CompletedParts) != 8 {
		t.Errorf("not in 8 parts: %+v", up)
	}
	back := manager.NewWriteAtBuffer(make([]byte, 0, size))
	//nolint:staticcheck // as above
	_, err = manager.NewDownloader(c).Download(ctx, back, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String("big")})
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(back.Bytes()) != sha256.Sum256(body) {
		t.Error("what came back is not what was sent")
	}
	if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: aws.String("big")}); err != nil {
		t.Error(err)
	}
	// Bodies pass at the length they were announced with: no chunked transfer.
	for _, q := range w.s3.Requests() {
		if q.Chunked {
			t.Errorf("%s arrived chunked", q.Line())
		}
	}
}

// The payload forms that SDKs choose by circumstance (TLS, streams).
func TestS3PayloadForms(t *testing.T) {
	w := shared(t)
	ctx := t.Context()
	body := strings.Repeat("Wikipedia in chunks. ", 1000)
	t.Run("UNSIGNED-PAYLOAD", func(t *testing.T) {
		c := w.s3SDK(w.admin)
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("unsigned"), Body: strings.NewReader(body)},
			s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
		if err != nil {
			t.Fatal(err)
		}
		w.wantObject(t, "unsigned", body)
	})
	t.Run("STREAMING-UNSIGNED-PAYLOAD-TRAILER", func(t *testing.T) {
		sum := crc32.NewIEEE()
		_, _ = io.WriteString(sum, body)
		const first = 8192 // the least that a chunk may have which is not the last
		chunked := fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n", first, body[:first], len(body)-first, body[first:],
			base64.StdEncoding.EncodeToString(sum.Sum(nil)))
		a, err := w.askS3(ctx, s3Request{
			method: http.MethodPut, path: "/" + bucket + "/trailer", key: w.write, body: chunked, hash: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
			header: []string{"Content-Encoding", "aws-chunked", "X-Amz-Decoded-Content-Length", fmt.Sprint(len(body)), "X-Amz-Trailer", "x-amz-checksum-crc32"},
		})
		if err != nil || a.status != http.StatusOK {
			t.Fatal(a, err)
		}
		w.wantObject(t, "trailer", body)
	})
	t.Run("another body than was hashed", func(t *testing.T) {
		sum := sha256.Sum256([]byte("something else"))
		a, err := w.askS3(ctx, s3Request{method: http.MethodPut, path: "/" + bucket + "/tampered", key: w.write, body: body, hash: hex.EncodeToString(sum[:])})
		if err != nil {
			t.Fatal(err)
		}
		// The hash is passed on, so the provider that sees the body refuses it.
		wantS3Error(t, a, http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	})
}

func (w *world) wantObject(t *testing.T, key, body string) {
	t.Helper()
	out, err := w.s3.Direct().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(readAll(t, out.Body)); got != body {
		t.Errorf("%s holds %d bytes, %.40q…", key, len(got), got)
	}
}

func TestS3ByBoto3(t *testing.T) {
	w := shared(t)
	out, err := python(t.Context(), []string{"AWS_ACCESS_KEY_ID=" + w.admin.Key, "AWS_SECRET_ACCESS_KEY=" + w.admin.Secret}, "testdata/s3_boto3.py", w.frontS3.URL(), bucket, "boto3/")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"put", "get", "range", "head", "list", "multipart put", "multipart get", "multipart abort", "delete"}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out), "\n")); diff != "" {
		t.Error(diff)
	}
	if !slices.ContainsFunc(w.s3.Requests(), func(q provider.Request) bool {
		agent, _ := q.Get("User-Agent")
		return strings.HasPrefix(agent, "Boto3/")
	}) {
		t.Error("the provider has seen no request of boto3")
	}
}
