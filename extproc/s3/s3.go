package s3

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"slices"
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

// Options of a Protocol; the zero value takes path-style requests alone.
type Options struct {
	// Domains are host names, without port, whose subdomains are buckets: with
	// "s3.example", a request to photos.s3.example is for the bucket photos.
	Domains []string
}

// Protocol is the S3 protocol; see the package comment.
type Protocol struct {
	live    *grant.Live
	domains domains
}

var (
	_ extproc.BodyDecider = (*Protocol)(nil)
	_ extproc.Reviewer    = (*Protocol)(nil)
)

// New answers with the keys and connectors of live.
func New(live *grant.Live, opts Options) *Protocol {
	return &Protocol{live, newDomains(opts.Domains)}
}

// Name is "s3".
func (*Protocol) Name() string { return "s3" }

// Unavailable is 503 ServiceUnavailable.
func (*Protocol) Unavailable() *extproc.Error { return failSealed.answer(nil) }

// Decide verifies, authorises and signs one request.
func (p *Protocol) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	return p.decide(now, r, nil, r.EndOfStream)
}

// decide is Decide. The body, and whether it is there, matters to DeleteObjects in a
// folder alone.
func (p *Protocol) decide(now time.Time, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
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
	if s.found.bytes > maxHeaderBytes {
		return nil, s.refuse(&failTooLong, nil, r)
	}
	if r.Method == "OPTIONS" {
		return nil, preflight(r)
	}
	if isForm(r) {
		return p.decideForm(now, index, s, r, body, complete)
	}
	// What costs little comes first: a flood of unknown keys must not slow good traffic.
	a, f := s.authenticate(r)
	if f == &failAnonymous {
		f = p.anonymous(s, r)
	}
	if f != nil {
		return nil, s.refuse(f, &a, r)
	}
	key := index.Lookup(a.key)
	if key == nil || key.Use() != grant.UseStorageKey || !key.Valid(now) {
		return nil, s.refuse(&failUnknownKey, &a, r)
	}
	sent, f := s.date(&a)
	if f != nil {
		return nil, s.refuse(f, &a, r)
	}
	if e := inTime(now, sent, &a, r); e != nil {
		return nil, e
	}
	bucket, virtual := p.domains.bucket(r.Authority)
	if f := s.parse(r, bucket, virtual); f != nil {
		return nil, s.refuse(f, &a, r)
	}
	if f := s.verify(&a, key, r, now.Sub(sent) < keepWithin); f != nil {
		return nil, s.refuse(f, &a, r)
	}
	c, f := s.authorise(key, r)
	switch {
	case f != nil:
		return nil, s.refuse(f, &a, r)
	case c == nil:
		return nil, s.listBuckets(key.Repository(), r)
	}
	if s.folder != "" {
		if e := s.confineDelete(r, body, complete); e != nil {
			return nil, e
		}
	}
	d, f := s.sign(now, &a, key, c, r)
	if f != nil {
		return nil, s.refuse(f, &a, r)
	}
	d.Key = key.Record()
	return d, nil
}

// authenticate reads the one Authorization header or the query of a presigned URL,
// or says which other way of authentication was tried.
func (s *scratch) authenticate(r *extproc.Request) (a authorization, f *failure) {
	_, query, _ := cut(r.Path)
	inQuery := query != "" && queryAuth(query)
	switch s.found.authorization.lines {
	case 0:
		switch {
		case inQuery:
			if f := s.query.parse(query); f != nil {
				return a, f
			}
			return s.parsePresigned()
		}
		return a, &failAnonymous
	case 1:
		if inQuery {
			return a, &failTwoMechanisms
		}
		if a, f = parseAuthorization(s.found.authorization.value); f == nil {
			f = s.query.parse(query)
			a.date = s.found.date.value
		}
		return a, f
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
		if name == "AWSAccessKeyId" || name == "Signature" || isAmz(name) {
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
	joined  []byte // bucket of the host and path
	text    []byte // decoded parameters and copy source
	source  []byte // x-amz-copy-source in its canonical spelling
	hoisted []extproc.Header
	query   query
	target  target
	folder  string // that the body of DeleteObjects is held to; empty: it is not read
	same    bool   // path and query are what the provider gets
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
	if cap(s.request)+cap(s.forward)+cap(s.path)+cap(s.joined)+cap(s.text)+cap(s.source)+cap(s.query.text) > maxKept {
		s.request, s.forward, s.path, s.joined, s.text, s.source, s.query.text = nil, nil, nil, nil, nil, nil, nil
	}
	clear(s.drop)
	clear(s.hoisted)
	s.target, s.covered, s.found, s.folder = target{}, marks{}, found{}, ""
	s.amz, s.drop, s.hoisted, s.text = s.amz[:0], s.drop[:0], s.hoisted[:0], s.text[:0]
	scratches.Put(s)
}

// date reads x-amz-date, or X-Amz-Date of a presigned URL, and holds it against the
// credential scope. S3 takes a Date header too; no signer of SigV4 at hand relies on
// that.
func (s *scratch) date(a *authorization) (time.Time, *failure) {
	sent, ok := parseDate(a.date)
	switch {
	case a.presigned && s.found.date.lines != 0:
		return time.Time{}, &failQueryHeader
	case a.presigned && !ok:
		return time.Time{}, &failQueryDate
	case a.presigned && a.date[:8] != a.day:
		return time.Time{}, failQueryDay.because(quoted(a.day) + ". This date is not the same as X-Amz-Date: " + quoted(a.date[:8]) + ".")
	case a.presigned:
	case !ok || s.found.date.lines != 1:
		return time.Time{}, &failDate
	case a.date[:8] != a.day:
		return time.Time{}, &failScopeDate
	}
	return sent, nil
}

// inTime refuses what was signed too far from now: maxSkew on either side, and for a
// presigned URL from its date, less that skew, until it expires.
func inTime(now, sent time.Time, a *authorization, r *extproc.Request) *extproc.Error {
	age := now.Sub(sent)
	switch {
	case a.presigned && age < -maxSkew:
		return failNotYetValid.answer(r)
	case a.presigned && age > a.expires:
		return outlived(r, a, sent.Add(a.expires).Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case !a.presigned && (age > maxSkew || age < -maxSkew):
		return skewed(r, sent.Format(isoBasic), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// parse reads what the request is for; its query was parsed before.
func (s *scratch) parse(r *extproc.Request, bucket string, virtual bool) *failure {
	path, _, _ := cut(r.Path)
	var ok bool
	if virtual {
		s.target, ok = parseKey(bucket, path, &s.path, &s.joined)
	} else {
		s.target, ok = parsePath(path, &s.path)
	}
	switch {
	case !ok && !staysInside(s.target.key):
		return &failClimbs
	case !ok:
		return &failURI
	}
	s.same = s.query.same && s.target.uri == path
	return nil
}

// verify checks the client's signature over the request as it arrived. The signing
// key of a scope that proves right may be kept if the caller says so.
func (s *scratch) verify(a *authorization, key *grant.Key, r *extproc.Request, keep bool) *failure {
	if f := s.payloadHash(a.presigned); f != nil {
		return f
	}
	if s.found.twoHosts {
		return &failRepeated
	}
	s.request = append(append(s.request[:0], r.Method...), '\n')
	s.request = append(append(s.request, s.target.signed...), '\n')
	s.request = append(s.query.appendSigned(s.request), '\n')
	if !s.appendSigned(r, a.signed) {
		return &failSignature
	}
	if f := s.unsigned(r.Headers()); f != nil {
		return f
	}
	s.request = append(append(append(s.request, '\n'), a.signed...), '\n')
	s.request = append(s.request, s.found.payload.value...)
	scope := credential.Scope{Day: a.day, Region: a.region, Service: "s3"}
	if s.signature(key.Secret, s.request, scope, a.date, a.scope) != nil {
		return &failSealed
	}
	// The client's digits are compared, not decoded: only lower-case ones were taken.
	if subtle.ConstantTimeCompare(s.hex[:], bytesOf(a.signature)) != 1 {
		if s.found.queryToken { // S3 looks at the token first: keys of repositories have none
			return &failToken
		}
		return &failSignature
	}
	if keep {
		key.Secret.Keep(scope)
	}
	if a.presigned {
		s.same = false
		return s.complete(r, a)
	}
	return nil
}

// payloadHash takes the forms whose body can pass as it is.
func (s *scratch) payloadHash(presigned bool) *failure {
	value := s.found.payload.value
	switch {
	case presigned && s.found.payload.lines == 0:
		s.found.payload.value = unsignedPayload
		return nil
	case s.found.payload.lines == 0:
		return &failNoHash
	case s.found.payload.lines > 1:
		return &failRepeated
	case value == unsignedPayload, value == "STREAMING-UNSIGNED-PAYLOAD-TRAILER", hexDigits(value, 64):
		return nil
	case s.found.signsChunks():
		if presigned { // its signature covers no header of a body
			return &failStreaming
		}
		return nil
	case strings.HasPrefix(value, "STREAMING-"):
		return &failStreaming
	}
	return &failHash
}

// unsigned refuses x-amz-* headers that the signature does not cover.
func (s *scratch) unsigned(headers []extproc.Header) *failure {
	for i := range headers {
		if s.uncovered(i, headers[i].Name) {
			return &failNotSigned
		}
	}
	return nil
}

// uncovered says of the i-th header line whether it is one that had to be signed, and was not.
func (s *scratch) uncovered(i int, name string) bool {
	return !s.covered.has(i) && strings.HasPrefix(name, "x-amz-")
}

// notSigned names the headers that unsigned refuses.
func (s *scratch) notSigned(headers []extproc.Header) string {
	var names []string
	for i := range headers {
		if s.uncovered(i, headers[i].Name) {
			names = append(names, headers[i].Name)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
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

// authorise finds the connector and checks what the key may do with it. Without a
// connector and without a failure, the request is for the bridge itself.
func (s *scratch) authorise(key *grant.Key, r *extproc.Request) (*grant.Connector, *failure) {
	copies := s.found.copySource.lines > 0
	switch {
	case s.found.copying && !copies:
		return nil, &failCopy
	case s.found.copySource.lines > 1:
		return nil, &failRepeated
	case s.found.unsupported:
		return nil, &failHeader
	}
	o, f := match(r.Method, &s.target, &s.query, copies)
	switch {
	case f != nil:
		return nil, f
	case s.found.copyRange && o.must&pUploadID == 0: // of parts alone
		return nil, &failHeader
	case o.service && (s.found.config || !o.allows(key.Access)):
		return nil, &failForbidden
	case o.service:
		return key.Repository().Account, nil
	}
	repository := key.Repository()
	c, folder := repository.Storage(s.target.bucket)
	switch {
	case c == nil && o.named == &failOwned && repository.Account != nil && key.Access == grant.AccessAdmin:
		return nil, &failBucketName
	case c == nil:
		return nil, &failBucket
	case !o.config && !o.allows(key.Access):
		return nil, &failForbidden
	case o.named != nil && c != repository.Account:
		return nil, o.named // whatever its headers: rclone asks for a private bucket
	case (o.named != nil || s.found.config || o.config) && key.Access != grant.AccessAdmin:
		return nil, &failForbidden
	case (s.found.config || o.config) && !c.AllowBucketConfiguration:
		return nil, &failForbidden
	}
	if folder != "" {
		if f := s.confine(o, folder); f != nil {
			return nil, f
		}
	}
	if copies {
		return c, s.authoriseCopy(repository, c)
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
