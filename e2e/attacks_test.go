package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// raw is a request as it goes over the wire, which net/http would not let one spoil.
type raw struct {
	method, target string
	lines          []string // "name: value"
	body           string
}

// wire takes a signed request apart.
func wire(q *http.Request) *raw {
	r := &raw{method: q.Method, target: q.URL.RequestURI(), lines: []string{"Host: " + q.Host}}
	if q.Host == "" {
		r.lines[0] = "Host: " + q.URL.Host
	}
	for name, values := range q.Header {
		for _, v := range values {
			r.lines = append(r.lines, name+": "+v)
		}
	}
	if q.Body != nil && q.ContentLength > 0 {
		b, _ := io.ReadAll(q.Body)
		r.body = string(b)
		r.lines = append(r.lines, fmt.Sprint("Content-Length: ", len(b)))
	}
	return r
}

func (r *raw) add(lines ...string) { r.lines = append(r.lines, lines...) }

func (r *raw) find(name string) int {
	return slices.IndexFunc(r.lines, func(l string) bool { return strings.HasPrefix(strings.ToLower(l), strings.ToLower(name)+":") })
}

func (r *raw) set(line string) {
	name, _, _ := strings.Cut(line, ":")
	r.lines[r.find(name)] = line
}

func (r *raw) drop(name string) { i := r.find(name); r.lines = slices.Delete(r.lines, i, i+1) }

// edit replaces a part of a header.
func (r *raw) edit(name, from, to string) {
	i := r.find(name)
	r.lines[i] = strings.Replace(r.lines[i], from, to, 1)
}

// param changes a query parameter; an empty value takes it away.
func (r *raw) param(name, value string) {
	path, query, _ := strings.Cut(r.target, "?")
	values, _ := url.ParseQuery(query)
	if values.Set(name, value); value == "" {
		values.Del(name)
	}
	r.target = path + "?" + values.Encode()
}

func (r *raw) String() string {
	return r.method + " " + r.target + " HTTP/1.1\r\n" + strings.Join(r.lines, "\r\n") + "\r\nConnection: close\r\n\r\n" + r.body
}

// send returns the first answer, and what comes after it.
func (w *world) send(ctx context.Context, text string) (a answer, rest string, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(w.frontS3.URL(), "http://"))
	if err != nil {
		return a, "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(once.Timeout)); err != nil {
		return a, "", err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return a, "", err
	}
	b := bufio.NewReader(c)
	res, err := http.ReadResponse(b, &http.Request{Method: strings.SplitN(text, " ", 2)[0]})
	if err != nil {
		return a, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return a, "", err
	}
	after, _ := io.ReadAll(b)
	return answer{res.StatusCode, res.Header, string(body)}, string(after), nil
}

// attack is one request that somebody changed on the way, or who holds a key made up.
type attack struct {
	name   string
	q      s3Request
	change func(r *raw)
	status int
	code   string // empty: Envoy's words, whatever they are
}

// TestS3Attacks: every one is refused with the error that it deserves, and the
// provider hears of none.
func TestS3Attacks(t *testing.T) {
	w := shared(t)
	object, foreign := "/"+bucket+"/"+present, "/"+otherBucket+"/"+present
	get := s3Request{method: http.MethodGet, path: object, key: w.admin}
	put := s3Request{method: http.MethodPut, path: object, key: w.admin, body: "x", header: []string{"X-Amz-Meta-Note", "mine"}}
	shared := s3Request{method: http.MethodGet, path: object, key: w.admin, presign: true}
	copied := func(source string) s3Request {
		return s3Request{method: http.MethodPut, path: "/" + bucket + "/copy", key: w.admin, header: []string{"X-Amz-Copy-Source", source}}
	}
	line := func(lines ...string) func(*raw) { return func(r *raw) { r.add(lines...) } }
	target := func(to string) func(*raw) { return func(r *raw) { r.target = to } }
	const mismatch, denied, bad = "SignatureDoesNotMatch", "AccessDenied", "InvalidArgument"

	attacks := []attack{
		// A signature that was seen, on another request.
		{"another key of the bucket", get, target("/" + bucket + "/other"), 403, mismatch},
		{"another bucket", get, target(foreign), 403, mismatch},
		{"another method", get, func(r *raw) { r.method = "DELETE" }, 403, mismatch},
		{"HEAD for GET", get, func(r *raw) { r.method = "HEAD" }, 403, ""},
		{"a query added", get, func(r *raw) { r.target += "?versionId=1" }, 403, mismatch},
		{"a sub-resource added", get, func(r *raw) { r.target += "?acl" }, 403, mismatch},
		{"a query taken away", s3Request{method: "GET", path: object + "?versionId=1", key: w.admin}, target(object), 403, mismatch},
		{"a query changed", s3Request{method: "GET", path: "/" + bucket + "?list-type=2&prefix=a", key: w.admin}, target("/" + bucket + "?list-type=2&prefix="), 403, mismatch},
		{"a parameter twice", s3Request{method: "GET", path: "/" + bucket + "?list-type=2&prefix=a", key: w.admin}, func(r *raw) { r.target += "&prefix=" }, 403, mismatch},
		{"another date", get, func(r *raw) {
			r.set("X-Amz-Date: " + time.Now().UTC().Add(time.Minute).Format("20060102T150405Z"))
		}, 403, mismatch},
		{"the date of another day", get, func(r *raw) {
			r.set("X-Amz-Date: " + time.Now().UTC().AddDate(0, 0, -1).Format("20060102T150405Z"))
		}, 400, "AuthorizationHeaderMalformed"},
		{"another host", get, func(r *raw) { r.set("Host: elsewhere.example") }, 403, mismatch},
		{"another port", get, func(r *raw) { r.set("Host: 127.0.0.1:1") }, 403, mismatch},
		{"a host that names a bucket", get, func(r *raw) { r.set("Host: " + otherBucket + ".localhost") }, 403, mismatch},
		{"another region", get, func(r *raw) { r.edit("Authorization", "/us-east-1/", "/eu-west-1/") }, 403, mismatch},
		{"another service", get, func(r *raw) { r.edit("Authorization", "/s3/", "/iam/") }, 400, "AuthorizationHeaderMalformed"},
		{"another key id", get, func(r *raw) { r.edit("Authorization", w.admin.Key, w.read.Key) }, 403, mismatch},
		{"another hash of the body", put, func(r *raw) { r.set("X-Amz-Content-Sha256: UNSIGNED-PAYLOAD") }, 403, mismatch},

		// Headers.
		{"metadata changed", put, func(r *raw) { r.set("X-Amz-Meta-Note: yours") }, 403, mismatch},
		{"metadata taken away", put, func(r *raw) { r.drop("X-Amz-Meta-Note") }, 403, mismatch},
		{"metadata added to", put, line("X-Amz-Meta-Note: yours"), 403, mismatch},
		{"a copy source added", put, line("X-Amz-Copy-Source: " + object), 403, denied},
		{"a tag added", put, line("X-Amz-Tagging: a=b"), 403, denied},
		{"an encryption key added", put, line("X-Amz-Server-Side-Encryption-Customer-Key: eA=="), 403, denied},
		{"a session token added", put, line("X-Amz-Security-Token: token"), 403, denied},
		{"a length of chunks added", put, line("X-Amz-Decoded-Content-Length: 1"), 403, denied},
		{"Authorization twice", get, func(r *raw) { r.add(r.lines[r.find("Authorization")]) }, 400, "AuthorizationHeaderMalformed"},
		{"Authorization of another kind beside", get, line("Authorization: Bearer x"), 400, "AuthorizationHeaderMalformed"},
		{"header and query authentication", get, func(r *raw) {
			r.target += "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + strings.Repeat("0", 64)
		}, 400, bad},
		{"header and SigV2 query", get, func(r *raw) { r.target += "?AWSAccessKeyId=a&Signature=b&Expires=1" }, 400, bad},
		{"signed headers without host", get, func(r *raw) { r.edit("Authorization", "SignedHeaders=host;", "SignedHeaders=") }, 400, "AuthorizationHeaderMalformed"},
		{"signed headers out of order", put, func(r *raw) { r.edit("Authorization", "host;", "x-amz-date;host;") }, 400, "AuthorizationHeaderMalformed"},
		{"a signed header twice in the list", get, func(r *raw) { r.edit("Authorization", "host;", "host;host;") }, 400, "AuthorizationHeaderMalformed"},

		// Who holds a key and wants more than it allows.
		{"dot segments", s3Request{method: "GET", path: "/" + bucket + "/../" + otherBucket + "/" + present, key: w.admin}, nil, 400, "400"},
		{"encoded dot segments", s3Request{method: "GET", path: "/" + bucket + "/%2e%2e/" + otherBucket + "/" + present, key: w.admin}, target("/" + bucket + "/%2e%2e/" + otherBucket + "/" + present), 400, "400"},
		{"encoded slashes", get, target("/" + bucket + "%2f..%2f" + otherBucket + "%2f" + present), 400, "400"},
		{"overlong dots", get, target("/" + bucket + "/%c0%ae%c0%ae/" + otherBucket), 403, mismatch},
		{"half an escape", get, target("/" + bucket + "/%2"), 400, "InvalidURI"},
		{"an escape of no hex", get, target("/" + bucket + "/%zz"), 400, "InvalidURI"},
		{"no bucket", s3Request{method: "GET", path: "//" + otherBucket + "/" + present, key: w.admin}, target("//" + otherBucket + "/" + present), 400, "InvalidURI"},
		{"a bucket of a dot", get, target("/./" + otherBucket + "/" + present), 400, "InvalidURI"},

		// Copy sources.
		{"copy from a foreign bucket", copied(foreign), nil, 403, denied},
		{"the same, escaped", copied("%2F" + otherBucket + "%2F" + present), nil, 403, denied},
		{"the same, by dots", copied("/" + bucket + "/../" + otherBucket + "/" + present), nil, 400, bad},
		{"the same, by escaped dots", copied("/" + bucket + "/%2E%2E/" + otherBucket + "/" + present), nil, 400, bad},
		{"the same, escaped twice", copied("%252F" + otherBucket + "%252F" + present), nil, 400, bad},
		{"the same, by two slashes", copied("//" + otherBucket + "/" + present), nil, 400, bad},
		{"copy by access point", copied("arn:aws:s3:us-east-1:123456789012:accesspoint/a/object/" + present), nil, 400, bad},
		{"copy of a version and more", copied(object + "?versionId=1&x=y"), nil, 400, bad},
		{"copy from two sources", s3Request{
			method: "PUT", path: "/" + bucket + "/copy", key: w.admin, header: []string{"X-Amz-Copy-Source", object, "X-Amz-Copy-Source", foreign},
		}, nil, 400, bad},

		// URLs that were given away.
		{"presigned, for longer", shared, func(r *raw) { r.param("X-Amz-Expires", "604800") }, 403, mismatch},
		{"presigned, for longer than a week", shared, func(r *raw) { r.param("X-Amz-Expires", "604801") }, 400, "AuthorizationQueryParametersError"},
		{"presigned, for ever", shared, func(r *raw) { r.param("X-Amz-Expires", "99999999999999999999") }, 400, "AuthorizationQueryParametersError"},
		{"presigned, without an end", shared, func(r *raw) { r.param("X-Amz-Expires", "") }, 400, "AuthorizationQueryParametersError"},
		{"presigned, with a parameter more", shared, func(r *raw) { r.param("versionId", "1") }, 403, mismatch},
		{"presigned, for another method", shared, func(r *raw) { r.method = "DELETE" }, 403, mismatch},
		{"presigned, for another key", shared, func(r *raw) { r.target = strings.Replace(r.target, present, "other", 1) }, 403, mismatch},
		{"presigned, at another host", shared, func(r *raw) { r.set("Host: elsewhere.example") }, 403, mismatch},
		{"presigned, with two signatures", shared, func(r *raw) { r.target += "&X-Amz-Signature=" + strings.Repeat("0", 64) }, 400, "AuthorizationQueryParametersError"},
		{"presigned, in small letters", shared, func(r *raw) { r.target = strings.ReplaceAll(r.target, "X-Amz-", "x-amz-") }, 400, "AuthorizationQueryParametersError"},
		{"presigned, without a signed header", s3Request{
			method: "PUT", path: object, key: w.admin, presign: true, header: []string{"Content-Type", "text/plain"},
		}, func(r *raw) { r.drop("Content-Type") }, 403, mismatch},
		{"presigned, with another value of a signed header", s3Request{
			method: "PUT", path: object, key: w.admin, presign: true, header: []string{"Content-Type", "text/plain"},
		}, func(r *raw) { r.set("Content-Type: text/html") }, 403, mismatch},

		// Shapes by which one request becomes two.
		{"two hosts", get, line("Host: elsewhere.example"), 403, mismatch}, // Envoy makes one of them,
		{"two lengths", put, line("Content-Length: 2"), 400, ""},
		{"a negative length", get, line("Content-Length: -1"), 400, ""},
		{"a length of no number", get, line("Content-Length: 1x"), 400, ""},
		{"length and chunks", put, line("Transfer-Encoding: chunked"), 400, ""},
		{"an unknown transfer encoding", get, line("Transfer-Encoding: xchunked"), 503, ""},
		{"a line that goes on", put, line("X-Amz-Meta-More: a\r\n b"), 403, denied},
		{"a space before the colon", get, line("X-Amz-Meta-More : a"), 400, ""},
		{"a header without a colon", get, line("X-Amz-Meta-More"), 400, ""},
		{"a zero byte in a header", get, line("X-Amz-Meta-More: a\x00b"), 400, ""},
		{"a line feed in the target", get, target(object + "\nX: y"), 426, ""},
		{"a space in the target", get, target(object + " x"), 400, ""},
		{"an authority for a target", get, func(r *raw) { r.method, r.target = "CONNECT", "127.0.0.1:80" }, 0, ""},
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			w.reset()
			signed, err := w.signS3(t.Context(), a.q)
			if err != nil {
				t.Fatal(err)
			}
			r := wire(signed)
			if a.change != nil {
				a.change(r)
			}
			got, rest, err := w.send(t.Context(), r.String())
			switch {
			case err != nil:
				t.Fatal(err)
			case a.code != "":
				wantS3Error(t, got, a.status, a.code)
			case got.status < 400 || a.status != 0 && got.status != a.status:
				t.Errorf("%d %s", got.status, got.body)
			}
			if strings.Contains(rest, " 200 ") {
				t.Errorf("and after that: %s", rest)
			}
			w.barrier(t)
		})
	}
	if n := len(attacks); n < 60 {
		t.Errorf("%d attacks", n)
	}
}

// TestS3SmuggledRequest: what follows a body on the connection is a request of its own.
func TestS3SmuggledRequest(t *testing.T) {
	w := shared(t)
	w.reset()
	signed, err := w.signS3(t.Context(), s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.read})
	if err != nil {
		t.Fatal(err)
	}
	first := wire(signed)
	text := strings.Replace(first.String(), "Connection: close\r\n", "", 1)
	a, rest, err := w.send(t.Context(), text+"DELETE /"+bucket+"/"+present+" HTTP/1.1\r\n"+first.lines[0]+"\r\nConnection: close\r\n\r\n")
	if err != nil || a.status != http.StatusOK || !strings.HasPrefix(rest, "HTTP/1.1 403 ") {
		t.Errorf("%v, %v, then %s", a, err, rest)
	}
	if diff := cmp.Diff([]string{"GET /" + bucket + "/" + present}, w.atProviders()); diff != "" {
		t.Error(diff)
	}
}
