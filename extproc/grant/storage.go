package grant

import (
	"crypto/subtle"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Storage finds the connector that serves a bucket of the repository, nil if none
// does, and the folder that the repository is limited to there. A connector of that
// bucket's own comes before the account connector.
func (r *Repository) Storage(bucket string) (c *Connector, folder string) {
	if b := r.Buckets[bucket]; b.Connector != nil {
		return b.Connector, b.Folder
	}
	if r.Account != nil && generalBucket(bucket) {
		return r.Account, ""
	}
	return nil, ""
}

// maxFolder leaves half of what a key may have (1,024 bytes) to what is in the folder.
const maxFolder = 512

// validFolder takes what stays the same folder however a provider reads a path: UTF-8
// that ends in a slash, without control characters and backslashes, whose segments are
// neither empty nor dots. The admin API refuses the rest with its reason; here it
// would be a record that did not come from there.
func validFolder(s string) bool {
	inner, ok := strings.CutSuffix(s, "/")
	if !ok || len(s) > maxFolder || !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c == '\\' || unicode.IsControl(c) }) {
		return false
	}
	for segment := range strings.SplitSeq(inner, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// generalBucket admits what an account connector may be asked for: the names of
// "General purpose bucket naming rules", Amazon S3 User Guide, so that nothing else
// that a provider serves below its root is reached with the provider's credential.
// Four names are within those rules and lead elsewhere: MinIO's own API is at
// /minio/, signed for S3 like any request, and Ceph's Object Gateway has its admin
// API at /admin/ and Swift at /auth/ and /swift/. A bucket that is called so needs a
// connector of its own.
func generalBucket(s string) bool {
	switch s {
	case "minio", "admin", "auth", "swift":
		return false
	}
	if len(s) < 3 || len(s) > 63 || !letterOrDigit(s[0]) || !letterOrDigit(s[len(s)-1]) || strings.Contains(s, "..") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !letterOrDigit(c) && c != '-' && c != '.' {
			return false
		}
	}
	if s[0] >= '0' && s[0] <= '9' { // an address is no bucket
		if _, err := netip.ParseAddr(s); err == nil {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// SameAccount says whether two storage connectors are one principal at one endpoint,
// so that the credential of either may act on the buckets of both: what both
// bindings allow together. Secrets are compared too, not only key ids: sealing
// authenticates nobody, so a record that merely claims a key id must not widen what
// the record with the secret is bound to.
func (c *Connector) SameAccount(d *Connector) bool {
	if c.Credential == d.Credential {
		return true
	}
	a, b := c.Credential.Binding(), d.Credential.Binding()
	if a.Use != b.Use || a.Key != b.Key || a.Scheme != b.Scheme || a.Host != b.Host || a.Port != b.Port || a.CA != b.CA {
		return false
	}
	x, y := c.Credential.Secret().Bytes(), d.Credential.Secret().Bytes()
	same := len(x) > 0 && subtle.ConstantTimeCompare(x, y) == 1
	// Asked again: what was freed meanwhile may hold another secret by now.
	return same && c.Credential.Secret().Bytes() != nil && d.Credential.Secret().Bytes() != nil
}
