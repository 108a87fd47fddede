package s3

import (
	"strings"
	"time"

	"keybridge/extproc"
)

// maxExpires is how long a presigned URL may be valid: a week ("Authenticating
// Requests: Using Query Parameters", Amazon S3 API Reference).
const maxExpires = 7 * 24 * time.Hour

// keepWithin is how old a presigned URL may be for its signing key to be cached:
// credential.Keep lets keys go whose day is two days from another's, and with half a
// day no URL's is, whichever side of midnight the clocks of clients are.
const keepWithin = 12 * time.Hour

// parsePresigned reads the parameters of query authentication out of s.query, which
// has been parsed, and marks them, so that they do not reach the provider. Each is
// there exactly once, spelt as AWS spells it.
//
// SDKs hoist headers into the query: every other X-Amz-* parameter stands for the
// header of that name, held to the same list, and reaches the provider as the header.
func (s *scratch) parsePresigned() (a authorization, f *failure) {
	a.presigned = true
	var mechanism, credential, expires string
	for i := range s.query.params {
		p := &s.query.params[i]
		name := view(s.query.name(i))
		if !isAmz(name) {
			switch name {
			case "AWSAccessKeyId", "Signature":
				return a, &failSigV2
			}
			continue
		}
		p.auth = true
		var field *string
		switch name {
		case "X-Amz-Algorithm":
			field = &mechanism
		case "X-Amz-Credential":
			field = &credential
		case "X-Amz-Date":
			field = &a.date
		case "X-Amz-Expires":
			field = &expires
		case "X-Amz-SignedHeaders":
			field = &a.signed
		case "X-Amz-Signature":
			field, p.signature = &a.signature, true
		default:
			if f := s.hoist(i); f != nil {
				return a, f
			}
			continue
		}
		if *field != "" {
			return a, &failQueryAuth
		}
		if *field = s.decoded(s.query.value(i)); *field == "" {
			return a, &failQueryAuth
		}
	}
	switch mechanism {
	case algorithm:
	case "":
		return a, &failQueryAuth
	case "AWS4-ECDSA-P256-SHA256":
		return a, &failQuerySigV4A
	default:
		return a, &failQueryAlgorithm
	}
	if credential == "" || a.signed == "" || a.signature == "" || a.date == "" || expires == "" {
		return a, &failQueryAuth
	}
	if wrong := a.parseCredential(credential); wrong != "" {
		return a, failQueryCredential.because(wrong)
	}
	if !validSigned(a.signed) || !hexDigits(a.signature, 64) {
		return a, &failQueryAuth
	}
	a.expires, f = parseExpires(expires)
	return a, f
}

func isAmz(name string) bool { return len(name) >= 6 && strings.EqualFold(name[:6], "x-amz-") }

// parseExpires reads X-Amz-Expires: 1 to 604800 in decimal.
func parseExpires(s string) (time.Duration, *failure) {
	n, negative := strings.CutPrefix(s, "-")
	switch {
	case n == "" || n[0] == '0' || !digits(n, len(n)):
		return 0, &failQueryNumber
	case negative:
		return 0, &failQueryNegative
	case len(n) > 6 || time.Duration(number(n))*time.Second > maxExpires:
		return 0, &failQueryExpires
	}
	return time.Duration(number(n)) * time.Second, nil
}

// decoded keeps what an encoded value means for the rest of the request. Where the
// buffer grows, strings made before stay what they are: nothing is written twice.
func (s *scratch) decoded(encoded []byte) string {
	from := len(s.text)
	s.text = appendDecoded(s.text, encoded)
	return view(s.text[from:])
}

// hoist takes a parameter that stands for a header.
func (s *scratch) hoist(i int) *failure {
	from := len(s.text)
	s.text = appendDecoded(s.text, s.query.name(i))
	lower := s.text[from:]
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	name, value := view(lower), s.decoded(s.query.value(i))
	if !validName(name) || !validValue(value) {
		return &failQueryHeader
	}
	switch name {
	case "x-amz-date", "x-amz-algorithm", "x-amz-credential", "x-amz-expires", "x-amz-signedheaders", "x-amz-signature":
		return &failQueryAuth // in another case than AWS's
	case sessionToken: // not even as a header
		s.found.queryToken = true
		return nil
	case payloadHeader:
		s.found.payload.add(value)
	default:
		s.found.note(name, value)
	}
	s.hoisted = append(s.hoisted, extproc.Header{Name: name, Value: value})
	return nil
}

// validValue takes what a header may carry (RFC 9110 §5.5, without tabs) and what an
// HTTP codec would not trim.
func validValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != "" && s[0] != ' ' && s[len(s)-1] != ' '
}

// complete gives a verified presigned request the lines that a header-signed one has:
// hash, date and what was hoisted. It comes after the client's signature was checked,
// whose canonical request these lines are not part of.
func (s *scratch) complete(r *extproc.Request, a *authorization) *failure {
	if r.Values(payloadHeader) == 0 && !s.isHoisted(payloadHeader) {
		s.hoisted = append(s.hoisted, extproc.Header{Name: payloadHeader, Value: s.found.payload.value})
	}
	for i := range s.hoisted {
		if !s.insert(s.hoisted[i].Name, s.hoisted[i].Value) {
			return &failQueryHeader
		}
	}
	s.insert("x-amz-date", a.date)
	return nil
}

func (s *scratch) isHoisted(name string) bool {
	for i := range s.hoisted {
		if s.hoisted[i].Name == name {
			return true
		}
	}
	return false
}

// insert adds a line to the canonical headers, in its place. It says no if the header
// is there already.
func (s *scratch) insert(name, value string) bool {
	at := len(s.amz)
	for at > 0 {
		h := s.amz[at-1]
		other := view(s.request[h.from:h.name])
		if other == name {
			return false
		}
		if other < name {
			break
		}
		at--
	}
	from := len(s.request)
	s.request = append(append(s.request, name...), ':')
	s.request = append(appendTrimmed(s.request, value), '\n')
	s.amz = append(s.amz, span{})
	copy(s.amz[at+1:], s.amz[at:])
	s.amz[at] = span{from, from + len(name), len(s.request)}
	return true
}
