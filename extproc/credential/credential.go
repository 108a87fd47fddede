package credential

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// ErrPurged says that the secret is gone: the arena was purged or the credential freed.
var ErrPurged = errors.New("credential: purged")

// Credential is one opened secret and where it may be used. It is safe for
// concurrent use.
type Credential struct {
	header  seal.Header
	arena   *lockedmem.Arena
	secret  lockedmem.Secret
	derived atomic.Pointer[[]derivedKey] // immutable once stored
	mu      sync.Mutex                   // serialises changes of derived, and Free
}

// New copies plaintext into the arena and wipes it, also when it fails. The
// header is the one that plaintext was sealed under.
func New(arena *lockedmem.Arena, h seal.Header, plaintext []byte) (*Credential, error) {
	secret, err := arena.Copy(plaintext)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", h.Record, err)
	}
	return &Credential{header: h, arena: arena, secret: secret}, nil
}

// Binding says where the secret may be used. The caller must not change it.
func (c *Credential) Binding() *seal.Binding { return &c.header.Binding }

// Workspace is the workspace that the secret was sealed for.
func (c *Credential) Workspace() string { return c.header.Workspace }

// Record is the id of the record that the secret was sealed as.
func (c *Credential) Record() string { return c.header.Record }

// Type is seal.TypeCredential or seal.TypeRepositoryKey.
func (c *Credential) Type() string { return c.header.Type }

// Version is the version of the secret.
func (c *Credential) Version() uint64 { return c.header.Version }

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
func (c *Credential) String() string { return "credential " + c.header.Record }

// LogValue is String's.
func (c *Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is String's: an opened credential has no wire form.
func (c *Credential) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", c.String()), nil }
