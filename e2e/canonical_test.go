package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// TestS3SignedHeaders: what a client signs verifies on both versions of HTTP, headers
// that proxies like to touch among it.
func TestS3SignedHeaders(t *testing.T) {
	w := shared(t)
	for _, http2 := range []bool{false, true} {
		client := unhurried(t, http2)
		// Straight to Envoy, as the recorder in front of it reads HTTP/1.1.
		send := func(r *http.Request) (*http.Response, error) {
			to, err := url.Parse(w.endpoints.S3)
			if err != nil {
				return nil, err
			}
			if r.Host == "" {
				r.Host = r.URL.Host
			}
			r.URL.Host = to.Host
			return client.Do(r)
		}
		for name, header := range map[string][]string{
			"range":               {"Range", "bytes=0-0"},
			"accept-encoding":     {"Accept-Encoding", "gzip, deflate;q=0.5"},
			"identity":            {"Accept-Encoding", "identity"},
			"forwarded":           {"X-Forwarded-For", "192.0.2.1, 10.0.0.1", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "a.example", "X-Forwarded-Port", "443", "Forwarded", "for=192.0.2.1"},
			"via":                 {"Via", "1.1 a.example"},
			"request id":          {"X-Request-Id", "mine", "X-Amzn-Trace-Id", "Root=1-2-3"},
			"trailers":            {"Te", "trailers"},
			"conditions":          {"If-Match", "*", "If-Modified-Since", "Mon, 01 Jan 2024 00:00:00 GMT"},
			"cache":               {"Cache-Control", "no-cache", "Pragma", "no-cache"},
			"spaces":              {"X-Amz-Expected-Bucket-Owner", "a   b"},
			"repeated":            {"X-Custom", "b", "X-Custom", "a"},
			"empty":               {"X-Custom", ""},
			"in another alphabet": {"X-Custom", "ü€"},
		} {
			q := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read, header: header}
			if name == "spaces" {
				q.header = []string{"X-Custom", "a   b  c"}
			}
			r, err := w.signS3(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			res, err := send(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if want := map[bool]int{true: 206, false: 200}[name == "range"]; res.StatusCode != want {
				t.Errorf("%s, HTTP/2 %t: %s %s", name, http2, res.Status, body)
			}
		}
		for _, host := range []string{"a.example", "a.example:80", "a.example:443", "A.Example:8443", "[::1]:9000", "127.0.0.1"} {
			r, err := w.signS3(t.Context(), s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read, host: host})
			if err != nil {
				t.Fatal(err)
			}
			res, err := send(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			// aws-sdk-go-v2 signs a host without the port that its scheme has anyway, and
			// sends it so.
			if res.StatusCode != 200 {
				t.Errorf("host %s, HTTP/2 %t: %s", host, http2, res.Status)
			}
		}
	}
}

// TestS3Keys: what is put under a key through Keybridge is under that key at the
// provider, byte for byte, and what the provider has under it comes through.
func TestS3Keys(t *testing.T) {
	w := shared(t)
	for i, key := range []string{
		"plain", "with space", "with+plus", "with%percent", "with%2Fescape", "with%252Ftwo", "q?uestion", "ha#sh", "am&per=sand",
		"semi;colon,comma", "quotes'\"`", "brackets[](){}<>", "back\\slash", "pipe|caret^", "tilde~star*bang!", "at@colon:dollar$",
		"ü€😀", "e\u0301", "dots.../x", ".hidden", "a/.b/..c/...", "a/b../c", "trailing/x.", "x=y", "%", "%zz", "new\u0085line",
		strings.Repeat("long", 50),
	} {
		// versitygw keeps objects as files, and so cannot hold two that differ by a slash.
		key = fmt.Sprintf("keys/%d-%s", i, key)
		body := "body of " + key
		segments := strings.Split(key, "/")
		for i, s := range segments {
			segments[i] = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
		}
		path := "/" + bucket + "/" + strings.Join(segments, "/")
		a, err := w.askS3(t.Context(), s3Request{method: http.MethodPut, path: path, key: w.write, body: body})
		if err != nil || a.status != 200 {
			t.Errorf("put %q: %v, %v", key, a, err)
			continue
		}
		w.wantObject(t, key, body)
		a, err = w.askS3(t.Context(), s3Request{method: http.MethodGet, path: path, key: w.read})
		if err != nil || a.status != 200 || a.body != body {
			t.Errorf("get %q: %v, %v", key, a, err)
		}
		out, err := w.s3SDK(w.read).ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket), Prefix: aws.String(key)})
		if err != nil || len(out.Contents) != 1 || aws.ToString(out.Contents[0].Key) != key {
			t.Errorf("list %q: %v, %v", key, out, err)
		}
	}
}
