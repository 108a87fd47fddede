package llm

import (
	"strings"

	"keybridge/extproc"
)

const (
	keyPrefix = "kb-"
	maxKeyID  = 64
	// 32 random bytes are 43 characters of unpadded base64url, 64 of hex.
	minRandom, maxRandom = 43, 128
	maxKey               = len(keyPrefix) + maxKeyID + 1 + maxRandom
)

// bearerKey is a repository key as a client sent it.
type bearerKey struct {
	whole string
	id    string
}

// credentialOf is what a request carries as its key, once, or an error: OpenAI's
// clients send "Authorization: Bearer <key>", Anthropic's that or "x-api-key: <key>".
// The scheme is in any case (RFC 9110 §11.1), one space follows it (RFC 6750 §2.1).
func credentialOf(f form, r *extproc.Request) (string, *extproc.Error) {
	const scheme = "bearer "
	bearers, plain := r.Values("authorization"), 0
	if f == anthropic {
		plain = r.Values("x-api-key")
	}
	switch {
	case bearers+plain == 0:
		return "", errNoKey[f]
	case bearers+plain > 1:
		return "", errTwoKeys[f]
	case plain == 1:
		return r.Header("x-api-key"), nil
	}
	value := r.Header("authorization")
	if len(value) < len(scheme) || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", errBadKey[f]
	}
	return value[len(scheme):], nil
}

// parseKey reads "kb-<id>-<random>": the id letters and digits, random those and
// "-" and "_" (base64url). Everything else is refused, two values that a proxy
// joined with a comma among it.
func parseKey(whole string) (bearerKey, bool) {
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
