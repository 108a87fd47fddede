package s3_test

import (
	"encoding/xml"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

// listing is the answer to ListBuckets.
type listing struct {
	XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ListAllMyBucketsResult"`
	Owner   struct{ ID, DisplayName string }
	Buckets []struct {
		Name, BucketRegion string
		CreationDate       time.Time
	} `xml:"Buckets>Bucket"`
	Prefix, ContinuationToken string
}

func (s *stage) list(t *testing.T, k protocoltest.Key, query string) (l listing) {
	t.Helper()
	d, e := s.Decide(now, call{method: "GET", path: "/", query: query}.sign(t, k))
	if d != nil || e == nil || e.Status != 200 || e.ContentType != "application/xml" {
		t.Fatalf("%+v, %+v", d, e)
	}
	if err := xml.Unmarshal(e.Body, &l); err != nil {
		t.Fatalf("%v in %s", err, e.Body)
	}
	return l
}

func (l listing) names() (names []string) {
	for _, b := range l.Buckets {
		names = append(names, b.Name)
	}
	return names
}

// TestListBuckets: the bridge lists the repository's buckets and nothing else.
func TestListBuckets(t *testing.T) {
	s := newAccounts(t)
	all := []string{"claimed", "elsewhere", "one", "other", "two"}
	l := s.list(t, s.read, "x-id=ListBuckets")
	if diff := cmp.Diff(all, l.names()); diff != "" {
		t.Error(diff)
	}
	if l.Buckets[0].CreationDate.IsZero() || l.Buckets[0].BucketRegion != "eu-central-1" || l.ContinuationToken != "" || l.Owner.DisplayName != "repository" {
		t.Errorf("%+v", l)
	}
	if len(l.Owner.ID) != 64 || l.Owner != s.list(t, s.admin, "").Owner {
		t.Errorf("owner %+v of one key, %+v of another", l.Owner, s.list(t, s.admin, "").Owner)
	}
	for query, want := range map[string][]string{
		"prefix=o":               {"one", "other"},
		"prefix=on":              {"one"},
		"prefix=zz":              nil,
		"bucket-region=xx":       nil,
		"bucket-region=us-east":  nil,
		"max-buckets=10000":      all,
		"prefix=%26%3C":          nil,
		"max-buckets=2&prefix=o": {"one", "other"},
	} {
		if diff := cmp.Diff(want, s.list(t, s.admin, query).names()); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
	var paged []string
	token := ""
	for range all {
		l := s.list(t, s.admin, "max-buckets=2"+token)
		paged = append(paged, l.names()...)
		if l.ContinuationToken == "" {
			break
		}
		token = "&continuation-token=" + l.ContinuationToken
	}
	if diff := cmp.Diff(all, paged); diff != "" {
		t.Errorf("in pages: %s", diff)
	}
	d, e := s.Decide(now, call{method: "GET", path: "/"}.presign(t, s.read, time.Hour))
	if d != nil || e == nil || e.Status != 200 {
		t.Errorf("presigned: %+v, %+v", d, e)
	}
}

func TestListBucketsRefusals(t *testing.T) {
	s := newAccounts(t)
	get := func(k protocoltest.Key, query string) *extproc.Request {
		return call{method: "GET", path: "/", query: query}.sign(t, k)
	}
	for _, tt := range []struct {
		name   string
		r      *extproc.Request
		status int
		reason string
	}{
		{"WRITE key", get(s.write, ""), 403, "forbidden"},
		{"no buckets at once", get(s.read, "max-buckets=0"), 400, "argument"},
		{"fewer than none", get(s.read, "max-buckets=-1"), 400, "argument"},
		{"more than S3 lists", get(s.read, "max-buckets=10001"), 400, "argument"},
		{"some buckets", get(s.read, "max-buckets=ten"), 400, "argument"},
		{"a token of nobody's", get(s.read, "continuation-token=%21"), 400, "argument"},
		{"an empty token", get(s.read, "continuation-token="), 400, "argument"},
		{"a long token", get(s.read, "continuation-token="+strings.Repeat("YWFh", 100)), 400, "argument"},
		{"a parameter of another operation", get(s.read, "delimiter=%2F"), 501, "unknown_operation"},
		{"an ACL", call{method: "GET", path: "/", header: map[string][]string{"X-Amz-Acl": {"x"}}}.sign(t, s.admin), 403, "forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, e := s.Decide(now, tt.r); e == nil || e.Status != tt.status || e.Reason != tt.reason {
				t.Errorf("got %+v, want %d %s", e, tt.status, tt.reason)
			}
		})
	}
}

// TestAccount: what keys of a repository with an account connector may.
func TestAccount(t *testing.T) {
	s := newAccounts(t, "account")
	for _, tt := range []struct{ name, method, path, query, connector, may string }{
		{"GetObject", "GET", "/any-bucket/k", "", "account", "RA"},
		{"PutObject", "PUT", "/any-bucket/k", "", "account", "WA"},
		{"GetObject of a bucket with a connector", "GET", "/one/k", "", "one", "RA"},
		{"ListBuckets", "GET", "/", "max-buckets=5&prefix=a", "account", "RA"},
		{"CreateBucket", "PUT", "/new-bucket", "", "account", "A"},
		{"DeleteBucket", "DELETE", "/new-bucket", "", "account", "A"},
		{"DeleteBucket of a bucket with a connector", "DELETE", "/one", "", "", ""},
		{"PutBucketPolicy", "PUT", "/any-bucket", "policy=", "", ""},
		{"bucket with dots", "GET", "/my.own.bucket/k", "", "account", "RA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			for _, k := range []struct {
				letter string
				key    protocoltest.Key
			}{{"R", s.read}, {"W", s.write}, {"A", s.admin}} {
				r := call{method: tt.method, path: tt.path, query: tt.query}.sign(t, k.key)
				d, e := s.Decide(now, r)
				if e != nil {
					if e.Reason != "forbidden" {
						t.Errorf("refused with %s", e.Reason)
					}
					continue
				}
				provider(t, r, d, tt.connector)
				got += k.letter
			}
			if got != tt.may {
				t.Errorf("may: %q, want %q", got, tt.may)
			}
		})
	}
}

// TestAccountRefusals: an account connector leads to buckets and nowhere else.
func TestAccountRefusals(t *testing.T) {
	s := newAccounts(t, "account")
	for _, tt := range []struct {
		name, method, path, reason string
	}{
		{"MinIO's admin API", "GET", "/minio/admin/v3/info", "foreign_bucket"},
		{"Ceph's admin API", "GET", "/admin/user", "foreign_bucket"},
		{"Swift", "GET", "/swift/v1", "foreign_bucket"},
		{"Swift's tokens", "GET", "/auth/v1.0", "foreign_bucket"},
		{"health page", "GET", "/_health", "foreign_bucket"},
		{"bucket of one letter", "GET", "/a/k", "foreign_bucket"},
		{"bucket of too many letters", "GET", "/" + strings.Repeat("a", 64) + "/k", "foreign_bucket"},
		{"bucket in upper case", "PUT", "/Bucket/k", "foreign_bucket"},
		{"bucket with a dash at its end", "GET", "/bucket-/k", "foreign_bucket"},
		{"bucket with two dots", "GET", "/buc..ket/k", "foreign_bucket"},
		{"bucket that is an address", "GET", "/10.0.0.1/k", "foreign_bucket"},
		{"bucket with a colon", "GET", "/arn%3Aaws%3As3/k", "foreign_bucket"},
		{"bucket with an escaped slash", "GET", "/admin%2Fuser", "bad_signature"},
		{"bucket of stars", "GET", "/*/k", "bad_signature"},
		{"bucket of an escaped star", "GET", "/%2A/k", "foreign_bucket"},
		{"new bucket of a bucket with a connector", "PUT", "/one", "bucket_owned"},
		{"form at the service", "POST", "/", "method"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d, e := s.Decide(now, call{method: tt.method, path: tt.path}.sign(t, s.admin)); e == nil || e.Reason != tt.reason {
				t.Errorf("got %+v %+v, want %s", d, e, tt.reason)
			}
		})
	}
	public := call{method: "PUT", path: "/new-bucket", header: http.Header{"X-Amz-Acl": {"public-read"}}}
	if d, e := s.Decide(now, public.sign(t, s.admin)); e == nil || e.Reason != "forbidden" {
		t.Errorf("a public bucket: %+v %+v", d, e)
	}
	for _, source := range []string{"minio/admin/v3/info", "other/k", "any-bucket"} {
		if d, e := s.Decide(now, call{method: "PUT", path: "/any-bucket/k", header: copyOf(source)}.sign(t, s.admin)); e == nil {
			t.Errorf("copy from %s: %+v", source, d)
		}
	}
	r := call{method: "PUT", path: "/any-bucket/k", header: copyOf("more-bucket/k")}.sign(t, s.admin)
	s.decided(t, r, "account")
}

// TestDomains: which hosts name a bucket.
func TestDomains(t *testing.T) {
	w := protocoltest.NewWorld(t)
	for _, b := range []string{"photos", "my.photos", "s3"} {
		w.Bucket(workspace, b, nil)
	}
	w.Bucket(workspace, "account", func(in *grant.ConnectorInput, h *seal.Header) {
		in.Bucket, h.Binding.Scope = grant.AllBuckets, grant.AllBuckets
	})
	w.Repository(workspace, "repository", false, "photos", "my.photos", "s3", "account")
	key := w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessAdmin, nil)
	w.Publish()
	p := s3.New(&w.Live, s3.Options{Domains: []string{"example", ".S3.Example.", "", "localhost"}})
	s := &stage{World: w, Protocol: p}
	for _, tt := range []struct{ name, host, path, want string }{
		{"domain itself", "s3.example", "/photos/k", "/photos/k"},
		{"domain itself with port", "s3.example:9000", "/photos/k", "/photos/k"},
		{"subdomain", "photos.s3.example", "/k", "/photos/k"},
		{"subdomain with port", "photos.s3.example:9000", "/a/b", "/photos/a/b"},
		{"host in upper case", "photos.S3.EXAMPLE", "/k", "/photos/k"},
		{"bucket with a dot", "my.photos.s3.example", "/k", "/my.photos/k"},
		{"subdomain of the shorter domain", "photos.example", "/k", "/photos/k"},
		{"bucket named in path and host", "photos.s3.example", "/photos/k", "/photos/photos/k"},
		{"bucket itself", "photos.localhost:1", "/", "/photos"},
		{"key of a slash", "photos.localhost", "//", "/photos//"},
		{"odd spelling", "photos.localhost", "/a%2Fb+c", "/photos/a/b%2Bc"},
		{"address", "127.0.0.1:9000", "/photos/k", "/photos/k"},
		{"IPv6 address", "[::1]:9000", "/photos/k", "/photos/k"},
		{"host that only ends alike", "photosexample", "/photos/k", "/photos/k"},
		{"any bucket of an account", "any-bucket.s3.example", "/k", "/any-bucket/k"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{method: "GET", host: tt.host, path: tt.path}
			if tt.name == "odd spelling" {
				c.path = "/a/b%2Bc"
			}
			for _, r := range []*extproc.Request{c.sign(t, key), c.presign(t, key, time.Hour)} {
				if c.path != tt.path {
					r = replace(r, ":path", swap(c.path, tt.path))
				}
				d, e := p.Decide(now, r)
				if e != nil {
					t.Fatalf("refused: %s", e.Body)
				}
				got := d.Path
				if got == "" {
					got = r.Path
				}
				if got != tt.want {
					t.Errorf("goes to %s, want %s", got, tt.want)
				}
			}
		})
	}
	for _, tt := range []struct{ name, host, path, reason string }{
		{"no bucket before the dot", ".s3.example", "/photos/k", "invalid_uri"},
		{"two dots", "..s3.example", "/photos/k", "invalid_uri"},
		{"slash", "photos/x.s3.example", "/k", "invalid_uri"},
		{"escape", "photos%2Fx.s3.example", "/k", "invalid_uri"},
		{"another bucket's key through the host", "photos.s3.example", "/../my.photos/k", "climbing_key"},
		{"bucket in upper case", "PHOTOS.s3.example", "/k", "foreign_bucket"},
		{"MinIO's admin API", "minio.s3.example", "/admin/v3/info", "foreign_bucket"},
		{"user in the host", "x@photos.s3.example", "/k", "invalid_uri"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := replace(call{method: "GET", host: "h", path: tt.path}.sign(t, key), ":authority", to(tt.host))
			if tt.reason == "foreign_bucket" {
				r = call{method: "GET", host: tt.host, path: tt.path}.sign(t, key)
			}
			if d, e := s.Decide(now, r); e == nil || e.Reason != tt.reason {
				t.Errorf("got %+v %+v, want %s", d, e, tt.reason)
			}
		})
	}
	// A signature for one bucket's host is none for another's, nor for the path style.
	good := call{method: "GET", host: "photos.s3.example", path: "/k"}.sign(t, key)
	for _, r := range []*extproc.Request{
		replace(good, ":authority", to("my.photos.s3.example")),
		replace(replace(good, ":authority", to("s3.example")), ":path", to("/photos/k")),
		replace(good, ":path", to("/photos/k")),
	} {
		if d, e := p.Decide(now, r); e == nil || e.Reason != "bad_signature" {
			t.Errorf("%s %s: %+v %+v", r.Authority, r.Path, d, e)
		}
	}
}
