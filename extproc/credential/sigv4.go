package credential

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"strings"
	"sync"
	"time"

	"keybridge/keyshare/lockedmem"
)

// Scope is what a SigV4 signing key is derived for: the credential scope without
// its constant end ("Create a signed AWS API request", step 3, in the IAM User Guide).
type Scope struct {
	Day     string // YYYYMMDD, UTC
	Region  string
	Service string
}

// maxDerived bounds the derived keys of one credential. An application signs for
// one region, two around midnight; a provider credential for the regions of its
// connectors.
const maxDerived = 8

type derivedKey struct {
	Scope
	key lockedmem.Secret
}

// Sign writes the SigV4 signature of message, the string to sign, to mac:
// HMAC-SHA256 under the key derived from the secret for s. It fails with
// [ErrPurged] alone; it must never sign with a secret that is gone, because anybody
// could compute that signature.
func (c *Credential) Sign(mac *[sha256.Size]byte, s Scope, message []byte) error {
	h := hmacs.Get().(*hmac)
	defer h.release()
	if err := c.load(h, s); err != nil {
		return err
	}
	h.mac(mac, message)
	return nil
}

// load puts the signing key of s into h: a cached one, or else it is derived.
func (c *Credential) load(h *hmac, s Scope) error {
	if keys := c.derived.Load(); keys != nil {
		for i := range *keys {
			if k := &(*keys)[i]; k.Scope == s && h.take(k.key) {
				return nil
			}
		}
	}
	return c.derive(h, s)
}

// copyKey puts the signing key of s into a place of its own in locked memory.
func (c *Credential) copyKey(s Scope) (lockedmem.Secret, error) {
	h := hmacs.Get().(*hmac)
	defer h.release()
	if err := c.load(h, s); err != nil {
		return lockedmem.Secret{}, err
	}
	return c.arena.Copy(h.key[:sha256.Size])
}

// Keep caches the key derived for s, if there is room. Call it after a signature
// of that scope proved right: the scope is the client's choice, and who does not
// have the secret must not be able to fill the cache.
func (c *Credential) Keep(s Scope) {
	if keys := c.derived.Load(); keys != nil && slices.ContainsFunc(*keys, func(k derivedKey) bool { return k.Scope == s }) {
		return
	}
	c.keep(s)
}

func (c *Credential) keep(s Scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var old []derivedKey
	if p := c.derived.Load(); p != nil {
		old = *p
	}
	next := make([]derivedKey, 0, len(old)+1)
	var stale []derivedKey
	for _, k := range old {
		switch {
		case k.Scope == s:
			return
		case farApart(k.Day, s.Day):
			stale = append(stale, k)
		default:
			next = append(next, k)
		}
	}
	if len(next) < maxDerived {
		key, err := c.copyKey(s)
		if err != nil {
			return // without the cache it only takes longer
		}
		// The scope's strings are parts of a request that will be gone.
		next = append(next, derivedKey{Scope{strings.Clone(s.Day), strings.Clone(s.Region), strings.Clone(s.Service)}, key})
	}
	c.derived.Store(&next)
	// No reader of a stale key is left: its day stopped being acceptable more than
	// a day ago, and a reader holds a key for nanoseconds. If the clock jumped, the
	// arena's generation, which take checks again, turns the late reader away.
	for _, k := range stale {
		c.arena.Free(k.key)
	}
}

// farApart says whether two days are two or more days apart. Around midnight both
// neighbours are in use.
func farApart(a, b string) bool {
	const layout = "20060102"
	x, err1 := time.Parse(layout, a)
	y, err2 := time.Parse(layout, b)
	return err1 != nil || err2 != nil || x.Sub(y).Abs() >= 48*time.Hour
}

// derive puts the signing key of s into h. SHA-256 returns its sums, keys here, by the
// stack, where they would stay until something else is called as deep: so this runs in
// lockedmem.Do, which erases it (found by e2e TestMemory).
func (c *Credential) derive(h *hmac, s Scope) (err error) {
	lockedmem.Do(func() {
		if !h.take4(c.secret) {
			err = ErrPurged
			return
		}
		for _, part := range [...]string{s.Day, s.Region, s.Service, "aws4_request"} {
			h.message = append(h.message[:0], part...)
			h.mac(&h.sum, h.message)
			h.setKey(h.sum[:])
		}
	})
	return err
}

// hmac is HMAC-SHA256 (RFC 2104) that allocates nothing and can be wiped, which
// crypto/hmac cannot: that one leaves the padded key and hash states keyed with
// it to the garbage collector. The tests compare it with crypto/hmac.
type hmac struct {
	hash    hash.Hash
	key     [sha256.BlockSize]byte // zero-padded
	block   [sha256.BlockSize]byte
	inner   [sha256.Size]byte
	sum     [sha256.Size]byte
	message []byte
}

var hmacs = sync.Pool{New: func() any { return &hmac{hash: sha256.New()} }}

// release wipes h and gives it back. Reset overwrites the hash's state, which
// after the padded key is as good as the key; whole blocks bypass its buffer.
func (h *hmac) release() {
	h.hash.Reset()
	clear(h.key[:])
	clear(h.block[:])
	clear(h.inner[:])
	clear(h.sum[:])
	clear(h.message[:cap(h.message)])
	hmacs.Put(h)
}

// take makes a 32-byte secret the key. It says no if the secret is gone, also
// when it went while it was being copied.
func (h *hmac) take(s lockedmem.Secret) bool {
	b := s.Bytes()
	if len(b) != sha256.Size {
		return false
	}
	h.setKey(b)
	return s.Bytes() != nil
}

// take4 makes "AWS4" and the secret the key; same promise as take.
func (h *hmac) take4(s lockedmem.Secret) bool {
	b := s.Bytes()
	if len(b) == 0 {
		return false
	}
	clear(h.key[:])
	if copy(h.key[:], "AWS4"); len(b) <= len(h.key)-4 {
		copy(h.key[4:], b)
	} else {
		h.hash.Reset()
		h.hash.Write(h.key[:4])
		h.hash.Write(b)
		clear(h.key[:])
		h.hash.Sum(h.key[:0])
	}
	return s.Bytes() != nil
}

func (h *hmac) setKey(key []byte) {
	clear(h.key[copy(h.key[:], key):])
}

func (h *hmac) mac(out *[sha256.Size]byte, message []byte) {
	h.pad(0x3636363636363636)
	h.hash.Reset()
	h.hash.Write(h.block[:])
	h.hash.Write(message)
	h.hash.Sum(h.inner[:0])
	h.pad(0x5c5c5c5c5c5c5c5c)
	h.hash.Reset()
	h.hash.Write(h.block[:])
	h.hash.Write(h.inner[:])
	h.hash.Sum(out[:0])
}

func (h *hmac) pad(with uint64) {
	for i := 0; i < len(h.key); i += 8 {
		binary.LittleEndian.PutUint64(h.block[i:], binary.LittleEndian.Uint64(h.key[i:])^with)
	}
}
