package credential

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"unique"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// ErrPurged says that the secret is gone: the arena was purged or the credential freed.
var ErrPurged = errors.New("credential: purged")

// ErrPayload says that what was sealed for S3 is no secret and session token.
var ErrPayload = errors.New("credential: what was sealed is not a secret, a NUL and a session token of visible ASCII")

// Credential is one opened secret and where it may be used. It is safe for
// concurrent use.
//
// A bridge may hold a million repository keys, so the header of one is kept in the
// fields that differ from key to key, 128 bytes in all with the rest.
type Credential struct {
	arena   *lockedmem.Arena
	secret  lockedmem.Secret
	derived atomic.Pointer[[]derivedKey] // immutable once stored
	mu      sync.Mutex                   // serialises changes of derived, and Free

	// provider is nil for a well-formed repository key.
	provider *provider
	// Those of a repository key. Many share a workspace and a repository.
	workspace, repository unique.Handle[string]
	record, key           string // parts of one string
	version               uint64
	ai                    bool // seal.UseAIKey, else seal.UseS3Key
}

// provider is what a provider credential has beyond a repository key.
type provider struct {
	header seal.Header
	token  lockedmem.Secret // the zero Secret if there is none
}

// New copies plaintext into the arena and wipes it, also when it fails. The
// header is the one that plaintext was sealed under.
func New(arena *lockedmem.Arena, h seal.Header, plaintext []byte) (*Credential, error) {
	secret, err := arena.Copy(plaintext)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", h.Record, err)
	}
	return Hold(arena, h, secret)
}

// Hold makes a credential of what was sealed and is in the arena, and owns it from
// then on, also when it fails: with [ErrPayload], [ErrPurged], or because memory cannot
// be locked.
func Hold(arena *lockedmem.Arena, h seal.Header, secret lockedmem.Secret) (*Credential, error) {
	c := &Credential{arena: arena, secret: secret}
	use, key, repository := h.Binding.Use, h.Binding.Key, h.Binding.Repository
	if h.Type != seal.TypeRepositoryKey || use != seal.UseS3Key && use != seal.UseAIKey ||
		h.Binding != (seal.Binding{Use: use, Key: key, Repository: repository}) {
		c.provider = &provider{header: h}
		if use == seal.UseS3 {
			if err := c.split(); err != nil {
				return nil, fmt.Errorf("credential %s: %w", h.Record, err)
			}
		}
		return c, nil
	}
	both := key + h.Record
	c.key, c.record = both[:len(key)], both[len(key):]
	c.workspace, c.repository = unique.Make(h.Workspace), unique.Make(repository)
	c.version, c.ai = h.Version, use == seal.UseAIKey
	return c, nil
}

// split moves a secret with a session token (see seal.WithToken) to places of their
// own. The token goes into a header, and whoever has the public key can seal: so it is
// looked at here, where it is in clear for the first time.
func (c *Credential) split() (err error) {
	whole := c.secret
	secret, token, found := bytes.Cut(whole.Bytes(), []byte{0})
	if !found {
		return nil
	}
	defer func() {
		c.arena.Free(whole)
		if err != nil {
			c.arena.Free(c.secret)
		}
	}()
	c.secret = lockedmem.Secret{}
	if len(secret) == 0 || len(token) == 0 || bytes.ContainsFunc(token, invisible) {
		return ErrPayload
	}
	// Copy wipes what it copies, which is locked memory too.
	if c.secret, err = c.arena.Copy(secret); err != nil {
		return err
	}
	c.provider.token, err = c.arena.Copy(token)
	return err
}

func invisible(r rune) bool { return r <= ' ' || r > '~' }

// Binding says where the secret may be used. The caller must not change it.
func (c *Credential) Binding() *seal.Binding {
	if c.provider != nil {
		return &c.provider.header.Binding
	}
	b := &seal.Binding{Use: seal.UseS3Key, Key: c.key, Repository: c.repository.Value()}
	if c.ai {
		b.Use = seal.UseAIKey
	}
	return b
}

// Workspace is the workspace that the secret was sealed for.
func (c *Credential) Workspace() string {
	if c.provider != nil {
		return c.provider.header.Workspace
	}
	return c.workspace.Value()
}

// Record is the id of the record that the secret was sealed as.
func (c *Credential) Record() string {
	if c.provider != nil {
		return c.provider.header.Record
	}
	return c.record
}

// Key is the binding's key, without making one.
func (c *Credential) Key() string {
	if c.provider != nil {
		return c.provider.header.Binding.Key
	}
	return c.key
}

// Type is seal.TypeCredential or seal.TypeRepositoryKey.
func (c *Credential) Type() string {
	if c.provider != nil {
		return c.provider.header.Type
	}
	return seal.TypeRepositoryKey
}

// Version is the version of the secret.
func (c *Credential) Version() uint64 {
	if c.provider != nil {
		return c.provider.header.Version
	}
	return c.version
}

// Secret is the secret itself, in locked memory.
func (c *Credential) Secret() lockedmem.Secret { return c.secret }

// Token is the session token that a provider wants beside signatures of the secret, in
// locked memory; the zero Secret if there is none.
func (c *Credential) Token() lockedmem.Secret {
	if c.provider != nil {
		return c.provider.token
	}
	return lockedmem.Secret{}
}

// Free wipes the secret, its token and every key derived from it. The caller guarantees
// that no reader is left.
func (c *Credential) Free() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if keys := c.derived.Swap(nil); keys != nil {
		for _, k := range *keys {
			c.arena.Free(k.key)
		}
	}
	c.arena.Free(c.secret)
	c.arena.Free(c.Token())
}

// String names the record, never the secret.
func (c *Credential) String() string { return "credential " + c.Record() }

// LogValue is String's.
func (c *Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is String's: an opened credential has no wire form.
func (c *Credential) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", c.String()), nil }
