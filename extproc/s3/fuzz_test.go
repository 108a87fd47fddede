package s3

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func FuzzParseAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=AKID/20261122/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("0a", 32))
	f.Add("AWS4-HMAC-SHA256 Credential=/////,SignedHeaders=;,Signature=")
	f.Add("AWS4-HMAC-SHA256 ,")
	f.Add("AWS a:b")
	f.Fuzz(func(t *testing.T, header string) {
		a, failure := parseAuthorization(header)
		if failure != nil {
			return
		}
		// What was taken, written again, is taken again and means the same.
		again := algorithm + " Credential=" + a.key + "/" + a.scope + ",SignedHeaders=" + a.signed + ",Signature=" + a.signature
		b, failure := parseAuthorization(again)
		if failure != nil || a != b {
			t.Fatalf("%q and %q differ: %+v %+v %v", header, again, a, b, failure)
		}
		if a.scope != a.day+"/"+a.region+"/s3/aws4_request" || len(a.signature) != 64 || strings.Contains(a.key, "/") {
			t.Fatalf("%+v", a)
		}
		names := strings.Split(a.signed, ";")
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) || !slices.Contains(names, "host") {
			t.Fatalf("signed headers %q", a.signed)
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/", "/b", "/b/", "/b/k", "/b//k/", "/b/%2e%2e/x", "/b/a%2Fb", "/b/\xff", "/b/%", "/b/a+b", "/%2F", "/b/a/../..", "/b/%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var buf, buf2 []byte
		got, ok := parsePath(raw, &buf)
		if !ok {
			return
		}
		// An independent reading: net/url decodes once.
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatalf("%q was taken, but %v", raw, err)
		}
		want := "/" + got.bucket
		if strings.HasPrefix(decoded, want+"/") {
			want += "/" + got.key
		}
		if decoded != want || (got.bucket == "" && got.key != "") {
			t.Fatalf("%q is %q, split into %q and %q", raw, decoded, got.bucket, got.key)
		}
		// The canonical form is its own canonical form and means the same.
		again, ok := parsePath(got.uri, &buf2)
		if !ok || again != got {
			t.Fatalf("%q: %+v, again %+v", raw, got, again)
		}
		// A provider that cleans paths does not leave the bucket.
		if u, err := url.Parse("http://h" + got.uri); err == nil && got.bucket != "" {
			if clean := u.JoinPath().Path; clean != "/"+got.bucket && !strings.HasPrefix(clean, "/"+got.bucket+"/") {
				t.Fatalf("%q leaves the bucket when cleaned: %q", raw, clean)
			}
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{"", "a", "a=", "a=b&c=d", "b=1&a=2&a=1", "a=b=c", "=x", "&&", "%41=%2f", "a+b=c+d", "a;b=c", "%", "a=%zz", "prefix=ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var q query
		if q.parse(raw) != nil {
			return
		}
		canonical := string(q.appendForward(nil))
		// An independent reading: net/url, which takes no raw semicolons.
		if want, err := url.ParseQuery(raw); err == nil {
			got, err := url.ParseQuery(canonical)
			if err != nil {
				t.Fatalf("%q: %q does not parse: %v", raw, canonical, err)
			}
			for name := range want {
				slices.Sort(want[name])
				slices.Sort(got[name])
			}
			if got.Encode() != want.Encode() {
				t.Fatalf("%q became %q", raw, canonical)
			}
		}
		var again query
		if again.parse(canonical) != nil || string(again.appendForward(nil)) != canonical || !again.same {
			t.Fatalf("%q: %q is not its own canonical form: %q", raw, canonical, again.appendForward(nil))
		}
		if q.same && len(q.params) > 0 && len(raw) > len(canonical) {
			t.Fatalf("%q is called canonical, but is %q", raw, canonical)
		}
	})
}

func FuzzStaysInside(f *testing.F) {
	f.Add("a/../b")
	f.Add("a//../../b")
	f.Fuzz(func(t *testing.T, key string) {
		// The rule in other words: no prefix of the key has more ".." than names.
		depth, inside := 0, true
		for _, s := range strings.Split(key, "/") {
			switch {
			case s == "..":
				depth--
			case s != "" && s != ".":
				depth++
			}
			inside = inside && depth >= 0
		}
		if got := staysInside(key); got != inside {
			t.Fatalf("%q: %v", key, got)
		}
	})
}

// TestOneOperation: no request can be two operations of the table.
func TestOneOperation(t *testing.T) {
	for i, a := range operations {
		for _, b := range operations[i+1:] {
			if a.method != b.method || a.object != b.object || a.service != b.service || a.copies != b.copies {
				continue
			}
			both := a.must | b.must
			if both&^(a.must|a.may) == 0 && both&^(b.must|b.may) == 0 {
				t.Errorf("%s and %s can be one request", a.name, b.name)
			}
		}
		if a.config == (a.by != 0) {
			t.Errorf("%s: who may?", a.name)
		}
	}
}

func FuzzParseDate(f *testing.F) {
	for _, s := range []string{"20261122T120000Z", "20240229T235959Z", "20230229T000000Z", "20261122T240000Z", "00000101T000000Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseDate(s)
		want, err := time.Parse(isoBasic, s)
		if len(s) != len(isoBasic) {
			return // package time also takes fractions of a second
		}
		if ok != (err == nil) || (ok && !got.Equal(want)) {
			t.Fatalf("%q: %v %v, want %v %v", s, got, ok, want, err)
		}
		if ok && string(appendDate(nil, got)) != s {
			t.Fatalf("%q is written as %q", s, appendDate(nil, got))
		}
	})
}

func FuzzParsePresigned(f *testing.F) {
	good := "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20261122%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20261122T120000Z" +
		"&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Brange&X-Amz-Signature=" + strings.Repeat("0a", 32)
	for _, s := range []string{good, good + "&x-amz-meta-a=b%20c", good + "&X-Amz-Expires=1", "X-Amz-Algorithm=&x-amz-acl=%0a", "AWSAccessKeyId=a&Signature=b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var s scratch
		if s.query.parse(raw) != nil {
			return
		}
		a, failure := s.parsePresigned()
		if failure != nil {
			return
		}
		if a.expires < time.Second || a.expires > maxExpires || len(a.signature) != 64 || a.scope != a.day+"/"+a.region+"/s3/aws4_request" || !validSigned(a.signed) {
			t.Fatalf("%q: %+v", raw, a)
		}
		// Nothing of it goes on in the query, and what goes on as a header is one.
		for name := range strings.SplitSeq(string(s.query.appendForward(nil)), "&") {
			if isAmz(name) {
				t.Fatalf("%q leaves %q", raw, name)
			}
		}
		for _, h := range s.hoisted {
			if !strings.HasPrefix(h.Name, "x-amz-") || strings.ContainsAny(h.Name+h.Value, "\r\n\x00") || h.Name != strings.ToLower(h.Name) {
				t.Fatalf("%q hoists %q: %q", raw, h.Name, h.Value)
			}
		}
		// All but the signature is what the client signed.
		signed, err := url.ParseQuery(string(s.query.appendSigned(nil)))
		if err != nil || signed.Has("X-Amz-Signature") || signed.Get("X-Amz-Date") != a.date {
			t.Fatalf("%q signs %v, %v", raw, signed, err)
		}
	})
}

func FuzzParseCopySource(f *testing.F) {
	for _, s := range []string{"b/k", "/b/k", "b%2Fk", "b/a+b?versionId=v", "b/../x", "//k", "b/", "b/k?x=1", "b/%", "b/k&c=d?versionId=%3F"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var s, again scratch
		bucket, key, ok := s.parseCopySource(raw)
		if !ok {
			return
		}
		// The canonical form means the same and is its own canonical form.
		canonical := string(s.source)
		b, k, ok := again.parseCopySource(canonical)
		if !ok || b != bucket || k != key || string(again.source) != canonical {
			t.Fatalf("%q: %q of %s, then %q of %s", raw, canonical, bucket, again.source, b)
		}
		// An independent reading of it: the path of a URL.
		u, err := url.Parse("http://h/" + canonical)
		if err != nil {
			t.Fatalf("%q: %v", canonical, err)
		}
		if first, path, _ := strings.Cut(u.Path[1:], "/"); first != bucket || path != key {
			t.Fatalf("%q is %q in bucket %q, not %q in %q", canonical, path, first, key, bucket)
		}
		if clean := u.JoinPath().Path; bucket != "" && clean != "/"+bucket && !strings.HasPrefix(clean, "/"+bucket+"/") {
			t.Fatalf("%q leaves the bucket when cleaned: %q", raw, clean)
		}
	})
}

func FuzzDomains(f *testing.F) {
	f.Add("photos.s3.example:9000")
	f.Add("[::1]:9000")
	f.Add(".example")
	d := newDomains([]string{"example", "s3.example"})
	f.Fuzz(func(t *testing.T, authority string) {
		bucket, virtual := d.bucket(authority)
		if !virtual {
			if bucket != "" {
				t.Fatalf("%q: %q", authority, bucket)
			}
			return
		}
		rest, ok := strings.CutPrefix(authority, bucket+".")
		if !ok || !strings.HasPrefix(strings.ToLower(rest), "example") && !strings.HasPrefix(strings.ToLower(rest), "s3.example") {
			t.Fatalf("%q: %q", authority, bucket)
		}
		var buf, joined []byte
		if target, ok := parseKey(bucket, "/k", &buf, &joined); ok && target.uri != "/"+bucket+"/k" {
			t.Fatalf("%q: %q", authority, target.uri)
		}
	})
}
