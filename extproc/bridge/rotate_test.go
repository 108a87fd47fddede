package bridge_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"strings"
	"testing"

	"keybridge/extproc/grant"
	"keybridge/keyshare"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

// anotherKey adds a sealing key to the house's keyring as package unseal documents it.
func (w *world) anotherKey(t *testing.T) (keyring []byte, added *seal.PublicKey) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	added, err = seal.NewPublicKey(&private.PublicKey)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	trust := w.trust(t)
	m := trust.Manifest()
	keepers := map[string]string{}
	for i, addr := range w.keeperAddrs {
		keepers[[]string{"keeper-1", "keeper-2", "keeper-3"}[i]] = addr
	}
	must(t, quorum.Unseal(t.Context(), quorum.Config{
		Identity: w.identities["bridge"], Trust: trust, Keepers: keepers, Reason: "startup",
	}, func(u []byte) error {
		block, err := aes.NewCipher(u)
		must(t, err)
		gcm, err := cipher.NewGCM(block)
		must(t, err)
		str := func(to []byte, s string) []byte { return append(binary.BigEndian.AppendUint16(to, uint16(len(s))), s...) }
		head := len(str(nil, "keybridge keyring")) + 2
		aad := binary.BigEndian.AppendUint64(str(str(nil, "keybridge keyring v1"), m.Set), m.Epoch)
		old := w.made.Keyring
		plain, err := gcm.Open(nil, old[head:head+12], old[head+12:], aad)
		must(t, err)
		first := 2 + 4 + 2 + int(binary.BigEndian.Uint16(plain[6:]))
		next := append([]byte{0, 2}, plain[2:first]...)
		next = binary.BigEndian.AppendUint32(next, 2)
		next = append(binary.BigEndian.AppendUint16(next, uint16(len(der))), der...)
		next = append(next, plain[first:]...)
		iv := bytes.Repeat([]byte{9}, 12)
		keyring = gcm.Seal(append(bytes.Clone(old[:head]), iv...), iv, next, aad)
		return nil
	}))
	return keyring, added
}

// A sealing key that the keyring lacks is taken up while the bridge serves, and what came
// sealed to it before that opens then.
func TestNewSealingKeyIsTakenUp(t *testing.T) {
	w := newWorld(t)
	w.ownKeepers(t)
	o := w.addOne(t)
	keyring, added := w.anotherKey(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })

	early := w.sealedKey(o, 2)
	s, err := seal.Seal(added, early.header, []byte("sealed to the new key"))
	must(t, err)
	early.record.Sealed, err = s.MarshalBinary()
	must(t, err)
	w.source.put(early.record)
	w.awaitKey(t, func(k *grant.Key) bool { return k == nil })
	w.await(t, func() bool { return strings.Contains(w.log.String(), "unknown sealing key") })

	w.source.mu.Lock()
	w.source.keyring = keyring
	w.source.mu.Unlock()
	w.decree(t, func(m *keyshare.Manifest) {
		digest := unseal.Digest(keyring)
		m.KeyringDigest = digest[:]
		m.SealingKeys = append(m.SealingKeys, keyshare.SealingKey{ID: added.ID(), Suite: seal.SuiteRSA3072, PEM: string(added.PEM())})
	})
	k := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	if got := string(k.Secret.Secret().Bytes()); got != "sealed to the new key" {
		t.Errorf("the secret is %q", got)
	}
	w.await(t, func() bool {
		for _, b := range w.hub.Bridges() {
			if len(b.Report.GetSealingKeys()) == 2 && b.Report.SealingKeys[1] == added.ID() && b.Report.ManifestVersion == 2 {
				return true
			}
		}
		return false
	})
	// What the old key opens is open as before, and it goes on serving both.
	w.put(t, w.sealedKey(o, 3))
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Secret.Version() == 3 })
}
