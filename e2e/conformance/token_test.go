package conformance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
	"keybridge/store/api/client"
)

// temporary is what AssumeRole answers with.
type temporary struct{ AccessKeyID, SecretAccessKey, SessionToken string }

// assumeRole asks MinIO's STS for a temporary credential ("AssumeRole", AWS Security
// Token Service API Reference).
func assumeRole(t *testing.T, s place) (out temporary) {
	t.Helper()
	form := "Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600"
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(form))
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: s.access, SecretAccessKey: s.secret},
		q, hex.EncodeToString(sum[:]), "sts", provider.Region, time.Now()); err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Result struct {
			Credentials struct {
				AccessKeyID     string `xml:"AccessKeyId"`
				SecretAccessKey string
				SessionToken    string
			}
		} `xml:"AssumeRoleResult"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil || doc.Result.Credentials.SessionToken == "" {
		t.Fatalf("AssumeRole: %d %v", res.StatusCode, err)
	}
	return temporary(doc.Result.Credentials)
}

// tampered is a token with one character changed.
func tampered(token string) string {
	b := []byte(token)
	if at := len(b) / 2; b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

// TestSessionTokens: MinIO takes requests that a temporary credential signed with its
// token alone, and gets that one, never the client's.
func TestSessionTokens(t *testing.T) {
	start, ok := chosen()["MinIO"]
	if !ok {
		return
	}
	g, ctx := shared(t), t.Context()
	minio := started(ctx, t, start).place
	const bucket, clients = "temporary", "session-token-of-the-client"
	if _, err := sdk(minio.url, minio.access, minio.secret).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		t.Fatal(err)
	}
	first, second := assumeRole(t, minio), assumeRole(t, minio)

	var forbidden leak.Set
	for name, s := range map[string]string{"client's token": clients, "first secret": first.SecretAccessKey, "second secret": second.SecretAccessKey} {
		forbidden.Add(name, s)
	}
	at, err := url.Parse(minio.url)
	if err != nil {
		t.Fatal(err)
	}
	recorder, err := provider.Record(provider.RecorderConfig{Forbidden: &forbidden, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", at.Host)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range recorder.Leaks() {
			t.Errorf("%s at the provider", l)
		}
		if err := recorder.Close(); err != nil {
			t.Error(err)
		}
	})

	// A bridge tries them at MinIO before they are stored.
	spec := func(name string, c temporary) client.BucketSpec {
		return client.BucketSpec{
			WorkspaceID: g.tenant.Workspace, Name: name, Bucket: bucket, Endpoint: recorder.URL(), Region: provider.Region,
			Key: c.AccessKeyID, Secret: client.Secret(c.SecretAccessKey), SessionToken: client.Secret(c.SessionToken),
		}
	}
	for name, token := range map[string]string{"no token": "", "tampered": tampered(first.SessionToken), "of another": second.SessionToken} {
		_, err := g.tenant.CreateBucket(ctx, spec(name, temporary{first.AccessKeyID, first.SecretAccessKey, token}))
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Code != "PROVIDER_REFUSED" || token != "" && strings.Contains(refused.Message, token) {
			t.Errorf("%s: %v", name, err)
		}
	}
	connector, err := g.tenant.CreateBucket(ctx, spec("temporary", first))
	if err != nil {
		t.Fatal(err)
	}
	repository, err := g.tenant.Repository(ctx, "temporary", []string{connector}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := g.tenant.StorageKey(ctx, repository, "admin", "ADMIN")
	if err != nil {
		t.Fatal(err)
	}
	through := func(token string) *s3.Client {
		return s3.New(s3.Options{
			Region: provider.Region, BaseEndpoint: aws.String("http://" + g.S3), UsePathStyle: true, RetryMaxAttempts: 1,
			Credentials: credentials.NewStaticCredentialsProvider(key.Key, key.Secret, token),
		})
	}
	head := func() error {
		_, err := through("").HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(bucket)})
		return err
	}
	if err := g.Wait(ctx, head); err != nil {
		t.Fatal(err)
	}
	// use makes calls of several kinds, with which MinIO sees the token of c.
	use := func(c temporary) {
		t.Helper()
		recorder.Reset()
		for name, token := range map[string]string{"without a token": "", "with a token": clients} {
			object, body := "for a client "+name, []byte("an object "+name)
			if _, err := through(token).PutObject(ctx, &s3.PutObjectInput{
				Bucket: aws.String(bucket), Key: &object, Body: bytes.NewReader(body), Tagging: aws.String("a=b"), Metadata: map[string]string{"a": "b"},
			}); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got, err := through(token).GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &object})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if b, err := io.ReadAll(got.Body); err != nil || !bytes.Equal(b, body) {
				t.Errorf("%s: got %q, %v", name, b, err)
			}
			got.Body.Close()
		}
		presigned(t, through(""), bucket, "for a client without a token")
		requests := recorder.Requests()
		if len(requests) != 5 {
			t.Errorf("MinIO has seen %d requests, want 5", len(requests))
		}
		for _, q := range requests {
			if token, one := q.Get("X-Amz-Security-Token"); !one || token != c.SessionToken {
				t.Errorf("%s: not the provider's token, or more than one", q.Line())
			}
		}
	}
	use(first)

	// Another temporary credential takes its place, with its token.
	if v, err := g.tenant.UpdateBucket(ctx, connector, client.BucketUpdate{
		Key: second.AccessKeyID, Secret: client.Secret(second.SecretAccessKey), SessionToken: client.Secret(second.SessionToken),
	}); err != nil || !v.OK {
		t.Fatal(v, err)
	}
	if err := g.Wait(ctx, func() error {
		recorder.Reset()
		if err := head(); err != nil {
			return err
		}
		for _, q := range recorder.Requests() {
			if token, _ := q.Get("X-Amz-Security-Token"); token != second.SessionToken {
				return errors.New("not yet")
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	use(second)

	// A spoilt token that was not tried first ends at MinIO.
	if _, err := g.tenant.UpdateBucket(ctx, connector, client.BucketUpdate{
		Key: second.AccessKeyID, Secret: client.Secret(second.SecretAccessKey), SessionToken: client.Secret(tampered(second.SessionToken)), SkipValidation: true,
	}); err != nil {
		t.Fatal(err)
	}
	if err := g.Wait(ctx, func() error {
		if head() == nil {
			return errors.New("MinIO takes it still")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	v, err := g.tenant.ValidateBucket(ctx, connector, client.BucketUpdate{})
	if err != nil || v.OK || !strings.Contains(v.Message, "InvalidToken") {
		t.Errorf("validated: %+v, %v", v, err)
	}
}

// presigned gets an object by a URL.
func presigned(t *testing.T, c *s3.Client, bucket, key string) {
	t.Helper()
	q, err := s3.NewPresignClient(c).PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), q.Method, q.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("presigned: %s", res.Status)
	}
}
