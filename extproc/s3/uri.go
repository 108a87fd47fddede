package s3

import (
	"bytes"
	"strings"
)

// cut splits a raw :path at the question mark.
func cut(path string) (uri, query string, ok bool) { return strings.Cut(path, "?") }

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

// target is what a path means: decoded and canonical.
type target struct {
	bucket string // empty: the service itself
	key    string // empty: the bucket itself
	uri    string // canonical, begins with '/'
}

// parsePath decodes raw once and encodes it once, with buf's memory if it must. No
// segment is removed or merged.
func parsePath(raw string, buf *[]byte) (t target, ok bool) {
	if raw == "" || raw[0] != '/' {
		return t, false
	}
	decoded := raw
	t.uri = raw
	if !plain(raw) {
		b := (*buf)[:0]
		for s := raw; s != ""; {
			c, n, ok := next(s)
			if !ok {
				return t, false
			}
			b = append(b, c)
			s = s[n:]
		}
		split := len(b)
		for _, c := range b[:split] {
			b = encode(b, c, false)
		}
		*buf = b
		decoded = view(b[:split])
		// The raw path is kept where it is its own canonical form: a string that lives
		// as long as the request.
		if uri := view(b[split:]); uri != raw {
			t.uri = uri
		}
	}
	t.bucket, t.key, _ = strings.Cut(decoded[1:], "/")
	if t.bucket == "" {
		return t, decoded == "/"
	}
	return t, t.bucket != "." && t.bucket != ".." && staysInside(t.key)
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
type param struct{ from, mid, to int }

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
		part, raw, more = strings.Cut(raw, "&")
		if part == "" {
			q.same = false
			continue
		}
		if len(q.params) == maxParams {
			return &failTooMany
		}
		p := param{from: len(q.text), mid: -1}
		for s := part; s != ""; {
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

// append writes the canonical query.
func (q *query) append(b []byte) []byte {
	for i := range q.params {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(append(b, q.name(i)...), '='), q.value(i)...)
	}
	return b
}
