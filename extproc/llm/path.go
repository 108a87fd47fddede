package llm

import (
	"strconv"
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
	// rest is what follows /v1, raw and with the query: "/chat/completions".
	rest string
	op   operation
	// model is the decoded {model} of opModel.
	model string
	// page is what opModels asks for, in Anthropic's form.
	page page
}

// operation is what a route leads to.
type operation uint8

const (
	opGenerate operation = iota // a POST whose body names a model
	opModels
	opModel
)

const (
	apiPrefix       = "/v1"
	connectorPrefix = "/connectors/"
	maxPath         = 1024
	maxModel        = 256
)

// elsewhere are the parts of both APIs that are refused with a reason, since
// clients know them: they reach what all tenants of a provider account share, or
// are not served yet.
var elsewhere = map[string]bool{
	"assistants": true, "batches": true, "containers": true, "conversations": true, "dashboard": true, "evals": true,
	"files": true, "fine-tunes": true, "fine_tuning": true, "organization": true, "organizations": true, "projects": true,
	"responses": true, "skills": true, "threads": true, "uploads": true, "usage": true, "vector_stores": true, "videos": true,
	"audio": true, "chatkit": true, "images": true, "moderations": true, "realtime": true,
	// Anthropic's alone; complete is its older API.
	"agents": true, "complete": true, "deployment_runs": true, "deployments": true, "dreams": true, "environments": true,
	"memory_stores": true, "sessions": true, "tunnels": true, "user_profiles": true, "vaults": true, "webhooks": true,
}

// parseRoute matches a raw path against the allow-list of the package comment.
func parseRoute(f form, method, path string) (route, *extproc.Error) {
	path, query, asked := strings.Cut(path, "?")
	if asked && f != anthropic {
		return route{}, errQuery[f]
	}
	if len(path)+len(query) > maxPath {
		return route{}, errUnknownURL[f]
	}
	var r route
	if named, ok := strings.CutPrefix(path, connectorPrefix); ok {
		name, tail, ok := strings.Cut(named, "/")
		if !ok {
			return route{}, errUnknownURL[f]
		}
		if r.connector, ok = unescapeSegment(name); !ok {
			return route{}, errUnknownURL[f]
		}
		r.named, path = true, path[len(path)-len(tail)-1:]
	}
	rest, ok := strings.CutPrefix(path, apiPrefix)
	if !ok {
		return route{}, errUnknownURL[f]
	}
	if refused := r.operation(f, method, rest); refused != nil {
		return route{}, refused
	}
	r.rest = rest
	if asked {
		if r.page, ok = parseQuery(query, r.op); !ok {
			return route{}, errQuery[f]
		}
		r.rest += "?" + query
	}
	return r, nil
}

// operation finds what method and rest ask for.
func (r *route) operation(f form, method, rest string) *extproc.Error {
	if raw, ok := strings.CutPrefix(rest, "/models/"); ok {
		if r.model, ok = unescapeModel(raw); ok && method == "GET" {
			r.op = opModel
			return nil
		}
		return errUnknownURL[f]
	}
	switch rest {
	case "/chat/completions", "/completions", "/embeddings", "/messages", "/messages/count_tokens":
		// The form follows from these paths.
		if method == "POST" {
			return nil
		}
		if rest == "/chat/completions" {
			return errNotAllowed[f] // stored chat completions
		}
	case "/models":
		if method == "GET" {
			r.op = opModels
			return nil
		}
	default:
		first, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		if elsewhere[first] || strings.HasPrefix(rest, "/chat/completions/") || strings.HasPrefix(rest, "/messages/batches") {
			return errNotAllowed[f]
		}
	}
	return errUnknownURL[f]
}

// parseQuery accepts the parameters that Anthropic's SDKs send: beta=true, which
// chooses their SDK's beta types, and those of a list.
func parseQuery(query string, op operation) (page, bool) {
	p := page{limit: defaultLimit}
	if strings.ContainsAny(query, ";+") { // to some servers a separator and a space
		return page{}, false
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		name, raw, _ := strings.Cut(pair, "=")
		if seen[name] {
			return page{}, false
		}
		seen[name] = true
		ok := false
		switch name {
		case "beta":
			ok = raw == "true"
		case "limit":
			ok = op == opModels && len(raw) <= 4 && isDigits(raw)
			p.limit, _ = strconv.Atoi(raw)
			ok = ok && 1 <= p.limit && p.limit <= maxLimit
		case "after_id":
			p.after, ok = unescapeModel(raw)
			ok = ok && op == opModels
		case "before_id":
			p.before, ok = unescapeModel(raw)
			ok = ok && op == opModels
		}
		if !ok {
			return page{}, false
		}
	}
	return p, p.after == "" || p.before == ""
}

// unescapeModel decodes the raw id of a model: one segment, or two as in
// "owner/model", whose slash clients encode or not. No further segment, so that
// nothing below a model can be reached; no dot segment, before or after decoding,
// so that nothing beside it can.
func unescapeModel(raw string) (string, bool) {
	if len(raw) > maxModel {
		return "", false
	}
	model, ok := unescape(raw)
	if !ok || strings.ContainsAny(model, "%\\") {
		return "", false
	}
	segments := 0
	for s := range strings.SplitSeq(model, "/") {
		segments++
		if s == "" || s == "." || s == ".." {
			return "", false
		}
	}
	return model, segments <= 2
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
