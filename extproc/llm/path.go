package llm

import (
	"strings"
	"unicode/utf8"

	"keybridge/extproc"
)

// route is an allowed request path, taken apart.
type route struct {
	// connector is the name in /connectors/{name}/v1/…, decoded; named says that
	// there was one.
	connector string
	named     bool
	// rest is what follows /v1, raw: "/chat/completions".
	rest string
}

const (
	apiPrefix       = "/v1"
	connectorPrefix = "/connectors/"
	maxPath         = 1024
	maxModel        = 256
)

// elsewhere are the parts of OpenAI's API that are refused with a reason, since
// clients know them: they reach what all tenants of a provider account share, or
// are not served yet.
var elsewhere = map[string]bool{
	"assistants": true, "batches": true, "containers": true, "conversations": true, "dashboard": true, "evals": true,
	"files": true, "fine-tunes": true, "fine_tuning": true, "organization": true, "organizations": true, "projects": true,
	"responses": true, "skills": true, "threads": true, "uploads": true, "usage": true, "vector_stores": true, "videos": true,
	"audio": true, "chatkit": true, "images": true, "moderations": true, "realtime": true,
}

// parseRoute matches a raw path against the allow-list of the package comment.
func parseRoute(method, path string) (route, *extproc.Error) {
	if strings.IndexByte(path, '?') >= 0 {
		return route{}, errQuery
	}
	if len(path) > maxPath {
		return route{}, errUnknownURL
	}
	var r route
	if named, ok := strings.CutPrefix(path, connectorPrefix); ok {
		name, tail, ok := strings.Cut(named, "/")
		if !ok {
			return route{}, errUnknownURL
		}
		if r.connector, ok = unescapeSegment(name); !ok {
			return route{}, errUnknownURL
		}
		r.named, path = true, path[len(path)-len(tail)-1:]
	}
	rest, ok := strings.CutPrefix(path, apiPrefix)
	if !ok {
		return route{}, errUnknownURL
	}
	r.rest = rest
	if model, ok := strings.CutPrefix(rest, "/models/"); ok {
		if method == "GET" && validModel(model) {
			return r, nil
		}
		return route{}, errUnknownURL
	}
	switch rest {
	case "/chat/completions", "/completions", "/embeddings":
		if method == "POST" {
			return r, nil
		}
		if rest == "/chat/completions" {
			return route{}, errNotAllowed // stored chat completions
		}
	case "/models":
		if method == "GET" {
			return r, nil
		}
	default:
		first, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		if elsewhere[first] || strings.HasPrefix(rest, "/chat/completions/") {
			return route{}, errNotAllowed
		}
	}
	return route{}, errUnknownURL
}

// validModel accepts the raw id of a model: one segment, or two as in
// "owner/model", whose slash clients encode or not. No further segment, so that
// nothing below a model can be reached; no dot segment, before or after decoding,
// so that nothing beside it can.
func validModel(raw string) bool {
	if len(raw) > maxModel {
		return false
	}
	model, ok := unescape(raw)
	if !ok || strings.ContainsAny(model, "%\\") {
		return false
	}
	segments := 0
	for s := range strings.SplitSeq(model, "/") {
		segments++
		if s == "" || s == "." || s == ".." {
			return false
		}
	}
	return segments <= 2
}

// unescapeSegment decodes one raw path segment, which is not empty.
func unescapeSegment(raw string) (string, bool) {
	if raw == "" || strings.IndexByte(raw, '/') >= 0 {
		return "", false
	}
	return unescape(raw)
}

// unescape decodes path characters strictly (RFC 3986 §3.3): unreserved,
// sub-delims, ":", "@", "/", and percent-encoded bytes that make valid UTF-8 without
// control characters.
func unescape(raw string) (string, bool) {
	escaped := false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case isAlphanumeric(c), strings.IndexByte("-._~!$&'()*+,;=:@/", c) >= 0:
		case c == '%' && i+2 < len(raw) && isHex(raw[i+1]) && isHex(raw[i+2]):
			escaped = true
			i += 2
		default:
			return "", false
		}
	}
	if !escaped {
		return raw, true
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			c = hexValue(raw[i+1])<<4 | hexValue(raw[i+2])
			i += 2
		}
		if c < ' ' || c == 0x7f {
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), utf8.ValidString(b.String())
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
