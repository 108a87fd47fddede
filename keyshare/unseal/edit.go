package unseal

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// Under is what a keyring is wrapped under: an unseal key and the share set and
// epoch that it belongs to. The caller wipes U.
type Under struct {
	Set   string
	Epoch uint64
	U     []byte
}

// Rekey wraps a keyring under another unseal key, with all its keys as they are.
// Like every edit it returns the wrapped keyring and the public halves of its
// sealing keys, oldest first, and has opened what it returns.
func Rekey(wrapped []byte, from, to Under) ([]byte, []*seal.PublicKey, error) {
	return edit("rekey", wrapped, from, to, func(*keys) error { return nil })
}

// AddSealingKey gives a keyring one more RSA-3072 key, the last of those returned.
func AddSealingKey(wrapped []byte, at Under) ([]byte, []*seal.PublicKey, error) {
	return edit("add sealing key", wrapped, at, at, func(k *keys) error {
		private, err := rsa.GenerateKey(rand.Reader, 3072)
		if err != nil {
			return err
		}
		version := k.sealing[len(k.sealing)-1].version + 1 // parse found at least one
		k.sealing = append(k.sealing, sealingKey{version: version, private: private})
		return nil
	})
}

// Prune drops the sealing keys with these ids. What is sealed to them opens never
// again. An id that the keyring does not have, and the last key, are refused.
func Prune(wrapped []byte, at Under, ids ...string) ([]byte, []*seal.PublicKey, error) {
	return edit("prune keyring", wrapped, at, at, func(k *keys) error {
		for _, id := range ids {
			if k.byID(id) == nil {
				return fmt.Errorf("key %s: %w", id, ErrUnknownKey)
			}
		}
		k.sealing = slices.DeleteFunc(k.sealing, func(s sealingKey) bool { return slices.Contains(ids, s.id) })
		if len(k.sealing) == 0 {
			return errors.New("that would leave no sealing key")
		}
		return nil
	})
}

// edit opens a keyring, changes its keys and wraps it, all inside one lockedmem.Do.
func edit(what string, wrapped []byte, from, to Under, change func(*keys) error) ([]byte, []*seal.PublicKey, error) {
	for _, u := range []Under{from, to} {
		if err := checkArguments(u.Set, u.U); err != nil {
			return nil, nil, err
		}
	}
	body, err := cutHeader(wrapped)
	if err != nil {
		return nil, nil, err
	}
	// What leaves Do is copied into memory from outside of it.
	out := make([]byte, 0, len(wrapped)+4096)
	var pems [][]byte
	lockedmem.Do(func() { out, pems, err = editInside(out, body, from, to, change) })
	if err == nil && len(out) > maxWrapped {
		err = fmt.Errorf("%d bytes are more than a keyring may have: prune it", len(out))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("unseal: %s: %w", what, err)
	}
	public := make([]*seal.PublicKey, len(pems))
	for i, p := range pems {
		if public[i], err = seal.ParsePublicKey(p); err != nil {
			return nil, nil, fmt.Errorf("unseal: %s: %w", what, err)
		}
	}
	return out, public, nil
}

func editInside(out, body []byte, from, to Under, change func(*keys) error) (_ []byte, pems [][]byte, err error) {
	plain, err := unwrap(body, from)
	if err != nil {
		return nil, nil, err
	}
	defer lockedmem.Wipe(plain)
	k, err := parse(plain)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	defer k.wipe()
	if err := change(k); err != nil {
		return nil, nil, err
	}
	if out, err = k.wrap(out, to.Set, to.Epoch, to.U); err != nil {
		return nil, nil, err
	}
	// As every bridge will: what does not open now must not be committed.
	body, err = cutHeader(out)
	if err != nil {
		return nil, nil, err
	}
	again, err := unwrap(body, to)
	if err != nil {
		return nil, nil, err
	}
	defer lockedmem.Wipe(again)
	reread, err := parse(again)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKeyring, err)
	}
	defer reread.wipe()
	for i := range reread.sealing {
		p, err := seal.NewPublicKey(&reread.sealing[i].private.PublicKey)
		if err != nil {
			return nil, nil, err
		}
		pems = append(pems, p.PEM())
	}
	return out, pems, nil
}

// cutHeader is what follows the header of a wrapped keyring: nonce and ciphertext.
func cutHeader(wrapped []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(wrapped, appendHeader(nil))
	if !ok || len(wrapped) > maxWrapped || len(body) < ivSize+tagSize {
		return nil, fmt.Errorf("%w: not a keyring of format %d", ErrKeyring, format)
	}
	return body, nil
}

// unwrap runs inside lockedmem.Do. The caller wipes the plaintext.
func unwrap(body []byte, at Under) ([]byte, error) {
	gcm, err := newGCM(at.U)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, body[:ivSize], body[ivSize:], additionalData(at.Set, at.Epoch))
	if err != nil {
		return nil, fmt.Errorf("%w: not of set %q epoch %d, altered, or a wrong unseal key", ErrKeyring, at.Set, at.Epoch)
	}
	return plain, nil
}

// wipe overwrites the record keys. RSA keys are left to lockedmem.Do: their
// numbers cannot be reached.
func (k *keys) wipe() {
	for _, r := range k.records {
		lockedmem.Wipe(r.value)
	}
}
