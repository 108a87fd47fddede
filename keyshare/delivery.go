package keyshare

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
)

// Shares travel under HPKE (RFC 9180) in base mode with DHKEM(X25519,
// HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. Base mode authenticates no sender,
// and needs none: what arrives is checked against the manifest by CheckShare.
func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// NewRecipient makes a key that a share can be sealed to.
func NewRecipient() (hpke.PrivateKey, error) {
	k, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make recipient key: %w", err)
	}
	return k, nil
}

// ParseRecipient reads the 32-byte private key of a recipient, as its Bytes
// method gave it.
func ParseRecipient(private []byte) (hpke.PrivateKey, error) {
	k, err := kem().NewPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("parse recipient key: %w", err)
	}
	return k, nil
}

// SealShare encrypts a share to a recipient's public key, bound to info, a
// Transcript of the occasion: encapsulated key, then ciphertext.
func SealShare(recipient, info, share []byte) ([]byte, error) {
	pub, err := kem().NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("seal share: recipient: %w", err)
	}
	sealed, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), info, share)
	if err != nil {
		return nil, fmt.Errorf("seal share: %w", err)
	}
	return sealed, nil
}

// OpenShare reverses SealShare. The caller wipes what it returns.
func OpenShare(key hpke.PrivateKey, info, sealed []byte) ([]byte, error) {
	share, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
	if err != nil {
		return nil, errors.New("open share: not sealed to this key for this occasion")
	}
	return share, nil
}

// delivery carries a share from the ceremony to its keeper, over any channel: a
// file, a mail, a USB stick.
type delivery struct {
	Format int    `json:"format"`
	Set    string `json:"set"`
	Epoch  uint64 `json:"epoch"`
	Keeper string `json:"keeper"`
	Sealed []byte `json:"sealed"`
}

// deliveryInfo binds the sealed share to the keeper's enrolled key too, so that
// a delivery made for an earlier enrolment of the same name does not open.
func deliveryInfo(m *Manifest, k Keeper) []byte {
	return Transcript(labelDelivery, []byte(m.Set), Uint64(m.Epoch), []byte(k.Name), []byte(k.SPKI))
}

// Deliver seals a share to the recipient key that the keeper enrolled with. It
// refuses a share that the manifest does not give to that keeper.
func Deliver(m *Manifest, keeper string, recipient, share []byte) ([]byte, error) {
	if err := m.CheckShare(keeper, m.Set, m.Epoch, share); err != nil {
		return nil, fmt.Errorf("deliver: %w", err)
	}
	k, _ := m.Keeper(keeper) // CheckShare found it
	sealed, err := SealShare(recipient, deliveryInfo(m, k), share)
	if err != nil {
		return nil, fmt.Errorf("deliver to keeper %s: %w", keeper, err)
	}
	b, err := json.Marshal(delivery{Format: 1, Set: m.Set, Epoch: m.Epoch, Keeper: keeper, Sealed: sealed})
	if err != nil {
		return nil, fmt.Errorf("deliver to keeper %s: %w", keeper, err)
	}
	return b, nil
}

// Receive opens a delivery made for the named keeper under the verified manifest
// m, and checks the share in it. The caller wipes the share.
func Receive(m *Manifest, keeper string, key hpke.PrivateKey, b []byte) (Share, error) {
	if len(b) > 4096 {
		return nil, errors.New("delivery: too long")
	}
	var d delivery
	if err := parseCanonical(b, &d); err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	if d.Format != 1 {
		return nil, fmt.Errorf("delivery: format %d is not known to this version of keybridge", d.Format)
	}
	if d.Keeper != keeper {
		return nil, fmt.Errorf("delivery: made for keeper %q, this is keeper %q", d.Keeper, keeper)
	}
	if d.Set != m.Set || d.Epoch != m.Epoch {
		return nil, fmt.Errorf("delivery: of set %q epoch %d, the manifest is of set %s epoch %d", d.Set, d.Epoch, m.Set, m.Epoch)
	}
	k, ok := m.Keeper(keeper)
	if !ok {
		return nil, fmt.Errorf("delivery: the manifest has no keeper %q", keeper)
	}
	share, err := OpenShare(key, deliveryInfo(m, k), d.Sealed)
	if err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	if err := m.CheckShare(keeper, d.Set, d.Epoch, share); err != nil {
		clear(share)
		return nil, fmt.Errorf("delivery: %w", err)
	}
	return share, nil
}
