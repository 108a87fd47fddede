package provider_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
)

func TestS3(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	var set leak.Set
	config := provider.S3Config{Dir: dir, Recorder: provider.RecorderConfig{Forbidden: &set}}
	p, err := provider.StartS3(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	set.Add("provider secret", p.Secret)
	for range 2 { // a bucket that is there is fine
		if err := p.MakeBucket(ctx, "photos"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.Requests()); n != 0 {
		t.Errorf("%d requests recorded before the first", n)
	}
	client := func(secret string) *s3.Client {
		return s3.New(s3.Options{
			Region: provider.Region, BaseEndpoint: aws.String(p.URL()), UsePathStyle: true, RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(p.Access, secret, ""),
		})
	}
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	if _, err := client(p.Secret).PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("photos"), Key: aws.String("a/b c"), Body: bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
	if _, err := client("wrong").GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("photos"), Key: aws.String("a/b c")}); err == nil {
		t.Error("a wrong secret reads")
	}
	seen := p.Requests()
	if len(seen) != 2 || seen[0].Line() != "PUT /photos/a/b%20c?x-id=PutObject" || seen[0].Body < int64(len(body)) || !seen[0].Complete {
		t.Errorf("recorded %+v", seen)
	}
	if l := p.Leaks(); len(l) != 0 {
		t.Error("a signed request carried", l)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}

	// The same folder and credential again: the object is still there.
	config.Access, config.Secret = p.Access, p.Secret
	again, err := provider.StartS3(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}()
	out, err := again.Direct().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String("photos"), Key: aws.String("a/b c")})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	got, err := io.ReadAll(out.Body)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}
