package keyshare

import (
	"crypto/ed25519"
	"slices"
	"time"
)

// ManifestFormat is the only manifest format that this program reads and writes.
const ManifestFormat = 1

// Manifest is what the operator signed: the share set in force and everyone who
// takes part. Its JSON encoding by encoding/json is canonical; Verify accepts no
// other spelling. Every digest called SPKI is the lower-case hex SHA-256 of a
// DER SubjectPublicKeyInfo.
type Manifest struct {
	Format int `json:"format"`
	// Version counts signed manifests, from 1. The highest is the newest.
	Version uint64 `json:"version"`
	// Set is the UUID of the share set; Epoch counts share sets, from 1.
	Set   string `json:"set"`
	Epoch uint64 `json:"epoch"`
	// Threshold shares out of Shares recover U.
	Threshold int `json:"threshold"`
	Shares    int `json:"shares"`
	// KeyringDigest is the SHA-256 of the wrapped keyring: a store cannot bring back an old one.
	KeyringDigest []byte `json:"keyringDigest"`
	// Check is CheckValue of U.
	Check         []byte       `json:"check"`
	Keepers       []Keeper     `json:"keepers"` // one per share
	Bridges       []Bridge     `json:"bridges"`
	ControlPlanes []Peer       `json:"controlPlanes"`
	SealingKeys   []SealingKey `json:"sealingKeys"` // exactly one is current
	CreatedAt     time.Time    `json:"createdAt"`   // UTC, whole seconds
}

// Keeper is an enrolled share holder.
type Keeper struct {
	Name string `json:"name"`
	// X is the coordinate of its share, 1 to 255.
	X    int    `json:"x"`
	SPKI string `json:"spki"`
	// Next is the SPKI of the identity that is to replace it: both are accepted.
	Next string `json:"next,omitempty"`
	// NotAfter ends the enrolment by itself; UTC, whole seconds.
	NotAfter *time.Time `json:"notAfter,omitempty"`
	// ShareKey is the public half of the key derived from its share.
	ShareKey ed25519.PublicKey `json:"shareKey"`
	// Recipient is the X25519 public key that shares are delivered to.
	Recipient []byte `json:"recipient"`
}

// Bridge is an enrolled bridge and the workspaces whose records it may have:
// UUIDs in ascending order, or the one entry "*" for all.
type Bridge struct {
	Name string `json:"name"`
	SPKI string `json:"spki"`
	// Next and NotAfter are as of a Keeper.
	Next       string     `json:"next,omitempty"`
	NotAfter   *time.Time `json:"notAfter,omitempty"`
	Workspaces []string   `json:"workspaces"`
}

// Peer is an enrolled control plane.
type Peer struct {
	Name string `json:"name"`
	SPKI string `json:"spki"`
	// Next and NotAfter are as of a Keeper.
	Next     string     `json:"next,omitempty"`
	NotAfter *time.Time `json:"notAfter,omitempty"`
}

// SealingKey is a public key that secrets are sealed to. The current one is used
// for new records; the others are kept so that old records can be named.
type SealingKey struct {
	ID      string `json:"id"` // hex SHA-256 of the SPKI, as package seal names it
	Suite   uint16 `json:"suite"`
	PEM     string `json:"pem"`
	Current bool   `json:"current"`
	// RetireAfter, of a key that is not current any more, is when its private half may
	// leave the keyring: once no backup is needed that is sealed to it. UTC, whole seconds.
	RetireAfter *time.Time `json:"retireAfter,omitempty"`
}

// Is says whether an SPKI is the keeper's: that of its identity, or of the next one.
func (k Keeper) Is(spki string) bool { return is(spki, k.SPKI, k.Next) }

// Is is as of a Keeper.
func (b Bridge) Is(spki string) bool { return is(spki, b.SPKI, b.Next) }

// Is is as of a Keeper.
func (p Peer) Is(spki string) bool { return is(spki, p.SPKI, p.Next) }

func is(spki, current, next string) bool { return spki != "" && (spki == current || spki == next) }

// Entry is what the manifest's three kinds of entries have in common, in place.
type Entry struct {
	SPKI, Next *string
	NotAfter   **time.Time
}

// Entry finds what is enrolled in a role, named as in an Expiry; nil: nothing is.
func (m *Manifest) Entry(role, name string) *Entry {
	switch role {
	case "keeper":
		for i := range m.Keepers {
			if k := &m.Keepers[i]; k.Name == name {
				return &Entry{&k.SPKI, &k.Next, &k.NotAfter}
			}
		}
	case "bridge":
		for i := range m.Bridges {
			if b := &m.Bridges[i]; b.Name == name {
				return &Entry{&b.SPKI, &b.Next, &b.NotAfter}
			}
		}
	case "control":
		for i := range m.ControlPlanes {
			if c := &m.ControlPlanes[i]; c.Name == name {
				return &Entry{&c.SPKI, &c.Next, &c.NotAfter}
			}
		}
	}
	return nil
}

// Expiry is an enrolment that ends by itself.
type Expiry struct {
	Role, Name string // as packages show them: "keeper", "bridge" or "control"
	NotAfter   time.Time
}

// Expiring are the enrolments that end by then, or have ended, the first to end first.
func (m *Manifest) Expiring(by time.Time) []Expiry {
	var all []Expiry
	add := func(role, name string, at *time.Time) {
		if at != nil && !at.After(by) {
			all = append(all, Expiry{role, name, *at})
		}
	}
	for _, k := range m.Keepers {
		add("keeper", k.Name, k.NotAfter)
	}
	for _, b := range m.Bridges {
		add("bridge", b.Name, b.NotAfter)
	}
	for _, c := range m.ControlPlanes {
		add("control", c.Name, c.NotAfter)
	}
	slices.SortStableFunc(all, func(a, b Expiry) int { return a.NotAfter.Compare(b.NotAfter) })
	return all
}

// Keeper finds an enrolled keeper by name.
func (m *Manifest) Keeper(name string) (Keeper, bool) {
	for _, k := range m.Keepers {
		if k.Name == name {
			return k, true
		}
	}
	return Keeper{}, false
}

// CurrentSealingKey is the key that new secrets are sealed to. A verified
// manifest has exactly one.
func (m *Manifest) CurrentSealingKey() SealingKey {
	for _, k := range m.SealingKeys {
		if k.Current {
			return k
		}
	}
	return SealingKey{}
}

// ShareError says which keeper's share is wrong and why. It never carries any
// byte of the share but x, which is public.
type ShareError struct {
	Keeper string
	Reason string
}

func (e *ShareError) Error() string { return "share of keeper " + e.Keeper + ": " + e.Reason }
