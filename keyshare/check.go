package keyshare

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
)

// CheckShare says whether share, offered as the one of the named keeper in a set
// and epoch, is the share that this manifest gave to that keeper. The error is a
// *ShareError. A share that passes can only be the genuine one: its derived key
// matches, which binds every byte of it, x included.
func (m *Manifest) CheckShare(keeper, set string, epoch uint64, share []byte) error {
	bad := func(format string, args ...any) error {
		return &ShareError{Keeper: keeper, Reason: fmt.Sprintf(format, args...)}
	}
	k, ok := m.Keeper(keeper)
	switch {
	case !ok:
		return bad("the manifest has no such keeper")
	case set != m.Set:
		return bad("it is of set %s, the manifest's set is %s", set, m.Set)
	case epoch != m.Epoch:
		return bad("it is of epoch %d, the manifest's epoch is %d", epoch, m.Epoch)
	case len(share) < ShareSize:
		return bad("it is truncated: %d of %d bytes", len(share), ShareSize)
	case len(share) > ShareSize:
		return bad("it has %d bytes, want %d", len(share), ShareSize)
	case Share(share).X() == 0:
		return bad("its x is 0, which would decide the result alone")
	}
	key, err := ShareKey(share, set, epoch)
	if err != nil {
		return bad("%v", err)
	}
	defer clear(key)
	public := key[ed25519.SeedSize:] // the second half of an ed25519.PrivateKey is the public key
	if bytes.Equal(public, k.ShareKey) {
		if int(Share(share).X()) != k.X {
			// Only a manifest that contradicts itself comes here.
			return bad("its x is %d, the manifest says %d", Share(share).X(), k.X)
		}
		return nil
	}
	for _, other := range m.Keepers {
		if bytes.Equal(public, other.ShareKey) {
			return bad("it is the share of keeper %s", other.Name)
		}
	}
	return bad("it is not a share of set %s, epoch %d: it belongs to another set or is damaged", m.Set, m.Epoch)
}
