package s3

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"strings"
	"sync"
	"time"
	"unsafe"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

// maxSkew is how far a request's time may be from ours ("Signing and
// authenticating REST requests", Amazon S3 User Guide).
const maxSkew = 15 * time.Minute

// Protocol is the S3 protocol; see the package comment.
type Protocol struct{ live *grant.Live }

var _ extproc.Protocol = (*Protocol)(nil)

// New answers with the keys and connectors of live.
func New(live *grant.Live) *Protocol { return &Protocol{live} }

// Name is "s3".
func (*Protocol) Name() string { return "s3" }

// Unavailable is 503 ServiceUnavailable.
func (*Protocol) Unavailable() *extproc.Error { return failSealed.answer(nil) }

// Decide verifies, authorises and signs one request.
func (p *Protocol) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	index := p.live.Load()
	if index == nil {
		return nil, failSealed.answer(r)
	}
	headers := r.Headers()
	if len(headers) > maxHeaders {
		return nil, failTooMany.answer(r)
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	s.scan(headers)
	// What costs little comes first: a flood of unknown keys must not slow good traffic.
	a, f := s.authenticate(r)
	if f != nil {
		return nil, f.answer(r)
	}
	key := index.Lookup(a.key)
	if key == nil || key.Use != grant.UseStorageKey || !key.Valid(now) {
		return nil, failUnknownKey.answer(r)
	}
	sent, f := s.date(&a)
	if f != nil {
		return nil, f.answer(r)
	}
	if d := now.Sub(sent); d > maxSkew || d < -maxSkew {
		return nil, skewed(r, sent.Format(isoBasic), now.UTC().Format(time.RFC3339))
	}
	if f := s.verify(&a, key, r); f != nil {
		return nil, f.answer(r)
	}
	c, f := s.authorise(key, r)
	if f != nil {
		return nil, f.answer(r)
	}
	d, f := s.sign(now, c, r)
	if f != nil {
		return nil, f.answer(r)
	}
	return d, nil
}

// authenticate reads the one Authorization header, or says which other way of
// authentication was tried.
func (s *scratch) authenticate(r *extproc.Request) (a authorization, f *failure) {
	_, query, _ := cut(r.Path)
	inQuery := query != "" && queryAuth(query)
	switch s.found.authorization.lines {
	case 0:
		switch {
		case inQuery:
			return a, &failPresigned
		case r.Method == "POST" && strings.HasPrefix(r.Header("content-type"), "multipart/form-data"):
			return a, &failForm
		}
		return a, &failAnonymous
	case 1:
		if inQuery {
			return a, &failTwoMechanisms
		}
		return parseAuthorization(s.found.authorization.value)
	}
	return a, &failTwoMechanisms
}

// queryAuth says whether a raw query has a parameter of query authentication: SigV4
// and SigV4A (X-Amz-Algorithm, -Credential, -Signature …, in any case) or SigV2.
func queryAuth(query string) bool {
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if strings.IndexByte(name, '%') >= 0 {
			name = unescaped(name)
		}
		switch {
		case name == "AWSAccessKeyId", name == "Signature",
			len(name) >= 6 && strings.EqualFold(name[:6], "x-amz-"):
			return true
		}
	}
	return false
}

func unescaped(s string) string {
	var b strings.Builder
	for s != "" {
		c, n, ok := next(s)
		if !ok {
			c, n = s[0], 1
		}
		b.WriteByte(c)
		s = s[n:]
	}
	return b.String()
}

// scratch is the memory of one Decide.
type scratch struct {
	hash    hash.Hash
	request []byte // the canonical request that the client signed
	forward []byte // the canonical request for the provider
	toSign  []byte
	path    []byte
	query   query
	target  target
	same    bool   // path and query arrived in their canonical spelling
	amz     []span // of the client's canonical headers
	covered marks
	found   found
	drop    []string // headers of classDrop
	sum     [sha256.Size]byte
	mac     [sha256.Size]byte
	hex     [2 * sha256.Size]byte
}

var scratches = sync.Pool{New: func() any { return &scratch{hash: sha256.New()} }}

// maxKept bounds what a pooled buffer keeps, as a client chooses how long its headers are.
const maxKept = 16 << 10

func (s *scratch) release() {
	if cap(s.request)+cap(s.forward)+cap(s.path)+cap(s.query.text) > maxKept {
		s.request, s.forward, s.path, s.query.text = nil, nil, nil, nil
	}
	clear(s.drop)
	s.target, s.covered, s.found, s.amz, s.drop = target{}, marks{}, found{}, s.amz[:0], s.drop[:0]
	scratches.Put(s)
}

// date reads x-amz-date and holds it against the credential scope. S3 takes a Date
// header too; no signer of SigV4 at hand relies on that.
func (s *scratch) date(a *authorization) (time.Time, *failure) {
	sent, ok := parseDate(s.found.date.value)
	switch {
	case !ok || s.found.date.lines != 1:
		return time.Time{}, &failDate
	case s.found.date.value[:8] != a.day:
		return time.Time{}, &failScopeDate
	}
	return sent, nil
}

// verify checks the client's signature over the request as it arrived.
func (s *scratch) verify(a *authorization, key *grant.Key, r *extproc.Request) *failure {
	if f := s.payloadHash(); f != nil {
		return f
	}
	if s.found.twoHosts {
		return &failRepeated
	}
	path, query, _ := cut(r.Path)
	var ok bool
	if s.target, ok = parsePath(path, &s.path); !ok {
		return &failURI
	}
	if f := s.query.parse(query); f != nil {
		return f
	}
	s.same = s.query.same && s.target.uri == path
	s.request = s.appendTarget(s.request[:0], r.Method)
	if !s.appendSigned(r, a.signed) {
		return &failSignature
	}
	if f := s.unsigned(r.Headers()); f != nil {
		return f
	}
	s.request = append(append(append(s.request, '\n'), a.signed...), '\n')
	s.request = append(s.request, s.found.payload.value...)
	scope := credential.Scope{Day: a.day, Region: a.region, Service: "s3"}
	if s.signature(key.Secret, s.request, scope, s.found.date.value, a.scope) != nil {
		return &failSealed
	}
	// The client's digits are compared, not decoded: parseAuthorization took only lower-case ones.
	if subtle.ConstantTimeCompare(s.hex[:], bytesOf(a.signature)) != 1 {
		return &failSignature
	}
	key.Secret.Keep(scope)
	return nil
}

// payloadHash takes the forms whose body can pass as it is.
func (s *scratch) payloadHash() *failure {
	value := s.found.payload.value
	switch {
	case s.found.payload.lines == 0:
		return &failNoHash
	case s.found.payload.lines > 1:
		return &failRepeated
	case value == "UNSIGNED-PAYLOAD", value == "STREAMING-UNSIGNED-PAYLOAD-TRAILER", hexDigits(value, 64):
		return nil
	case strings.HasPrefix(value, "STREAMING-"):
		return &failStreaming
	}
	return &failHash
}

// unsigned refuses x-amz-* headers that the signature does not cover.
func (s *scratch) unsigned(headers []extproc.Header) *failure {
	for i := range headers {
		if !s.covered.has(i) && strings.HasPrefix(headers[i].Name, "x-amz-") {
			return &failNotSigned
		}
	}
	return nil
}

// appendTarget writes the first three lines of a canonical request.
func (s *scratch) appendTarget(b []byte, method string) []byte {
	b = append(append(b, method...), '\n')
	b = append(append(b, s.target.uri...), '\n')
	return append(s.query.append(b), '\n')
}

// signature puts the signature of a canonical request into hex.
func (s *scratch) signature(c *credential.Credential, request []byte, scope credential.Scope, date, scopeText string) error {
	s.hash.Reset()
	s.hash.Write(request)
	s.hash.Sum(s.sum[:0])
	b := append(s.toSign[:0], algorithm+"\n"...)
	b = append(append(b, date...), '\n')
	b = append(append(b, scopeText...), '\n')
	s.toSign = hex.AppendEncode(b, s.sum[:])
	if err := c.Sign(&s.mac, scope, s.toSign); err != nil {
		return err
	}
	hex.Encode(s.hex[:], s.mac[:])
	return nil
}

// authorise finds the connector and checks what the key may do with it.
func (s *scratch) authorise(key *grant.Key, r *extproc.Request) (*grant.Connector, *failure) {
	switch {
	case s.found.copying:
		return nil, &failCopy
	case s.found.unsupported:
		return nil, &failHeader
	}
	o, f := match(r.Method, &s.target, &s.query)
	if f != nil {
		return nil, f
	}
	c := key.Repository.Buckets[s.target.bucket]
	switch {
	case c == nil:
		return nil, &failBucket
	case (s.found.config || o.config) && (key.Access != grant.AccessAdmin || !c.AllowBucketConfiguration):
		return nil, &failForbidden
	case !o.config && key.Access&o.by == 0:
		return nil, &failForbidden
	case o.refuse != nil:
		return nil, o.refuse
	}
	return c, nil
}

// view is b as a string, for as long as b stays as it is: within one Decide.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // as said above
}

// bytesOf is s as bytes that are only read.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // as said above
}
