package s3

import (
	"strings"

	"keybridge/extproc"
)

// class is what a header means for a request.
type class uint8

const (
	classPass    class = iota // goes on as it is
	classAmz                  // x-amz-*: goes on, signed for the provider
	classConfig               // x-amz-* that publishes, locks or configures: only where allowed
	classCopy                 // x-amz-* of a copy
	classDrop                 // does not reach the provider
	classUnknown              // x-amz-* that is not on the list
)

// classify sorts a header by name. The x-amz-* names are those of the operations in
// operations.go ("Common request headers" and each action's "URI request
// parameters", Amazon S3 API Reference); what S3 adds later is refused until listed.
func classify(name string) class {
	amz, ok := strings.CutPrefix(name, "x-amz-")
	if !ok {
		return classifyOther(name)
	}
	switch amz {
	case "date", "content-sha256", "decoded-content-length", "trailer", "user-agent",
		"expected-bucket-owner", "request-payer",
		"storage-class", "tagging", "mp-object-size",
		"sdk-checksum-algorithm",
		"if-match-initiated-time", "if-match-last-modified-time", "if-match-size",
		"object-attributes", "max-parts", "part-number-marker", "optional-object-attributes",
		"server-side-encryption", "server-side-encryption-aws-kms-key-id",
		"server-side-encryption-context", "server-side-encryption-bucket-key-enabled",
		"server-side-encryption-customer-algorithm", "server-side-encryption-customer-key",
		"server-side-encryption-customer-key-md5":
		return classAmz
	case "security-token":
		return classDrop
	case "acl", "website-redirect-location", "bypass-governance-retention", "mfa",
		"bucket-object-lock-enabled", "bucket-object-lock-token", "object-ownership",
		"confirm-remove-self-bucket-access", "transition-default-minimum-object-size",
		"skip-destination-validation":
		return classConfig
	case "metadata-directive", "tagging-directive", "source-expected-bucket-owner":
		return classCopy
	}
	switch {
	case strings.HasPrefix(amz, "meta-"), strings.HasPrefix(amz, "checksum-"):
		return classAmz
	case strings.HasPrefix(amz, "grant-"), strings.HasPrefix(amz, "object-lock-"):
		return classConfig
	case strings.HasPrefix(amz, "copy-source"):
		return classCopy
	}
	return classUnknown
}

// classifyOther drops credentials of other kinds and vendor headers, as S3-compatible
// stores obey their own beside x-amz-*. What Envoy owns is left to Envoy; trace ids
// of AWS mean nothing.
func classifyOther(name string) class {
	if name == "" || (name[0] != 'x' && name[0] != 'c' && name[0] != 'p') {
		return classPass
	}
	switch {
	case name == "cookie", name == "proxy-authorization", strings.HasPrefix(name, "cf-"),
		strings.IndexByte(name, '_') >= 0: // CGI and WSGI servers take x_amz_acl for x-amz-acl
		return classDrop
	case !strings.HasPrefix(name, "x-"):
		return classPass
	}
	switch name {
	case "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-amzn-trace-id":
		return classPass
	}
	if strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "x-keybridge-") {
		return classPass
	}
	return classDrop
}

// maxHeaders bounds the header lines of a request; Envoy's default is 100.
const maxHeaders = 256

// maxHeaderBytes bounds their names and values together ("PutObject", Amazon S3 API
// Reference: 8 KB). Host, path and query do not count.
const maxHeaderBytes = 8 << 10

// marks is a set of header lines.
type marks [maxHeaders / 64]uint64

func (m *marks) set(i int)      { m[i/64] |= 1 << (i % 64) }
func (m *marks) has(i int) bool { return m[i/64]&(1<<(i%64)) != 0 }

// found is what one pass over the header lines finds.
type found struct {
	authorization, date, payload single
	copySource                   single
	copying, copyRange           bool // a header of classCopy; x-amz-copy-source-range
	config, unsupported          bool // a header of classConfig; one of classUnknown
	twoHosts                     bool // Host beside :authority
	queryToken                   bool // X-Amz-Security-Token of a presigned URL
	bytes                        int  // of all names and values
}

// single is a header that must not be repeated.
type single struct {
	value string
	lines int
}

func (h *single) add(value string) { h.value, h.lines = value, h.lines+1 }

// scan reads all header lines once.
func (s *scratch) scan(headers []extproc.Header) {
	f := &s.found
	for i := range headers {
		name := headers[i].Name
		f.bytes += len(name) + len(headers[i].Value)
		switch name {
		case "authorization":
			f.authorization.add(headers[i].Value)
			continue
		case "x-amz-date":
			f.date.add(headers[i].Value)
			continue
		case "x-amz-content-sha256":
			f.payload.add(headers[i].Value)
			continue
		case "host":
			f.twoHosts = true
			continue
		}
		if f.note(name, headers[i].Value) == classDrop {
			s.drop = append(s.drop, name)
		}
	}
}

// note remembers what a header means for the whole request.
func (f *found) note(name, value string) class {
	c := classify(name)
	switch c {
	case classConfig:
		f.config = true
	case classCopy:
		f.copying = true
		switch name {
		case copySource:
			f.copySource.add(value)
		case "x-amz-copy-source-range":
			f.copyRange = true
		}
	case classUnknown:
		f.unsupported = true
	case classPass, classAmz, classDrop:
	}
	return c
}

// span is one line of the canonical headers: name, ':', value, '\n'.
type span struct{ from, name, to int }

// appendSigned writes the canonical headers that the client signed, notes where
// each x-amz-* one is, and marks the header lines that the signature covers. A
// header that was signed but is not there cannot verify.
func (s *scratch) appendSigned(r *extproc.Request, signed string) bool {
	headers := r.Headers()
	for more := true; more; {
		var name string
		name, signed, more = cutAt(signed, ';')
		from := len(s.request)
		s.request = append(append(s.request, name...), ':')
		there := false
		if name == "host" {
			s.request = appendTrimmed(s.request, r.Authority)
			there = true
		}
		for i := range headers {
			if headers[i].Name != name {
				continue
			}
			if there {
				s.request = append(s.request, ',')
			}
			s.request = appendTrimmed(s.request, headers[i].Value)
			s.covered.set(i)
			there = true
		}
		if !there {
			return false
		}
		s.request = append(s.request, '\n')
		if strings.HasPrefix(name, "x-amz-") && name != sessionToken { // the client's does not go on
			s.amz = append(s.amz, span{from, from + len(name), len(s.request)})
		}
	}
	return true
}

// appendTrimmed writes a header value without spaces around it and with single
// spaces inside ("Create a canonical request", IAM User Guide).
func appendTrimmed(b []byte, v string) []byte {
	if strings.IndexByte(v, ' ') < 0 && strings.IndexByte(v, '\t') < 0 {
		return append(b, v...)
	}
	v = strings.Trim(v, " \t")
	for {
		i := strings.Index(v, "  ")
		if i < 0 {
			return append(b, v...)
		}
		b = append(b, v[:i+1]...)
		v = strings.TrimLeft(v[i:], " ")
	}
}
