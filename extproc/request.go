package extproc

import (
	"strings"
	"time"
	"unsafe"
)

// Header is one header line. Names are lower-case.
type Header struct{ Name, Value string }

// Request is one HTTP request as Envoy received it, without its body. Path is raw:
// Envoy neither decodes nor normalises it. Its strings are views of Envoy's
// message: a protocol that keeps one beyond Decide clones it.
type Request struct {
	Method    string
	Path      string // with the query
	Authority string // Host, port included
	Scheme    string
	// EndOfStream says that the request has no body.
	EndOfStream bool
	// State is the protocol's own, nil for a new request: what it keeps of this
	// request from Decide to DecideBody and from call to call, e.g. how far it has read.
	State any

	// twice is set by a repeated pseudo-header: no HTTP codec lets one pass.
	twice    bool
	headers  []Header
	decision Decision
}

// NewRequest makes a request from header lines, pseudo-headers (":method", ":path",
// ":authority", ":scheme") among them, for tests and probes.
func NewRequest(endOfStream bool, lines ...Header) *Request {
	r := &Request{EndOfStream: endOfStream}
	for _, h := range lines {
		r.add(strings.ToLower(h.Name), h.Value)
	}
	return r
}

// Headers are the header lines in the order of arrival, repeated ones included,
// without pseudo-headers. The caller must not change them.
func (r *Request) Headers() []Header { return r.headers }

// Header is the first value of a header, empty if there is none.
func (r *Request) Header(name string) string {
	for i := range r.headers {
		if r.headers[i].Name == name {
			return r.headers[i].Value
		}
	}
	return ""
}

// Values counts the lines of a header.
func (r *Request) Values(name string) int {
	n := 0
	for i := range r.headers {
		if r.headers[i].Name == name {
			n++
		}
	}
	return n
}

// Decision returns the request's own decision, empty. Its memory is used again for
// another request once the answer was sent.
func (r *Request) Decision() *Decision {
	r.decision.reset()
	return &r.decision
}

func (r *Request) add(name, value string) {
	var field *string
	switch name {
	case ":method":
		field = &r.Method
	case ":path":
		field = &r.Path
	case ":authority":
		field = &r.Authority
	case ":scheme":
		field = &r.Scheme
	default:
		r.headers = append(r.headers, Header{name, value})
		return
	}
	if *field != "" {
		r.twice = true
	}
	*field = value
}

// reset empties r and wipes what it held of the answer.
func (r *Request) reset() {
	clear(r.headers)
	r.decision.reset()
	*r = Request{headers: r.headers[:0], decision: r.decision} // State too
}

// Decision lets a request go on to a provider.
type Decision struct {
	// Cluster is the Envoy cluster that forwards the request. Never empty.
	Cluster string
	// Authority is what the provider sees as Host. Never empty.
	Authority string
	// Path replaces the request's path and query; empty keeps them.
	Path string
	// Set are headers that replace those of the same name.
	Set []Header
	// Remove are headers that do not reach the provider: at the least every one
	// that carries a client's credential and is not replaced.
	Remove []string
	// Key is the record id of the repository key that asked: what Server.EndStreams
	// asks about. It outlives the request (an index's own string). Empty for a
	// request that no revocation ends.
	Key string
	// Rewriter sees the body on its way to the provider. Only a Protocol's Decide may
	// set it, for a request that has a body. It is closed, whatever becomes of the request.
	Rewriter BodyRewriter
	// Body, if not nil, goes to the provider in place of the client's. Only DecideBody may
	// set it, once it has seen the whole body. It may hold a secret and is wiped.
	Body []byte

	memory []byte
	full   [][]byte
}

// SetBytes adds a header whose value is the parts, one after the other. They are
// copied into memory that is wiped as soon as the answer was sent: the way for
// values that carry a secret.
func (d *Decision) SetBytes(name string, parts ...[]byte) {
	d.Set = append(d.Set, Header{name, d.Bytes(parts...)})
}

// Bytes copies the parts into the decision's own memory and returns them as one string.
func (d *Decision) Bytes(parts ...[]byte) string {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if cap(d.memory)-len(d.memory) < n {
		if d.memory != nil {
			d.full = append(d.full, d.memory) // still referred to
		}
		d.memory = make([]byte, 0, max(2*cap(d.memory), n, 1024))
	}
	from := len(d.memory)
	for _, p := range parts {
		d.memory = append(d.memory, p...)
	}
	return view(d.memory[from:])
}

// maxKept bounds the memory that a pooled decision keeps, as a client chooses how
// long its path is.
const maxKept = 16 << 10

func (d *Decision) reset() {
	if d.Rewriter != nil { // of a decision that was not used
		d.Rewriter.Close()
	}
	clear(d.Body)
	clear(d.memory)
	for _, m := range d.full {
		clear(m)
	}
	if cap(d.memory) > maxKept {
		d.memory = nil
	}
	clear(d.Set)
	clear(d.Remove)
	*d = Decision{Set: d.Set[:0], Remove: d.Remove[:0], memory: d.memory[:0]}
}

// view is b as a string. Nobody writes to b as long as the string is used: it is
// part of a message that was received, or of a decision until that was sent.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // as said above
}

// bytesOf is s as bytes that are only read.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // as said above
}

// Error refuses a request in the protocol's own words.
type Error struct {
	Status      int // HTTP status: 400 to 599, or 200 where the protocol answers itself
	ContentType string
	Body        []byte
	Headers     []Header
	// Reason is one of a protocol's fixed set of words, for metrics and logs:
	// lower-case letters and underscores, never anything of the client's.
	Reason string
}

// NeedBody is what Decide returns, with no Decision, for a request that it cannot
// decide by the headers alone, and DecideBody if the bytes so far do not say
// enough. It is never sent. Only a [BodyDecider] may return it, and only for a
// request whose EndOfStream is false.
var NeedBody = &Error{Reason: "need_body"}

// BodyDecider is a Protocol that decides some requests by what their body says. The
// bytes that it has seen are held until it has decided; then they and the rest of
// the body go to the provider as the client sent them. A provider sees nothing before.
type BodyDecider interface {
	Protocol
	// DecideBody is called after each piece of the body that arrives, with all bytes
	// so far and whether they are the whole body, until it returns something else
	// than NeedBody, which it must once the body is complete. r is the request that
	// Decide saw; body is only lent. It does not block.
	DecideBody(now time.Time, r *Request, body []byte, complete bool) (*Decision, *Error)
	// TooLarge refuses a body of which Options.MaxBody bytes did not suffice.
	TooLarge() *Error
	// TooSlow refuses a body that did not arrive within Options.BodyTimeout: 408, or 400
	// where the protocol has no such status.
	TooSlow() *Error
}

// Protocol is what an application speaks: it verifies a request's credentials,
// checks what they allow and prepares the request for the provider. Its methods
// are called concurrently.
//
// An implementation passes nothing that it does not know: it answers with an Error
// for every operation, header and form of authentication that is not on its list,
// and it does so before it would show whether something exists that the key may not see.
type Protocol interface {
	// Name is what the protocol is called in metrics and logs.
	Name() string
	// Decide answers for one request: a Decision, or an Error and no Decision. It
	// does not block.
	Decide(now time.Time, r *Request) (*Decision, *Error)
	// Unavailable is the answer when the bridge cannot decide: it is sealed, stopping or broken.
	Unavailable() *Error
}
