package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keybridge/keyshare"
)

// nextPath is where the key waits that is to replace the one in path:
// identity.next.key beside identity.key.
func nextPath(path string) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + ".next" + ext
}

// Next is the identity that is to replace this one: same role and name, another
// key, in identity.next.key beside identity.key. It is made if there is none, so
// that a lost enrolment or an interrupted run costs nothing.
func (id *Identity) Next() (*Identity, error) {
	if id.path == "" {
		return nil, fmt.Errorf("next identity of %s: it has no file", id)
	}
	next, err := Load(nextPath(id.path))
	if errors.Is(err, fs.ErrNotExist) {
		return Create(nextPath(id.path), id.role, id.name)
	}
	if err != nil {
		return nil, err
	}
	if next.role != id.role || next.name != id.name {
		return nil, fmt.Errorf("%s is of %s, not of %s", next.path, next, id)
	}
	return next, nil
}

// Follow has the identity go by t's manifest from now on: once that lists the next
// key (Next), new connections and signatures use it, without a restart, and once it
// does not list the old one any more, the next key takes the old one's file.
func (id *Identity) Follow(t *Trust) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own = append(t.own, id)
	return id.rotate(t.Manifest())
}

// rotate takes the key into use that m lists, the next one before the other, if it
// is here. If it is not, nothing can be done about it, and the peers say so.
// Trust.mu is held.
func (id *Identity) rotate(m *keyshare.Manifest) error {
	if m == nil || id.path == "" {
		return nil
	}
	of := entry(m, id.role, id.name)
	if of == nil {
		return nil
	}
	kept := make(map[string]*Identity, 2) // by path
	for _, path := range []string{nextPath(id.path), id.path} {
		key, err := Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("rotate identity: %w", err)
		}
		if key.role == id.role && key.name == id.name {
			kept[path] = key
		}
	}
	for _, spki := range []string{*of.next, *of.spki} {
		if spki == "" {
			continue
		}
		if id.Fingerprint() == spki || id.use(spki, kept) {
			break
		}
	}
	// A next key that is in force by itself takes the old one's file; until then a
	// rotation can be called off.
	if next := kept[nextPath(id.path)]; next != nil && next.Fingerprint() == *of.spki {
		if err := os.Rename(nextPath(id.path), id.path); err != nil {
			return fmt.Errorf("rotate identity: %w", err)
		}
		return syncDir(filepath.Dir(id.path))
	}
	return nil
}

func (id *Identity) use(spki string, kept map[string]*Identity) bool {
	for _, key := range kept {
		if key.Fingerprint() == spki {
			id.current.Store(key.current.Load())
			return true
		}
	}
	return false
}

// enrolled points at what the manifest's three kinds of entries have in common.
type enrolled struct {
	spki, next *string
	notAfter   **time.Time
	recipient  []byte
}

func entry(m *keyshare.Manifest, role Role, name string) *enrolled {
	switch role {
	case RoleKeeper:
		for i := range m.Keepers {
			if k := &m.Keepers[i]; k.Name == name {
				return &enrolled{&k.SPKI, &k.Next, &k.NotAfter, k.Recipient}
			}
		}
	case RoleBridge:
		for i := range m.Bridges {
			if b := &m.Bridges[i]; b.Name == name {
				return &enrolled{&b.SPKI, &b.Next, &b.NotAfter, nil}
			}
		}
	case RoleControl:
		for i := range m.ControlPlanes {
			if c := &m.ControlPlanes[i]; c.Name == name {
				return &enrolled{&c.SPKI, &c.Next, &c.NotAfter, nil}
			}
		}
	}
	return nil
}

// Rotate is one step of replacing the key of an enrolled process: the manifest to
// sign after m. The first step, of a key that m does not list, lists it as the next
// one beside the old: both are accepted, and the process takes the new one into use.
// The second, with the same enrolment once every process has seen that manifest,
// drops the old. until, if not nil, is when the enrolment shall end by itself.
func Rotate(m *keyshare.Manifest, e *Enrolment, until *time.Time, now time.Time) (*keyshare.Manifest, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	c := *m
	c.Keepers, c.Bridges, c.ControlPlanes = slices.Clone(m.Keepers), slices.Clone(m.Bridges), slices.Clone(m.ControlPlanes)
	c.Version, c.CreatedAt = m.Version+1, now.UTC().Truncate(time.Second)
	of := entry(&c, e.Role, e.Name)
	if of == nil {
		return nil, fmt.Errorf("rotate: %s %s is not in manifest version %d", e.Role, e.Name, m.Version)
	}
	if !slices.Equal(of.recipient, e.Recipient) {
		// A share is delivered to a recipient: another one is a matter of a rekey.
		return nil, fmt.Errorf("rotate: %s %s applied with another recipient than it has", e.Role, e.Name)
	}
	spki := e.Fingerprint()
	switch spki {
	case *of.spki:
		return nil, fmt.Errorf("rotate: %s %s has this key already", e.Role, e.Name)
	case *of.next:
		*of.spki, *of.next = spki, ""
	default:
		*of.next = spki
	}
	if until != nil {
		end := until.UTC().Truncate(time.Second)
		*of.notAfter = &end
	}
	return &c, nil
}
