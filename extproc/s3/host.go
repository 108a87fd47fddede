package s3

import (
	"slices"
	"strings"
)

// domains are the hosts whose subdomains are buckets ("Virtual hosting of buckets",
// Amazon S3 User Guide), the longest first: of "s3.example" and "example", the
// former is no bucket of the latter.
type domains []string

func newDomains(names []string) domains {
	d := make(domains, 0, len(names))
	for _, n := range names {
		if n = strings.ToLower(strings.Trim(n, ".")); n != "" {
			d = append(d, n)
		}
	}
	slices.SortFunc(d, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(d)
}

// bucket is the bucket that an authority names. virtual is false where the path does:
// at a domain itself and at every other host, an IP address among them.
func (d domains) bucket(authority string) (bucket string, virtual bool) {
	host := authority
	if i := strings.LastIndexByte(host, ':'); i >= 0 && digits(host[i+1:], len(host)-i-1) {
		host = host[:i]
	}
	for _, domain := range d {
		n := len(host) - len(domain)
		if n < 0 || !strings.EqualFold(host[n:], domain) {
			continue
		}
		if n == 0 {
			return "", false
		}
		if host[n-1] == '.' {
			return host[:n-1], true
		}
	}
	return "", false
}
