package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
)

// Lock is what protects a keeper's secrets at rest: a passphrase or a key file.
// The zero Lock protects nothing and is refused.
type Lock struct {
	recipient age.Recipient
	identity  age.Identity
	kind      string
}

// PassphraseLock encrypts under a passphrase by scrypt at age's work factor of
// 2^18, about a second per file. The passphrase is wiped here, but age keeps it as
// a string, which Go cannot wipe: it stays in this process's memory while the Lock
// is in use.
func PassphraseLock(passphrase []byte) (Lock, error) {
	defer lockedmem.Wipe(passphrase)
	if len(passphrase) == 0 {
		return Lock{}, errors.New("keeper lock: the passphrase is empty")
	}
	text := string(passphrase)
	r, err := age.NewScryptRecipient(text)
	if err != nil {
		return Lock{}, fmt.Errorf("keeper lock: %w", err)
	}
	id, err := age.NewScryptIdentity(text)
	if err != nil {
		return Lock{}, fmt.Errorf("keeper lock: %w", err)
	}
	return Lock{recipient: r, identity: id, kind: "passphrase"}, nil
}

// KeyFileLock encrypts to the one X25519 identity in an age key file, as
// CreateKeyFile or age-keygen(1) makes it. Keep it on another volume than the
// state directory, or it protects nothing. A file that others can read is refused.
func KeyFileLock(path string) (Lock, error) {
	b, err := identity.ReadPrivate(path)
	if err != nil {
		return Lock{}, fmt.Errorf("keeper lock: %w", err)
	}
	defer lockedmem.Wipe(b)
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil || len(ids) != 1 {
		return Lock{}, fmt.Errorf("keeper lock: %s: want one age identity", path) // age's error may quote the line
	}
	id, ok := ids[0].(*age.X25519Identity)
	if !ok {
		return Lock{}, fmt.Errorf("keeper lock: %s: want an X25519 identity (AGE-SECRET-KEY-1…)", path)
	}
	return Lock{recipient: id.Recipient(), identity: id, kind: "key file " + path}, nil
}

// CreateKeyFile makes a key file for KeyFileLock, mode 0600. It does not
// overwrite: the old key may be all that opens a share.
func CreateKeyFile(path string) error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	text := []byte("# public key: " + id.Recipient().String() + "\n" + id.String() + "\n")
	defer lockedmem.Wipe(text)
	if err := identity.CreatePrivate(path, text); err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	return nil
}

// Save encrypts plaintext into a file, in one step.
func (l Lock) Save(path string, plaintext []byte) error {
	if l.recipient == nil {
		return errors.New("keeper lock: neither passphrase nor key file")
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, l.recipient)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := w.Write(plaintext); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return identity.WritePrivate(path, out.Bytes())
}

// load decrypts a file. Call it inside lockedmem.Do and wipe what it returns.
func (l Lock) load(path string) ([]byte, error) {
	if l.identity == nil {
		return nil, errors.New("keeper lock: neither passphrase nor key file")
	}
	b, err := identity.ReadPrivate(path)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(b), l.identity)
	if err != nil {
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return nil, fmt.Errorf("%s: the %s does not open it", path, l.kind)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	plaintext, err := io.ReadAll(r)
	if err != nil {
		lockedmem.Wipe(plaintext)
		return nil, fmt.Errorf("%s: damaged: %w", path, err)
	}
	return plaintext, nil
}
