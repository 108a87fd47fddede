package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Endpoint is the address of a provider's API, in the one form that bindings use.
type Endpoint struct {
	Scheme string // "https" or "http"
	Host   string // lower-case DNS name or IP address, no brackets
	Port   uint16 // always explicit
	Path   string // "" or "/segment…", no trailing slash
}

// ErrEndpoint is what [ParseEndpoint], [ParseEndpointPolicy] and
// [EndpointPolicy.Check] fail with.
var ErrEndpoint = errors.New("endpoint not accepted")

// ParseEndpoint reads "https://host[:port][/path]". Scheme and host are
// lower-cased, the port of the scheme filled in and one trailing slash removed;
// user info, query, fragment, encoded characters and every other spelling that
// two parsers might read differently are refused.
func ParseEndpoint(raw string) (Endpoint, error) {
	fail := func(format string, args ...any) (Endpoint, error) {
		return Endpoint{}, fmt.Errorf("%w: "+format, append([]any{ErrEndpoint}, args...)...)
	}
	if len(raw) > 2048 {
		return fail("longer than 2048 bytes")
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	var e Endpoint
	switch e.Scheme = strings.ToLower(scheme); {
	case !ok:
		return fail("no scheme; expected https://host[:port][/path]")
	case e.Scheme == "https":
		e.Port = 443
	case e.Scheme == "http":
		e.Port = 80
	default:
		return fail("scheme is neither https nor http")
	}
	// Raw values are not repeated in errors: what precedes an @ may be a password.
	if strings.ContainsAny(rest, "@?#%\\") {
		return fail("user info, query, fragment and encoded characters are not allowed")
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], strings.TrimSuffix(rest[i:], "/")
	}
	host, port, err := splitAuthority(authority)
	if err != nil {
		return fail("%v", err)
	}
	if port != 0 {
		e.Port = port
	}
	if e.Host, err = canonicalHost(host); err != nil {
		return fail("%v", err)
	}
	if err := checkPath(path); err != nil {
		return fail("%v", err)
	}
	e.Path = path
	return e, nil
}

// splitAuthority takes "host", "host:port", "[v6]" or "[v6]:port" apart; port is
// 0 where there is none.
func splitAuthority(s string) (host string, port uint16, err error) {
	rest := ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, errors.New("bracket without end")
		}
		host, rest = s[1:end], s[end+1:]
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() {
			return "", 0, errors.New("brackets are for IPv6 addresses")
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	} else {
		host = s
	}
	if rest == "" {
		return host, 0, nil
	}
	digits, ok := strings.CutPrefix(rest, ":")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || n == 0 || digits[0] == '0' || digits[0] == '+' {
		return "", 0, errors.New("port is not a number from 1 to 65535")
	}
	return host, uint16(n), nil
}

// String is the URL that [ParseEndpoint] reads back to e.
func (e Endpoint) String() string { return e.Scheme + "://" + e.Authority() + e.Path }

// Authority is host[:port] as clients send it: without the port that is the
// scheme's default, IPv6 addresses in brackets.
func (e Endpoint) Authority() string {
	if e.Scheme == "https" && e.Port == 443 || e.Scheme == "http" && e.Port == 80 {
		if strings.Contains(e.Host, ":") {
			return "[" + e.Host + "]"
		}
		return e.Host
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// CADigest is the hex SHA-256 of a PEM bundle, as in [Binding], and "" for an
// empty one. It covers the bytes: reformatting the bundle changes it.
func CADigest(pem []byte) string {
	if len(pem) == 0 {
		return ""
	}
	sum := sha256.Sum256(pem)
	return hex.EncodeToString(sum[:])
}
