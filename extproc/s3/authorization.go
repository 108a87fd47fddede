package s3

import (
	"strings"
	"time"
)

// authorization is the Authorization header of Signature Version 4:
//
//	AWS4-HMAC-SHA256 Credential=<key id>/<day>/<region>/s3/aws4_request,
//	  SignedHeaders=<names>, Signature=<64 hex digits>
//
// ("Authenticating Requests: Using the Authorization Header", Amazon S3 API
// Reference). Its strings are parts of the header, or of the memory that holds the
// decoded parameters of a presigned URL.
type authorization struct {
	presigned bool
	expires   time.Duration // of a presigned URL, from its date on
	date      string

	key       string
	day       string
	region    string
	scope     string // <day>/<region>/s3/aws4_request
	signed    string // lower-case names, sorted, joined by ';'
	signature string
}

const algorithm = "AWS4-HMAC-SHA256"

// Limits of what is parsed at all.
const (
	maxKeyID  = 128
	maxRegion = 64
)

// parseAuthorization reads the header strictly: each part once, nothing else. Parts
// may come in any order, with spaces after the commas as the SDKs and curl send them.
func parseAuthorization(header string) (a authorization, f *failure) {
	mechanism, rest, spaced := cutAt(header, ' ')
	switch {
	case !spaced:
		return a, &failAuthHeader
	case mechanism == algorithm:
	case mechanism == "AWS":
		return a, &failSigV2
	case mechanism == "AWS4-ECDSA-P256-SHA256":
		return a, &failSigV4A
	default:
		return a, &failUnsupportedAuth
	}
	var credential string
	parts, unknown := 0, false
	for more := true; more; parts++ {
		var part string
		part, rest, more = cutAt(rest, ',')
		part = strings.Trim(part, " ")
		name, value, ok := cutAt(part, '=')
		if !ok {
			return a, malformed("the authorization component ", quoted(part), " is malformed.")
		}
		var field *string
		switch name {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &a.signed
		case "Signature":
			field = &a.signature
		default:
			unknown = true
			continue
		}
		if *field != "" || value == "" {
			return a, malformed("the authorization component ", quoted(part), " is malformed.")
		}
		*field = value
	}
	switch {
	case parts != 3:
		return a, malformed("the authorization header requires three components: Credential, SignedHeaders, and Signature.")
	case credential == "":
		return a, malformed("missing Credential.")
	case a.signed == "":
		return a, malformed("missing SignedHeaders.")
	case a.signature == "" || unknown:
		return a, malformed("missing Signature.")
	}
	if wrong := a.parseCredential(credential); wrong != "" {
		return a, malformed(wrong)
	}
	switch {
	case !validSigned(a.signed):
		return a, malformed("the authorization component ", quoted("SignedHeaders="+a.signed), " is malformed.")
	case !hexDigits(a.signature, 64):
		return a, malformed("the authorization component ", quoted("Signature="+a.signature), " is malformed.")
	}
	return a, nil
}

func malformed(why ...string) *failure { return failMalformed.because(strings.Join(why, "")) }

// quoted repeats what a client sent, as much of it as an error may.
func quoted(s string) string { return `"` + s[:min(len(s), maxDetail)] + `"` }

// parseCredential says in S3's words what is wrong, or nothing.
func (a *authorization) parseCredential(s string) (wrong string) {
	key, scope, _ := cutAt(s, '/')
	day, rest, _ := cutAt(scope, '/')
	region, rest, _ := cutAt(rest, '/')
	service, terminal, _ := cutAt(rest, '/')
	switch {
	case strings.Count(s, "/") != 4, key == "", len(key) > maxKeyID, !validRegion(region):
		return `the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`
	case terminal != "aws4_request":
		return "incorrect terminal " + quoted(terminal) + `. This endpoint uses "aws4_request".`
	case service != "s3":
		return "incorrect service " + quoted(service) + `. This endpoint belongs to "s3".`
	case !digits(day, 8):
		return "incorrect date format " + quoted(day) + `. This date in the credential must be in the format "yyyyMMdd".`
	}
	a.key, a.scope, a.day, a.region = key, scope, day, region
	return ""
}

func validRegion(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxRegion
}

// validSigned takes lower-case header names in strictly ascending order, host among
// them. Out of order or repeated, canonical requests would differ between readers.
func validSigned(s string) bool {
	last, host := "", false
	for more := true; more; {
		var name string
		name, s, more = cutAt(s, ';')
		if name <= last || !validName(name) {
			return false
		}
		host = host || name == "host"
		last = name
	}
	return host
}

// validName takes lower-case field names (RFC 9110 §5.1).
func validName(s string) bool { return s != "" && every(s, &nameBytes) }

var (
	nameBytes = byteSet("abcdefghijklmnopqrstuvwxyz0123456789-_.!#$%&'*+^`|~")
	lowerHex  = byteSet("0123456789abcdef")
)

func byteSet(s string) (t [256]bool) {
	for i := range len(s) {
		t[s[i]] = true
	}
	return t
}

func every(s string, in *[256]bool) bool {
	for i := 0; i < len(s); i++ {
		if !in[s[i]] {
			return false
		}
	}
	return true
}

func digits(s string, n int) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) == n
}

func hexDigits(s string, n int) bool { return len(s) == n && every(s, &lowerHex) }
