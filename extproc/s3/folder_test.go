package s3_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

// newFolders is a stage whose repository is limited to folders:
//
//	photos  to "team/a b/", of an account that has more buckets
//	papers  to "p/", the same account; configuration is allowed
//	whole   to nothing, the same account
func newFolders(t testing.TB) *stage {
	t.Helper()
	w := protocoltest.NewWorld(t)
	base := seal.Header{Workspace: workspace, Type: seal.TypeCredential, Record: "shared", Binding: seal.Binding{
		Use: grant.UseS3, Key: protocoltest.ProviderKey("photos"), Scheme: "https", Host: "photos.provider.example", Port: 443, Scope: grant.AllBuckets,
	}}
	shared := w.Credential(base, []byte(protocoltest.ProviderSecret("photos")))
	for _, b := range []string{"photos", "papers", "whole"} {
		w.Bucket(workspace, b, func(in *grant.ConnectorInput, _ *seal.Header) { in.AllowBucketConfiguration = b == "papers" })
		w.Input.Connectors[len(w.Input.Connectors)-1].Credential = shared
	}
	w.Repository(workspace, "repository", false, "photos", "papers", "whole")
	s := &stage{World: w, Protocol: s3.New(&w.Live, s3.Options{Domains: []string{"gateway.example"}})}
	s.read = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessRead, nil)
	s.write = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessWrite, nil)
	s.admin = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessAdmin, nil)
	s.limit("team/a b/", "p/")
	return s
}

// limit publishes the repository with other folders for photos and papers.
func (s *stage) limit(photos, papers string) {
	s.Input.Repositories[0].Storage[0].Folder = photos
	s.Input.Repositories[0].Storage[1].Folder = papers
	s.Publish()
}

// TestFolder: what is inside works, as the provider's view of it shows. A listing
// without a prefix gets the folder's.
func TestFolder(t *testing.T) {
	s := newFolders(t)
	const in = "/photos/team/a%20b/"
	for _, tt := range []struct{ name, method, path, query, want string }{
		{"get", "GET", in + "k", "versionId=v", in + "k?versionId=v"},
		{"deeper", "HEAD", in + "x/y.z/..w", "", in + "x/y.z/..w"},
		{"a directory's own key", "PUT", in + "x/", "", in + "x/"},
		{"delete", "DELETE", in + "k", "", in + "k"},
		{"tags", "PUT", in + "k", "tagging=", in + "k?tagging="},
		{"start of an upload", "POST", in + "k", "uploads=", in + "k?uploads="},
		{"part", "PUT", in + "k", "partNumber=1&uploadId=u", in + "k?partNumber=1&uploadId=u"},
		{"end of an upload", "POST", in + "k", "uploadId=u", in + "k?uploadId=u"},
		{"parts", "GET", in + "k", "uploadId=u", in + "k?uploadId=u"},
		{"abort", "DELETE", in + "k", "uploadId=u", in + "k?uploadId=u"},
		{"ACL of a key, where configuration is allowed", "GET", "/papers/p/k", "acl=", "/papers/p/k?acl="},

		{"head of the bucket", "HEAD", "/photos", "", "/photos"},
		{"location", "GET", "/photos", "location=", "/photos?location="},

		{"list", "GET", "/photos", "", "/photos?prefix=team%2Fa%20b%2F"},
		{"list with a slash", "GET", "/photos/", "", "/photos/?prefix=team%2Fa%20b%2F"},
		{"list, empty prefix", "GET", "/photos", "max-keys=9&prefix=", "/photos?max-keys=9&prefix=team%2Fa%20b%2F"},
		{"list of the other folder", "GET", "/papers", "", "/papers?prefix=p%2F"},
		{"list without a limit", "GET", "/whole", "prefix=", "/whole?prefix="},
		{"list by directories", "GET", "/photos", "delimiter=%2F&marker=team%2Fa%20b%2Fx%2F", "/photos?delimiter=%2F&marker=team%2Fa%20b%2Fx%2F&prefix=team%2Fa%20b%2F"},
		{"list, V2", "GET", "/photos", "list-type=2&start-after=team%2Fa%20b%2Fk", "/photos?list-type=2&prefix=team%2Fa%20b%2F&start-after=team%2Fa%20b%2Fk"},
		{"list, V2, next page", "GET", "/photos", "continuation-token=t&list-type=2&prefix=", "/photos?continuation-token=t&list-type=2&prefix=team%2Fa%20b%2F"},
		{"list of versions", "GET", "/photos", "versions=", "/photos?prefix=team%2Fa%20b%2F&versions="},
		{"list of uploads", "GET", "/photos", "uploads=", "/photos?prefix=team%2Fa%20b%2F&uploads="},
		{"list with the folder for a prefix", "GET", "/photos", "prefix=team%2Fa%20b%2F", "/photos?prefix=team%2Fa%20b%2F"},
		{"list with a longer prefix", "GET", "/photos", "list-type=2&prefix=team%2Fa%20b%2Fx%2F.hid", "/photos?list-type=2&prefix=team%2Fa%20b%2Fx%2F.hid"},
		{"list with empty markers", "GET", "/photos", "marker=&prefix=team%2Fa%20b%2Fx", "/photos?marker=&prefix=team%2Fa%20b%2Fx"},
		{"a marker that others have made", "GET", "/photos", "marker=team%2Fa%20b%2F%2Fx%01&prefix=team%2Fa%20b%2F", "/photos?marker=team%2Fa%20b%2F%2Fx%01&prefix=team%2Fa%20b%2F"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{method: tt.method, path: tt.path, query: tt.query}
			requests := []*extproc.Request{c.sign(t, s.admin), c.presign(t, s.admin, time.Hour)}
			bucket, key, _ := strings.Cut(tt.path[1:], "/")
			c.host, c.path = bucket+"."+front, "/"+key
			virtual := c.sign(t, s.admin)
			for _, r := range append(requests, virtual) {
				d, e := s.Decide(now, r)
				if e != nil {
					t.Fatalf("refused: %s %s", e.Reason, e.Body)
				}
				provider(t, r, d, "photos")
				got, want := d.Path, tt.want
				if got == "" {
					got = r.Path
				}
				if r == virtual { // a bucket in the host needs no slash
					want = strings.Replace(want, "/photos/?", "/photos?", 1)
				}
				if got != want {
					t.Errorf("goes on as %s, want %s", got, want)
				}
			}
		})
	}
}

// TestFolderRefusals: every way out is answered like a bucket that there is not.
func TestFolderRefusals(t *testing.T) {
	s := newFolders(t)
	for _, tt := range []struct{ name, method, path, query string }{
		{"another key", "GET", "/photos/other", ""},
		{"a key that is put beside", "PUT", "/photos/team/k", ""},
		{"a key that only begins alike", "GET", "/photos/team/a%20bc/k", ""},
		{"the folder in another case", "GET", "/photos/Team/a%20b/k", ""},
		{"the folder's own key", "GET", "/photos/team/a%20b/", ""},
		{"the folder's name", "DELETE", "/photos/team/a%20b", ""},
		{"climbing out", "GET", "/photos/team/a%20b/../k", ""},
		{"climbing out through a backslash", "GET", "/photos/team/a%20b/..%5Ck", ""},
		{"climbing out from deeper", "GET", "/photos/team/a%20b/x/../../k", ""},
		{"climbing at the end", "GET", "/photos/team/a%20b/x/..", ""},
		{"a dot", "GET", "/photos/team/a%20b/./k", ""},
		{"a dot at the end", "GET", "/photos/team/a%20b/.", ""},
		{"an empty segment", "GET", "/photos/team/a%20b//k", ""},
		{"an empty segment before the folder", "GET", "/photos//team/a%20b/k", ""},
		{"two slashes at the end", "GET", "/photos/team/a%20b/k//", ""},
		{"a zero byte", "GET", "/photos/team/a%20b/k%00", ""},
		{"a line end", "GET", "/photos/team/a%20b/k%0A", ""},
		{"an overlong dot", "GET", "/photos/team/a%20b/%C0%AE%C0%AE/k", ""},
		{"not UTF-8", "GET", "/photos/team/a%20b/%FF", ""},
		{"the folder of the other bucket", "GET", "/photos/p/k", ""},
		{"a part of another key", "PUT", "/photos/k", "partNumber=1&uploadId=u"},
		{"the parts of another key", "GET", "/photos/k", "uploadId=u"},
		{"the end of another key's upload", "POST", "/photos/k", "uploadId=u"},
		{"an upload of another key aborted", "DELETE", "/photos/k", "uploadId=u"},
		{"tags of another key", "GET", "/photos/k", "tagging="},
		{"attributes of another key", "GET", "/photos/k", "attributes="},
		{"the ACL of another key", "GET", "/papers/k", "acl="},

		{"listing another prefix", "GET", "/photos", "prefix=other%2F"},
		{"listing the parent", "GET", "/photos", "prefix=team%2F"},
		{"listing what begins alike", "GET", "/photos", "prefix=team%2Fa%20b"},
		{"listing a single byte", "GET", "/photos", "list-type=2&prefix=t"},
		{"listing what climbs out", "GET", "/photos", "prefix=team%2Fa%20b%2F..%2F"},
		{"listing what climbs out through a backslash", "GET", "/photos", "prefix=team%2Fa%20b%2F..%5C"},
		{"listing another prefix, V2", "GET", "/photos", "list-type=2&prefix=other%2F"},
		{"listing versions of another prefix", "GET", "/photos", "prefix=other%2F&versions="},
		{"listing uploads of another prefix", "GET", "/photos", "prefix=other%2F&uploads="},
		{"a marker outside", "GET", "/photos", "marker=other"},
		{"a start outside", "GET", "/photos", "list-type=2&start-after=other"},
		{"a start outside, with the prefix", "GET", "/photos", "list-type=2&prefix=team%2Fa%20b%2F&start-after=other"},
		{"a key marker outside", "GET", "/photos", "key-marker=other&versions="},
		{"a key marker of uploads outside", "GET", "/photos", "key-marker=other&uploads="},
		{"a marker that climbs out", "GET", "/photos", "marker=team%2Fa%20b%2F..%2Fk"},

		{"the bucket's policy", "GET", "/papers", "policy="},
		{"the bucket's policy, put", "PUT", "/papers", "policy="},
		{"the bucket's ACL", "GET", "/papers", "acl="},
		{"the bucket's lifecycle", "PUT", "/papers", "lifecycle="},
		{"the bucket's versioning", "GET", "/papers", "versioning="},
		{"the bucket's object lock", "PUT", "/papers", "object-lock="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := call{method: tt.method, path: tt.path, query: tt.query}
			for _, r := range []*extproc.Request{c.sign(t, s.admin), c.presign(t, s.admin, time.Hour)} {
				d, e := s.Decide(now, r)
				if e == nil || d != nil {
					t.Fatalf("decided %+v", d)
				}
				if w := parseError(t, e); e.Status != 403 || w.Code != "AccessDenied" || w.Message != "Access Denied." || e.Reason != "outside_folder" {
					t.Errorf("%d %s: %s", e.Status, e.Reason, e.Body)
				}
			}
		})
	}
	// The spelling is no way out.
	for signed, sent := range map[string]string{"/../k": "/%2e%2e/k", "//k": "/%2Fk", "/x/../../k": "/x/..%2F../k"} {
		r := call{method: "GET", path: "/photos/team/a%20b" + signed}.sign(t, s.admin)
		if d, e := s.Decide(now, replace(r, ":path", swap(signed, sent))); e == nil || e.Reason != "outside_folder" {
			t.Errorf("%s: %+v %+v", sent, d, e)
		}
	}
	// Which bucket there is, and which folder, cannot be told apart.
	_, foreign := s.Decide(now, call{method: "GET", path: "/nobody/other"}.sign(t, s.admin))
	_, outside := s.Decide(now, call{method: "GET", path: "/photos/other"}.sign(t, s.admin))
	if foreign.Status != outside.Status || len(foreign.Body) != len(outside.Body) {
		t.Errorf("%s\n%s", foreign.Body, outside.Body)
	}
	// What no key may do is answered as anywhere.
	for _, tt := range []struct {
		method, path, reason string
		key                  protocoltest.Key
	}{
		{"PUT", "/photos", "bucket_owned", s.admin},
		{"DELETE", "/photos", "forbidden", s.admin},
		{"PUT", "/photos/team/a%20b/k", "forbidden", s.read},
		{"GET", "/photos/team/a%20b/k", "forbidden", s.write},
	} {
		if d, e := s.Decide(now, call{method: tt.method, path: tt.path}.sign(t, tt.key)); e == nil || e.Reason != tt.reason {
			t.Errorf("%s %s: %+v %+v", tt.method, tt.path, d, e)
		}
	}
	if l := s.list(t, s.read, ""); strings.Join(l.names(), " ") != "papers photos whole" {
		t.Errorf("ListBuckets: %v", l.names())
	}
}

// TestFolderCopies: source and destination are each held to the folder of their bucket.
func TestFolderCopies(t *testing.T) {
	s := newFolders(t)
	copies := func(to, query, source string) *extproc.Request {
		return call{method: "PUT", path: to, query: query, header: copyOf(source)}.sign(t, s.admin)
	}
	const in, part = "/photos/team/a%20b/k", "partNumber=1&uploadId=u"
	for _, tt := range []struct{ to, query, source string }{
		{in, "", "papers/p/k"},
		{in, "", "/papers/p/k?versionId=v"},
		{in, part, "papers/p/x/k"},
		{in, "", "photos/team/a%20b/k"},
		{in, "", "photos/team/a+b/k"},
		{in, "", "whole/k"},
		{"/whole/k", "", "papers/p/k"},
		{"/whole/k", "", "whole//./k"},
		{"/papers/p/k", part, "photos/team/a%20b/k"},
	} {
		r := copies(tt.to, tt.query, tt.source)
		d, e := s.Decide(now, r)
		if e != nil {
			t.Errorf("%s to %s: %s", tt.source, tt.to, e.Body)
			continue
		}
		provider(t, r, d, "photos")
	}
	for _, tt := range []struct{ to, query, source string }{
		{in, "", "papers/k"},
		{in, "", "papers/p"},
		{in, "", "papers/p/"},
		{in, "", "papers/px/k"},
		{in, "", "papers/team/a%20b/k"},
		{in, "", "papers/k?versionId=v"},
		{in, "", "papers/p/x/../../k"},
		{in, "", "papers/p/%2E%2E/k"},
		{in, "", "papers/p/..%5Ck"},
		{in, "", "papers/p//k"},
		{in, "", "papers//p/k"},
		{in, "", "papers/p/k%00"},
		{in, "", "photos/k"},
		{in, part, "papers/k"},
		{"/whole/k", "", "papers/k"},
		{"/whole/k", part, "photos/team/a%20b"},
		{"/papers/k", "", "whole/k"},
		{"/papers/k", part, "papers/p/k"},
		{"/photos/team/a%20b/../k", "", "papers/p/k"},
	} {
		d, e := s.Decide(now, copies(tt.to, tt.query, tt.source))
		if e == nil || e.Reason != "outside_folder" || e.Status != 403 {
			t.Errorf("%s to %s: %+v %+v", tt.source, tt.to, d, e)
		}
	}
}

// TestFolderChanges: a narrower folder is in force with the next request.
func TestFolderChanges(t *testing.T) {
	s := newFolders(t)
	ask := func() string {
		_, e := s.Decide(now, call{method: "GET", path: "/photos/team/a%20b/k", header: http.Header{}}.sign(t, s.read))
		if e == nil {
			return ""
		}
		return e.Reason
	}
	for _, tt := range []struct{ folder, want string }{{"team/", ""}, {"team/a b/x/", "outside_folder"}, {"", ""}, {"other/", "outside_folder"}} {
		s.limit(tt.folder, "")
		if got := ask(); got != tt.want {
			t.Errorf("limited to %q: %q, want %q", tt.folder, got, tt.want)
		}
	}
}
