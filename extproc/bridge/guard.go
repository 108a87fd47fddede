package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

const (
	// dialWithin bounds name lookup and connection, tlsWithin the handshake, so that a
	// probe that fails can say which of them it was.
	dialWithin = 5 * time.Second
	tlsWithin  = 5 * time.Second
	// maxAnswer bounds what is read of a provider's answer; the longest lists of
	// models have some hundred kilobytes.
	maxAnswer = 4 << 20
	// userAgent lets a provider's logs, and our tests, tell probes from traffic.
	userAgent = "keybridge-probe"
)

// guarded is an HTTP client for one request or two to one bound endpoint, wherever
// a URL or a redirect points: it connects there and nowhere else, to an address
// that the operator allows, and verifies the bound host under the bound CA.
func guarded(to seal.Endpoint, caPEM []byte, systemRoots string, allowed seal.EndpointPolicy, names *net.Resolver) (*http.Client, error) {
	roots := caPEM
	if to.Scheme == "https" {
		if len(roots) == 0 {
			var err error
			if roots, err = os.ReadFile(systemRoots); err != nil {
				return nil, fmt.Errorf("system roots: %w", err)
			}
		}
	}
	pool := x509.NewCertPool()
	if to.Scheme == "https" && !pool.AppendCertsFromPEM(roots) {
		return nil, errors.New("no certificate in the bundle to verify the provider with")
	}
	dialer := net.Dialer{
		Timeout:  dialWithin,
		Resolver: names,
		// After name resolution, for every address that is tried.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %q is not an address", seal.ErrEndpoint, address)
			}
			return allowed.CheckAddress(to, addr.Addr())
		},
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
		},
		TLSClientConfig:        &tls.Config{RootCAs: pool, ServerName: to.Host, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    tlsWithin,
		DisableKeepAlives:      true,
		DisableCompression:     true, // what is small on the wire may be large
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{
		Transport:     bounded{transport, to},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// resolver asks the servers, in turn; without any, those of the host.
func resolver(servers []netip.AddrPort) *net.Resolver {
	if len(servers) == 0 {
		return nil
	}
	var asked atomic.Uint32
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, servers[int(asked.Add(1)-1)%len(servers)].String())
	}}
}

// bounded refuses requests for another endpoint and cuts long answers off.
type bounded struct {
	next http.RoundTripper
	to   seal.Endpoint
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != b.to.Scheme || r.URL.Host != b.to.Authority() {
		return nil, fmt.Errorf("%w: not the endpoint that the credential is bound to", seal.ErrEndpoint)
	}
	r = r.Clone(r.Context()) // a RoundTripper leaves the request as it is
	r.Header.Set("User-Agent", userAgent)
	answer, err := b.next.RoundTrip(r)
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup): // without the resolver's address, which is of no use to who reads this
		return nil, fmt.Errorf("the provider was not reached: lookup %s: %s", lookup.Name, lookup.Err)
	case err != nil:
		return nil, fmt.Errorf("the provider was not reached: %w", err)
	}
	answer.Body = &cut{answer.Body, maxAnswer}
	return answer, nil
}

// cut is a body that fails once it is longer than it may be.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the provider's answer is longer than %d bytes", maxAnswer)
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

const (
	// maxMessage bounds the text of a provider in bytes.
	maxMessage = 300
	// minEcho is the shortest part of a secret that is recognised in a text. Providers
	// repeat keys shortened, first and last characters.
	minEcho  = 6
	withheld = "[withheld]"
)

// publish makes a text of a provider fit to be shown: without any part of the
// secrets and without anything that looks like a signature or a key, without
// control characters, and short.
func publish(text string, secrets ...lockedmem.Secret) string {
	// Bounded before it is searched; what the cap leaves out cannot matter then.
	text = text[:min(len(text), 4*maxMessage)]
	text = strings.ToValidUTF8(text, "")
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	for _, secret := range secrets {
		if secret.Len() == 0 {
			continue
		}
		view := secret.Bytes()
		if view == nil {
			return withheld // the secret is gone, so nothing can be held against it
		}
		text = strings.ToValidUTF8(withoutEcho(text, view), "") // a secret may end within a character
	}
	text = withoutSignatures(text)
	if len(text) <= maxMessage {
		return text
	}
	end := maxMessage - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// withoutEcho replaces every run of text that is part of the secret. It reads
// the secret where it lies.
func withoutEcho(text string, secret []byte) string {
	shortest := min(minEcho, len(secret))
	var out strings.Builder
	for i := 0; i < len(text); {
		longest := 0
		for j := range secret {
			n := 0
			for i+n < len(text) && j+n < len(secret) && text[i+n] == secret[j+n] {
				n++
			}
			longest = max(longest, n)
		}
		if longest < shortest {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(withheld)
		i += longest
	}
	return out.String()
}

// withoutSignatures replaces what has the shape of a SHA-256 in hex, as SigV4
// signatures have.
func withoutSignatures(text string) string {
	const size = 64
	isHex := func(b byte) bool { return '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F' }
	var out strings.Builder
	for i := 0; i < len(text); {
		n := 0
		for i+n < len(text) && isHex(text[i+n]) {
			n++
		}
		switch {
		case n >= size:
			out.WriteString(withheld)
		case n == 0:
			out.WriteByte(text[i])
			n = 1
		default:
			out.WriteString(text[i : i+n])
		}
		i += n
	}
	return out.String()
}
