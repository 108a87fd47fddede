package s3_test

import (
	"encoding/xml"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

// TestWords: what clients are told word for word, as versitygw's suite has it of S3. An
// expectation is the message and the further elements.
func TestWords(t *testing.T) {
	s := newStage(t)
	get := func() *extproc.Request { return call{method: "GET", path: "/photos/cat.jpg"}.sign(t, s.read) }
	auth := func(change func(string) string) *extproc.Request { return replace(get(), "authorization", change) }
	credential := func(to string) *extproc.Request {
		return auth(func(v string) string {
			_, rest, _ := strings.Cut(v, ",")
			return "AWS4-HMAC-SHA256 Credential=" + to + "," + rest
		})
	}
	bare := func(method, path string, more ...extproc.Header) *extproc.Request {
		r := call{method: method, path: path, host: front}
		return with(r.envoy(path, nil), more...)
	}
	url := func(from, to string) *extproc.Request {
		r := call{method: "GET", path: "/photos/cat.jpg"}.presign(t, s.read, time.Hour)
		if !strings.Contains(r.Path, from) {
			t.Fatalf("no %s in %s", from, r.Path)
		}
		return replace(r, ":path", swap(from, to))
	}
	h := func(name, value string) extproc.Header { return extproc.Header{Name: name, Value: value} }
	copies := func(source string) *extproc.Request {
		return call{method: "PUT", path: "/papers/k", header: http.Header{"X-Amz-Copy-Source": {source}}}.sign(t, s.admin)
	}
	asks := func(more ...extproc.Header) *extproc.Request { return bare("OPTIONS", "/photos/k", more...) }
	origin := h("origin", "https://app.example")
	const malformed = "The authorization header is malformed; "
	const parsing = "Error parsing the X-Amz-Credential parameter; "
	const form = `the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`
	day := now.Format("20060102")
	for _, tt := range []struct {
		name string
		r    *extproc.Request
		want []string
	}{
		{"no space", auth(to("invalid_header")), []string{"Authorization header is invalid -- one and only one ' ' (space) required.", "ArgumentName", "Authorization", "ArgumentValue", "invalid_header"}},
		{"what may be a secret", auth(to(strings.Repeat("k", 33))), []string{"Authorization header is invalid -- one and only one ' ' (space) required."}},
		{"other mechanism", auth(swap("AWS4-HMAC-SHA256", "AWS2-HMAC-SHA1")), []string{"Unsupported Authorization Type", "ArgumentName", "Authorization", "ArgumentValue", "AWS2-HMAC-SHA1"}},
		{"bearer", auth(to("Bearer kb-secret")), []string{"Unsupported Authorization Type", "ArgumentName", "Authorization", "ArgumentValue", "Bearer"}},
		{"two components", auth(to("AWS4-HMAC-SHA256 Credential=a/20250912/us-east-1/s3/aws4_request,Signature=0")), []string{malformed + "the authorization header requires three components: Credential, SignedHeaders, and Signature."}},
		{"component without a value", auth(to("AWS4-HMAC-SHA256 Credential=a,SignedHeaders-Content-Length,Signature=s")), []string{malformed + `the authorization component "SignedHeaders-Content-Length" is malformed.`}},
		{"no credential", auth(swap("Credential=", "credential=")), []string{malformed + "missing Credential."}},
		{"no signed headers", auth(swap("SignedHeaders=", "missing=")), []string{malformed + "missing SignedHeaders."}},
		{"no signature", auth(swap("Signature=", "missing=")), []string{malformed + "missing Signature."}},
		{"credential of six parts", credential("a/20250912/us-east-1/s3/extra/things"), []string{malformed + form}},
		{"terminal", credential("a/32234/us-east-1/s3/aws_request"), []string{malformed + `incorrect terminal "aws_request". This endpoint uses "aws4_request".`}},
		{"service", credential("a/32234/us-east-1/ec2/aws4_request"), []string{malformed + `incorrect service "ec2". This endpoint belongs to "s3".`}},
		{"day", credential("a/3223423234/us-east-1/s3/aws4_request"), []string{malformed + `incorrect date format "3223423234". This date in the credential must be in the format "yyyyMMdd".`}},
		{"other day", credential(s.read.ID + "/20250912/us-east-1/s3/aws4_request"), []string{malformed + malformed + "Invalid credential date. Date is not the same as X-Amz-Date."}},
		{"unknown key", call{method: "GET", path: "/photos/k"}.sign(t, protocoltest.Key{ID: "AKIAUNKNOWN", Secret: "x"}), []string{"The AWS Access Key Id you provided does not exist in our records.", "AWSAccessKeyId", "AKIAUNKNOWN"}},
		{"no date", replace(get(), "x-amz-date", to("")), []string{"AWS authentication requires a valid Date or x-amz-date header."}},
		{"hash", replace(get(), "x-amz-content-sha256", to("invalid")), []string{"x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER or a valid sha256 value.", "ArgumentName", "x-amz-content-sha256", "ArgumentValue", "invalid"}},
		{"headers not signed", with(get(), h("x-amz-tagging", "a=b"), h("x-amz-copy-source", "b/k"), h("x-amz-tagging", "c=d")), []string{"There were headers present in the request which were not signed", "HeadersNotSigned", "x-amz-copy-source, x-amz-tagging"}},
		{"header of nine KB", call{method: "PUT", path: "/photos/k", header: http.Header{"X-Amz-Meta-Long": {strings.Repeat("d", 8<<10)}}}.sign(t, s.write), []string{"Your request header section exceeds the maximum allowed size.", "MaxSizeAllowed", "8192"}},

		{"URL: parameter missing", url("&X-Amz-Date=", "&x="), []string{"Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."}},
		{"URL: other mechanism", url("AWS4-HMAC-SHA256", "AWS4-SHA256"), []string{`X-Amz-Algorithm only supports "AWS4-HMAC-SHA256 and AWS4-ECDSA-P256-SHA256"`}},
		{"URL: SigV4A", url("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), []string{`X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"`}},
		{"URL: credential", url("%2Faws4_request", ""), []string{parsing + form}},
		{"URL: terminal", url("aws4_request", "aws5_request"), []string{parsing + `incorrect terminal "aws5_request". This endpoint uses "aws4_request".`}},
		{"URL: service", url("%2Fs3%2F", "%2Fsns%2F"), []string{parsing + `incorrect service "sns". This endpoint belongs to "s3".`}},
		{"URL: day", url("%2F"+day+"%2F", "%2F32234Z34%2F"), []string{parsing + `incorrect date format "32234Z34". This date in the credential must be in the format "yyyyMMdd".`}},
		{"URL: other day", url("%2F"+day+"%2F", "%2F20060102%2F"), []string{`Invalid credential date "20060102". This date is not the same as X-Amz-Date: "` + day + `".`}},
		{"URL: expires in words", url("Expires=3600", "Expires=long"), []string{"X-Amz-Expires should be a number"}},
		{"URL: expired before", url("Expires=3600", "Expires=-3"), []string{"X-Amz-Expires must be non-negative"}},
		{"URL: expires in a year", url("Expires=3600", "Expires=31536000"), []string{"X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"}},

		{"POST of the service", bare("POST", "/"), []string{"The specified method is not allowed against this resource.", "Method", "POST", "ResourceType", "SERVICE"}},
		{"PUT of an upload", bare("PUT", "/b/k?uploadId=u"), []string{"The specified method is not allowed against this resource.", "Method", "PUT", "ResourceType", "UPLOAD"}},
		{"part without an upload", bare("PUT", "/b/k?partNumber=1"), []string{"This operation does not accept partNumber without uploadId", "ArgumentName", "partNumber", "ArgumentValue", "partNumber"}},
		{"uploads of a key", bare("GET", "/b/k?uploads"), []string{"Key is not expected for the GET method ?uploads subresource"}},
		{"versions of a key", bare("GET", "/b/k?versions"), []string{"There is no such thing as the ?versions sub-resource for a key"}},
		{"copy by DELETE", bare("DELETE", "/b/k", h("x-amz-copy-source", "b/k")), []string{"You can only specify a copy source header for copy requests.", "ArgumentName", "x-amz-copy-source", "ArgumentValue", "b/k"}},
		{"an operation, anonymous", bare("GET", "/b/k"), []string{"Access Denied."}},
		{"no operation, anonymous", bare("GET", "/b/k?torrent"), []string{"Access Denied."}},

		{"anonymous: a bucket", bare("PUT", "/b"), []string{"Anonymous users cannot invoke this API. Please authenticate."}},
		{"anonymous: an ACL", bare("PUT", "/b/k?acl"), []string{"Anonymous users cannot invoke this API. Please authenticate."}},
		{"anonymous: SELECT", bare("POST", "/b/k?select&select-type=2"), []string{"Anonymous users cannot invoke this API. Please authenticate."}},
		{"anonymous: an upload in parts", bare("POST", "/b/k?uploads"), []string{"Anonymous users cannot initiate multipart uploads. Please authenticate."}},
		{"anonymous: a copy", bare("PUT", "/b/k", h("x-amz-copy-source", "b/c")), []string{"Anonymous users cannot copy objects. Please authenticate."}},
		{"anonymous: ownership", bare("GET", "/b?ownershipControls"), []string{"s3:GetBucketOwnershipControls does not support Anonymous requests!"}},
		{"anonymous: change of ownership", bare("DELETE", "/b?ownershipControls"), []string{"s3:PutBucketOwnershipControls does not support Anonymous requests!"}},
		{"anonymous: other response headers", bare("GET", "/b/k?response-expires=x"), []string{"Request specific response headers cannot be used for anonymous GET requests."}},
		{"anonymous: signed chunks", bare("PUT", "/b/k", h("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")), []string{"Anonymous requests don't support this x-amz-content-sha256 value. Please use UNSIGNED-PAYLOAD or STREAMING-UNSIGNED-PAYLOAD-TRAILER."}},

		{"copy source: escape", copies("papers/%ZZ"), []string{"Invalid copy source encoding", "ArgumentName", "x-amz-copy-source", "ArgumentValue", "papers/%ZZ"}},
		{"copy source: address", copies("192.168.1.1/foo"), []string{"Invalid copy source bucket name", "ArgumentName", "x-amz-copy-source", "ArgumentValue", "192.168.1.1/foo"}},
		{"copy source: no key", copies("papers"), []string{"Invalid copy source object key", "ArgumentName", "x-amz-copy-source", "ArgumentValue", ""}},
		{"copy source: key that climbs", copies("papers/foo/../../bar"), []string{"Invalid copy source object key", "ArgumentName", "x-amz-copy-source", "ArgumentValue", "foo/../../bar"}},

		{"preflight without origin", asks(h("access-control-request-method", "GET")), []string{"Insufficient information. Origin request header needed."}},
		{"preflight of another method", asks(origin, h("access-control-request-method", "get")), []string{"Invalid Access-Control-Request-Method: get"}},
		{"preflight of no header", asks(origin, h("access-control-request-method", "GET"), h("access-control-request-headers", "date, Bad/Header")), []string{`Access-Control-Request-Headers " Bad/Header" contains invalid character.`}},
		{"preflight of no header, in another alphabet", asks(origin, h("access-control-request-method", "GET"), h("access-control-request-headers", "NonAsciiŁ")), []string{`Access-Control-Request-Headers "NonAsciiŁ" contains invalid character.`}},
		{"preflight", asks(origin, h("access-control-request-method", "PUT"), h("access-control-request-headers", "x-amz-date, authorization")), []string{"CORSResponse: CORS is not enabled for this bucket."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, e := s.Decide(now, tt.r)
			if e == nil {
				t.Fatalf("decided %+v", d)
			}
			var w struct {
				Message string
				More    []struct {
					XMLName xml.Name
					Value   string `xml:",chardata"`
				} `xml:",any"`
			}
			if err := xml.Unmarshal(e.Body, &w); err != nil {
				t.Fatal(err)
			}
			got := []string{w.Message}
			for _, m := range w.More {
				switch m.XMLName.Local {
				case "Code", "Resource", "RequestId":
				default:
					got = append(got, m.XMLName.Local, m.Value)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestURLWithToken: a session token put on a presigned URL is what is wrong with it.
func TestURLWithToken(t *testing.T) {
	s := newStage(t)
	r := call{method: "GET", path: "/photos/cat.jpg"}.presign(t, s.read, time.Hour)
	_, e := s.Decide(now, replace(r, ":path", func(p string) string { return p + "&X-Amz-Security-Token=t" }))
	if e == nil || e.Status != 400 || parseError(t, e).Code != "InvalidToken" {
		t.Errorf("%+v", e)
	}
}

// TestLongHeaders: 8 KB of header lines pass, a byte more does not.
func TestLongHeaders(t *testing.T) {
	s := newStage(t)
	put := func(n int) *extproc.Request {
		return call{method: "PUT", path: "/photos/k", header: http.Header{"X-Amz-Meta-Long": {strings.Repeat("d", n)}}}.sign(t, s.write)
	}
	size := 0
	for _, h := range put(1000).Headers() {
		size += len(h.Name) + len(h.Value)
	}
	if _, e := s.Decide(now, put(1000+8<<10-size)); e != nil {
		t.Errorf("8 KB: %s", e.Body)
	}
	if _, e := s.Decide(now, put(1000+8<<10-size+1)); e == nil || e.Reason != "too_long" {
		t.Errorf("a byte more: %+v", e)
	}
}

// TestInvalidBucketName: who may create buckets hears that a name cannot be one.
func TestInvalidBucketName(t *testing.T) {
	s := newAccounts(t, "account")
	create := func(key protocoltest.Key, name string) *extproc.Error {
		_, e := s.Decide(now, call{method: "PUT", path: "/" + name}.sign(t, key))
		return e
	}
	for _, name := range []string{"aa", ".gitignore", "my-bucket.", "bucket-%25", "Capital", "192.168.0.1"} {
		if e := create(s.admin, name); e == nil || parseError(t, e).Code != "InvalidBucketName" {
			t.Errorf("%s: %+v", name, e)
		}
		if e := create(s.write, name); e == nil || parseError(t, e).Code != "AccessDenied" {
			t.Errorf("%s by a WRITE key: %+v", name, e)
		}
	}
	one := newStage(t)
	if _, e := one.Decide(now, call{method: "PUT", path: "/aa"}.sign(t, one.admin)); e == nil || e.Reason != "foreign_bucket" {
		t.Errorf("without an account: %+v", e)
	}
}
