package s3

import (
	"time"

	"keybridge/extproc"
	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

const sessionToken = "x-amz-security-token" //nolint:gosec // a header's name

// sign prepares the verified request for the connector's provider: host and the
// x-amz-* headers, with the provider's credential and our own time.
func (s *scratch) sign(now time.Time, c *grant.Connector, r *extproc.Request) (*extproc.Decision, *failure) {
	d := r.Decision()
	d.Cluster, d.Authority = c.Cluster, c.Authority
	s.rewrite(d)

	date := d.Bytes(appendDate(s.toSign[:0], now))
	scope := credential.Scope{Day: date[:8], Region: c.Region, Service: "s3"}
	s.toSign = append(append(append(s.toSign[:0], scope.Day...), '/'), c.Region...)
	scopeText := d.Bytes(s.toSign, []byte("/s3/aws4_request"))

	// The client's canonical x-amz-* lines are the provider's too, but for date and token.
	b := s.appendTarget(s.forward[:0], r.Method)
	b = append(append(append(b, "host:"...), c.Authority...), '\n')
	for _, h := range s.amz {
		switch name := s.request[h.from:h.name]; string(name) {
		case sessionToken:
		case "x-amz-date":
			b = append(append(append(b, "x-amz-date:"...), date...), '\n')
		default:
			b = append(b, s.request[h.from:h.to]...)
		}
	}
	b = append(b, '\n')
	names := len(b)
	b = append(b, "host"...)
	for _, h := range s.amz {
		if name := s.request[h.from:h.name]; string(name) != sessionToken {
			b = append(append(b, ';'), name...)
		}
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
	d.Set = append(d.Set, extproc.Header{Name: "x-amz-date", Value: date})
	d.Remove = append(d.Remove, s.drop...)
	return d, nil
}

// rewrite replaces the path if the client spelt path or query in another way than
// the canonical one.
func (s *scratch) rewrite(d *extproc.Decision) {
	if s.same {
		return
	}
	if len(s.query.params) == 0 {
		d.Path = d.Bytes(bytesOf(s.target.uri))
		return
	}
	d.Path = d.Bytes(bytesOf(s.target.uri), []byte("?"), s.query.append(nil))
}
