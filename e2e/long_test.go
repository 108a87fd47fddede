package e2e_test

import (
	"bytes"
	"crypto/md5"
	little "encoding/binary"
	"encoding/hex"
	"flag"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

var (
	long  = flag.Duration("long", 2*time.Second, "how long the uploads of TestS3LongUpload take")
	large = flag.Int64("large", 64<<20, "how large the object of TestS3LargeObject is: S3 takes 5368709120")
)

// paced is a body that takes its time: one piece per tick.
type paced struct {
	*bytes.Reader
	piece int
	ticks <-chan time.Time
}

func (p paced) Read(b []byte) (int, error) {
	if p.Len() > 0 {
		<-p.ticks
	}
	return p.Reader.Read(b[:min(len(b), p.piece)])
}

func (p paced) Close() error { return nil }

// TestS3LongUpload: a body may take as long as it likes, as long as it moves; by
// default not that long. Listeners that are updated and the connectors of others that
// change meanwhile do not disturb it.
func TestS3LongUpload(t *testing.T) {
	w := shared(t)
	data := text(2 << 20)
	const pieces = 200
	for name, q := range map[string]s3Request{
		"unsigned": {method: http.MethodPut, path: "/" + bucket + "/long/unsigned", key: w.write, body: data, hash: "UNSIGNED-PAYLOAD"},
		"chunks":   chunkedPut(w, "/"+bucket+"/long/chunks", data, 64<<10, "", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := w.signS3(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			ticker := time.NewTicker(*long / pieces)
			defer ticker.Stop()
			r.Body = paced{bytes.NewReader(body), len(body)/pieces + 1, ticker.C}
			patient := &http.Client{Transport: once.Transport}
			res, err := patient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if answer, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
				t.Fatalf("%s %s", res.Status, answer)
			}
			w.wantObject(t, "long/"+name, data)
		})
	}
}

// TestS3ManyParts: ten thousand parts, as many as S3 takes, over a thousand connections.
func TestS3ManyParts(t *testing.T) {
	w := shared(t)
	ctx, c, key := t.Context(), w.s3SDK(w.admin), aws.String("long/parts")
	up, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	const parts, connections = 10_000, 1_000
	client := unhurried(t, false)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = connections
	at := w.s3At(client, w.write)
	numbers := make(chan int32, parts)
	for n := range int32(parts) {
		numbers <- n + 1
	}
	close(numbers)
	// What waits too long for the bridge is refused (503): SDKs try again.
	patient := func(o *s3.Options) { o.RetryMaxAttempts = 5 }
	failed := make(chan error, connections)
	for range connections {
		go func() {
			for n := range numbers {
				if _, err := at.UploadPart(ctx, &s3.UploadPartInput{
					Bucket: aws.String(bucket), Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(n), Body: strings.NewReader("part"),
				}, patient); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range connections {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	seen := 0
	pages := s3.NewListPartsPaginator(c, &s3.ListPartsInput{Bucket: aws.String(bucket), Key: key, UploadId: up.UploadId})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Parts)
	}
	if seen != parts {
		t.Errorf("%d parts at the provider, want %d", seen, parts)
	}
	if _, err := c.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: aws.String(bucket), Key: key, UploadId: up.UploadId}); err != nil {
		t.Error(err)
	}
}

// pattern is an endless body that no two places of look the same.
type pattern struct{ at uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	n := len(b) &^ 7
	for i := 0; i < n; i += 8 {
		little.LittleEndian.PutUint64(b[i:], p.at)
		p.at++
	}
	return n, nil
}

// TestS3LargeObject: one PUT and one GET of an object as large as S3 takes; by default not
// that large. Its MD5 is what the provider says, and what comes back.
func TestS3LargeObject(t *testing.T) {
	w := shared(t)
	key := "long/large"
	sum := md5.New()
	r, err := signedRequest(t.Context(), w.endpoints.S3, s3Request{method: http.MethodPut, path: "/" + bucket + "/" + key, key: w.write, hash: "UNSIGNED-PAYLOAD", at: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	r.Body, r.GetBody, r.ContentLength = io.NopCloser(io.TeeReader(io.LimitReader(&pattern{}, *large), sum)), nil, *large
	client := unhurried(t, false)
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := hex.EncodeToString(sum.Sum(nil))
	if answer := readAll(t, res.Body); res.StatusCode != http.StatusOK || res.Header.Get("ETag") != `"`+want+`"` {
		t.Fatalf("%s %s, ETag %s, want %s", res.Status, answer, res.Header.Get("ETag"), want)
	}
	get, err := w.s3At(client, w.read).GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer get.Body.Close()
	sum.Reset()
	if n, err := io.Copy(sum, get.Body); err != nil || n != *large || hex.EncodeToString(sum.Sum(nil)) != want {
		t.Errorf("%d bytes came back, of another content: %v", n, err)
	}
	if _, err := w.s3.Direct().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: &key}); err != nil {
		t.Error(err)
	}
}
