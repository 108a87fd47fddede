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
	mechanism, rest, _ := strings.Cut(header, " ")
	switch mechanism {
	case algorithm:
	case "AWS":
		return a, &failSigV2
	case "AWS4-ECDSA-P256-SHA256":
		return a, &failSigV4A
	default:
		return a, &failUnsupportedAuth
	}
	var credential string
	for more := true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		name, value, _ := strings.Cut(strings.Trim(part, " "), "=")
		var field *string
		switch name {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &a.signed
		case "Signature":
			field = &a.signature
		default:
			return a, &failMalformed
		}
		if *field != "" || value == "" {
			return a, &failMalformed
		}
		*field = value
	}
	if !a.parseCredential(credential) || !validSigned(a.signed) || !hexDigits(a.signature, 64) {
		return a, &failMalformed
	}
	return a, nil
}

func (a *authorization) parseCredential(s string) bool {
	var ok bool
	if a.key, a.scope, ok = strings.Cut(s, "/"); !ok || a.key == "" || len(a.key) > maxKeyID {
		return false
	}
	var rest string
	a.day, rest, _ = strings.Cut(a.scope, "/")
	a.region, rest, _ = strings.Cut(rest, "/")
	return rest == "s3/aws4_request" && digits(a.day, 8) && validRegion(a.region)
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
		name, s, more = strings.Cut(s, ";")
		if name <= last || !validName(name) {
			return false
		}
		host = host || name == "host"
		last = name
	}
	return host
}

// validName takes lower-case field names (RFC 9110 §5.1).
func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("-_.!#$%&'*+^`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

func digits(s string, n int) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) == n
}

func hexDigits(s string, n int) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == n
}
