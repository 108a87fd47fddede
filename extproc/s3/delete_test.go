package s3_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

const deletes = `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`

// deleteOf is the body that aws-sdk-go-v2 sends.
func deleteOf(keys ...string) string {
	var b strings.Builder
	b.WriteString(deletes)
	for _, k := range keys {
		b.WriteString("<Object><Key>" + strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(k) + "</Key></Object>")
	}
	return b.String() + "</Delete>"
}

func hashOf(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// deleting is a DeleteObjects in photos, whose body is still to come.
func deleting(body string, header http.Header) call {
	return call{method: "POST", path: "/photos", query: "delete=", header: header, length: int64(len(body)), hash: hashOf(body)}
}

// decide plays the stream: headers, then the body in two pieces.
func (s *stage) decide(t testing.TB, r *extproc.Request, body string) (*extproc.Decision, *extproc.Error) {
	t.Helper()
	d, e := s.Decide(now, r)
	if e != extproc.NeedBody {
		return d, e
	}
	if half := len(body) / 2; half > 0 {
		if d, e := s.DecideBody(now, r, []byte(body[:half]), false); e != extproc.NeedBody {
			return d, e
		}
	}
	return s.DecideBody(now, r, []byte(body), true)
}

// TestDeleteInFolder: bodies as clients write them.
func TestDeleteInFolder(t *testing.T) {
	s := newFolders(t)
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint("team/a b/", i)
	}
	for name, body := range map[string]string{
		"one":              deleteOf("team/a b/k"),
		"a thousand":       deleteOf(many...),
		"the same twice":   deleteOf("team/a b/k", "team/a b/k"),
		"a directory":      deleteOf("team/a b/x/"),
		"odd characters":   deleteOf(`team/a b/ü€&<>'"+%2F日本`),
		"no namespace":     "<Delete><Object><Key>team/a b/k</Key></Object></Delete>",
		"declaration":      `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + deleteOf("team/a b/k") + "\n",
		"single quotes":    `<?xml version='1.0' encoding='utf-8' standalone='yes' ?><Delete xmlns='http://s3.amazonaws.com/doc/2006-03-01/' ><Object><Key>team/a b/k</Key></Object></Delete>`,
		"every element":    deletes + "<Quiet>true</Quiet><Object><ETag>&quot;e&quot;</ETag><Key>team/a b/k</Key><VersionId>v</VersionId><Size>1</Size><LastModifiedTime>x</LastModifiedTime></Object></Delete>",
		"indented":         "<Delete>\r\n\t<Object >\n <Key >team/a b/k</Key >\n </Object>\n <Quiet>false</Quiet></Delete>",
		"empty version":    "<Delete><Object><Key>team/a b/k</Key><VersionId/><ETag></ETag></Object></Delete>",
		"references":       "<Delete><Object><Key>&#116;&#x65;am/a b/&apos;&#x1F600;</Key></Object></Delete>",
		"looks like a tag": "<Delete><Object><Key>team/a b/&lt;Key&gt;</Key></Object></Delete>",
	} {
		t.Run(name, func(t *testing.T) {
			c := deleting(body, nil)
			unhashed := c
			unhashed.hash = ""
			c.header = http.Header{"Content-Type": {"application/xml; charset=UTF-8"}, "X-Amz-Checksum-Crc32": {"AAAAAA=="}, "Content-Md5": {"x"}}
			for _, r := range []*extproc.Request{c.sign(t, s.write), unhashed.sign(t, s.write), unhashed.presign(t, s.write, time.Hour)} {
				d, e := s.decide(t, r, body)
				if e != nil {
					t.Fatalf("refused: %s", e.Body)
				}
				provider(t, r, d, "photos")
				if d.Key == "" {
					t.Error("nothing ends it")
				}
			}
		})
	}
	// Where there is no folder the body is not read.
	r := call{method: "POST", path: "/whole", query: "delete=", length: 9, hash: hashOf("x")}.sign(t, s.write)
	if _, e := s.Decide(now, r); e != nil {
		t.Errorf("without a folder: %s", e.Reason)
	}
}

// TestDeleteRefusals: one key outside refuses all; what two parsers may read in two
// ways is no XML.
func TestDeleteRefusals(t *testing.T) {
	s := newFolders(t)
	in := func(key string) string { return "<Delete><Object><Key>" + key + "</Key></Object></Delete>" }
	object := func(inside string) string { return "<Delete><Object>" + inside + "</Object></Delete>" }
	const key = "<Key>team/a b/k</Key>"
	for _, tt := range []struct{ name, body, reason string }{
		{"outside", deleteOf("other"), "outside_folder"},
		{"one of many outside", deleteOf("team/a b/1", "team/a b/2", "team/k", "team/a b/3"), "outside_folder"},
		{"the last of a thousand outside", deleteOf(append(strings.Split(strings.Repeat("team/a b/k ", 998), " ")[:998], "team/a b/k", "other")...), "outside_folder"},
		{"climbing out", deleteOf("team/a b/../k"), "outside_folder"},
		{"climbing out through a backslash", deleteOf(`team/a b/..\k`), "outside_folder"},
		{"climbing out, in references", in("team/a b/&#46;&#x2e;/k"), "outside_folder"},
		{"climbing out, slash in a reference", in("team/a b/..&#47;k"), "outside_folder"},
		{"an empty segment", deleteOf("team/a b//k"), "outside_folder"},
		{"the folder's own key", deleteOf("team/a b/"), "outside_folder"},
		{"a slash before it", deleteOf("/team/a b/k"), "outside_folder"},
		{"escaped as in a URL", deleteOf("team/a%20b/k"), "outside_folder"},

		{"nothing", "", "malformed_xml"},
		{"no XML", "team/a b/k", "malformed_xml"},
		{"JSON", `{"Key":"team/a b/k"}`, "malformed_xml"},
		{"no object", "<Delete></Delete>", "malformed_xml"},
		{"no object, empty element", "<Delete/>", "malformed_xml"},
		{"no key", object(""), "malformed_xml"},
		{"no key, empty element", "<Delete><Object/></Delete>", "malformed_xml"},
		{"empty key", in(""), "malformed_xml"},
		{"empty key, empty element", object("<Key/>"), "malformed_xml"},
		{"a version alone", object("<VersionId>v</VersionId>"), "malformed_xml"},
		{"1,001 objects", deleteOf(strings.Split(strings.Repeat("team/a b/k,", 1001), ",")[:1001]...), "malformed_xml"},
		{"two keys", object(key + "<Key>team/a b/other</Key>"), "malformed_xml"},
		{"two versions", object(key + "<VersionId>1</VersionId><VersionId>2</VersionId>"), "malformed_xml"},
		{"two answers to Quiet", "<Delete><Quiet>true</Quiet><Object>" + key + "</Object><Quiet>true</Quiet></Delete>", "malformed_xml"},
		{"another answer to Quiet", "<Delete><Quiet>maybe</Quiet><Object>" + key + "</Object></Delete>", "malformed_xml"},
		{"another element", object(key + "<Owner>x</Owner>"), "malformed_xml"},
		{"another element beside the objects", "<Delete><Object>" + key + "</Object><Keys>x</Keys></Delete>", "malformed_xml"},
		{"another root", "<Deletion><Object>" + key + "</Object></Deletion>", "malformed_xml"},
		{"a second root", deleteOf("team/a b/k") + deleteOf("other"), "malformed_xml"},
		{"text after the root", deleteOf("team/a b/k") + "x", "malformed_xml"},
		{"text between elements", "<Delete>x<Object>" + key + "</Object></Delete>", "malformed_xml"},
		{"text beside the key", object(key + "other"), "malformed_xml"},
		{"an element in the key", in("team/a b/<b>k</b>"), "malformed_xml"},
		{"an object in an object", object(key + "<Object>" + key + "</Object>"), "malformed_xml"},
		{"element in another case", object("<key>other</key>" + key), "malformed_xml"},
		{"element with a prefix", `<Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><Object>` + key + "<s:Key>other</s:Key></Object></Delete>", "malformed_xml"},
		{"root with a prefix", `<s:Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Object><s:Key>other</s:Key></s:Object></s:Delete>`, "malformed_xml"},
		{"another namespace", `<Delete xmlns="urn:x"><Object>` + key + "</Object></Delete>", "malformed_xml"},
		{"an attribute", `<Delete><Object a="1">` + key + "</Object></Delete>", "malformed_xml"},
		{"an attribute of the key", `<Delete><Object><Key xml:space="preserve">team/a b/k</Key></Object></Delete>`, "malformed_xml"},
		{"two namespaces", `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/" xmlns="urn:x"><Object>` + key + "</Object></Delete>", "malformed_xml"},
		{"elements crossed", "<Delete><Object><Key>team/a b/k</Object></Key></Delete>", "malformed_xml"},
		{"not closed", "<Delete><Object>" + key + "</Object>", "malformed_xml"},
		{"cut off in the key", "<Delete><Object><Key>team/a b/k", "malformed_xml"},
		{"a comment", "<Delete><!-- --><Object>" + key + "</Object></Delete>", "malformed_xml"},
		{"a comment in the key", in("team/a b/<!-- -->k"), "malformed_xml"},
		{"CDATA", in("<![CDATA[team/a b/k]]>"), "malformed_xml"},
		{"the end of CDATA", in("team/a b/]]>k"), "malformed_xml"},
		{"a processing instruction", "<Delete><?x y?><Object>" + key + "</Object></Delete>", "malformed_xml"},
		{"a style sheet", `<?xml version="1.0"?><?xml-stylesheet href="x"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"DOCTYPE", "<!DOCTYPE Delete>" + deleteOf("team/a b/k"), "malformed_xml"},
		{"an entity of one's own", `<!DOCTYPE Delete [<!ENTITY k "other">]>` + in("&k;"), "malformed_xml"},
		{"an external entity", `<!DOCTYPE Delete [<!ENTITY k SYSTEM "file:///etc/passwd">]>` + in("&k;"), "malformed_xml"},
		{"an unknown entity", in("team/a b/&nbsp;"), "malformed_xml"},
		{"half an entity", in("team/a b/&amp"), "malformed_xml"},
		{"a raw ampersand", in("team/a b/a&b"), "malformed_xml"},
		{"a reference to nothing", in("team/a b/&#;"), "malformed_xml"},
		{"a reference to no character", in("team/a b/&#x110000;"), "malformed_xml"},
		{"a reference to a surrogate", in("team/a b/&#xD800;"), "malformed_xml"},
		{"a reference with a sign", in("team/a b/&#+65;"), "malformed_xml"},
		{"a reference in upper case", in("team/a b/&#X41;"), "malformed_xml"},
		{"a reference to a zero byte", in("team/a b/&#0;"), "malformed_xml"},
		{"a reference to a line end", in("team/a b/&#13;"), "malformed_xml"},
		{"a line end in the key", in("team/a b/a\r\nb"), "malformed_xml"},
		{"a tab in the key", in("team/a b/a\tb"), "malformed_xml"},
		{"a next line in the key", in("team/a b/a\u0085b"), "malformed_xml"},
		{"a line separator in the key", in("team/a b/a\u2028b"), "malformed_xml"},
		{"a zero byte", in("team/a b/\x00"), "malformed_xml"},
		{"space before the key", in(" team/a b/k"), "malformed_xml"},
		{"space after the key", in("team/a b/.. "), "malformed_xml"},
		{"a wide space after the key", in("team/a b/..\u00a0"), "malformed_xml"},
		{"space in a reference after the key", in("team/a b/..&#32;"), "malformed_xml"},
		{"lines around the key", in("\nteam/a b/k\n"), "malformed_xml"},
		{"not UTF-8", in("team/a b/\xff"), "malformed_xml"},
		{"an overlong slash", in("team/a b/..\xc0\xaf"), "malformed_xml"},
		{"a byte order mark", "\ufeff" + deleteOf("team/a b/k"), "malformed_xml"},
		{"UTF-16", utf16(deleteOf("team/a b/k")), "malformed_xml"},
		{"UTF-16 by declaration", `<?xml version="1.0" encoding="UTF-16"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"UTF-7 by declaration", `<?xml version="1.0" encoding="UTF-7"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"Latin 1 by declaration", `<?xml version="1.0" encoding="ISO-8859-1"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"XML 1.1", `<?xml version="1.1"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"space before the declaration", " " + `<?xml version="1.0"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"two declarations", `<?xml version="1.0"?><?xml version="1.0"?>` + deleteOf("team/a b/k"), "malformed_xml"},
		{"too large", deleteOf("team/a b/k") + strings.Repeat(" ", 2<<20), "body_too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := deleting(tt.body, nil)
			chunked := c // says no length
			chunked.length = 0
			r := chunked.sign(t, s.write)
			r.EndOfStream = tt.body == ""
			for _, r := range []*extproc.Request{c.sign(t, s.write), r} {
				d, e := s.decide(t, r, tt.body)
				if e == nil || d != nil {
					t.Fatalf("decided %+v", d)
				}
				want, status := "MalformedXML", 400
				switch tt.reason {
				case "outside_folder":
					want, status = "AccessDenied", 403
				case "body_too_large":
					want = "MaxMessageLengthExceeded"
				}
				if w := parseError(t, e); w.Code != want || e.Status != status || e.Reason != tt.reason {
					t.Errorf("%d %s: %s", e.Status, e.Reason, e.Body)
				}
			}
		})
	}
}

func utf16(s string) string {
	b := "\xff\xfe"
	for _, c := range []byte(s) {
		b += string([]byte{c, 0})
	}
	return b
}

// TestDeleteForms: a body that the provider may not take for the bytes that it is.
func TestDeleteForms(t *testing.T) {
	s := newFolders(t)
	body := deleteOf("team/a b/k")
	for _, tt := range []struct{ name, hash, header, value string }{
		{"unsigned chunks", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Encoding", "aws-chunked"},
		{"unsigned chunks by their name alone", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "", ""},
		{"signed chunks", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", ""},
		{"signed chunks and trailer", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "", ""},
		{"chunks by their encoding alone", hashOf(body), "Content-Encoding", "aws-chunked"},
		{"compressed", hashOf(body), "Content-Encoding", "gzip"},
		{"an encoding that is none", hashOf(body), "Content-Encoding", "identity"},
		{"a trailer", unsigned, "X-Amz-Trailer", "x-amz-checksum-crc32"},
		{"a decoded length", unsigned, "X-Amz-Decoded-Content-Length", "9"},
		{"UTF-16", hashOf(body), "Content-Type", "application/xml; charset=utf-16"},
		{"UTF-7", hashOf(body), "Content-Type", `text/xml;CHARSET="UTF-7"`},
		{"two charsets", hashOf(body), "Content-Type", "text/xml; charset=utf-8; charset=utf-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := deleting(body, http.Header{})
			c.hash = tt.hash
			if tt.header != "" {
				c.header.Set(tt.header, tt.value)
			}
			_, e := s.Decide(now, c.sign(t, s.write))
			if e == nil || e == extproc.NeedBody || e.Status != 501 || parseError(t, e).Code != "NotImplemented" {
				t.Errorf("%+v", e)
			}
		})
	}
	hoisted := deleting(body, nil)
	hoisted.hash, hoisted.query = "", "delete=&x-amz-trailer=x"
	if _, e := s.Decide(now, hoisted.presign(t, s.write, time.Hour)); e == nil || e.Status != 501 {
		t.Errorf("a trailer in the query: %+v", e)
	}
	other := deleting(body, nil)
	other.hash = hashOf("something else")
	if _, e := s.decide(t, other.sign(t, s.write), body); e == nil || parseError(t, e).Code != "XAmzContentSHA256Mismatch" {
		t.Errorf("another body than was signed: %+v", e)
	}
	announced := deleting(body, nil)
	announced.length = 2<<20 + 1
	if _, e := s.Decide(now, announced.sign(t, s.write)); e == nil || parseError(t, e).Code != "MaxMessageLengthExceeded" {
		t.Errorf("announced as too large: %+v", e)
	}
	if _, e := s.Decide(now, deleting(body, nil).sign(t, s.read)); e == nil || e.Reason != "forbidden" {
		t.Errorf("a READ key: %+v", e)
	}
}

// TestDeleteWhileThingsChange: what holds when the body is there decides.
func TestDeleteWhileThingsChange(t *testing.T) {
	body := deleteOf("team/a b/k")
	for name, tt := range map[string]struct {
		change func(*stage)
		want   string
	}{
		"nothing":          {func(*stage) {}, ""},
		"sealed":           {func(s *stage) { s.Live.Store(nil) }, "sealed"},
		"narrower folder":  {func(s *stage) { s.limit("team/a b/x/", "") }, "outside_folder"},
		"wider folder":     {func(s *stage) { s.limit("team/", "") }, ""},
		"no folder":        {func(s *stage) { s.limit("", "") }, ""},
		"no access":        {func(s *stage) { s.Input.Keys[1].Access = grant.AccessRead; s.Publish() }, "forbidden"},
		"disabled":         {func(s *stage) { s.Input.Keys[1].Disabled = true; s.Publish() }, "unknown_key"},
		"no such bucket":   {func(s *stage) { s.Input.Repositories[0].Storage = nil; s.Publish() }, "foreign_bucket"},
		"wiped credential": {func(s *stage) { s.Input.Connectors[0].Credential.Free() }, "sealed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFolders(t)
			r := deleting(body, nil).sign(t, s.write)
			if _, e := s.Decide(now, r); e != extproc.NeedBody {
				t.Fatalf("%+v", e)
			}
			tt.change(s)
			d, e := s.DecideBody(now, r, []byte(body), true)
			if (e == nil) != (tt.want == "") || e != nil && (e.Reason != tt.want || d != nil) {
				t.Errorf("%+v %+v, want %q", d, e, tt.want)
			}
		})
	}
}
