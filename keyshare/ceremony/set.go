package ceremony

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"keybridge/keyshare"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

func newUnsealKey(arena *lockedmem.Arena) (u lockedmem.Secret, err error) {
	lockedmem.Do(func() {
		b := make([]byte, keyshare.SecretSize)
		_, _ = rand.Read(b)    // never fails, crypto/rand
		u, err = arena.Copy(b) // and wipes b
	})
	return u, err
}

func newSealingKey(p *seal.PublicKey) keyshare.SealingKey {
	return keyshare.SealingKey{ID: p.ID(), Suite: seal.SuiteRSA3072, PEM: string(p.PEM())}
}

// sign signs a manifest and verifies it as everybody else will.
func sign(root ed25519.PrivateKey, m *keyshare.Manifest) ([]byte, error) {
	signed, err := keyshare.Sign(root, m)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(signed)
	if err != nil {
		return nil, err
	}
	_, err = keyshare.Verify(root.Public().(ed25519.PublicKey), b)
	return b, err
}

// distribute splits u, completes the manifest's keepers, seals each share to its
// keeper's recipient and rehearses the unsealing. One Do is around everything that
// touches a share, so that the erased part is also the whole lifetime of the shares.
func distribute(m *keyshare.Manifest, u, keyring []byte) (deliveries map[string][]byte, err error) {
	deliveries = make(map[string][]byte, len(m.Keepers))
	lockedmem.Do(func() { err = split(m, u, keyring, deliveries) })
	if err != nil {
		return nil, err
	}
	return deliveries, nil
}

func split(m *keyshare.Manifest, u, keyring []byte, deliveries map[string][]byte) error {
	shares, err := keyshare.Split(u, m.Shares, m.Threshold)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range shares {
			lockedmem.Wipe(s)
		}
	}()
	for i, s := range shares {
		key, err := keyshare.ShareKey(s, m.Set, m.Epoch)
		if err != nil {
			return err
		}
		m.Keepers[i].X = int(s.X())
		m.Keepers[i].ShareKey = bytes.Clone(key[ed25519.SeedSize:]) // the public half
		lockedmem.Wipe(key)
	}
	for i, k := range m.Keepers {
		if deliveries[k.Name], err = keyshare.Deliver(m, k.Name, k.Recipient, shares[i]); err != nil {
			return err
		}
	}
	// The first t and the last t: every share is used unless n > 2t, and none is special.
	for _, quorum := range [][]keyshare.Share{shares[:m.Threshold], shares[m.Shares-m.Threshold:]} {
		if err := rehearse(m, keyring, quorum); err != nil {
			return fmt.Errorf("rehearsal: %w", err)
		}
	}
	return nil
}

func rehearse(m *keyshare.Manifest, keyring []byte, shares []keyshare.Share) error {
	u, err := keyshare.Combine(shares)
	if err != nil {
		return err
	}
	defer lockedmem.Wipe(u)
	v, err := keyshare.CheckValue(u, m.Set, m.Epoch)
	if err != nil {
		return err
	}
	if !bytes.Equal(v, m.Check) { // both are public
		return errors.New("the shares do not give the unseal key")
	}
	k, err := unseal.OpenKeyring(u, keyring, m.Set, m.Epoch)
	if err != nil {
		return err
	}
	k.Purge()
	return nil
}
