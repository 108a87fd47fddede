package unseal

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

var (
	// ErrUnknownKey: the record was sealed to a key that is not in the keyring.
	ErrUnknownKey = errors.New("unseal: unknown sealing key")
	// ErrOpen: the record was altered, or is not what its header says.
	ErrOpen = errors.New("unseal: record does not open")
	// ErrClosed: the window's function has returned.
	ErrClosed = errors.New("unseal: window closed")
)

// Window opens records while the function it was given to runs.
type Window struct {
	ctx     context.Context // of the Window call, which outlives no method
	keyring *Keyring
	mu      sync.RWMutex // held for reading while a record is opened
	keys    *keys        // nil once closed
}

// Open decrypts s and calls use, inside [lockedmem.Do], with the plaintext, which
// is wiped when use returns: use copies it to locked memory or not at all. It
// takes about 3 ms, nearly all of it one RSA operation. Errors name the record:
// a malformed record is [seal.ErrHeader] or [seal.ErrRecord], and one that does
// not open [ErrUnknownKey] or [ErrOpen]; errors of use are returned as they are.
func (w *Window) Open(s *seal.Sealed, use func(plaintext []byte) error) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.keyring.purged.Load() {
		return ErrPurged
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("unseal: record %.36q: %w", s.Header.Record, err)
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.keys == nil {
		return ErrClosed
	}
	private := w.keys.byID(s.Key.KeyID)
	if private == nil {
		return fmt.Errorf("record %s version %d, key %s: %w", s.Header.Record, s.Header.Version, s.Key.KeyID, ErrUnknownKey)
	}
	opened, err := false, error(nil)
	lockedmem.Do(func() { opened, err = open(private, s, use) })
	if !opened {
		// One error for both layers: which of them refused helps only an attacker.
		return fmt.Errorf("record %s version %d: %w", s.Header.Record, s.Header.Version, ErrOpen)
	}
	return err
}

// open reports whether s opened, and if so what use said.
func open(private *rsa.PrivateKey, s *seal.Sealed, use func(plaintext []byte) error) (bool, error) {
	canonical := s.Header.Canonical()
	dek, err := rsa.DecryptOAEP(sha256.New(), nil, private, s.Key.Value, seal.Label(canonical, s.Key.Suite, s.Key.KeyID))
	if err != nil {
		return false, nil
	}
	defer lockedmem.Wipe(dek)
	if len(dek) != 32 { // AES would take 16 and 24 as well
		return false, nil
	}
	gcm, err := newGCM(dek)
	if err != nil {
		return false, nil
	}
	buf := make([]byte, 0, len(s.Message)+len(s.AuthTag))
	buf = append(append(buf, s.Message...), s.AuthTag...)
	defer lockedmem.Wipe(buf)
	plaintext, err := gcm.Open(buf[:0], s.IV, buf, canonical)
	if err != nil {
		return false, nil
	}
	return true, use(plaintext)
}

func (w *Window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys = nil
}
