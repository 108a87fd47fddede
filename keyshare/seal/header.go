package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Format is the version of the record format that this package reads and writes.
const Format = 1

// Uses of a [Binding].
const (
	UseS3     = "s3"     // credential: the provider's access key secret; Key is the access key id
	UseOpenAI = "openai" // credential: a bearer key of an OpenAI-compatible API
	// UseAnthropic is a credential: an x-api-key of the Anthropic API.
	UseAnthropic = "anthropic"
	UseS3Key     = "s3-key" // repository key: the S3 secret itself
	UseAIKey     = "ai-key" // repository key: SHA-256 of the bearer secret
)

// Limits of header fields, in bytes. DNS names are limited by RFC 1035 §2.3.4.
const (
	maxKey   = 256
	maxHost  = 253
	maxScope = 1024
	// JSON numbers are exact up to here, and browsers seal too.
	maxVersion = 1<<53 - 1
)

// ErrHeader is what [Header.Validate] fails with.
var ErrHeader = errors.New("seal: invalid header")

// Validate reports whether every field has its one allowed form. Errors name the
// field and wrap [ErrHeader].
func (h Header) Validate() error {
	switch {
	case h.Format != Format:
		return headerError("format %d, this version knows %d", h.Format, Format)
	case !isUUID(h.Workspace):
		return headerError("workspace is not a lower-case UUID")
	case h.Type != TypeCredential && h.Type != TypeRepositoryKey:
		return headerError("unknown type %.32q", h.Type)
	case !isUUID(h.Record):
		return headerError("record is not a lower-case UUID")
	case h.Version == 0 || h.Version > maxVersion:
		return headerError("version %d is not between 1 and 2^53-1", h.Version)
	}
	if h.Type == TypeCredential {
		return h.Binding.validateCredential()
	}
	return h.Binding.validateRepositoryKey()
}

func (b Binding) validateCredential() error {
	switch {
	case b.Repository != "":
		return headerError("binding.repository is for repository keys")
	case b.Scheme != "https" && b.Scheme != "http":
		return headerError("binding.scheme is neither https nor http")
	case b.Port == 0:
		return headerError("binding.port is missing")
	case b.CA != "" && !isDigest(b.CA):
		return headerError("binding.ca is not a hex SHA-256")
	case b.CA != "" && b.Scheme != "https":
		return headerError("binding.ca needs scheme https")
	}
	if host, err := canonicalHost(b.Host); err != nil || host != b.Host {
		return headerError("binding.host %.64q is not in canonical form", b.Host)
	}
	switch b.Use {
	case UseS3:
		if !isKeyID(b.Key) {
			return headerError("binding.key is not an access key id")
		}
		if !isBucket(b.Scope) && b.Scope != "*" {
			return headerError("binding.scope is neither a bucket name nor *")
		}
	case UseOpenAI, UseAnthropic:
		if b.Key != "" {
			return headerError("binding.key is not used by %q", b.Use)
		}
		if err := checkPath(b.Scope); err != nil {
			return headerError("binding.scope: %v", err)
		}
	default:
		return headerError("unknown binding.use %.32q of a credential", b.Use)
	}
	return nil
}

func (b Binding) validateRepositoryKey() error {
	switch {
	case b.Scheme != "" || b.Host != "" || b.Port != 0 || b.CA != "" || b.Scope != "":
		return headerError("binding of a repository key names an endpoint or scope")
	case !isUUID(b.Repository):
		return headerError("binding.repository is not a lower-case UUID")
	case !isKeyID(b.Key):
		return headerError("binding.key is not a key id")
	case b.Use != UseS3Key && b.Use != UseAIKey:
		return headerError("unknown binding.use %.32q of a repository key", b.Use)
	}
	return nil
}

func headerError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrHeader}, args...)...)
}

// Canonical is the one encoding of a header, which is what both parts of a
// record authenticate. Integers are big-endian; a string is its length in two
// bytes, then its bytes:
//
//	string "keybridge record"
//	uint16 format
//	string workspace
//	string type
//	string record
//	uint64 version
//	string binding.use
//	string binding.key
//	string binding.scheme
//	string binding.host
//	uint16 binding.port
//	string binding.ca
//	string binding.scope
//	string binding.repository
//
// h must be valid: only then are all strings shorter than 64 KiB.
func (h Header) Canonical() []byte {
	b := make([]byte, 0, 512)
	b = appendString(b, domain)
	b = binary.BigEndian.AppendUint16(b, h.Format)
	b = appendString(b, h.Workspace)
	b = appendString(b, h.Type)
	b = appendString(b, h.Record)
	b = binary.BigEndian.AppendUint64(b, h.Version)
	b = appendString(b, h.Binding.Use)
	b = appendString(b, h.Binding.Key)
	b = appendString(b, h.Binding.Scheme)
	b = appendString(b, h.Binding.Host)
	b = binary.BigEndian.AppendUint16(b, h.Binding.Port)
	b = appendString(b, h.Binding.CA)
	b = appendString(b, h.Binding.Scope)
	b = appendString(b, h.Binding.Repository)
	return b
}

// domain keeps a header from being mistaken for anything else of ours that is
// authenticated.
const domain = "keybridge record"

func (r *reader) header() Header {
	if r.string() != domain {
		r.fail()
	}
	return Header{
		Format:    r.uint16(),
		Workspace: r.string(),
		Type:      r.string(),
		Record:    r.string(),
		Version:   r.uint64(),
		Binding: Binding{
			Use:        r.string(),
			Key:        r.string(),
			Scheme:     r.string(),
			Host:       r.string(),
			Port:       r.uint16(),
			CA:         r.string(),
			Scope:      r.string(),
			Repository: r.string(),
		},
	}
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	for i, c := range []byte(s) {
		if i != 8 && i != 13 && i != 18 && i != 23 && !isHex(c) {
			return false
		}
	}
	return s != "00000000-0000-0000-0000-000000000000"
}

// isDigest reports whether s is a SHA-256 in lower-case hex.
func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !isHex(c) {
			return false
		}
	}
	return true
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// isKeyID admits the key ids of AWS and compatible services and e-mail-like ids:
// visible ASCII without what delimits a credential in SigV4 ("/", ",", "=" and
// spaces) or would need quoting.
func isKeyID(s string) bool {
	if s == "" || len(s) > maxKey {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/,="\<>`, c) >= 0 {
			return false
		}
	}
	return true
}

// isBucket is looser than AWS's rules for new buckets, which MinIO, old
// us-east-1 buckets and others do not share, but keeps a bucket one path segment.
func isBucket(s string) bool {
	if s == "" || len(s) > 255 || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && c != '-' && c != '_' && c != '.' && c != ':' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// canonicalHost lower-cases a DNS name or formats an IP address, without
// brackets. It refuses whatever resolvers and proxies might read differently:
// a trailing dot, IPv6 zones, and the short, octal and hexadecimal spellings of
// IPv4 addresses that inet_aton accepts.
func canonicalHost(s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return "", errors.New("IPv6 zones are not allowed")
		}
		return addr.Unmap().String(), nil
	}
	if s == "" || len(s) > maxHost {
		return "", errors.New("host is empty or too long")
	}
	s = strings.ToLower(s)
	var label string
	for label = range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("host %.64q is not a DNS name", s)
		}
		for _, c := range []byte(label) {
			if !isAlphanumeric(c) && c != '-' {
				return "", fmt.Errorf("host %.64q is not a DNS name", s)
			}
		}
	}
	// As WHATWG's URL standard ("ends in a number"): such a host is an IPv4
	// address or nothing.
	if strings.Trim(label, "0123456789") == "" || strings.HasPrefix(label, "0x") {
		return "", fmt.Errorf("host %.64q is neither a DNS name nor an IP address", s)
	}
	return s, nil
}

// checkPath admits "" or an absolute path that has one spelling: no trailing or
// double slash, no dot segments, nothing encoded.
func checkPath(s string) error {
	if s == "" {
		return nil
	}
	if s[0] != '/' || len(s) > maxScope {
		return errors.New("path does not start with / or is too long")
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return errors.New("path has an empty or dot segment")
		}
		for _, c := range []byte(segment) {
			if !isAlphanumeric(c) && strings.IndexByte("-._~:@", c) < 0 {
				return errors.New("path has a character that would need encoding")
			}
		}
	}
	return nil
}
