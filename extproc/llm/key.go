package llm

import "strings"

const (
	keyPrefix = "kb-"
	maxKeyID  = 64
	// 32 random bytes are 43 characters of unpadded base64url, 64 of hex.
	minRandom, maxRandom = 43, 128
)

// bearerKey is a repository key as a client sent it.
type bearerKey struct {
	whole string
	id    string
}

// parseBearer reads the value of an Authorization header: "Bearer kb-<id>-<random>",
// the scheme in any case (RFC 9110 §11.1), one space (RFC 6750 §2.1), the id letters
// and digits, random those and "-" and "_" (base64url). Everything else is refused,
// two values that a proxy joined with a comma among it.
func parseBearer(value string) (bearerKey, bool) {
	const scheme = "bearer "
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return bearerKey{}, false
	}
	whole := value[len(scheme):]
	rest, ok := strings.CutPrefix(whole, keyPrefix)
	if !ok {
		return bearerKey{}, false
	}
	id, random, ok := strings.Cut(rest, "-")
	if !ok || len(id) == 0 || len(id) > maxKeyID || len(random) < minRandom || len(random) > maxRandom {
		return bearerKey{}, false
	}
	for i := range len(id) {
		if !isAlphanumeric(id[i]) {
			return bearerKey{}, false
		}
	}
	for i := range len(random) {
		if c := random[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
			return bearerKey{}, false
		}
	}
	return bearerKey{whole, id}, true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
