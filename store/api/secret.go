package api

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"keybridge/keyshare/seal"
)

const redacted = "[redacted]"

// secretText is a provider secret on its way into a sealed record.
type secretText []byte

func (secretText) Format(s fmt.State, _ rune)   { fmt.Fprint(s, redacted) }
func (secretText) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (secretText) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

func (s secretText) wipe() { clear(s) }

// maxSecret bounds static provider keys: the longest known are service tokens of a few kilobytes.
const maxSecret = 16 << 10

var errSecretForm = errors.New("must be a string of up to 16384 visible ASCII characters without spaces")

// unquote decodes a JSON string (syntactically valid, as taken from a decoded
// body) that holds visible ASCII only: a provider secret ends up in signatures
// and header values, where anything else is a paste gone wrong or an injection.
func unquote(v []byte) (secretText, error) {
	if len(v) < 2 || v[0] != '"' {
		return nil, errSecretForm
	}
	v = v[1 : len(v)-1]
	out := make(secretText, 0, len(v)) // never outgrown, so no copy stays behind
	for len(v) > 0 {
		c := v[0]
		v = v[1:]
		if c == '\\' {
			switch c, v = v[0], v[1:]; c {
			case '"', '\\', '/':
			case 'u':
				var u [2]byte
				if _, err := hex.Decode(u[:], v[:4]); err != nil || u[0] != 0 {
					out.wipe()
					return nil, errSecretForm
				}
				c, v = u[1], v[4:]
			default: // \n, \t and the like are not visible
				c = 0
			}
		}
		if c <= ' ' || c > '~' || len(out) == maxSecret {
			out.wipe()
			return nil, errSecretForm
		}
		out = append(out, c)
	}
	return out, nil
}

// storageSecret is a secret with the session token that may come with it, as they are
// sealed.
func (b *body) storageSecret(secret secretText, sealed *seal.Sealed) secretText {
	token := b.secret("sessionToken")
	switch {
	case token == nil:
		return secret
	case sealed != nil:
		b.fail("sessionToken", "comes with sealedSecret; it is sealed with the secret")
	case secret == nil:
		b.fail("sessionToken", "comes without its secret")
	default:
		return seal.WithToken(secret, token)
	}
	token.wipe()
	return secret
}

// issued is the secret of a new repository key, for the one response that shows
// it: letters, digits and dashes, which JSON takes as they are.
type issued []byte

func (issued) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }
func (issued) LogValue() slog.Value       { return slog.StringValue(redacted) }

func (s issued) MarshalJSON() ([]byte, error) {
	return bytes.Join([][]byte{nil, s, nil}, []byte{'"'}), nil
}
