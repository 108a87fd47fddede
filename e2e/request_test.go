package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/extproc/protocoltest"
)

// answer is a whole response.
type answer struct {
	status int
	header http.Header
	body   string
}

// once is a client without retries, redirects or connections to reuse: each
// request stands for itself.
var once = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       20 * time.Second,
}

func ask(q *http.Request) (answer, error) { return askAs(once, q, func() {}) }

// askAs is ask by another client; began is called once the answer has begun.
func askAs(c *http.Client, q *http.Request, began func()) (answer, error) {
	res, err := c.Do(q)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	began()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// askAI makes one request with a bearer key, if not empty.
func (w *world) askAI(ctx context.Context, method, path, body, key string, header ...string) (answer, error) {
	q, err := w.aiRequest(ctx, method, path, body, key, header...)
	if err != nil {
		return answer{}, err
	}
	return ask(q)
}

func (w *world) aiRequest(ctx context.Context, method, path, body, key string, header ...string) (*http.Request, error) {
	q, err := http.NewRequestWithContext(ctx, method, w.frontAI.URL()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Add(header[i], header[i+1])
	}
	return q, nil
}

// s3Request is one request, signed in the Authorization header unless it says otherwise.
type s3Request struct {
	method, path string // path is raw, with the query
	key          stack.Key
	body         string
	hash         string    // x-amz-content-sha256; empty for the body's
	at           time.Time // of signing; zero for now
	header       []string  // signed, name and value in turn
	unsigned     []string  // added after signing
	host         string    // to sign and to send; empty for the front's
	anonymous    bool
	presign      bool
	// chunks makes the body, when the request is signed; every time of the same length.
	chunks  func(*protocoltest.Chunks) string
	chunked bool // without a content-length
}

func (w *world) askS3(ctx context.Context, q s3Request) (answer, error) {
	r, err := w.signS3(ctx, q)
	if err != nil {
		return answer{}, err
	}
	return ask(r)
}

func (w *world) signS3(ctx context.Context, q s3Request) (*http.Request, error) {
	return w.signS3At(ctx, w.frontS3.URL(), q)
}

// signS3At signs for another address than the front's.
func (w *world) signS3At(ctx context.Context, front string, q s3Request) (*http.Request, error) {
	if q.at.IsZero() {
		q.at = time.Now()
	}
	signer := protocoltest.Chunks{Secret: q.key.Secret, Date: q.at.UTC().Format("20060102T150405Z"), Region: provider.Region}
	if q.chunks != nil {
		signer := signer
		q.body = q.chunks(&signer)
	}
	r, err := signedRequest(ctx, front, q)
	if err != nil || q.chunks == nil {
		return r, err
	}
	_, signer.Seed, _ = strings.Cut(r.Header.Get("Authorization"), "Signature=")
	r.Body = io.NopCloser(strings.NewReader(q.chunks(&signer)))
	r.GetBody = nil
	return r, nil
}

// signedRequest makes the request, but for bodies of signed chunks.
func signedRequest(ctx context.Context, front string, q s3Request) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, q.method, front+q.path, strings.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(q.header); i += 2 {
		r.Header.Add(q.header[i], q.header[i+1])
	}
	if q.host != "" {
		r.Host = q.host
	}
	if q.chunked {
		r.ContentLength = -1
	}
	if q.hash == "" {
		sum := sha256.Sum256([]byte(q.body))
		q.hash = hex.EncodeToString(sum[:])
	}
	creds := aws.Credentials{AccessKeyID: q.key.Key, SecretAccessKey: q.key.Secret}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	switch {
	case q.anonymous:
	case q.presign:
		values := r.URL.Query()
		values.Set("X-Amz-Expires", "300")
		r.URL.RawQuery = values.Encode()
		signed, _, err := signer.PresignHTTP(ctx, creds, r, "UNSIGNED-PAYLOAD", "s3", provider.Region, q.at)
		if err != nil {
			return nil, err
		}
		if r.URL, err = r.URL.Parse(signed); err != nil {
			return nil, err
		}
	default:
		r.Header.Set("X-Amz-Content-Sha256", q.hash)
		if err := signer.SignHTTP(ctx, creds, r, q.hash, "s3", provider.Region, q.at); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(q.unsigned); i += 2 {
		r.Header.Add(q.unsigned[i], q.unsigned[i+1])
	}
	return r, nil
}

// s3SDK is a client of Keybridge as an application configures it, but without retries.
func (w *world) s3SDK(key stack.Key) *s3.Client {
	return s3.New(s3.Options{
		Region: provider.Region, BaseEndpoint: aws.String(w.frontS3.URL()), UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(key.Key, key.Secret, ""),
	})
}

func (w *world) putDirect(ctx context.Context, bucket, key, body string) error {
	_, err := w.s3.Direct().PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(body)})
	return err
}

// wantS3Error wants an error document of S3, as in "REST error responses" of the
// Amazon S3 API Reference.
func wantS3Error(t testing.TB, a answer, status int, code string) {
	t.Helper()
	var doc struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if err := xml.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Errorf("not an S3 error document (%v): %d %s", err, a.status, a.body)
		return
	}
	if a.status != status || doc.Code != code || doc.Message == "" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/xml") {
		t.Errorf("got %d %s (%s) %q, want %d %s", a.status, doc.Code, a.header.Get("Content-Type"), doc.Message, status, code)
	}
}

// wantAIError wants an error in OpenAI's form; an empty code is not compared.
func wantAIError(t testing.TB, a answer, status int, kind, code string) {
	t.Helper()
	var doc struct {
		Kind  string `json:"type"` // "error" where the answer is Anthropic's form too
		Error *struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil || doc.Error == nil {
		t.Errorf("not an OpenAI error (%v): %d %s", err, a.status, a.body)
		return
	}
	got := ""
	if doc.Error.Code != nil {
		got = *doc.Error.Code
	}
	if a.status != status || doc.Error.Type != kind || code != "" && got != code || doc.Error.Message == "" ||
		!strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		t.Errorf("got %d %s %s (%s) %q, want %d %s %s", a.status, doc.Error.Type, got, a.header.Get("Content-Type"), doc.Error.Message, status, kind, code)
	}
}
