package s3_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

// decided wants a decision for the bucket and returns what the provider gets.
func (s *stage) decided(t *testing.T, r *extproc.Request, connector string) *extproc.Decision {
	t.Helper()
	d, e := s.Decide(now, r)
	if e != nil {
		t.Fatalf("refused: %d %s %s", e.Status, e.Reason, e.Body)
	}
	provider(t, r, d, connector)
	if !strings.HasPrefix(d.Key, "key-record-") {
		t.Errorf("admitted for key %q", d.Key)
	}
	return d
}

// TestPresigned: what goes to the provider is the request, without the client's
// query authentication.
func TestPresigned(t *testing.T) {
	s := newStage(t)
	for _, tt := range []struct {
		name string
		c    call
		key  protocoltest.Key
		want string // path at the provider
	}{
		{"GET", call{method: "GET", path: "/photos/cat.jpg", query: "x-id=GetObject"}, s.read, "/photos/cat.jpg?x-id=GetObject"},
		{"GET with a name to save as", call{method: "GET", path: "/photos/cat.jpg", query: "response-content-disposition=attachment%3B%20filename%3Da.jpg"}, s.read, "/photos/cat.jpg?response-content-disposition=attachment%3B%20filename%3Da.jpg"},
		{"GET of a version", call{method: "GET", path: "/photos/cat.jpg", query: "versionId=v1"}, s.read, "/photos/cat.jpg?versionId=v1"},
		{"HEAD", call{method: "HEAD", path: "/photos/cat.jpg"}, s.read, "/photos/cat.jpg"},
		{"PUT", call{method: "PUT", path: "/photos/a%20b", length: 10, header: http.Header{"Content-Type": {"text/plain"}, "X-Amz-Meta-A": {"1"}}}, s.write, "/photos/a%20b"},
		{"PUT of a known body", call{method: "PUT", path: "/photos/k", length: 10, hash: emptyHash}, s.write, "/photos/k"},
		{"part", call{method: "PUT", path: "/photos/k", query: "partNumber=2&uploadId=u%2Bv", length: 10}, s.write, "/photos/k?partNumber=2&uploadId=u%2Bv"},
		{"DELETE", call{method: "DELETE", path: "/photos/k"}, s.write, "/photos/k"},
		{"listing", call{method: "GET", path: "/photos", query: "list-type=2&prefix=a%2Fb"}, s.read, "/photos?list-type=2&prefix=a%2Fb"},
		{"virtual-host style", call{method: "GET", path: "/a/b", host: "photos." + front}, s.read, "/photos/a/b"},
		{"virtual-host style, bucket", call{method: "GET", path: "/", host: "photos." + front, query: "list-type=2"}, s.read, "/photos?list-type=2"},
		{"query of odd spelling", call{method: "GET", path: "/photos", query: "prefix=a%2Fb&delimiter=%2F"}, s.read, "/photos?delimiter=%2F&prefix=a%2Fb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.c.presign(t, tt.key, time.Hour)
			d := s.decided(t, r, "photos")
			if d.Path != tt.want {
				t.Errorf("path %s, want %s", d.Path, tt.want)
			}
			hash := unsigned
			if tt.c.hash != "" {
				hash = tt.c.hash
			}
			if got := after(r, d).Get("X-Amz-Content-Sha256"); got != hash {
				t.Errorf("hash %s, want %s", got, hash)
			}
		})
	}
}

// after are the headers that the provider gets.
func after(r *extproc.Request, d *extproc.Decision) http.Header {
	h := http.Header{}
	for _, l := range r.Headers() {
		if !slices.Contains(d.Remove, l.Name) {
			h.Add(l.Name, l.Value)
		}
	}
	for _, l := range d.Set {
		h.Set(l.Name, l.Value)
	}
	return h
}

// TestPresignedLifetime: from 15 minutes before its date, as clocks differ, to its end.
func TestPresignedLifetime(t *testing.T) {
	s := newStage(t)
	for _, tt := range []struct {
		name    string
		age     time.Duration
		expires time.Duration
		reason  string
	}{
		{"at once", 0, time.Second, ""},
		{"at its end", time.Second, time.Second, ""},
		{"after its end", 2 * time.Second, time.Second, "expired"},
		{"a week, at its end", 604800 * time.Second, 604800 * time.Second, ""},
		{"a week and a second", 604801 * time.Second, 604800 * time.Second, "expired"},
		{"older than a header may be", time.Hour, 2 * time.Hour, ""},
		{"of a clock that is ahead", -15 * time.Minute, time.Second, ""},
		{"of the future", -15*time.Minute - time.Second, time.Hour, "not_yet_valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, e := s.Decide(now, call{method: "GET", path: "/photos/k", at: now.Add(-tt.age)}.presign(t, s.read, tt.expires))
			reason := ""
			if e != nil {
				reason = e.Reason
			}
			if reason != tt.reason {
				t.Errorf("got %q, want %q", reason, tt.reason)
			}
		})
	}
	_, e := s.Decide(now, call{method: "GET", path: "/photos/k", at: now.Add(-time.Hour)}.presign(t, s.read, time.Minute))
	if b := string(e.Body); !strings.Contains(b, "<X-Amz-Expires>60</X-Amz-Expires><Expires>2026-11-22T11:01:00Z</Expires><ServerTime>2026-11-22T12:00:00Z</ServerTime>") {
		t.Error(b)
	}
}

// TestHoisted: SDKs move x-amz-* headers into the query of a presigned URL; the
// provider gets them as headers. aws-sdk-js v3 does so in lower case.
func TestHoisted(t *testing.T) {
	s := newStage(t)
	c := call{method: "PUT", path: "/photos/k", query: "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-meta-Name=two%20%20spaces&x-amz-sdk-checksum-algorithm=CRC32&x-id=PutObject"}
	c.header = http.Header{"X-Amz-Checksum-Mode": {"ENABLED"}, "X-Amz-Security-Token": {"session"}}
	r := c.presign(t, s.write, time.Hour)
	if !strings.Contains(r.Path, "X-Amz-Checksum-Mode=ENABLED") || !strings.Contains(r.Path, "X-Amz-Security-Token=session") {
		t.Fatalf("not hoisted: %s", r.Path)
	}
	d := s.decided(t, r, "photos")
	if d.Path != "/photos/k?x-id=PutObject" {
		t.Errorf("path %s", d.Path)
	}
	got := after(r, d)
	for name, want := range map[string]string{
		"x-amz-checksum-crc32": "AAAAAA==", "x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-mode": "ENABLED",
		"x-amz-meta-name": "two  spaces", "x-amz-content-sha256": unsigned, "x-amz-security-token": "",
	} {
		if got.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Get(name), want)
		}
	}
}

// TestPresignedRefusals are attacks on presigned URLs and on their parameters.
func TestPresignedRefusals(t *testing.T) {
	s := newStage(t)
	get := call{method: "GET", path: "/photos/cat.jpg"}
	signed := func() *extproc.Request { return get.presign(t, s.read, time.Hour) }
	path := func(change func(string) string) *extproc.Request { return replace(signed(), ":path", change) }
	drop := func(name string) *extproc.Request {
		return path(func(p string) string {
			uri, query, _ := strings.Cut(p, "?")
			kept := slices.DeleteFunc(strings.Split(query, "&"), func(part string) bool { return strings.HasPrefix(part, name+"=") })
			return uri + "?" + strings.Join(kept, "&")
		})
	}
	add := func(query string) *extproc.Request { return path(func(p string) string { return p + "&" + query }) }
	put := func(k protocoltest.Key, h http.Header) *extproc.Request {
		return call{method: "PUT", path: "/photos/k", header: h}.presign(t, k, time.Hour)
	}
	query := func(query string) *extproc.Request {
		c := get
		c.query = query
		return c.presign(t, s.read, time.Hour)
	}
	h := func(name, value string) extproc.Header { return extproc.Header{Name: name, Value: value} }

	for _, tt := range []struct {
		name   string
		r      *extproc.Request
		status int
		code   string
		reason string
	}{
		{"unknown key", get.presign(t, protocoltest.Key{ID: "AKIAUNKNOWN", Secret: "x"}, time.Hour), 403, "InvalidAccessKeyId", "unknown_key"},
		{"wrong secret", get.presign(t, protocoltest.Key{ID: s.read.ID, Secret: "x"}, time.Hour), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"with a header's authorization too", with(signed(), h("authorization", get.sign(t, s.read).Header("authorization"))), 400, "InvalidArgument", "two_mechanisms"},
		{"with any authorization too", with(signed(), h("authorization", "Basic dTpw")), 400, "InvalidArgument", "two_mechanisms"},
		{"other key", path(swap("cat.jpg", "dog.jpg")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"other bucket", path(swap("/photos/", "/papers/")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"other method", replace(signed(), ":method", to("DELETE")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"HEAD of a GET's", replace(signed(), ":method", to("HEAD")), 403, "", "bad_signature"},
		{"other host", replace(signed(), ":authority", to("other.example")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"other bucket by host", replace(signed(), ":authority", to("papers."+front)), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"other port", replace(signed(), ":authority", to("gateway.example:1")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"longer life", path(swap("X-Amz-Expires=3600", "X-Amz-Expires=7200")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"later date", path(swap("X-Amz-Date=20261122T120000Z", "X-Amz-Date=20261122T120001Z")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"other region", path(swap("us-east-1", "us-east-2")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"no lifetime", get.presignRaw(t, s.read, "0"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"lifetime over a week", get.presignRaw(t, s.read, "604801"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"negative lifetime", get.presignRaw(t, s.read, "-1"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"lifetime with a sign", get.presignRaw(t, s.read, "%2B60"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"lifetime with a fraction", get.presignRaw(t, s.read, "60.5"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"lifetime of many digits", get.presignRaw(t, s.read, "18446744073709551617"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"lifetime with zeros before it", get.presignRaw(t, s.read, "060"), 400, "AuthorizationQueryParametersError", "query_expires"},
		{"no algorithm", drop("X-Amz-Algorithm"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"no credential", drop("X-Amz-Credential"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"no date", drop("X-Amz-Date"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"no expires", drop("X-Amz-Expires"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"no signed headers", drop("X-Amz-SignedHeaders"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"no signature", drop("X-Amz-Signature"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"other algorithm", path(swap("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1")), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"SigV4A", path(swap("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")), 400, "AuthorizationQueryParametersError", "sigv4a"},
		{"credential of another service", path(swap("%2Fs3%2F", "%2Fsts%2F")), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"credential of another day", path(swap("%2F20261122%2F", "%2F20261121%2F")), 400, "AuthorizationQueryParametersError", "query_date"},
		{"date that does not exist", path(swap("X-Amz-Date=20261122T120000Z", "X-Amz-Date=20261122T250000Z")), 400, "AuthorizationQueryParametersError", "query_date"},
		{"host not signed", path(swap("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=range")), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"signature in upper case", path(func(p string) string { return p[:len(p)-64] + strings.Repeat("A", 64) }), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"two signatures", add("X-Amz-Signature=" + strings.Repeat("0", 64)), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"two lifetimes", add("X-Amz-Expires=604800"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"an empty lifetime beside", add("X-Amz-Expires="), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"a parameter of authentication in lower case beside", add("x-amz-expires=604800"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"a parameter of authentication escaped beside", add("X-Amz-%45xpires=604800"), 400, "AuthorizationQueryParametersError", "malformed_query_auth"},
		{"a date header beside", with(signed(), h("x-amz-date", "20261122T120000Z")), 400, "InvalidArgument", "query_header"},
		{"response header added after signing", add("response-content-type=text%2Fhtml"), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"version added after signing", add("versionId=1"), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"ACL added to the query after signing", replace(put(s.admin, nil), ":path", func(p string) string { return p + "&x-amz-acl=public-read" }), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"metadata added after signing", with(put(s.write, nil), h("x-amz-meta-a", "1")), 403, "AccessDenied", "headers_not_signed"},
		{"hash added after signing", with(put(s.write, nil), h("x-amz-content-sha256", emptyHash)), 403, "AccessDenied", "headers_not_signed"},
		{"other hash than signed", replace(call{method: "PUT", path: "/photos/k", hash: emptyHash}.presign(t, s.write, time.Hour), "x-amz-content-sha256", to(strings.Repeat("0", 64))), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"signed hash left out", without(call{method: "PUT", path: "/photos/k", hash: emptyHash}.presign(t, s.write, time.Hour), "x-amz-content-sha256"), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"signed content type left out", without(put(s.write, http.Header{"Content-Type": {"text/plain"}}), "content-type"), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"copy source added after signing", with(put(s.admin, nil), h("x-amz-copy-source", "photos/secret")), 403, "AccessDenied", "headers_not_signed"},
		{"parameter that is not known", query("x-new=1"), 501, "NotImplemented", "unknown_parameter"},
		{"hoisted header that is not known", query("X-Amz-New=1"), 501, "NotImplemented", "unknown_header"},
		{"hoisted header with a line break", query("X-Amz-Meta-A=1%0D%0Ax-amz-acl%3A%20public-read"), 400, "InvalidArgument", "query_header"},
		{"hoisted header with a break in its name", query("X-Amz-Meta-A%0A=1"), 400, "InvalidArgument", "query_header"},
		{"hoisted header twice", query("X-Amz-Meta-A=1&x-amz-meta-a=2"), 400, "InvalidArgument", "query_header"},
		{"hoisted header and the same header", call{method: "PUT", path: "/photos/k", query: "x-amz-meta-a=1", header: http.Header{"X-Amz-Meta-A": {"2"}}}.presign(t, s.write, time.Hour), 400, "InvalidArgument", "query_header"},
		{"hoisted hash of a kind that is not taken", call{method: "PUT", path: "/photos/k", query: "X-Amz-Content-Sha256=STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}.presign(t, s.write, time.Hour), 501, "NotImplemented", "streaming"},
		{"hoisted ACL", call{method: "PUT", path: "/photos/k", query: "x-amz-acl=public-read"}.presign(t, s.admin, time.Hour), 403, "AccessDenied", "forbidden"},
		{"hoisted ACL by a WRITE key", call{method: "PUT", path: "/papers/k", query: "x-amz-acl=public-read"}.presign(t, s.write, time.Hour), 403, "AccessDenied", "forbidden"},
		{"hoisted lock", call{method: "PUT", path: "/photos/k", query: "x-amz-object-lock-mode=COMPLIANCE"}.presign(t, s.admin, time.Hour), 403, "AccessDenied", "forbidden"},
		{"hoisted copy source of another repository", call{method: "PUT", path: "/photos/k", query: "x-amz-copy-source=secret%2Fk"}.presign(t, s.admin, time.Hour), 403, "AccessDenied", "foreign_bucket"},
		{"READ key, PUT", put(s.read, nil), 403, "AccessDenied", "forbidden"},
		{"WRITE key, GET", get.presign(t, s.write, time.Hour), 403, "AccessDenied", "forbidden"},
		{"bucket outside the repository", call{method: "GET", path: "/secret/k"}.presign(t, s.admin, time.Hour), 403, "AccessDenied", "foreign_bucket"},
		{"key that climbs out", call{method: "GET", path: "/photos/../secret/k"}.presign(t, s.admin, time.Hour), 400, "400", "climbing_key"},
		{"response header of a PUT", call{method: "PUT", path: "/photos/k", query: "response-content-type=text%2Fhtml"}.presign(t, s.admin, time.Hour), 501, "NotImplemented", "unknown_operation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, e := s.Decide(now, tt.r)
			if e == nil || d != nil {
				t.Fatalf("decided %+v", d)
			}
			if e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %d %s, want %d %s: %s", e.Status, e.Reason, tt.status, tt.reason, e.Body)
			}
			if tt.r.Method != "HEAD" {
				if w := parseError(t, e); w.Code != tt.code {
					t.Errorf("got %s (%s), want %s", w.Code, w.Message, tt.code)
				}
			}
		})
	}
}

// TestOldURLsDoNotFillTheCache: a URL of days ago signs, and leaves no key of its day.
func TestOldURLsDoNotFillTheCache(t *testing.T) {
	s := newStage(t)
	s.decided(t, call{method: "GET", path: "/photos/k"}.sign(t, s.read), "photos")
	before, _ := s.Arena.InUse()
	for day := range 6 {
		s.decided(t, call{method: "GET", path: "/photos/k", at: now.AddDate(0, 0, -day-1)}.presign(t, s.read, 7*24*time.Hour), "photos")
	}
	if n, _ := s.Arena.InUse(); n != before {
		t.Errorf("%d slots more", n-before)
	}
}
