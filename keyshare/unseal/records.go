package unseal

import (
	"crypto/rand"
	"fmt"
	"sync"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// RecordKeys opens records by their second wrap, of [seal.SuiteRecordKey], in a few
// microseconds and without a window: its keys stay in an arena of the caller. Its
// methods may be called concurrently.
type RecordKeys struct {
	keyring *Keyring
	arena   *lockedmem.Arena
	mu      sync.RWMutex // held for reading while a record is opened
	held    []heldKey    // nil once freed
}

type heldKey struct {
	id     string // as in seal.Wrap
	secret lockedmem.Secret
}

// RecordKeys copies the record keys to an arena, from where the caller frees them.
func (k *Keyring) RecordKeys(arena *lockedmem.Arena) (*RecordKeys, error) {
	r := &RecordKeys{keyring: k, arena: arena}
	var err error
	lockedmem.Do(func() {
		err = k.enclave.Open(func(plain []byte) error {
			parsed, err := parse(plain)
			if err != nil {
				return err
			}
			for _, key := range parsed.records {
				secret, err := arena.Copy(key.value)
				if err != nil {
					return err
				}
				r.held = append(r.held, heldKey{seal.RecordKeyID(key.version), secret})
			}
			return nil
		})
	})
	if err != nil {
		r.Free()
		return nil, fmt.Errorf("unseal: record keys: %w", err)
	}
	return r, nil
}

// Open decrypts s and calls use as [Window.Open] does, with the same errors. A record
// whose wrap is of another suite, or under a key that is not in the keyring, is
// [ErrUnknownKey]. Whoever may write wraps can have made one that does not open, or
// the key may be one that was replaced: the record's RSA wrap decides then.
func (r *RecordKeys) Open(s *seal.Sealed, use func(plaintext []byte) error) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("unseal: record %.36q: %w", s.Header.Record, err)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	var key []byte
	for i := range r.held {
		if h := &r.held[i]; h.id == s.Key.KeyID && s.Key.Suite == seal.SuiteRecordKey {
			key = h.secret.Bytes()
		}
	}
	switch {
	case r.held == nil:
		return ErrPurged
	case key == nil:
		return unknownKey(s)
	}
	opened, err := false, error(nil)
	lockedmem.Do(func() {
		canonical := s.Header.Canonical()
		gcm, wrong := newGCM(key)
		if wrong != nil {
			return
		}
		var room [recordKeySize]byte
		defer lockedmem.Wipe(room[:])
		value := s.Key.Value
		dek, wrong := gcm.Open(room[:0], value[:ivSize], value[ivSize:], seal.Label(canonical, s.Key.Suite, s.Key.KeyID))
		if wrong != nil {
			return
		}
		opened, err = openBody(dek, canonical, s, use)
	})
	if !opened {
		return doesNotOpen(s)
	}
	return err
}

// Erase has what opens left on the heap erased now, unless that was done moments ago.
// It is for the end of a burst of opens.
func (r *RecordKeys) Erase() { r.keyring.erase() }

// Free wipes the keys once no record is being opened with them.
func (r *RecordKeys) Free() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.held {
		r.arena.Free(h.secret)
	}
	r.held = nil
}

// wrapUnder appends dek, encrypted under a record key, to dst: a fresh random nonce,
// then the ciphertext and its tag. One key makes as many wraps as there are versions of
// secrets; NIST SP 800-38D §8.3 allows 2^32 random nonces.
func wrapUnder(dst, key []byte, id string, s *seal.Sealed, dek []byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	var iv [ivSize]byte
	_, _ = rand.Read(iv[:]) // never fails
	return gcm.Seal(append(dst, iv[:]...), iv[:], dek, seal.Label(s.Header.Canonical(), seal.SuiteRecordKey, id)), nil
}
