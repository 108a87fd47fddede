package s3

import (
	"bytes"
	"strings"
)

// cut splits a raw :path at the question mark.
func cut(path string) (uri, query string, ok bool) { return cutAt(path, '?') }

// cutAt is strings.Cut for one byte, in half the time.
func cutAt(s string, sep byte) (before, after string, found bool) {
	if i := strings.IndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// unreserved bytes stand for themselves in a canonical request (RFC 3986 §2.3).
var unreserved = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == '~'
	}
	return
}()

const upperHex = "0123456789ABCDEF"

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// next decodes the first byte of s and says how many it took. It takes no byte that
// could not stand in a request line, nor an incomplete escape.
func next(s string) (c byte, n int, ok bool) {
	switch c = s[0]; {
	case c == '%':
		if len(s) < 3 {
			return 0, 0, false
		}
		hi, ok1 := unhex(s[1])
		lo, ok2 := unhex(s[2])
		return hi<<4 | lo, 3, ok1 && ok2
	case c <= ' ' || c == 0x7f || c == '#':
		return 0, 0, false
	}
	return c, 1, true
}

// encode writes c as AWS's UriEncode does; slash says whether '/' is encoded too.
func encode(b []byte, c byte, slash bool) []byte {
	if unreserved[c] || (c == '/' && !slash) {
		return append(b, c)
	}
	return append(b, '%', upperHex[c>>4], upperHex[c&15])
}

// run counts the unreserved bytes that s begins with: most of what is sent.
func run(s string) int {
	for i := 0; i < len(s); i++ {
		if !unreserved[s[i]] {
			return i
		}
	}
	return len(s)
}

// target is what a path means: decoded and canonical.
type target struct {
	bucket string // empty: the service itself
	key    string // empty: the bucket itself
	uri    string // canonical, begins with '/'; path style, as the provider gets it
	signed string // canonical, as the client signed it: without the bucket if its host names that
}

// parsePath reads a raw path whose first segment is the bucket.
func parsePath(raw string, buf *[]byte) (t target, ok bool) {
	decoded, uri, ok := decodePath(raw, buf)
	if !ok {
		return t, false
	}
	t.uri, t.signed = uri, uri
	t.bucket, t.key, _ = cutAt(decoded[1:], '/')
	if t.bucket == "" {
		return t, decoded == "/"
	}
	return t, t.bucket != "." && t.bucket != ".." && staysInside(t.key)
}

// parseKey reads a raw path that is a key, because the host names the bucket. What
// the client signed has no bucket in it, what the provider gets does; joined holds that.
func parseKey(bucket, raw string, buf, joined *[]byte) (t target, ok bool) {
	decoded, uri, ok := decodePath(raw, buf)
	if !ok || !bucketInHost(bucket) {
		return t, false
	}
	t.bucket, t.key, t.signed = bucket, decoded[1:], uri
	b := append(append((*joined)[:0], '/'), bucket...)
	if t.key != "" {
		b = append(b, uri...)
	}
	*joined = b
	t.uri = view(b)
	return t, staysInside(t.key)
}

// bucketInHost takes names that stand for themselves in a path, and are one segment of it.
func bucketInHost(s string) bool {
	return s != "" && s != "." && s != ".." && plain(s) && strings.IndexByte(s, '/') < 0
}

// decodePath decodes raw once and encodes it once, with buf's memory if it must. No
// segment is removed or merged.
func decodePath(raw string, buf *[]byte) (decoded, uri string, ok bool) {
	if raw == "" || raw[0] != '/' {
		return "", "", false
	}
	if plain(raw) {
		return raw, raw, true
	}
	b := (*buf)[:0]
	for s := raw; s != ""; {
		c, n, ok := next(s)
		if !ok {
			return "", "", false
		}
		b = append(b, c)
		s = s[n:]
	}
	split := len(b)
	for _, c := range b[:split] {
		b = encode(b, c, false)
	}
	*buf = b
	// The raw path is kept where it is its own canonical form: a string that lives
	// as long as the request.
	if uri = view(b[split:]); uri == raw {
		uri = raw
	}
	return view(b[:split]), uri, true
}

// plain says that a path is its own canonical form and decodes to itself.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if !unreserved[s[i]] && s[i] != '/' {
			return false
		}
	}
	return true
}

// staysInside refuses keys whose ".." segments, read from left to right, outnumber
// the segments before them ("Naming Amazon S3 objects", Amazon S3 User Guide).
// Empty and "." segments do not count, so that a provider that removes them before
// it resolves the others does not leave the bucket either.
func staysInside(key string) bool {
	if !strings.Contains(key, "..") {
		return true
	}
	depth := 0
	for s := range strings.SplitSeq(key, "/") {
		switch s {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return false
			}
		default:
			depth++
		}
	}
	return true
}

// param is one query parameter: encoded name and value as parts of query.text.
type param struct {
	from, mid, to int
	auth          bool // of a presigned URL: not for the provider
	signature     bool // the client's signature, which it does not cover
}

// maxParams bounds a query. The longest list of an operation has nine.
const maxParams = 32

// query is a canonical query: parameters sorted by encoded name, then by value.
type query struct {
	text   []byte
	params []param
	// same says that every parameter was spelt canonically; their order may differ.
	same bool
}

func (q *query) name(i int) []byte  { return q.text[q.params[i].from:q.params[i].mid] }
func (q *query) value(i int) []byte { return q.text[q.params[i].mid:q.params[i].to] }

// parse reads a raw query. A plus is a space there, as in forms: what every S3
// server at hand does, and SDKs write %20.
func (q *query) parse(raw string) *failure {
	q.text, q.params, q.same = q.text[:0], q.params[:0], true
	for more := raw != ""; more; {
		var part string
		part, raw, more = cutAt(raw, '&')
		if part == "" {
			q.same = false
			continue
		}
		if len(q.params) == maxParams {
			return &failTooMany
		}
		p := param{from: len(q.text), mid: -1}
		for s := part; s != ""; {
			if n := run(s); n > 0 {
				q.text = append(q.text, s[:n]...)
				s = s[n:]
				continue
			}
			if s[0] == '=' && p.mid < 0 {
				p.mid = len(q.text)
				s = s[1:]
				continue
			}
			c, n, ok := next(s)
			if !ok {
				return &failURI
			}
			if n == 1 && c == '+' {
				c = ' '
			}
			at := len(q.text)
			q.text = encode(q.text, c, true)
			q.same = q.same && string(q.text[at:]) == s[:n]
			s = s[n:]
		}
		if p.to = len(q.text); p.mid < 0 {
			p.mid = p.to
		}
		q.insert(p)
	}
	return nil
}

// insert keeps params sorted.
func (q *query) insert(p param) {
	i := len(q.params)
	q.params = append(q.params, p)
	for ; i > 0 && q.less(p, q.params[i-1]); i-- {
		q.params[i] = q.params[i-1]
	}
	q.params[i] = p
}

func (q *query) less(a, b param) bool {
	if c := bytes.Compare(q.text[a.from:a.mid], q.text[b.from:b.mid]); c != 0 {
		return c < 0
	}
	return bytes.Compare(q.text[a.mid:a.to], q.text[b.mid:b.to]) < 0
}

// appendSigned writes the canonical query that the client signed.
func (q *query) appendSigned(b []byte) []byte {
	return q.append(b, func(p *param) bool { return !p.signature })
}

// appendForward writes the canonical query that the provider gets.
func (q *query) appendForward(b []byte) []byte {
	return q.append(b, func(p *param) bool { return !p.auth })
}

func (q *query) append(b []byte, with func(*param) bool) []byte {
	first := true
	for i := range q.params {
		if !with(&q.params[i]) {
			continue
		}
		if !first {
			b = append(b, '&')
		}
		first = false
		b = append(append(append(b, q.name(i)...), '='), q.value(i)...)
	}
	return b
}

// appendDecoded writes what an encoded name or value means.
func appendDecoded(b, encoded []byte) []byte {
	for s := view(encoded); s != ""; {
		if n := run(s); n > 0 {
			b = append(b, s[:n]...)
			s = s[n:]
			continue
		}
		c, n, _ := next(s) // every escape in it was written by encode
		b = append(b, c)
		s = s[n:]
	}
	return b
}
