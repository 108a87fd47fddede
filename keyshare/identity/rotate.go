package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
// that a lost enrolment or an interrupted run costs nothing. Its Enrolment says
// which key it replaces.
func (id *Identity) Next() (*Identity, error) {
	if id.path == "" {
		return nil, fmt.Errorf("next identity of %s: it has no file", id)
	}
	next, err := Load(nextPath(id.path))
	if errors.Is(err, fs.ErrNotExist) {
		next, err = Create(nextPath(id.path), id.role, id.name)
	}
	if err != nil {
		return nil, err
	}
	if next.role != id.role || next.name != id.name {
		return nil, fmt.Errorf("%s is of %s, not of %s", next.path, next, id)
	}
	next.replaces = id.Fingerprint()
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
	of := m.Entry(string(id.role), id.name)
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
	for _, spki := range []string{*of.Next, *of.SPKI} {
		if spki == "" {
			continue
		}
		if id.Fingerprint() == spki || id.use(spki, kept) {
			break
		}
	}
	// A next key that is in force by itself takes the old one's file; until then a
	// rotation can be called off.
	if next := kept[nextPath(id.path)]; next != nil && next.Fingerprint() == *of.SPKI {
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
