package s3

import (
	"slices"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

const (
	sessionToken  = "x-amz-security-token" //nolint:gosec // a header's name
	payloadHeader = "x-amz-content-sha256"

	unsignedPayload = "UNSIGNED-PAYLOAD"
)

// sign prepares the verified request for the connector's provider: host and the
// x-amz-* headers, with the provider's credential and our own time.
func (s *scratch) sign(now time.Time, a *authorization, key *grant.Key, c *grant.Connector, r *extproc.Request) (*extproc.Decision, *failure) {
	d := r.Decision()
	d.Cluster, d.Authority = c.Cluster, c.Authority
	s.rewrite(d)

	date := d.Bytes(appendDate(s.toSign[:0], now))
	scope := credential.Scope{Day: date[:8], Region: c.Region, Service: "s3"}
	s.toSign = append(append(append(s.toSign[:0], scope.Day...), '/'), c.Region...)
	scopeText := d.Bytes(s.toSign, []byte("/s3/aws4_request"))

	token := c.Credential.Token()
	ours := token.Bytes()
	if token.Len() > 0 {
		if ours == nil { // wiped meanwhile
			return nil, &failSealed
		}
		s.growFor(len(ours))
		defer s.wipe()
		s.insert(sessionToken, view(ours))
	}
	// The client's canonical x-amz-* lines are the provider's too, but for the date.
	b := append(append(s.forward[:0], r.Method...), '\n')
	b = append(append(b, s.target.uri...), '\n')
	b = append(s.query.appendForward(b), '\n')
	b = append(append(append(b, "host:"...), c.Authority...), '\n')
	for _, h := range s.amz {
		switch name := s.request[h.from:h.name]; string(name) {
		case "x-amz-date":
			b = append(append(append(b, "x-amz-date:"...), date...), '\n')
		case copySource:
			b = append(append(append(b, copySource+":"...), s.source...), '\n')
		default:
			b = append(b, s.request[h.from:h.to]...)
		}
	}
	b = append(b, '\n')
	names := len(b)
	b = append(b, "host"...)
	for _, h := range s.amz {
		b = append(append(b, ';'), s.request[h.from:h.name]...)
	}
	signed := b[names:]
	b = append(append(b, '\n'), s.found.payload.value...)
	s.forward = b
	if s.signature(c.Credential, b, scope, date, scopeText) != nil {
		return nil, &failSealed
	}
	c.Credential.Keep(scope)

	d.SetBytes("authorization", []byte(algorithm+" Credential="), bytesOf(c.Credential.Binding().Key),
		[]byte("/"), bytesOf(scopeText), []byte(",SignedHeaders="), signed, []byte(",Signature="), s.hex[:])
	if len(ours) > 0 {
		d.SetBytes(sessionToken, ours)
		if token.Bytes() == nil { // wiped while it was copied: its place may hold another's by now
			return nil, &failSealed
		}
	}
	d.Set = append(d.Set, extproc.Header{Name: "x-amz-date", Value: date})
	for i := range s.hoisted {
		if s.hoisted[i].Name == copySource {
			continue // below, in its one spelling
		}
		d.Set = append(d.Set, extproc.Header{
			Name: d.Bytes(bytesOf(s.hoisted[i].Name)), Value: d.Bytes(bytesOf(s.hoisted[i].Value)),
		})
	}
	if s.found.copySource.lines > 0 {
		d.SetBytes(copySource, s.source)
	}
	for _, name := range s.drop {
		if name != sessionToken || len(ours) == 0 { // else it is replaced
			d.Remove = append(d.Remove, name)
		}
	}
	if s.found.signsChunks() {
		w, f := s.chunks(r, a, key, c, scope, date, scopeText)
		if f != nil {
			return nil, f
		}
		d.Rewriter = w
	}
	return d, nil
}

// growFor makes room for a token of n bytes in all that is written from here on, so
// that no outgrown copy of it stays behind.
func (s *scratch) growFor(n int) {
	s.request = slices.Grow(s.request, len(sessionToken)+n+2)
	s.forward = slices.Grow(s.forward[:0], 1024+2*(len(s.request)+len(sessionToken)+n)+len(s.target.uri)+2*len(s.query.text)+len(s.source))
}

// wipe clears what a token was written to: the scratch outlives the request.
func (s *scratch) wipe() {
	clear(s.request)
	clear(s.forward)
}

// rewrite replaces the path if the client spelt path or query in another way than
// the canonical one, put its bucket in the host, or authenticated in the query.
func (s *scratch) rewrite(d *extproc.Decision) {
	if s.same {
		return
	}
	s.toSign = s.query.appendForward(s.toSign[:0])
	if len(s.toSign) == 0 {
		d.Path = d.Bytes(bytesOf(s.target.uri))
		return
	}
	d.Path = d.Bytes(bytesOf(s.target.uri), []byte("?"), s.toSign)
}
