package conformance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"keybridge/store/api/client"
)

// TestServersRefuseUs: whatever a server says of a connector's credential that it does
// not take, the application hears that its own key is fine, and its status says what the
// server said. What the server has to say to the application passes.
func TestServersRefuseUs(t *testing.T) {
	eachServer(t, func(ctx context.Context, t *testing.T, _ string, s server) {
		bucket := aws.String("refused")
		if _, err := sdk(s.url, s.access, s.secret).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket}); err != nil {
			t.Fatal(err)
		}
		g := shared(t)
		for code, at := range map[string]place{
			"SignatureDoesNotMatch": {s.url, s.access, rand.Text()},
			"InvalidAccessKeyId":    {s.url, "NOBODY" + rand.Text()[:14], rand.Text()},
		} {
			t.Run(code, func(t *testing.T) { g.refused(ctx, t, s.place, at, code, bucket) })
		}
	})
}

func (g *gateway) refused(ctx context.Context, t *testing.T, right, wrong place, code string, bucket *string) {
	connector, key, err := g.account(ctx, wrong)
	if err != nil {
		t.Fatal(err)
	}
	c := sdk("http://"+g.S3, key.Key, key.Secret)
	// The key works before the connector was tried.
	if err := g.Wait(ctx, func() error { return is503(listing(ctx, c)) }); err != nil {
		t.Fatal(err)
	}
	shows := func(status, message string) {
		t.Helper()
		if err := g.Wait(ctx, func() error {
			nodes, err := g.tenant.BucketStatus(ctx, connector)
			if err != nil || len(nodes) != 1 || nodes[0].Status != status || !strings.Contains(nodes[0].Message, message) {
				return fmt.Errorf("%+v, %w", nodes, err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	shows("OFFLINE", code)
	name := aws.String("k")
	for what, call := range map[string]func() error{
		"ListBuckets": func() error { return listing(ctx, c) },
		"GetObject": func() error {
			_, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: name})
			return err
		},
		"HeadObject": func() error {
			_, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: name})
			return err
		},
		"PutObject": func() error {
			_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: name, Body: strings.NewReader("x")})
			return err
		},
		"CreateMultipartUpload": func() error {
			_, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: name})
			return err
		},
		"DeleteObject": func() error {
			_, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: name})
			return err
		},
	} {
		err := call()
		if answer := is503(err); answer != nil {
			t.Errorf("%s: %v", what, answer)
		}
		if strings.Contains(fmt.Sprint(err), wrong.access) || what != "HeadObject" && !strings.Contains(err.Error(), "Your access key is fine") {
			t.Errorf("%s: %v", what, err)
		}
	}

	if _, err := g.tenant.UpdateBucket(ctx, connector, client.BucketUpdate{Key: right.access, Secret: client.Secret(right.secret)}); err != nil {
		t.Fatal(err)
	}
	if err := g.serves(ctx, key); err != nil {
		t.Fatal(err)
	}
	shows("ONLINE", "")
	_, err = c.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("absent")})
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "NoSuchKey" {
		t.Errorf("an object that is not there: %v", err)
	}
}

func listing(ctx context.Context, c *s3.Client) error {
	_, err := c.ListBuckets(ctx, &s3.ListBucketsInput{})
	return err
}

// is503 wants an answer that an SDK would try again on.
func is503(err error) error {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.HTTPStatusCode() != http.StatusServiceUnavailable {
		return fmt.Errorf("not a 503: %w", errors.Join(err, errors.New("or no error")))
	}
	return nil
}
