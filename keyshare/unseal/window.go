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
	return w.open(s, func(_, plaintext []byte) error { return use(plaintext) })
}

// Adopt is Open, and wraps the record's key for [RecordKeys] as well, so that the next
// open takes microseconds.
func (w *Window) Adopt(s *seal.Sealed, use func(plaintext []byte) error) (*seal.Wrap, error) {
	// What leaves Do is copied into memory from outside of it.
	wrap := &seal.Wrap{Suite: seal.SuiteRecordKey, Value: make([]byte, 0, ivSize+recordKeySize+tagSize)}
	err := w.open(s, func(dek, plaintext []byte) error {
		key := w.keys.newestRecord()
		wrap.KeyID = seal.RecordKeyID(key.version)
		var err error
		if wrap.Value, err = wrapUnder(wrap.Value, key.value, wrap.KeyID, s, dek); err != nil {
			return err
		}
		return use(plaintext)
	})
	if err != nil {
		return nil, err
	}
	return wrap, nil
}

// Rewrap checks that s opens, and wraps its key under another sealing key.
func (w *Window) Rewrap(s *seal.Sealed, to *seal.PublicKey) (*seal.Wrap, error) {
	wrap := &seal.Wrap{Suite: seal.SuiteRSA3072, KeyID: to.ID(), Value: make([]byte, 0, 512)}
	err := w.open(s, func(dek, _ []byte) error {
		fresh, err := to.Wrap(s.Header, dek)
		if err == nil {
			wrap.Value = append(wrap.Value, fresh.Value...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return wrap, nil
}

// open calls use inside Do with what s holds. The DEK is gone when use returns.
func (w *Window) open(s *seal.Sealed, use func(dek, plaintext []byte) error) error {
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
		return unknownKey(s)
	}
	opened, err := false, error(nil)
	lockedmem.Do(func() {
		canonical := s.Header.Canonical()
		dek, wrong := rsa.DecryptOAEP(sha256.New(), nil, private, s.Key.Value, seal.Label(canonical, s.Key.Suite, s.Key.KeyID))
		if wrong != nil {
			return
		}
		defer lockedmem.Wipe(dek)
		opened, err = openBody(dek, canonical, s, func(plaintext []byte) error { return use(dek, plaintext) })
	})
	if !opened {
		return doesNotOpen(s)
	}
	return err
}

func unknownKey(s *seal.Sealed) error {
	return fmt.Errorf("record %s version %d, key %s: %w", s.Header.Record, s.Header.Version, s.Key.KeyID, ErrUnknownKey)
}

// doesNotOpen is one error for both layers: which of them refused helps only an attacker.
func doesNotOpen(s *seal.Sealed) error {
	return fmt.Errorf("record %s version %d: %w", s.Header.Record, s.Header.Version, ErrOpen)
}

// openBody reports whether the body of s opened, and if so what use said.
func openBody(dek, canonical []byte, s *seal.Sealed, use func(plaintext []byte) error) (bool, error) {
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
