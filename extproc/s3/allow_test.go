package s3_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/protocoltest"
)

// TestOperations asks for operations of the API with each kind of key. R, W and A
// name the keys that may; C that only an ADMIN key may, and only in the bucket
// whose connector allows configuration.
func TestOperations(t *testing.T) {
	s := newStage(t)
	for _, tt := range []struct{ name, method, target, query, may string }{
		{"GetObject", "GET", "/k", "x-id=GetObject", "RA"},
		{"GetObject of a version", "GET", "/k", "versionId=v", "RA"},
		{"GetObject of a part", "GET", "/k", "partNumber=1", "RA"},
		{"GetObject with response headers", "GET", "/k", "response-cache-control=a&response-content-disposition=b&response-content-encoding=c&response-content-language=d&response-content-type=e&response-expires=f", "RA"},
		{"HeadObject", "HEAD", "/k", "partNumber=1&versionId=v", "RA"},
		{"GetObjectAttributes", "GET", "/k", "attributes=", "RA"},
		{"GetObjectTagging", "GET", "/k", "tagging=&versionId=v", "RA"},
		{"ListObjects", "GET", "", "delimiter=%2F&encoding-type=url&marker=m&max-keys=9&prefix=p", "RA"},
		{"ListObjects with a slash", "GET", "/", "", "RA"},
		{"ListObjectsV2", "GET", "", "continuation-token=c&delimiter=%2F&fetch-owner=true&list-type=2&max-keys=9&prefix=p&start-after=s", "RA"},
		{"ListObjectVersions", "GET", "", "key-marker=k&version-id-marker=v&versions=", "RA"},
		{"HeadBucket", "HEAD", "", "", "RWA"},
		{"GetBucketLocation", "GET", "", "location=", "RWA"},
		{"ListParts", "GET", "/k", "max-parts=9&part-number-marker=1&uploadId=u", "RWA"},
		{"ListMultipartUploads", "GET", "", "key-marker=k&max-uploads=9&prefix=p&upload-id-marker=u&uploads=", "RWA"},
		{"PutObject", "PUT", "/k", "x-id=PutObject", "WA"},
		{"CreateMultipartUpload", "POST", "/k", "uploads=", "WA"},
		{"UploadPart", "PUT", "/k", "partNumber=1&uploadId=u&x-id=UploadPart", "WA"},
		{"CompleteMultipartUpload", "POST", "/k", "uploadId=u", "WA"},
		{"AbortMultipartUpload", "DELETE", "/k", "uploadId=u", "WA"},
		{"DeleteObject", "DELETE", "/k", "versionId=v", "WA"},
		{"DeleteObjects", "POST", "", "delete=", "WA"},
		{"PutObjectTagging", "PUT", "/k", "tagging=", "WA"},
		{"DeleteObjectTagging", "DELETE", "/k", "tagging=", "WA"},
		{"GetObjectAcl", "GET", "/k", "acl=", "C"},
		{"PutObjectAcl", "PUT", "/k", "acl=", "C"},
		{"PutObjectRetention", "PUT", "/k", "retention=", "C"},
		{"PutObjectLegalHold", "PUT", "/k", "legal-hold=", "C"},
		{"GetBucketAcl", "GET", "", "acl=", "C"},
		{"GetBucketVersioning", "GET", "", "versioning=", "C"},
		{"PutBucketVersioning", "PUT", "", "versioning=", "C"},
		{"PutBucketPolicy", "PUT", "", "policy=", "C"},
		{"DeleteBucketPolicy", "DELETE", "", "policy=", "C"},
		{"PutBucketCors", "PUT", "", "cors=", "C"},
		{"PutBucketLifecycleConfiguration", "PUT", "", "lifecycle=", "C"},
		{"PutBucketReplication", "PUT", "", "replication=", "C"},
		{"PutBucketNotificationConfiguration", "PUT", "", "notification=", "C"},
		{"PutPublicAccessBlock", "PUT", "", "publicAccessBlock=", "C"},
		{"PutObjectLockConfiguration", "PUT", "", "object-lock=", "C"},
		{"ListBucketInventoryConfigurations", "GET", "", "continuation-token=c&inventory=", "C"},
		{"PutBucketInventoryConfiguration", "PUT", "", "id=i&inventory=", "C"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			for _, k := range []struct {
				letter string
				key    protocoltest.Key
			}{{"R", s.read}, {"W", s.write}, {"A", s.admin}} {
				if s.allows(t, call{method: tt.method, path: "/photos" + tt.target, query: tt.query}, k.key) {
					got += k.letter
				}
				if conf := s.allows(t, call{method: tt.method, path: "/papers" + tt.target, query: tt.query}, k.key); conf && tt.may == "C" {
					if k.letter != "A" {
						t.Errorf("%s key may configure", k.letter)
					}
					got += "C"
				}
			}
			if got != tt.may {
				t.Errorf("may: %q, want %q", got, tt.may)
			}
		})
	}
}

// allows asks, and plays the provider if the request goes on.
func (s *stage) allows(t *testing.T, c call, k protocoltest.Key) bool {
	t.Helper()
	r := c.sign(t, k)
	d, e := s.Decide(now, r)
	if e != nil {
		if e.Reason != "forbidden" {
			t.Errorf("refused with %s", e.Reason)
		}
		return false
	}
	provider(t, r, d, d.Cluster[len("cluster-"):])
	return true
}

// TestPublishingHeaders: what an ADMIN key may where configuration is allowed.
func TestPublishingHeaders(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{
		"X-Amz-Acl", "X-Amz-Grant-Full-Control", "X-Amz-Object-Lock-Retain-Until-Date", "X-Amz-Website-Redirect-Location",
		"X-Amz-Mfa", "X-Amz-Bypass-Governance-Retention",
	} {
		c := call{method: "PUT", path: "/papers/k", header: http.Header{name: {"x"}}}
		if !s.allows(t, c, s.admin) {
			t.Errorf("%s: refused", name)
		}
		if s.allows(t, c, s.write) {
			t.Errorf("%s: a WRITE key may", name)
		}
	}
}

// TestSpelling: a path or query that is not in its canonical spelling verifies as S3
// reads it, and is sent on in the canonical one.
func TestSpelling(t *testing.T) {
	s := newStage(t)
	for _, tt := range []struct{ name, signed, sent, want string }{
		{"as it is", "/photos/a%20b", "/photos/a%20b", ""},
		{"letters escaped", "/photos/cat", "/photos/c%61t", "/photos/cat"},
		{"escapes in lower case", "/photos/%C3%BC", "/photos/%c3%bc", "/photos/%C3%BC"},
		{"reserved bytes raw", "/photos/%28a%29%2B%21", "/photos/(a)+!", "/photos/%28a%29%2B%21"},
		{"UTF-8 raw", "/photos/%C3%BC", "/photos/ü", "/photos/%C3%BC"},
		{"escaped slash", "/photos/a/b", "/photos/a%2Fb", "/photos/a/b"},
		{"escaped escape", "/photos/a%252Fb", "/photos/a%252Fb", ""},
		{"slashes and dots stay", "/photos//a//b/./c/../d/", "/photos//a//b/./c/../d/", ""},
		{"escaped dots", "/photos/a/../b", "/photos/a/%2e%2e/b", "/photos/a/../b"},
		{"question mark without query", "/photos/k", "/photos/k?", ""},
		{"flag without equals sign", "/photos/k?tagging=", "/photos/k?tagging", ""},
		{"flag with equals sign", "/photos/k?tagging=", "/photos/k?tagging=", ""},
		{"parameters in another order", "/photos?list-type=2&prefix=a", "/photos?prefix=a&list-type=2", ""},
		{"plus in the query", "/photos?prefix=a%20b", "/photos?prefix=a+b", "/photos?prefix=a%20b"},
		{"plus escaped in the query", "/photos?prefix=a%2Bb", "/photos?prefix=a%2Bb", ""},
		{"slash in the query", "/photos?prefix=a%2Fb", "/photos?prefix=a/b", "/photos?prefix=a%2Fb"},
		{"semicolon in the query", "/photos?prefix=a%3Bacl", "/photos?prefix=a;acl", "/photos?prefix=a%3Bacl"},
		{"equals signs in a value", "/photos?prefix=a%3Db%3D", "/photos?prefix=a=b=", "/photos?prefix=a%3Db%3D"},
		{"question mark in the query", "/photos?prefix=a%3Fb", "/photos?prefix=a?b", "/photos?prefix=a%3Fb"},
		{"name escaped", "/photos?prefix=a", "/photos?pre%66ix=a", "/photos?prefix=a"},
		{"empty parameters", "/photos?prefix=a", "/photos?&&prefix=a&", "/photos?prefix=a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{method: "GET"}
			c.path, c.query, _ = cutQuery(tt.signed)
			r := replace(c.sign(t, s.read), ":path", to(tt.sent))
			d, e := s.Decide(now, r)
			if e != nil {
				t.Fatalf("refused: %s", e.Body)
			}
			if d.Path != tt.want {
				t.Errorf("sent on as %q, want %q", d.Path, tt.want)
			}
			// The provider's view, in the SDK's words.
			d.Path = tt.signed
			provider(t, r, d, "photos")
		})
	}
}

func cutQuery(s string) (path, query string, ok bool) {
	for i := range s {
		if s[i] == '?' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// TestHeadersForTheProvider: what is dropped on the way and what is not.
func TestHeadersForTheProvider(t *testing.T) {
	s := newStage(t)
	r := call{method: "PUT", path: "/photos/k", header: http.Header{
		"X-Amz-Security-Token": {"session"},
		"X-Amz-Meta-Title":     {"  two   spaces  ", "and again"},
		"X-Goog-Copy-Source":   {"/secret/k"},
	}}.sign(t, s.write)
	r = with(r,
		extproc.Header{Name: "cf-create-bucket-if-missing", Value: "true"},
		extproc.Header{Name: "x-oss-object-acl", Value: "public-read"},
		extproc.Header{Name: "cookie", Value: "session=1"},
		extproc.Header{Name: "proxy-authorization", Value: "Basic dTpw"},
		extproc.Header{Name: "cache-control", Value: "no-store"},
		extproc.Header{Name: "if-none-match", Value: "*"},
		extproc.Header{Name: "x-amzn-trace-id", Value: "Root=1"},
		extproc.Header{Name: extproc.ClusterHeader, Value: "cluster-secret"},
	)
	d, e := s.Decide(now, r)
	if e != nil {
		t.Fatalf("refused: %s", e.Body)
	}
	provider(t, r, d, "photos")
	slices.Sort(d.Remove)
	want := []string{"cf-create-bucket-if-missing", "cookie", "proxy-authorization", "x-amz-security-token", "x-goog-copy-source", "x-oss-object-acl"}
	if diff := cmp.Diff(want, d.Remove); diff != "" {
		t.Error(diff)
	}
	if d.Cluster != "cluster-photos" || d.Authority != "photos.provider.example" || len(d.Set) != 2 {
		t.Errorf("%+v", d)
	}
}

// TestSkew accepts what is exactly 15 minutes off, also over midnight.
func TestSkew(t *testing.T) {
	s := newStage(t)
	midnight := time.Date(2026, 11, 23, 0, 5, 0, 0, time.UTC)
	for _, at := range []time.Time{midnight.Add(-15 * time.Minute), midnight, midnight.Add(15 * time.Minute)} {
		if _, e := s.Decide(midnight, call{method: "GET", path: "/photos/k", at: at}.sign(t, s.read)); e != nil {
			t.Errorf("%v: %s", at, e.Body)
		}
	}
}

// TestStrangersDoNotFillTheCache: who does not know the secret makes no derived key stay.
func TestStrangersDoNotFillTheCache(t *testing.T) {
	s := newStage(t)
	before, _ := s.Arena.InUse()
	for _, region := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		r := call{method: "GET", path: "/photos/k", region: region}.sign(t, protocoltest.Key{ID: s.read.ID, Secret: "guess"})
		if _, e := s.Decide(now, r); e == nil || e.Reason != "bad_signature" {
			t.Fatalf("%+v", e)
		}
	}
	if after, _ := s.Arena.InUse(); after != before {
		t.Errorf("%d slots more", after-before)
	}
	if _, e := s.Decide(now, call{method: "GET", path: "/photos/k"}.sign(t, s.read)); e != nil {
		t.Fatalf("refused: %s", e.Body)
	}
	if after, _ := s.Arena.InUse(); after != before+2 {
		t.Errorf("%d slots more, want one for the key and one for the provider", after-before)
	}
}

// TestFreedCredential: a credential that was wiped under an index signs nothing.
func TestFreedCredential(t *testing.T) {
	s := newStage(t)
	r := call{method: "GET", path: "/photos/k"}
	for _, free := range []*credential.Credential{
		s.Live.Load().Lookup(s.read.ID).Repository().Buckets["photos"].Credential,
		s.Live.Load().Lookup(s.read.ID).Secret,
	} {
		free.Free()
		if d, e := s.Decide(now, r.sign(t, s.read)); e == nil || e.Status != 503 {
			t.Errorf("%+v, %+v", d, e)
		}
	}
}

// TestAllocations is the bar of the hot path: a good request allocates nothing.
func TestAllocations(t *testing.T) {
	s := newStage(t)
	for name, r := range map[string]*extproc.Request{
		"header":       call{method: "GET", path: "/photos/cat.jpg", query: "x-id=GetObject"}.sign(t, s.read),
		"respelt":      respell(call{method: "GET", path: "/photos/a%20b%2Bc", query: "versionId=a%2Bb"}.sign(t, s.read)),
		"presigned":    call{method: "GET", path: "/photos/cat.jpg", query: "x-id=GetObject"}.presign(t, s.read, time.Hour),
		"hoisted":      call{method: "PUT", path: "/photos/cat.jpg", query: "x-amz-checksum-crc32=AAAAAA%3D%3D"}.presign(t, s.write, time.Hour),
		"virtual host": call{method: "GET", path: "/cat.jpg", host: "photos." + front}.sign(t, s.read),
		"copy":         call{method: "PUT", path: "/photos/cat.jpg", header: copyOf("photos/dog.jpg")}.sign(t, s.admin),
	} {
		s.allocations(t, name, r)
	}
	s = newFolders(t)
	for name, r := range map[string]*extproc.Request{
		"in a folder":    call{method: "GET", path: "/photos/team/a%20b/x/cat.jpg", query: "x-id=GetObject"}.sign(t, s.read),
		"list a folder":  call{method: "GET", path: "/photos", query: "delimiter=%2F&list-type=2&prefix="}.sign(t, s.read),
		"copy in folder": call{method: "PUT", path: "/photos/team/a%20b/k", header: copyOf("papers/p/k")}.sign(t, s.admin),
	} {
		s.allocations(t, name, r)
	}
}

func (s *stage) allocations(t *testing.T, name string, r *extproc.Request) {
	t.Helper()
	decide := func() {
		if _, e := s.Decide(now, r); e != nil {
			t.Fatal(e.Reason)
		}
	}
	decide() // caches the signing keys
	// The pools may be emptied meanwhile, and the race detector empties them at random.
	if n := testing.AllocsPerRun(200, decide); n > 0 && !raceEnabled {
		t.Errorf("%s: %v allocations a request", name, n)
	}
}
