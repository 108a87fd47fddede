package credential

import (
	"crypto/sha256"

	"keybridge/keyshare/lockedmem"
)

// SigningKey is the key of one scope, in a place of its own in locked memory: for what
// goes on signing with it while the credential changes, as a long upload does. It is
// not for concurrent use.
type SigningKey struct {
	arena *lockedmem.Arena
	key   lockedmem.Secret
}

// SigningKey copies the key of s. It fails with [ErrPurged], or because memory
// cannot be locked. The caller frees it.
func (c *Credential) SigningKey(s Scope) (*SigningKey, error) {
	key, err := c.copyKey(s)
	if err != nil {
		return nil, err
	}
	return &SigningKey{c.arena, key}, nil
}

// Sign writes the signature of message, as Credential.Sign does, and fails as that
// does, also after Free.
func (k *SigningKey) Sign(mac *[sha256.Size]byte, message []byte) error {
	h := hmacs.Get().(*hmac)
	defer h.release()
	if !h.take(k.key) {
		return ErrPurged
	}
	h.mac(mac, message)
	return nil
}

// Free wipes the key.
func (k *SigningKey) Free() { k.arena.Free(k.key) }
