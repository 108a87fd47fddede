package ceremony

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/unseal"
)

// InitConfig is who takes part. The operator has compared every enrolment's
// fingerprint with its owner: Init can check that an enrolment is whole, not whose
// it is.
type InitConfig struct {
	// Keepers get one share each.
	Keepers []identity.Enrolment
	// Threshold of them recover U; 0 means a majority, but at least 2.
	Threshold     int
	Bridges       []identity.Enrolment
	ControlPlanes []identity.Enrolment
	// Workspaces lists, by bridge name, the workspaces that a bridge serves; a bridge
	// that is not listed serves all.
	Workspaces map[string][]string
	// Now is the manifest's creation time; zero is the present.
	Now time.Time
	// Progress is told every step before it is done; its error ends the ceremony.
	Progress func(Step) error
}

func (cfg *InitConfig) step(name, format string, args ...any) error {
	if cfg.Progress == nil {
		return nil
	}
	return cfg.Progress(Step{Step: name, Detail: fmt.Sprintf(format, args...)})
}

// InitResult is what the caller distributes.
type InitResult struct {
	// RootPrivate signs manifests. It is the one secret here: store it encrypted,
	// offline, and Wipe the result.
	RootPrivate ed25519.PrivateKey
	// RootPublic goes into the configuration of every process.
	RootPublic ed25519.PublicKey
	// Manifest is the signed manifest (JSON of keyshare.Signed), for everybody.
	Manifest []byte
	// Keyring is the wrapped keyring, for the store.
	Keyring []byte
	// Deliveries holds, by keeper name, what keeper.Accept takes beside the manifest.
	Deliveries map[string][]byte
}

// Wipe erases the root's private key.
func (r *InitResult) Wipe() {
	lockedmem.Wipe(r.RootPrivate)
	r.RootPrivate = nil
}

// Init makes a share set of version 1, epoch 1. Before it returns it has recovered
// U from the very shares that it delivers and opened the keyring with it: a set
// that cannot be unsealed is never handed out.
func Init(cfg InitConfig) (*InitResult, error) {
	r, err := create(cfg)
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	return r, nil
}

func create(cfg InitConfig) (*InitResult, error) {
	m, err := describe(&cfg)
	if err != nil {
		return nil, err
	}
	arena, err := lockedmem.NewArena()
	if err != nil {
		return nil, err
	}
	defer arena.Purge()
	u, err := newUnsealKey(arena)
	if err != nil {
		return nil, err
	}
	r := &InitResult{}
	if err := cfg.step("keyring", "a sealing key, wrapped under a new unseal key"); err != nil {
		return nil, err
	}
	if err := makeKeyring(r, m, u.Bytes()); err != nil {
		return nil, err
	}
	if err := cfg.step("split", "%d shares, of which %d recover the unseal key; rehearsed twice", m.Shares, m.Threshold); err != nil {
		return nil, err
	}
	if r.Deliveries, err = distribute(m, u.Bytes(), r.Keyring); err != nil {
		return nil, err
	}
	if err := cfg.step("sign", "manifest version %d, by a new operator root", m.Version); err != nil {
		return nil, err
	}
	r.RootPublic, r.RootPrivate, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if r.Manifest, err = sign(r.RootPrivate, m); err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}

// describe makes the manifest as far as the enrolments give it.
func describe(cfg *InitConfig) (*keyshare.Manifest, error) {
	n := len(cfg.Keepers)
	if cfg.Threshold == 0 {
		cfg.Threshold = max(2, n/2+1)
	}
	if cfg.Threshold < 2 || cfg.Threshold > n || n > 255 {
		return nil, fmt.Errorf("%d keepers with threshold %d: want 2 ≤ threshold ≤ keepers ≤ 255", n, cfg.Threshold)
	}
	if cfg.Now.IsZero() {
		cfg.Now = time.Now()
	}
	m := &keyshare.Manifest{
		Format: keyshare.ManifestFormat, Version: 1, Set: uuid.NewString(), Epoch: 1,
		Threshold: cfg.Threshold, Shares: n, CreatedAt: cfg.Now,
		Keepers: []keyshare.Keeper{}, Bridges: []keyshare.Bridge{}, ControlPlanes: []keyshare.Peer{},
	}
	for _, e := range cfg.Keepers {
		if err := check(&e, identity.RoleKeeper); err != nil {
			return nil, err
		}
		if _, twice := m.Keeper(e.Name); twice {
			return nil, fmt.Errorf("keeper %s is listed twice", e.Name)
		}
		m.Keepers = append(m.Keepers, keyshare.Keeper{Name: e.Name, SPKI: e.Fingerprint(), Recipient: bytes.Clone(e.Recipient)})
	}
	known := make(map[string]bool)
	for _, e := range cfg.Bridges {
		if err := check(&e, identity.RoleBridge); err != nil {
			return nil, err
		}
		known[e.Name] = true
		ws, listed := cfg.Workspaces[e.Name]
		if !listed {
			ws = []string{"*"}
		}
		ws = slices.Sorted(slices.Values(ws)) // the manifest wants them in order
		m.Bridges = append(m.Bridges, keyshare.Bridge{Name: e.Name, SPKI: e.Fingerprint(), Workspaces: ws})
	}
	for name := range cfg.Workspaces {
		if !known[name] {
			return nil, fmt.Errorf("workspaces are given for bridge %q, which is not enrolled", name)
		}
	}
	for _, e := range cfg.ControlPlanes {
		if err := check(&e, identity.RoleControl); err != nil {
			return nil, err
		}
		m.ControlPlanes = append(m.ControlPlanes, keyshare.Peer{Name: e.Name, SPKI: e.Fingerprint()})
	}
	return m, nil
}

func check(e *identity.Enrolment, role identity.Role) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if e.Role != role {
		return fmt.Errorf("%s applied as %s, not as %s", e.Name, e.Role, role)
	}
	return nil
}

func makeKeyring(r *InitResult, m *keyshare.Manifest, u []byte) error {
	wrapped, sealing, err := unseal.Generate(m.Set, m.Epoch, u)
	if err != nil {
		return err
	}
	digest := unseal.Digest(wrapped)
	r.Keyring, m.KeyringDigest = wrapped, digest[:]
	m.SealingKeys = []keyshare.SealingKey{newSealingKey(sealing)}
	m.SealingKeys[0].Current = true
	m.Check, err = keyshare.CheckValue(u, m.Set, m.Epoch)
	return err
}
