package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"keybridge/keyshare/seal"
)

// maxAnswer bounds what is read of a response: lists are not paged.
const maxAnswer = 256 << 20

// Options of a Client; the zero value is usable.
type Options struct {
	// HTTP does the requests; http.DefaultClient's settings by default. Redirects are
	// never followed: they would carry the token along.
	HTTP *http.Client
	// VerifySealingKey returns an error unless the signed manifest (JSON) is one of
	// the operator's and names keyID as current. Without it secrets are sealed to
	// whatever key the server names.
	VerifySealingKey func(manifest []byte, keyID string) error
}

// Client is safe for concurrent use.
type Client struct {
	base   string
	token  string
	http   *http.Client
	verify func(manifest []byte, keyID string) error
}

// New returns a client of the admin API at a URL such as "https://host:port". Over
// http the token would be readable on the way, so that is for loopback only.
func New(baseURL, token string, o Options) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("admin API: the address must look like https://host:port")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("admin API: the address must begin with https:// (http:// is for loopback only)")
	}
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, errors.New("admin API: the token is empty or has characters that no token has")
	}
	h := http.Client{}
	if o.HTTP != nil {
		h = *o.HTTP
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: strings.TrimSuffix(u.String(), "/"), token: token, http: &h, verify: o.VerifySealingKey}, nil
}

// Error is a request that the API refused.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"error_code"`
	Message string `json:"message"`
	// RetryAfter is how long a caller who was too fast has to wait.
	RetryAfter time.Duration `json:"-"`
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("admin API: HTTP status %d", e.Status)
	}
	return fmt.Sprintf("admin API: %s (%s)", e.Message, e.Code)
}

// Secret is a secret that does not print itself; string(s) reveals it.
type Secret []byte

const redacted = "[redacted]"

func (Secret) Format(s fmt.State, _ rune)   { fmt.Fprint(s, redacted) }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// UnmarshalJSON reads the secret of a new repository key.
func (s *Secret) UnmarshalJSON(b []byte) error {
	if len(b) < 2 || b[0] != '"' || bytes.IndexByte(b, '\\') >= 0 {
		return errors.New("a secret that is not a plain string")
	}
	*s = bytes.Clone(b[1 : len(b)-1])
	return nil
}

// do sends one request and decodes the answer into out, unless that is nil.
// Headers come in pairs; one with an empty value is not sent.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any, headers ...string) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("admin API: encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return fmt.Errorf("admin API: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("admin API: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("admin API: read answer: %w", err)
	}
	defer clear(answer)
	if resp.StatusCode != http.StatusOK {
		refused := &Error{}
		if json.Unmarshal(answer, refused) != nil {
			refused = &Error{} // not from the API: a proxy's page, say
		}
		refused.Status = resp.StatusCode
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			refused.RetryAfter = time.Duration(seconds) * time.Second
		}
		return refused
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("admin API: decode answer: %w", err)
	}
	return nil
}

// SealingKey returns the key that secrets are sealed to now, verified as Options say.
func (c *Client) SealingKey(ctx context.Context) (*seal.PublicKey, error) {
	var answer struct {
		KeyID     string          `json:"keyId"`
		PublicKey string          `json:"publicKey"`
		Manifest  json.RawMessage `json:"manifest"`
	}
	if err := c.do(ctx, http.MethodGet, "/sealing-key", nil, nil, &answer); err != nil {
		return nil, err
	}
	pub, err := seal.ParsePublicKey([]byte(answer.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	if pub.ID() != answer.KeyID {
		return nil, fmt.Errorf("sealing key: the server calls it %.64q, it is %s", answer.KeyID, pub.ID())
	}
	if c.verify != nil {
		if err := c.verify(answer.Manifest, pub.ID()); err != nil {
			return nil, fmt.Errorf("sealing key: %w", err)
		}
	}
	return pub, nil
}
