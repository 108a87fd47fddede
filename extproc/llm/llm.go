package llm

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"strconv"
	"strings"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

// Protocol is the extproc.Protocol of OpenAI-compatible APIs and Anthropic's.
type Protocol struct{ live *grant.Live }

var (
	_ extproc.BodyDecider = (*Protocol)(nil)
	_ extproc.Reviewer    = (*Protocol)(nil)
)

// New makes a Protocol that decides by the index in live.
func New(live *grant.Live) *Protocol { return &Protocol{live} }

// Name implements extproc.Protocol.
func (*Protocol) Name() string { return "ai" }

// Unavailable implements extproc.Protocol.
func (*Protocol) Unavailable() *extproc.Error { return errUnavailable[either] }

// TooLarge implements extproc.BodyDecider.
func (*Protocol) TooLarge() *extproc.Error { return errTooLarge[either] }

// TooSlow implements extproc.BodyDecider.
func (*Protocol) TooSlow() *extproc.Error { return errTooSlow[either] }

// removed are the client's headers that never reach a provider. Authorization or
// x-api-key is replaced, the other one removed.
var removed = [...]string{
	// Credentials, of this API or another that a client may be configured for.
	"api-key", "x-goog-api-key", "ocp-apim-subscription-key", "cookie", "proxy-authorization",
	"x-amz-security-token",
	// Whom the provider bills; the connector's key decides that.
	"openai-organization", "openai-project", "x-goog-user-project",
	// Understood by some servers and frameworks as another method or path than the one allowed here.
	"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url",
}

// bearer stands before an OpenAI-compatible provider's key.
var bearer = []byte("Bearer ")

// Decide implements extproc.Protocol. The key is checked before the path, so that
// who has none learns nothing of what is served.
func (p *Protocol) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	q, refused := p.ask(now, r)
	if refused != nil {
		return nil, refused
	}
	switch {
	case q.connector != nil:
		return q.forward(r)
	case q.route.op == opModel:
		return q.routed(r, q.route.model)
	case q.route.op == opModels:
		return nil, q.list()
	case r.EndOfStream:
		return nil, errBody[q.form]
	case r.Values("content-encoding") > 1, !strings.EqualFold(cmp.Or(r.Header("content-encoding"), "identity"), "identity"):
		return nil, errEncoding[q.form]
	}
	r.State = &scan{}
	return nil, extproc.NeedBody
}

// wholeBody is the announced size of bodies that are read to their end although
// their model may be known before: that way each second model in them is seen.
const wholeBody = 64 << 10

// DecideBody implements extproc.BodyDecider: it chooses a connector by the model.
func (p *Protocol) DecideBody(now time.Time, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
	s, ok := r.State.(*scan)
	if !ok {
		return nil, errUnavailable[either] // Decide has not asked for a body
	}
	if e := s.read(body, complete); e != scanOK {
		return nil, errScan(e)[formOf(r)]
	}
	if !complete {
		length, err := strconv.Atoi(r.Header("content-length"))
		if !s.found || (err == nil && length <= wholeBody) {
			return nil, extproc.NeedBody
		}
	}
	// Asked anew: since Decide the key may have been revoked, the credential replaced.
	q, refused := p.ask(now, r)
	if refused != nil {
		return nil, refused
	}
	if q.connector != nil {
		return q.forward(r)
	}
	return q.routed(r, s.model)
}

// question is a request whose key and route are in order.
type question struct {
	form  form
	key   *grant.Key
	route route
	// connector is the only one that can be meant, or the named one. Nil: it is a
	// question of the model, or for all of them.
	connector *grant.Connector
}

// ask finds out what a request may have by its headers.
func (p *Protocol) ask(now time.Time, r *extproc.Request) (q question, refused *extproc.Error) {
	q.form = formOf(r)
	index := p.live.Load()
	if index == nil {
		return q, errUnavailable[q.form]
	}
	if q.key, refused = authenticate(q.form, index, now, r); refused != nil {
		return q, refused
	}
	if q.route, refused = parseRoute(q.form, r.Method, r.Path); refused != nil {
		return q, refused
	}
	if q.form == anthropic {
		if refused = checkAnthropic(r); refused != nil {
			return q, refused
		}
	}
	if q.route.op == opGenerate && q.foreign() {
		return q, errKeyType[q.form]
	}
	refused = q.choose()
	return q, refused
}

// foreign says that the request's form is not that of the connectors its key reaches.
func (q *question) foreign() bool {
	return (q.form == anthropic) != (q.key.AIType() == grant.AITypeAnthropic)
}

// authenticate finds the repository key that a request carries.
func authenticate(f form, index *grant.Index, now time.Time, r *extproc.Request) (*grant.Key, *extproc.Error) {
	value, refused := credentialOf(f, r)
	if refused != nil {
		return nil, refused
	}
	secret, ok := parseKey(value)
	if !ok {
		return nil, errBadKey[f]
	}
	// Hashed and compared whether there is such a key or not, so that an unknown id
	// and a wrong secret take the same time.
	var whole [maxKey]byte // on the stack
	sum := sha256.Sum256(whole[:copy(whole[:], secret.whole)])
	var sealed []byte
	key := index.Lookup(secret.id)
	if key != nil && key.Use() == grant.UseAIKey {
		sealed = key.Secret.Secret().Bytes()
	}
	var none [sha256.Size]byte
	known := len(sealed) == sha256.Size
	if !known {
		sealed = none[:]
	}
	if subtle.ConstantTimeCompare(sum[:], sealed) != 1 || !known || !key.Valid(now) {
		return nil, errBadKey[f]
	}
	return key, nil
}

// choose finds the one connector that is named, or the only one that the key
// reaches. Of several it chooses none.
func (q *question) choose() *extproc.Error {
	reached := 0
	for _, c := range q.key.Repository().AI {
		if !q.key.Reaches(c) || (q.route.named && c.Name != q.route.connector) {
			continue
		}
		reached++
		q.connector = c
	}
	switch {
	case reached == 0 && q.route.named:
		return errUnknownConnector(q.form, q.key)
	case reached == 0:
		return errNoConnector[q.form]
	case reached > 1 || q.foreign():
		// A provider answers in its own form only; the bridge lists models in both.
		q.connector = nil
	}
	return nil
}

// sendable says whether a provider's key can stand in a header (RFC 9110 §5.5:
// visible ASCII). Purged memory is empty.
func sendable(secret []byte) bool {
	for _, c := range secret {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(secret) > 0
}
