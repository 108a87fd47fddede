package s3_test

import (
	"encoding/xml"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

// wireError is the S3 error document.
type wireError struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	Resource  string
	RequestID string `xml:"RequestId"`

	RequestTime, ServerTime, MaxAllowedSkewMilliseconds string
}

func parseError(t testing.TB, e *extproc.Error) (w wireError) {
	t.Helper()
	if err := xml.Unmarshal(e.Body, &w); err != nil {
		t.Fatalf("%v in %s", err, e.Body)
	}
	if e.ContentType != "application/xml" || w.Message == "" || len(w.RequestID) != 16 {
		t.Errorf("%s %s", e.ContentType, e.Body)
	}
	return w
}

// replace puts another value in place of a header's, after the request was signed.
func replace(r *extproc.Request, name string, change func(string) string) *extproc.Request {
	lines := []extproc.Header{
		{Name: ":method", Value: r.Method}, {Name: ":path", Value: r.Path},
		{Name: ":authority", Value: r.Authority}, {Name: ":scheme", Value: r.Scheme},
	}
	for _, h := range append(lines, r.Headers()...) {
		if h.Name == name {
			h.Value = change(h.Value)
		}
		lines = append(lines, h)
	}
	return extproc.NewRequest(r.EndOfStream, lines[4:]...)
}

func to(value string) func(string) string { return func(string) string { return value } }

func swap(from, to string) func(string) string {
	return func(s string) string { return strings.Replace(s, from, to, 1) }
}

// without removes a header after the request was signed.
func without(r *extproc.Request, name string) *extproc.Request {
	lines := []extproc.Header{
		{Name: ":method", Value: r.Method}, {Name: ":path", Value: r.Path},
		{Name: ":authority", Value: r.Authority}, {Name: ":scheme", Value: r.Scheme},
	}
	for _, h := range r.Headers() {
		if h.Name != name {
			lines = append(lines, h)
		}
	}
	return extproc.NewRequest(r.EndOfStream, lines...)
}

func TestRefusals(t *testing.T) {
	s := newStage(t)
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	get := func() *extproc.Request { return call{method: "GET", path: "/photos/cat.jpg"}.sign(t, s.read) }
	auth := func(change func(string) string) *extproc.Request { return replace(get(), "authorization", change) }
	read := func(method, path, query string) *extproc.Request {
		return call{method: method, path: path, query: query}.sign(t, s.read)
	}
	write := func(method, path, query string) *extproc.Request {
		return call{method: method, path: path, query: query}.sign(t, s.write)
	}
	admin := func(method, path, query string, h http.Header) *extproc.Request {
		return call{method: method, path: path, query: query, header: h}.sign(t, s.admin)
	}
	hashed := func(hash string) *extproc.Request {
		return call{method: "PUT", path: "/photos/cat.jpg", hash: hash}.sign(t, s.write)
	}
	const noAuth = "authorization"
	h := func(name, value string) extproc.Header { return extproc.Header{Name: name, Value: value} }

	for _, tt := range []struct {
		name   string
		r      *extproc.Request
		status int
		code   string
		reason string
	}{
		// Who is it?
		{"anonymous", without(get(), noAuth), 403, "AccessDenied", "anonymous"},
		{"unknown key", call{method: "GET", path: "/photos/k"}.sign(t, protocoltest.Key{ID: "AKIAUNKNOWN", Secret: "x"}), 403, "InvalidAccessKeyId", "unknown_key"},
		{"wrong secret", call{method: "GET", path: "/photos/k"}.sign(t, protocoltest.Key{ID: s.read.ID, Secret: "x"}), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"signature with one digit changed", auth(func(v string) string { return v[:len(v)-1] + string("10"[strings.IndexByte("0", v[len(v)-1])+1]) }), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"empty authorization", auth(to("")), 400, "InvalidArgument", "unsupported_auth"},
		{"basic authorization", auth(to("Basic dTpw")), 400, "InvalidArgument", "unsupported_auth"},
		{"bearer authorization", auth(to("Bearer kb-x-y")), 400, "InvalidArgument", "unsupported_auth"},
		{"SigV2", auth(to("AWS " + s.read.ID + ":bWFj")), 400, "InvalidRequest", "sigv2"},
		{"SigV4A", auth(swap("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")), 501, "NotImplemented", "sigv4a"},
		{"two Authorization headers", with(get(), h(noAuth, get().Header(noAuth))), 400, "InvalidArgument", "two_mechanisms"},
		{"two Authorization headers that a proxy joined", auth(func(v string) string { return v + "," + v }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"header and presigned query", read("GET", "/photos/k", "X-Amz-Signature=00"), 400, "InvalidArgument", "two_mechanisms"},
		{"header and presigned query, escaped", read("GET", "/photos/k", "%58-amz-Algorithm=x"), 400, "InvalidArgument", "two_mechanisms"},
		{"header and SigV2 query", read("GET", "/photos/k", "AWSAccessKeyId=x"), 400, "InvalidArgument", "two_mechanisms"},
		{"an x-amz header in the query", read("GET", "/photos/k", "x-amz-acl=public-read"), 400, "InvalidArgument", "two_mechanisms"},
		{"presigned SigV2 URL", without(read("GET", "/photos/k", "AWSAccessKeyId=x&Expires=1&Signature=x"), noAuth), 400, "InvalidRequest", "sigv2"},
		{"POST form with a header that no policy covers", with(without(write("POST", "/photos", ""), noAuth), h("content-type", "multipart/form-data; boundary=x")), 403, "AccessDenied", "headers_not_signed"},

		// Is the signature for this?
		{"scope without region", auth(swap("/us-east-1/", "//")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"scope with a region in upper case", auth(swap("/us-east-1/", "/US-EAST-1/")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"scope of another service", auth(swap("/s3/", "/sts/")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"scope with another end", auth(swap("aws4_request", "aws4")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"scope of another day", auth(swap("/20261122/", "/20261121/")), 400, "AuthorizationHeaderMalformed", "scope_date"},
		{"scope of another region", auth(swap("/us-east-1/", "/us-east-2/")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"signed headers out of order", auth(swap("host;x-amz-content-sha256", "x-amz-content-sha256;host")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"signed headers repeated", auth(swap("host;", "host;host;")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"signed headers in upper case", auth(swap("host;", "Host;")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"host not signed", auth(swap("host;", "")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"no signed headers", auth(swap("SignedHeaders=host;x-amz-content-sha256;x-amz-date", "SignedHeaders=")), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"a part twice", auth(func(v string) string { return v + ", Signature=" + strings.Repeat("0", 64) }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"a part too many", auth(func(v string) string { return v + ", Extra=1" }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"no signature", auth(func(v string) string { return v[:strings.Index(v, ", Signature")] }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"short signature", auth(func(v string) string { return v[:len(v)-1] }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"signature in upper case", auth(func(v string) string { return v[:len(v)-64] + strings.Repeat("A", 64) }), 400, "AuthorizationHeaderMalformed", "malformed_auth"},
		{"a signed header is missing", auth(swap("host;", "host;range;")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"x-amz-date not signed", auth(swap(";x-amz-date", "")), 403, "AccessDenied", "headers_not_signed"},
		{"x-amz-content-sha256 not signed", auth(swap("x-amz-content-sha256;", "")), 403, "AccessDenied", "headers_not_signed"},
		{"metadata added after signing", with(get(), h("x-amz-meta-owner", "mallory")), 403, "AccessDenied", "headers_not_signed"},
		{"an ACL added after signing", with(write("PUT", "/photos/k", ""), h("x-amz-acl", "public-read")), 403, "AccessDenied", "headers_not_signed"},
		{"an unknown x-amz header added after signing", with(get(), h("x-amz-new", "1")), 403, "AccessDenied", "headers_not_signed"},
		{"a session token added after signing", with(get(), h("x-amz-security-token", "t")), 403, "AccessDenied", "headers_not_signed"},
		{"a second value of a signed header", with(call{method: "PUT", path: "/photos/k", header: header("X-Amz-Meta-A", "1")}.sign(t, s.write), h("x-amz-meta-a", "2")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"another path", replace(get(), ":path", to("/photos/dog.jpg")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"another bucket", replace(get(), ":path", to("/papers/cat.jpg")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"another method", replace(get(), ":method", to("HEAD")), 403, "", "bad_signature"},
		{"another host", replace(get(), ":authority", to("other.example")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"another port", replace(get(), ":authority", to("gateway.example")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"a query added", replace(get(), ":path", to("/photos/cat.jpg?versionId=1")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"another body", replace(hashed(emptyHash), "x-amz-content-sha256", to(strings.Repeat("0", 64))), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"a signed body left unsigned", replace(hashed(emptyHash), "x-amz-content-sha256", to(unsigned)), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"two Hosts", with(get(), h("host", "other.example")), 400, "InvalidArgument", "repeated"},

		// When?
		{"no date", without(get(), "x-amz-date"), 403, "AccessDenied", "no_date"},
		{"date in another form", replace(get(), "x-amz-date", to("2026-11-22T12:00:00Z")), 403, "AccessDenied", "no_date"},
		{"date that does not exist", replace(get(), "x-amz-date", to("20260230T120000Z")), 403, "AccessDenied", "no_date"},
		{"two dates", with(get(), h("x-amz-date", get().Header("x-amz-date"))), 403, "AccessDenied", "no_date"},
		{"15 minutes and a second late", call{method: "GET", path: "/photos/k", at: now.Add(-15*time.Minute - time.Second)}.sign(t, s.read), 403, "RequestTimeTooSkewed", "skew"},
		{"15 minutes and a second early", call{method: "GET", path: "/photos/k", at: now.Add(15*time.Minute + time.Second)}.sign(t, s.read), 403, "RequestTimeTooSkewed", "skew"},
		{"a year late", call{method: "GET", path: "/photos/k", at: now.AddDate(-1, 0, 0)}.sign(t, s.read), 403, "RequestTimeTooSkewed", "skew"},

		// With which body?
		{"no payload hash", without(get(), "x-amz-content-sha256"), 400, "InvalidRequest", "no_payload_hash"},
		{"two payload hashes", with(get(), h("x-amz-content-sha256", unsigned)), 400, "InvalidArgument", "repeated"},
		{"payload hash of another form", hashed("deadbeef"), 400, "InvalidArgument", "payload_hash"},
		{"empty payload hash", replace(get(), "x-amz-content-sha256", to("")), 400, "InvalidArgument", "payload_hash"},
		{"SigV4A chunks", hashed("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), 501, "NotImplemented", "streaming"},
		{"chunks of another kind", hashed("STREAMING-UNSIGNED-PAYLOAD"), 501, "NotImplemented", "streaming"},

		// Where?
		{"bucket outside the repository", read("GET", "/secret/k", ""), 403, "AccessDenied", "foreign_bucket"},
		{"bucket that does not exist", read("GET", "/nowhere/k", ""), 403, "AccessDenied", "foreign_bucket"},
		{"bucket in upper case", read("GET", "/Photos/k", ""), 403, "AccessDenied", "foreign_bucket"},
		{"bucket behind an escaped slash", read("GET", "/photos%2Fk", ""), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"virtual-host address of a domain that is not ours", call{method: "GET", path: "/k", host: "photos.other.example"}.sign(t, s.read), 403, "AccessDenied", "foreign_bucket"},
		{"key that climbs out", read("GET", "/photos/../secret/k", ""), 400, "400", "climbing_key"},
		{"key that climbs out, escaped", read("GET", "/photos/%2E%2E/secret/k", ""), 400, "400", "climbing_key"},
		{"key that climbs out through an escaped slash", read("GET", "/photos/..%2Fsecret/k", ""), 400, "400", "climbing_key"},
		{"key that climbs out after empty segments", read("GET", "/photos/a//./../../secret/k", ""), 400, "400", "climbing_key"},
		{"bucket of two dots", read("GET", "/../secret/k", ""), 400, "InvalidURI", "invalid_uri"},
		{"empty bucket", read("GET", "//photos/k", ""), 400, "InvalidURI", "invalid_uri"},
		{"half an escape in the path", read("GET", "/photos/%2", ""), 400, "InvalidURI", "invalid_uri"},
		{"no escape in the path", read("GET", "/photos/%zz", ""), 400, "InvalidURI", "invalid_uri"},
		{"half an escape in the query", replace(get(), ":path", to("/photos/k?prefix=%2")), 400, "InvalidURI", "invalid_uri"},
		{"fragment", replace(get(), ":path", to("/photos/k#x")), 400, "InvalidURI", "invalid_uri"},
		{"space", replace(get(), ":path", to("/photos/a b")), 400, "InvalidURI", "invalid_uri"},
		{"too many parameters", read("GET", "/photos", strings.Repeat("a=1&", 40)), 400, "RequestHeaderSectionTooLarge", "too_many"},

		// May it?
		{"READ key puts", read("PUT", "/photos/k", ""), 403, "AccessDenied", "forbidden"},
		{"READ key deletes", read("DELETE", "/photos/k", ""), 403, "AccessDenied", "forbidden"},
		{"READ key deletes many", read("POST", "/photos", "delete="), 403, "AccessDenied", "forbidden"},
		{"READ key starts an upload", read("POST", "/photos/k", "uploads="), 403, "AccessDenied", "forbidden"},
		{"READ key aborts an upload", read("DELETE", "/photos/k", "uploadId=u"), 403, "AccessDenied", "forbidden"},
		{"READ key tags", read("PUT", "/photos/k", "tagging="), 403, "AccessDenied", "forbidden"},
		{"WRITE key gets", write("GET", "/photos/k", ""), 403, "AccessDenied", "forbidden"},
		{"WRITE key heads", write("HEAD", "/photos/k", ""), 403, "", "forbidden"},
		{"WRITE key lists", write("GET", "/photos", ""), 403, "AccessDenied", "forbidden"},
		{"WRITE key lists, V2", write("GET", "/photos", "list-type=2"), 403, "AccessDenied", "forbidden"},
		{"WRITE key lists versions", write("GET", "/photos", "versions="), 403, "AccessDenied", "forbidden"},
		{"WRITE key puts an ACL", write("PUT", "/photos/k", "acl="), 403, "AccessDenied", "forbidden"},
		{"ADMIN key reads the policy where configuration is not allowed", admin("GET", "/photos", "policy=", nil), 403, "AccessDenied", "forbidden"},
		{"ADMIN key puts an ACL where configuration is not allowed", admin("PUT", "/photos/k", "acl=", nil), 403, "AccessDenied", "forbidden"},
		{"WRITE key configures where configuration is allowed", write("PUT", "/papers", "policy="), 403, "AccessDenied", "forbidden"},
		{"ADMIN key publishes an object", admin("PUT", "/photos/k", "", header("X-Amz-Acl", "public-read")), 403, "AccessDenied", "forbidden"},
		{"ADMIN key grants an object", admin("PUT", "/photos/k", "", header("X-Amz-Grant-Read", "id=x")), 403, "AccessDenied", "forbidden"},
		{"ADMIN key locks an object", admin("PUT", "/photos/k", "", header("X-Amz-Object-Lock-Mode", "COMPLIANCE")), 403, "AccessDenied", "forbidden"},
		{"ADMIN key bypasses retention", admin("DELETE", "/photos/k", "", header("X-Amz-Bypass-Governance-Retention", "true")), 403, "AccessDenied", "forbidden"},
		{"ADMIN key redirects", admin("PUT", "/photos/k", "", header("X-Amz-Website-Redirect-Location", "/x")), 403, "AccessDenied", "forbidden"},
		{"DeleteBucket", admin("DELETE", "/papers", "", nil), 403, "AccessDenied", "forbidden"},
		{"CreateBucket of a bucket that is there", admin("PUT", "/photos", "", nil), 409, "BucketAlreadyOwnedByYou", "bucket_owned"},
		{"CreateBucket of a bucket that is there, as rclone asks", write("PUT", "/photos", ""), 409, "BucketAlreadyOwnedByYou", "bucket_owned"},
		{"CreateBucket of a private bucket that is there", admin("PUT", "/photos", "", header("X-Amz-Acl", "private")), 409, "BucketAlreadyOwnedByYou", "bucket_owned"},
		{"CreateBucket of a new one", admin("PUT", "/brandnew", "", nil), 403, "AccessDenied", "foreign_bucket"},
		{"READ key creates a bucket", read("PUT", "/photos", ""), 403, "AccessDenied", "forbidden"},

		// What is it?
		{"POST to the service", admin("POST", "/", "", nil), 405, "MethodNotAllowed", "method"},
		{"PATCH", admin("PATCH", "/papers/k", "", nil), 405, "MethodNotAllowed", "method"},
		{"OPTIONS", admin("OPTIONS", "/papers/k", "", nil), 400, "BadRequest", "preflight"},
		{"lower-case method", admin("get", "/papers/k", "", nil), 405, "MethodNotAllowed", "method"},
		{"x-amz header that is not known", admin("PUT", "/papers/k", "", header("X-Amz-Rename-Source", "/secret/k")), 501, "NotImplemented", "unknown_header"},
		{"parameter that is not known", admin("GET", "/papers/k", "response-x-new=1", nil), 501, "NotImplemented", "unknown_parameter"},
		{"parameter in the wrong case", admin("GET", "/papers/k", "versionid=1", nil), 501, "NotImplemented", "unknown_parameter"},
		{"SelectObjectContent", admin("POST", "/papers/k", "select=&select-type=2", nil), 501, "NotImplemented", "unknown_parameter"},
		{"RestoreObject", admin("POST", "/papers/k", "restore=", nil), 501, "NotImplemented", "unknown_parameter"},
		{"GetObjectTorrent", admin("GET", "/papers/k", "torrent=", nil), 501, "NotImplemented", "unknown_parameter"},
		{"two sub-resources", admin("GET", "/papers", "location=&policy=", nil), 501, "NotImplemented", "unknown_operation"},
		{"listing with a sub-resource", admin("GET", "/papers", "list-type=2&uploads=", nil), 501, "NotImplemented", "unknown_operation"},
		{"upload part without a number", admin("PUT", "/papers/k", "uploadId=u", nil), 405, "MethodNotAllowed", "method"},
		{"upload part without an upload", admin("PUT", "/papers/k", "partNumber=1", nil), 400, "InvalidArgument", "unknown_operation"},
		{"a sub-resource of buckets on a key", admin("GET", "/papers/k", "policy=", nil), 501, "NotImplemented", "unknown_operation"},
		{"a sub-resource of keys on a bucket", admin("GET", "/papers", "attributes=", nil), 501, "NotImplemented", "unknown_operation"},
		{"repeated parameter", admin("GET", "/papers/k", "versionId=1&versionId=2", nil), 400, "InvalidArgument", "repeated"},
		{"list type of another number", admin("GET", "/papers", "list-type=3", nil), 400, "InvalidArgument", "argument"},
		{"POST of an object", admin("POST", "/papers/k", "", nil), 405, "MethodNotAllowed", "method"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, e := s.Decide(now, tt.r)
			if e == nil || d != nil {
				t.Fatalf("decided %+v", d)
			}
			if e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %d %s, want %d %s", e.Status, e.Reason, tt.status, tt.reason)
			}
			if tt.r.Method == "HEAD" {
				if len(e.Body) > 0 {
					t.Errorf("HEAD with body %s", e.Body)
				}
				return
			}
			if w := parseError(t, e); w.Code != tt.code {
				t.Errorf("got %s (%s), want %s", w.Code, w.Message, tt.code)
			}
		})
	}
}

// TestErrorDocument looks at the details of error documents.
func TestErrorDocument(t *testing.T) {
	s := newStage(t)
	r := call{method: "GET", path: "/secret/a&b<c>\"d\"'%00"}.sign(t, protocoltest.Key{ID: "AKIAUNKNOWN", Secret: "x"})
	_, e := s.Decide(now, r)
	if w := parseError(t, e); w.Resource != "/secret/a&b<c>\"d\"'%00" {
		t.Errorf("resource %q", w.Resource)
	}
	if len(e.Headers) != 1 || e.Headers[0].Name != "x-amz-request-id" || len(e.Headers[0].Value) != 16 {
		t.Errorf("headers %v", e.Headers)
	}

	_, e = s.Decide(now, call{method: "GET", path: "/photos/k", at: now.Add(-time.Hour)}.sign(t, s.read))
	w := parseError(t, e)
	if w.RequestTime != "20261122T110000Z" || w.ServerTime != "2026-11-22T12:00:00Z" || w.MaxAllowedSkewMilliseconds != "900000" {
		t.Errorf("%+v", w)
	}

	s.Live.Store(nil)
	_, e = s.Decide(now, call{method: "PUT", path: "/photos/k"}.sign(t, s.write))
	if w := parseError(t, e); e.Status != 503 || w.Code != "ServiceUnavailable" || !strings.Contains(w.Message, "sealed") {
		t.Errorf("%d %+v", e.Status, w)
	}
}
