package llm

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

// Protocol is the extproc.Protocol of OpenAI-compatible APIs.
type Protocol struct{ live *grant.Live }

// New makes a Protocol that decides by the index in live.
func New(live *grant.Live) *Protocol { return &Protocol{live} }

// Name implements extproc.Protocol.
func (*Protocol) Name() string { return "openai" }

// Unavailable implements extproc.Protocol.
func (*Protocol) Unavailable() *extproc.Error { return errUnavailable }

// removed are the client's headers that never reach a provider. Envoy has
// replaced Authorization by then.
var removed = [...]string{
	// Credentials, of this API or another that a client may be configured for.
	"api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key", "cookie", "proxy-authorization",
	"x-amz-security-token",
	// Whom the provider bills; the connector's key decides that.
	"openai-organization", "openai-project", "x-goog-user-project",
	// Understood by some servers and frameworks as another method or path than the one allowed here.
	"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url",
}

// bearer stands before the provider's key.
var bearer = []byte("Bearer ")

// Decide implements extproc.Protocol. The key is checked before the path, so that
// who has none learns nothing of what is served.
func (p *Protocol) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	index := p.live.Load()
	if index == nil {
		return nil, errUnavailable
	}
	key, refused := authenticate(index, now, r)
	if refused != nil {
		return nil, refused
	}
	route, refused := parseRoute(r.Method, r.Path)
	if refused != nil {
		return nil, refused
	}
	connector, refused := choose(key.Repository, route)
	if refused != nil {
		return nil, refused
	}
	secret := connector.Credential.Secret().Bytes()
	if !sendable(secret) {
		return nil, errConnector
	}
	d := r.Decision()
	d.Cluster, d.Authority = connector.Cluster, connector.Authority
	d.Path = d.Bytes([]byte(connector.BasePath), []byte(route.rest))
	d.SetBytes("authorization", bearer, secret)
	d.Remove = append(d.Remove, removed[:]...) // copied: the decision wipes what it holds
	return d, nil
}

// authenticate finds the repository key that a request carries.
func authenticate(index *grant.Index, now time.Time, r *extproc.Request) (*grant.Key, *extproc.Error) {
	switch r.Values("authorization") {
	case 0:
		return nil, errNoKey
	case 1:
	default:
		return nil, errTwoKeys
	}
	secret, ok := parseBearer(r.Header("authorization"))
	if !ok {
		return nil, errBadKey
	}
	// Hashed and compared whether there is such a key or not, so that an unknown id
	// and a wrong secret take the same time.
	sum := sha256.Sum256([]byte(secret.whole))
	var sealed []byte
	key := index.Lookup(secret.id)
	if key != nil && key.Use == grant.UseAIKey {
		sealed = key.Secret.Secret().Bytes()
	}
	var none [sha256.Size]byte
	known := len(sealed) == sha256.Size
	if !known {
		sealed = none[:]
	}
	if subtle.ConstantTimeCompare(sum[:], sealed) != 1 || !known || !key.Valid(now) {
		return nil, errBadKey
	}
	return key, nil
}

// choose picks the connector that a route goes to, among those of the repository.
func choose(repository *grant.Repository, route route) (*grant.Connector, *extproc.Error) {
	if route.named {
		for _, c := range repository.AI {
			if c.Name == route.connector {
				return c, nil
			}
		}
		return nil, errUnknownConnector(repository)
	}
	switch len(repository.AI) {
	case 0:
		return nil, errNoConnector
	case 1:
		return repository.AI[0], nil
	}
	return nil, errWhichConnector(repository)
}

// sendable says whether a provider's key can stand in a header (RFC 9110 §5.5:
// visible ASCII). Purged memory is empty.
func sendable(secret []byte) bool {
	for _, c := range secret {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(secret) > 0
}
