package s3

import (
	"encoding/xml"
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// FuzzParseDelete: what is taken, encoding/xml reads as the same keys, and takes it
// again when it is written anew.
func FuzzParseDelete(f *testing.F) {
	for _, s := range []string{
		`<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a/b</Key><VersionId>v</VersionId></Object><Quiet>true</Quiet></Delete>`,
		`<?xml version='1.0' encoding='utf-8'?><Delete ><Object><Key>&lt;&#x1F600;&#46;</Key><ETag/></Object></Delete >`,
		`<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>`,
		`<!DOCTYPE x [<!ENTITY k "v">]><Delete><Object><Key>&k;</Key></Object></Delete>`,
		`<Delete><Object><Key><![CDATA[a]]></Key><!-- c --></Object></Delete>`,
		"<Delete><Object><Key>a\r\nb</Key></Object></Delete>",
		"\ufeff<Delete></Delete>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		keys, ok := parseDelete(body)
		if !ok {
			return
		}
		var other struct {
			XMLName xml.Name `xml:"Delete"`
			Object  []struct {
				Key       []string
				VersionID []string `xml:"VersionId"`
			}
			Quiet []string
		}
		if err := xml.Unmarshal([]byte(body), &other); err != nil {
			t.Fatalf("%q was taken, but %v", body, err)
		}
		var theirs []string
		again := "<Delete>"
		for _, o := range other.Object {
			theirs = append(theirs, o.Key...)
			if len(o.Key) != 1 || len(o.VersionID) > 1 {
				t.Fatalf("%q: an object of %q and %q", body, o.Key, o.VersionID)
			}
			var b strings.Builder
			if err := xml.EscapeText(&b, []byte(o.Key[0])); err != nil {
				t.Fatal(err)
			}
			again += "<Object><Key>" + b.String() + "</Key></Object>"
		}
		if diff := cmp.Diff(theirs, keys); diff != "" || len(other.Quiet) > 1 || len(keys) == 0 || len(keys) > maxDeleted {
			t.Fatalf("%q: %s", body, diff)
		}
		anew, ok := parseDelete(again + "</Delete>")
		if diff := cmp.Diff(keys, anew); !ok || diff != "" {
			t.Fatalf("%q, anew %q: %v %s", body, again, ok, diff)
		}
	})
}

// FuzzInFolder: a provider that cleans paths, with either slash, keeps what is taken in
// the folder, and takes it for the same key.
func FuzzInFolder(f *testing.F) {
	for _, s := range []string{"a", "a/b/", "../x", "a/../../x", `..\x`, "a//b", ".", "a/.", "\x00", "\xc0\xae", "a\\"} {
		f.Add("team/", "team/"+s)
		f.Add("a/b c/", "a/b c/"+s)
		f.Add("team/", s)
	}
	f.Fuzz(func(t *testing.T, folder, key string) {
		clean := func(s string) string { return path.Clean("/" + strings.ReplaceAll(s, `\`, "/"))[1:] }
		if folder == "/" || clean(folder)+"/" != folder || !utf8.ValidString(folder) || strings.ContainsFunc(folder, unicode.IsControl) {
			return // no folder
		}
		inside := strings.HasPrefix(clean(key)+"/", folder)
		if reaches(folder, key) && (!strings.HasPrefix(key, folder) || !inside) {
			t.Fatalf("%q reaches %q, cleaned %q", key, folder, clean(key))
		}
		if !inFolder(folder, key) {
			return
		}
		same := strings.TrimSuffix(strings.ReplaceAll(key, `\`, "/"), "/")
		if !reaches(folder, key) || !inside || clean(key) != same || clean(key)+"/" == folder || strings.ContainsAny(key, "\x00\n") {
			t.Fatalf("%q is in %q, cleaned %q", key, folder, clean(key))
		}
	})
}

// TestConfined: in a folder, what an operation on a bucket may do is listed here, and
// is refused if it is new.
func TestConfined(t *testing.T) {
	var passed []string
	for i := range operations {
		o := &operations[i]
		if o.service || o.object || o.named != nil {
			continue
		}
		var s scratch
		if s.confine(o, "team/") != nil {
			continue
		}
		how := "of the bucket"
		switch {
		case s.folder != "":
			how = "by its body"
		case len(s.query.params) > 0:
			how = string(s.query.appendForward(nil))
		}
		passed = append(passed, o.name+": "+how)
	}
	if diff := cmp.Diff([]string{
		"ListObjectsV2: prefix=team%2F", "ListObjects: prefix=team%2F", "DeleteObjects: by its body", "HeadBucket: of the bucket",
		"GetBucketLocation: of the bucket", "ListMultipartUploads: prefix=team%2F", "ListObjectVersions: prefix=team%2F",
	}, passed); diff != "" {
		t.Error(diff)
	}
}
