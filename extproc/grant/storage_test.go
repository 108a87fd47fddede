package grant_test

import (
	"strings"
	"testing"

	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/keyshare/seal"
)

func account(in *grant.ConnectorInput, h *seal.Header) {
	in.Bucket, h.Binding.Scope = grant.AllBuckets, grant.AllBuckets
}

// TestStorage: a bucket's own connector comes before the account connector, and that
// one serves buckets alone.
func TestStorage(t *testing.T) {
	w := protocoltest.NewWorld(t)
	w.Bucket(ours, "photos", nil)
	w.Bucket(ours, "admin", nil)
	w.Bucket(ours, "account", account)
	w.Repository(ours, "with", false, "photos", "admin", "account")
	w.Repository(ours, "without", false, "photos")
	with := w.Key(ours, "with", grant.UseStorageKey, grant.AccessRead, nil)
	without := w.Key(ours, "without", grant.UseStorageKey, grant.AccessRead, nil)
	w.Publish()
	for bucket, want := range map[string]string{
		"photos": "photos", "admin": "admin", "other": "account", "my.bucket-1": "account", "1.2.3": "account", "123": "account",
		"": "", "*": "", ".": "", "..": "", "ab": "", "a/b": "", "a%b": "", "Photos": "", "a_b": "", "a..b": "", "-ab": "", "ab.": "",
		"minio": "", "swift": "", "auth": "", "127.0.0.1": "", "a:b:c": "",
	} {
		got := ""
		if c, _ := w.Live.Load().Lookup(with.ID).Repository().Storage(bucket); c != nil {
			got = c.Name
		}
		if got != want {
			t.Errorf("%q is served by %q, want %q", bucket, got, want)
		}
		if c, _ := w.Live.Load().Lookup(without.ID).Repository().Storage(bucket); (c != nil) != (bucket == "photos") {
			t.Errorf("%q is served by %v without an account connector", bucket, c)
		}
	}
}

// TestScopes: which credential may serve which bucket.
func TestScopes(t *testing.T) {
	for _, tt := range []struct {
		bucket, scope string
		ok            bool
	}{
		{"photos", "photos", true},
		{"photos", "*", true},
		{"*", "*", true},
		{"*", "photos", false},
		{"photos", "papers", false},
		{"photos", "", false},
		{"**", "**", false},
		{"**", "*", false},
	} {
		w := protocoltest.NewWorld(t)
		w.Bucket(ours, "c", func(in *grant.ConnectorInput, h *seal.Header) { in.Bucket, h.Binding.Scope = tt.bucket, tt.scope })
		if _, problems := grant.Build(w.Input); (len(problems) == 0) != tt.ok {
			t.Errorf("bucket %q with scope %q: %v", tt.bucket, tt.scope, problems)
		}
	}
	w := protocoltest.NewWorld(t)
	w.Bucket(ours, "a", account)
	w.Bucket(ours, "b", account)
	w.Repository(ours, "r", false, "a", "b")
	if _, problems := grant.Build(w.Input); len(problems) != 1 {
		t.Errorf("two account connectors: %v", problems)
	}
}

// TestSameAccount: everything that tells two principals apart.
func TestSameAccount(t *testing.T) {
	for name, change := range map[string]func(*seal.Header){
		"":          func(*seal.Header) {},
		"bucket":    func(h *seal.Header) { h.Binding.Scope = "two" },
		"key":       func(h *seal.Header) { h.Binding.Key = "OTHER" },
		"scheme":    func(h *seal.Header) { h.Binding.Scheme = "http" },
		"host":      func(h *seal.Header) { h.Binding.Host = "other.example" },
		"port":      func(h *seal.Header) { h.Binding.Port = 1 },
		"authority": func(h *seal.Header) { h.Binding.CA = "aa" },
	} {
		w := protocoltest.NewWorld(t)
		base := seal.Header{Workspace: ours, Type: seal.TypeCredential, Record: "a", Binding: seal.Binding{
			Use: grant.UseS3, Key: "AK", Scheme: "https", Host: "h.example", Port: 443, Scope: "one",
		}}
		other := base
		other.Record = "b"
		change(&other)
		a := &grant.Connector{Credential: w.Credential(base, []byte("secret"))}
		b := &grant.Connector{Credential: w.Credential(other, []byte("secret"))}
		claimed := &grant.Connector{Credential: w.Credential(other, []byte("guess!"))}
		if want := name == "" || name == "bucket"; a.SameAccount(b) != want || b.SameAccount(a) != want {
			t.Errorf("another %s: %v", name, a.SameAccount(b))
		}
		if a.SameAccount(claimed) || claimed.SameAccount(a) {
			t.Errorf("another %s: a key id without its secret is the same account", name)
		}
		if !a.SameAccount(a) {
			t.Error("not the same account as itself")
		}
	}
}

// TestFolders: a repository has the folder of each bucket, and a connector whose folder
// protocols could not hold keys to is left out of it.
func TestFolders(t *testing.T) {
	longest := strings.Repeat("a", 511) + "/"
	for folder, ok := range map[string]bool{
		"a/": true, "a/b c/ü/": true, ".a/..b/c../": true, " /": true, longest: true,
		"a": false, "/": false, "/a/": false, "a//": false, "a//b/": false, "./": false, "../": false, "a/../": false, "a/./b/": false,
		"a\\b/": false, "a\x00/": false, "a\n/": false, "a\x7f/": false, "a\u0085/": false, "a\xff/": false, "a" + longest: false,
	} {
		w := protocoltest.NewWorld(t)
		w.Bucket(ours, "photos", nil)
		w.Bucket(ours, "papers", nil)
		w.Repository(ours, "r", false, "photos", "papers")
		w.Input.Repositories[0].Storage[0].Folder = folder
		key := w.Key(ours, "r", grant.UseStorageKey, grant.AccessRead, nil)
		index, problems := grant.Build(w.Input)
		r := index.Lookup(key.ID).Repository()
		c, got := r.Storage("photos")
		if (len(problems) == 0) != ok || (c != nil) != ok || ok && got != folder {
			t.Errorf("%q: %v, %q, %v", folder, c, got, problems)
		}
		if c, got := r.Storage("papers"); c == nil || got != "" {
			t.Errorf("%q: the other bucket has %v, %q", folder, c, got)
		}
	}
}
