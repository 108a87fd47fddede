package s3_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

// newAccounts is a stage with more than one bucket of one provider account:
//
//	one, two    the same key and secret at one endpoint, in two records
//	claimed     claims that key id, with another secret
//	elsewhere   the same key and secret at another endpoint
//	other       another key
//
// and beside them "secret", which is of no repository.
func newAccounts(t testing.TB, more ...string) *stage {
	t.Helper()
	w := protocoltest.NewWorld(t)
	account := func(in *grant.ConnectorInput, h *seal.Header) {
		h.Binding.Key, h.Binding.Host = protocoltest.ProviderKey("one"), "one.provider.example"
	}
	w.Bucket(workspace, "one", nil)
	w.Bucket(workspace, "two", account)
	w.Bucket(workspace, "claimed", account)
	w.Bucket(workspace, "elsewhere", func(in *grant.ConnectorInput, h *seal.Header) {
		account(in, h)
		h.Binding.Port = 8443
	})
	w.Bucket(workspace, "other", nil)
	w.Bucket(workspace, "secret", account)
	for i := range w.Input.Connectors {
		in := &w.Input.Connectors[i]
		if in.Name == "two" || in.Name == "elsewhere" || in.Name == "secret" {
			in.Credential = w.Credential(seal.Header{
				Workspace: workspace, Type: seal.TypeCredential, Record: in.ID, Binding: *in.Credential.Binding(),
			}, []byte(protocoltest.ProviderSecret("one")))
		}
	}
	w.Bucket(workspace, "account", func(in *grant.ConnectorInput, h *seal.Header) {
		in.Bucket, h.Binding.Scope = grant.AllBuckets, grant.AllBuckets
	})
	w.Repository(workspace, "repository", false, append([]string{"one", "two", "claimed", "elsewhere", "other"}, more...)...)
	s := &stage{World: w, Protocol: s3.New(&w.Live, s3.Options{})}
	s.read = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessRead, nil)
	s.write = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessWrite, nil)
	s.admin = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessAdmin, nil)
	w.Publish()
	return s
}

func copyOf(source string, more ...string) http.Header {
	h := http.Header{"X-Amz-Copy-Source": {source}}
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

// TestCopy: every form of the source is sent on in its one spelling.
func TestCopy(t *testing.T) {
	s := newAccounts(t)
	for _, tt := range []struct{ name, path, query, source, want string }{
		{"within a bucket", "/one/b", "", "one/a", "one/a"},
		{"between buckets of an account", "/one/b", "", "two/a", "two/a"},
		{"with a slash before it", "/one/b", "", "/two/a", "two/a"},
		{"with every slash escaped", "/one/b", "", "%2Ftwo%2Fx%2Fa", "two/x/a"},
		{"of a version", "/one/b", "", "two/a?versionId=v%2B1", "two/a?versionId=v%2B1"},
		{"of a version with raw bytes", "/one/b", "", "two/a?versionId=a/b=", "two/a?versionId=a%2Fb%3D"},
		{"escaped", "/one/b", "", "two/%C3%BC%20%2B%25%3F", "two/%C3%BC%20%2B%25%3F"},
		{"escaped in lower case", "/one/b", "", "two/%c3%bc", "two/%C3%BC"},
		{"raw", "/one/b", "", "two/ü!*'()&=a?versionId=v", "two/%C3%BC%21%2A%27%28%29%26%3Da?versionId=v"},
		{"plus means a space", "/one/b", "", "two/a+b", "two/a%20b"},
		{"slashes and dots stay", "/one/b", "", "two//a//./x/../c/", "two//a//./x/../c/"},
		{"a part", "/one/b", "partNumber=1&uploadId=u", "two/a", "two/a"},
		{"spelt with what a URL cannot hold", "/one/b", "", "one/file #1 [x] {y}", "one/file%20%231%20%5Bx%5D%20%7By%7D"},
		{"onto itself", "/one/a", "", "one/a", "one/a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := copyOf(tt.source, "X-Amz-Metadata-Directive", "REPLACE", "X-Amz-Copy-Source-If-Match", "etag", "X-Amz-Meta-A", "1")
			if tt.query != "" {
				h = copyOf(tt.source, "X-Amz-Copy-Source-Range", "bytes=0-9")
			}
			c := call{method: "PUT", path: tt.path, query: tt.query, header: h}
			hoisted := call{method: "PUT", path: tt.path, query: strings.Trim(tt.query+"&x-amz-copy-source="+url.QueryEscape(tt.source), "&")}
			for _, r := range []*extproc.Request{c.sign(t, s.admin), c.presign(t, s.admin, time.Hour), hoisted.presign(t, s.admin, time.Hour)} {
				d, e := s.Decide(now, r)
				if e != nil {
					t.Fatalf("refused: %s", e.Body)
				}
				provider(t, r, d, "one")
				if n := slices.IndexFunc(d.Set, isCopySource); slices.ContainsFunc(d.Set[n+1:], isCopySource) {
					t.Errorf("set twice: %v", d.Set)
				}
				if got := after(r, d).Get("X-Amz-Copy-Source"); got != tt.want {
					t.Errorf("source %s, want %s", got, tt.want)
				}
			}
		})
	}
}

func isCopySource(h extproc.Header) bool { return h.Name == "x-amz-copy-source" }

// TestCopyRefusals are attacks with the source of a copy.
func TestCopyRefusals(t *testing.T) {
	s := newAccounts(t)
	put := func(k protocoltest.Key, h http.Header) *extproc.Request {
		return call{method: "PUT", path: "/one/b", header: h}.sign(t, k)
	}
	from := func(source string) *extproc.Request { return put(s.admin, copyOf(source)) }
	twice := http.Header{"X-Amz-Copy-Source": {"one/a", "secret/a"}}

	for _, tt := range []struct {
		name   string
		r      *extproc.Request
		status int
		code   string
		reason string
	}{
		{"from a bucket outside the repository, of the same account", from("secret/a"), 403, "AccessDenied", "foreign_bucket"},
		{"from a bucket that does not exist", from("nowhere/a"), 403, "AccessDenied", "foreign_bucket"},
		{"from a bucket in upper case", from("ONE/a"), 403, "AccessDenied", "foreign_bucket"},
		{"from another account", from("other/a"), 501, "NotImplemented", "copy_across"},
		{"from another endpoint", from("elsewhere/a"), 501, "NotImplemented", "copy_across"},
		{"from a record that claims the key id", from("claimed/a"), 501, "NotImplemented", "copy_across"},
		{"by a READ key", put(s.read, copyOf("one/a")), 403, "AccessDenied", "forbidden"},
		{"by a WRITE key", put(s.write, copyOf("one/a")), 403, "AccessDenied", "forbidden"},
		{"by a WRITE key from outside", put(s.write, copyOf("secret/a")), 403, "AccessDenied", "forbidden"},
		{"of a part by a WRITE key", call{method: "PUT", path: "/one/b", query: "partNumber=1&uploadId=u", header: copyOf("one/a")}.sign(t, s.write), 403, "AccessDenied", "forbidden"},
		{"into a bucket outside the repository", call{method: "PUT", path: "/secret/b", header: copyOf("one/a")}.sign(t, s.admin), 403, "AccessDenied", "foreign_bucket"},
		{"source added after signing", with(put(s.admin, nil), extproc.Header{Name: "x-amz-copy-source", Value: "one/a"}), 403, "AccessDenied", "headers_not_signed"},
		{"source changed after signing", replace(from("one/a"), "x-amz-copy-source", to("two/a")), 403, "SignatureDoesNotMatch", "bad_signature"},
		{"two sources", put(s.admin, twice), 400, "InvalidArgument", "repeated"},
		{"two sources in one line", from("one/a,secret/a"), 0, "", ""},
		{"empty source", from(""), 400, "InvalidArgument", "copy_source"},
		{"source without a key", from("one"), 400, "InvalidArgument", "copy_source"},
		{"source with an empty key", from("one/"), 400, "InvalidArgument", "copy_source"},
		{"source without a bucket", from("//a"), 400, "InvalidArgument", "copy_source"},
		{"source that climbs out", from("one/../secret/a"), 400, "InvalidArgument", "copy_source"},
		{"source that climbs out, escaped", from("one/%2E%2E%2Fsecret/a"), 400, "InvalidArgument", "copy_source"},
		{"bucket of two dots", from("../secret/a"), 400, "InvalidArgument", "copy_source"},
		{"source escaped twice", from("%25%32%66secret%2Fa"), 400, "InvalidArgument", "copy_source"},
		{"half an escape", from("one/a%2"), 400, "InvalidArgument", "copy_source"},
		{"empty version", from("one/a?versionId="), 400, "InvalidArgument", "copy_source"},
		{"another parameter", from("one/a?partNumber=1"), 400, "InvalidArgument", "copy_source"},
		{"a second parameter", from("one/a?versionId=1&x=2"), 400, "InvalidArgument", "copy_source"},
		{"a second question mark", from("one/a?versionId=1?x"), 400, "InvalidArgument", "copy_source"},
		{"version in another case", from("one/a?versionid=1"), 400, "InvalidArgument", "copy_source"},
		{"access point", from("arn:aws:s3:us-east-1:123456789012:accesspoint/ap/object/a"), 400, "InvalidArgument", "copy_source"},
		{"URL", from("https://one/a"), 400, "InvalidArgument", "copy_source"},
		{"a condition without a source", put(s.admin, http.Header{"X-Amz-Copy-Source-If-Match": {"x"}}), 400, "InvalidRequest", "copy_without_source"},
		{"a directive without a source", put(s.admin, http.Header{"X-Amz-Metadata-Directive": {"COPY"}}), 400, "InvalidRequest", "copy_without_source"},
		{"range of a whole object", put(s.admin, copyOf("one/a", "X-Amz-Copy-Source-Range", "bytes=0-1")), 501, "NotImplemented", "unknown_header"},
		{"a source of a GET", call{method: "GET", path: "/one/b", header: copyOf("one/a")}.sign(t, s.admin), 400, "InvalidArgument", "unknown_operation"},
		{"a source of a new bucket", call{method: "PUT", path: "/one", header: copyOf("one/a")}.sign(t, s.admin), 501, "NotImplemented", "unknown_operation"},
		{"a source of an upload", call{method: "POST", path: "/one/b", query: "uploads=", header: copyOf("one/a")}.sign(t, s.admin), 400, "InvalidArgument", "unknown_operation"},
		{"publishing the copy", put(s.admin, copyOf("one/a", "X-Amz-Acl", "public-read")), 403, "AccessDenied", "forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, e := s.Decide(now, tt.r)
			if tt.status == 0 { // a comma is a byte of the key
				if e != nil || after(tt.r, d).Get("X-Amz-Copy-Source") != "one/a%2Csecret/a" {
					t.Errorf("%+v, %+v", d, e)
				}
				return
			}
			if e == nil || d != nil {
				t.Fatalf("decided %+v", d)
			}
			if e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %d %s, want %d %s", e.Status, e.Reason, tt.status, tt.reason)
			}
			if w := parseError(t, e); w.Code != tt.code {
				t.Errorf("got %s (%s), want %s", w.Code, w.Message, tt.code)
			}
		})
	}
}

// TestCopyWithoutSecrets: what was wiped is nobody's account.
func TestCopyWithoutSecrets(t *testing.T) {
	s := newAccounts(t)
	buckets := s.Live.Load().Lookup(s.admin.ID).Repository().Buckets
	buckets["one"].Credential.Free()
	buckets["two"].Credential.Free()
	if buckets["one"].SameAccount(buckets["two"].Connector) {
		t.Error("two empty secrets are the same account")
	}
	d, e := s.Decide(now, call{method: "PUT", path: "/one/b", header: copyOf("two/a")}.sign(t, s.admin))
	if e == nil {
		t.Errorf("decided %+v", d)
	}
}
