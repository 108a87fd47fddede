package identity_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

const (
	setA = "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11"
	setB = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
)

// house is an operator root, one process of each role and a manifest of them.
type house struct {
	root                           ed25519.PrivateKey
	manifest                       *keyshare.Manifest
	bridge, keeper, other, control *identity.Identity
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{root: newKey(t)}
	h.bridge = create(t, identity.RoleBridge, "bridge-1")
	h.keeper = create(t, identity.RoleKeeper, "keeper-1")
	h.other = create(t, identity.RoleKeeper, "keeper-2")
	h.control = create(t, identity.RoleControl, "control-1")
	der, err := x509.MarshalPKIXPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(der)
	h.manifest = &keyshare.Manifest{
		Format: 1, Version: 1, Set: setA, Epoch: 1, Threshold: 2, Shares: 2,
		KeyringDigest: make([]byte, 32), Check: make([]byte, 32),
		Keepers: []keyshare.Keeper{
			{Name: "keeper-1", X: 3, SPKI: h.keeper.Fingerprint(), ShareKey: newKey(t).Public().(ed25519.PublicKey), Recipient: make([]byte, 32)},
			{Name: "keeper-2", X: 4, SPKI: h.other.Fingerprint(), ShareKey: newKey(t).Public().(ed25519.PublicKey), Recipient: make([]byte, 32)},
		},
		Bridges:       []keyshare.Bridge{{Name: "bridge-1", SPKI: h.bridge.Fingerprint(), Workspaces: []string{setA, setB}[:1]}},
		ControlPlanes: []keyshare.Peer{{Name: "control-1", SPKI: h.control.Fingerprint()}},
		SealingKeys: []keyshare.SealingKey{{
			ID: hex.EncodeToString(id[:]), Suite: 1, Current: true,
			PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		}},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	return h
}

func digest(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func create(t testing.TB, role identity.Role, name string) *identity.Identity {
	t.Helper()
	id, err := identity.Create(filepath.Join(t.TempDir(), "identity.key"), role, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// signed is the house's manifest after changes, signed.
func (h *house) signed(t testing.TB, changes ...func(m *keyshare.Manifest)) []byte {
	t.Helper()
	return sign(t, h.root, h.manifest, changes...)
}

func sign(t testing.TB, root ed25519.PrivateKey, m *keyshare.Manifest, changes ...func(m *keyshare.Manifest)) []byte {
	t.Helper()
	c := *m
	c.Keepers = append([]keyshare.Keeper{}, m.Keepers...)
	c.Bridges = append([]keyshare.Bridge{}, m.Bridges...)
	for _, change := range changes {
		change(&c)
	}
	s, err := keyshare.Sign(root, &c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func version(v uint64) func(m *keyshare.Manifest) {
	return func(m *keyshare.Manifest) { m.Version = v }
}

func withoutBridges(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} }

func (h *house) public() ed25519.PublicKey { return h.root.Public().(ed25519.PublicKey) }

func (h *house) trust(t testing.TB) *identity.Trust {
	t.Helper()
	tr := identity.NewTrust(h.public())
	update(t, tr, h.signed(t))
	return tr
}

func update(t testing.TB, tr *identity.Trust, signed []byte) {
	t.Helper()
	if changed, err := tr.Update(signed); err != nil || !changed {
		t.Fatalf("update: changed %v, error %v", changed, err)
	}
}

func describe(m *keyshare.Manifest) string {
	if m == nil {
		return "none"
	}
	return fmt.Sprintf("version %d, epoch %d", m.Version, m.Epoch)
}
