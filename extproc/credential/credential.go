package credential

import (
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

	// header is that of anything but a well-formed repository key.
	header *seal.Header
	// Those of a repository key. Many share a workspace and a repository.
	workspace, repository unique.Handle[string]
	record, key           string // parts of one string
	version               uint64
	ai                    bool // seal.UseAIKey, else seal.UseS3Key
}

// New copies plaintext into the arena and wipes it, also when it fails. The
// header is the one that plaintext was sealed under.
func New(arena *lockedmem.Arena, h seal.Header, plaintext []byte) (*Credential, error) {
	secret, err := arena.Copy(plaintext)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", h.Record, err)
	}
	return Hold(arena, h, secret), nil
}

// Hold makes a credential of a secret that is in the arena, and owns it from then on.
func Hold(arena *lockedmem.Arena, h seal.Header, secret lockedmem.Secret) *Credential {
	c := &Credential{arena: arena, secret: secret}
	use, key, repository := h.Binding.Use, h.Binding.Key, h.Binding.Repository
	if h.Type != seal.TypeRepositoryKey || use != seal.UseS3Key && use != seal.UseAIKey ||
		h.Binding != (seal.Binding{Use: use, Key: key, Repository: repository}) {
		c.header = &h
		return c
	}
	both := key + h.Record
	c.key, c.record = both[:len(key)], both[len(key):]
	c.workspace, c.repository = unique.Make(h.Workspace), unique.Make(repository)
	c.version, c.ai = h.Version, use == seal.UseAIKey
	return c
}

// Binding says where the secret may be used. The caller must not change it.
func (c *Credential) Binding() *seal.Binding {
	if c.header != nil {
		return &c.header.Binding
	}
	b := &seal.Binding{Use: seal.UseS3Key, Key: c.key, Repository: c.repository.Value()}
	if c.ai {
		b.Use = seal.UseAIKey
	}
	return b
}

// Workspace is the workspace that the secret was sealed for.
func (c *Credential) Workspace() string {
	if c.header != nil {
		return c.header.Workspace
	}
	return c.workspace.Value()
}

// Record is the id of the record that the secret was sealed as.
func (c *Credential) Record() string {
	if c.header != nil {
		return c.header.Record
	}
	return c.record
}

// Key is the binding's key, without making one.
func (c *Credential) Key() string {
	if c.header != nil {
		return c.header.Binding.Key
	}
	return c.key
}

// Type is seal.TypeCredential or seal.TypeRepositoryKey.
func (c *Credential) Type() string {
	if c.header != nil {
		return c.header.Type
	}
	return seal.TypeRepositoryKey
}

// Version is the version of the secret.
func (c *Credential) Version() uint64 {
	if c.header != nil {
		return c.header.Version
	}
	return c.version
}

// Secret is the secret itself, in locked memory.
func (c *Credential) Secret() lockedmem.Secret { return c.secret }

// Free wipes the secret and every key derived from it. The caller guarantees
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
}

// String names the record, never the secret.
func (c *Credential) String() string { return "credential " + c.Record() }

// LogValue is String's.
func (c *Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is String's: an opened credential has no wire form.
func (c *Credential) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", c.String()), nil }
