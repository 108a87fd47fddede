package unseal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// UnsealKeySize is the size of U, in bytes.
const UnsealKeySize = 32

var (
	// ErrKeyring: the wrapped keyring is not one, or not of this set and epoch, or
	// U is not its unseal key. Authenticated encryption cannot tell these apart.
	ErrKeyring = errors.New("unseal: keyring does not open")
	// ErrPurged: the keyring was purged.
	ErrPurged = errors.New("unseal: keyring purged")
)

// Keyring holds the private keys of one share set. Its methods may be called
// concurrently.
type Keyring struct {
	enclave *lockedmem.Enclave
	sealing []string // ids of its sealing keys
	purged  atomic.Bool
	erased  atomic.Int64 // Unix seconds of the last collection that a Window started
}

// Generate makes a keyring of one RSA-3072 sealing key and one record key, and
// wraps it under u. It returns the wrapped keyring, which is no secret without
// u, and the public half that records are sealed to. The caller wipes u.
func Generate(set string, epoch uint64, u []byte) (wrapped []byte, sealing *seal.PublicKey, err error) {
	if err := checkArguments(set, u); err != nil {
		return nil, nil, err
	}
	// What leaves Do is copied into memory from outside of it.
	wrapped = make([]byte, 0, 4096)
	public := make([]byte, 0, 1024)
	lockedmem.Do(func() {
		var private *rsa.PrivateKey
		if private, err = rsa.GenerateKey(rand.Reader, 3072); err != nil {
			return
		}
		var p *seal.PublicKey
		if p, err = seal.NewPublicKey(&private.PublicKey); err != nil {
			return
		}
		public = append(public, p.PEM()...)
		record := make([]byte, recordKeySize)
		defer lockedmem.Wipe(record)
		_, _ = rand.Read(record) // never fails
		k := keys{
			sealing: []sealingKey{{version: 1, private: private}},
			records: []recordKey{{version: 1, value: record}},
		}
		wrapped, err = k.wrap(wrapped, set, epoch, u)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("unseal: generate keyring: %w", err)
	}
	if sealing, err = seal.ParsePublicKey(public); err != nil {
		return nil, nil, fmt.Errorf("unseal: generate keyring: %w", err)
	}
	return wrapped, sealing, nil
}

// wrap appends the keyring, encrypted under u, to dst. The nonce is random: U
// wraps a handful of keyrings in its life, one for each key rotation.
func (k *keys) wrap(dst []byte, set string, epoch uint64, u []byte) ([]byte, error) {
	plain, err := k.encode()
	if err != nil {
		return nil, err
	}
	defer lockedmem.Wipe(plain)
	gcm, err := newGCM(u)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, ivSize)
	_, _ = rand.Read(iv) // never fails
	dst = append(appendHeader(dst), iv...)
	return gcm.Seal(dst, iv, plain, additionalData(set, epoch)), nil
}

// Digest is what a manifest says of its keyring: SHA-256 of the wrapped form.
func Digest(wrapped []byte) [32]byte { return sha256.Sum256(wrapped) }

// OpenKeyring unwraps a keyring with the unseal key u and checks all its keys. A
// keyring that does not open is [ErrKeyring]. The caller wipes u, at once: the
// keyring does not need it any more. What AES derived from u, in a heap object
// of Do, is erased with the first window's collection.
func OpenKeyring(u, wrapped []byte, set string, epoch uint64) (*Keyring, error) {
	if err := checkArguments(set, u); err != nil {
		return nil, err
	}
	body, err := cutHeader(wrapped)
	if err != nil {
		return nil, err
	}
	k := &Keyring{}
	lockedmem.Do(func() {
		plain, openErr := unwrap(body, Under{Set: set, Epoch: epoch, U: u})
		if openErr != nil {
			err = openErr
			return
		}
		defer lockedmem.Wipe(plain)
		parsed, parseErr := parse(plain)
		if parseErr != nil {
			err = fmt.Errorf("%w: %w", ErrKeyring, parseErr)
			return
		}
		for _, s := range parsed.sealing {
			k.sealing = append(k.sealing, s.id)
		}
		k.enclave, err = lockedmem.NewEnclave(plain)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// SealingKeys are the ids of the keys that it opens records of, in the order of their
// versions. The caller must not change them.
func (k *Keyring) SealingKeys() []string { return k.sealing }

// Window decrypts the keyring and calls use, which may open records until it
// returns, from as many goroutines as it likes, and waits for them. Records open
// in parallel, so start-up opens all of them in one window. Errors of use are
// returned as they are; after [Keyring.Purge] the error is [ErrPurged].
func (k *Keyring) Window(ctx context.Context, use func(w *Window) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &Window{ctx: ctx, keyring: k}
	var err error
	lockedmem.Do(func() {
		err = k.enclave.Open(func(plain []byte) error {
			var err error
			w.keys, err = parse(plain)
			return err
		})
	})
	switch {
	case errors.Is(err, lockedmem.ErrPurged):
		return ErrPurged
	case err != nil:
		return fmt.Errorf("unseal: open window: %w", err)
	}
	defer k.erase()
	defer w.close()
	return use(w)
}

// eraseInterval spares the request path the collections of a burst of windows.
const eraseInterval = 10 // seconds

// erase lets runtime/secret erase the parsed keys of a closed window now.
func (k *Keyring) erase() {
	if lockedmem.SecretMode() == "none" {
		return
	}
	now, last := time.Now().Unix(), k.erased.Load()
	if now-last >= eraseInterval && k.erased.CompareAndSwap(last, now) {
		runtime.GC()
	}
}

// Purge forgets the keyring, once no window is being opened. Windows that are
// open open no further record.
func (k *Keyring) Purge() {
	k.purged.Store(true)
	k.enclave.Destroy()
}

func checkArguments(set string, u []byte) error {
	if len(u) != UnsealKeySize {
		return fmt.Errorf("unseal: unseal key has %d bytes, not %d", len(u), UnsealKeySize)
	}
	if set == "" || len(set) > 255 {
		return errors.New("unseal: set name is empty or longer than 255 bytes")
	}
	return nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return gcm, nil
}
