package identity_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// TestRotationWithoutRestart goes through a rotation as a process that runs sees it.
func TestRotationWithoutRestart(t *testing.T) {
	h := newHouse(t)
	path := filepath.Join(t.TempDir(), "identity.key")
	id, err := identity.Create(path, identity.RoleBridge, "bridge-1")
	if err != nil {
		t.Fatal(err)
	}
	h.manifest.Bridges[0].SPKI = id.Fingerprint()
	old := id.Fingerprint()
	tr := h.trust(t)
	if err := id.Follow(tr); err != nil {
		t.Fatal(err)
	}
	client, server := identity.ClientTLS(id, tr, identity.RoleKeeper, ""), identity.ServerTLS(h.keeper, tr, identity.RoleBridge)
	uses := func(when, want string) {
		t.Helper()
		if id.Fingerprint() != want {
			t.Errorf("%s: the identity is another one", when)
		}
		if serverErr, clientErr := handshake(t, server, client); serverErr != nil || clientErr != nil {
			t.Errorf("%s: server %v, client %v", when, serverErr, clientErr)
		}
	}
	on := func(file string) string {
		t.Helper()
		k, err := identity.Load(filepath.Join(filepath.Dir(path), file))
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		} else if err != nil {
			t.Fatal(err)
		}
		return k.Fingerprint()
	}

	next, err := id.Next()
	if err != nil {
		t.Fatal(err)
	}
	again, err := id.Next()
	if err != nil || again.Fingerprint() != next.Fingerprint() {
		t.Errorf("asked twice: %v, another key %v", err, again)
	}
	uses("before it is enrolled", old)

	e, err := next.Enrolment(nil)
	if err != nil || e.Replaces != old || e.Fingerprint() != next.Fingerprint() {
		t.Errorf("its enrolment replaces %q: %v", e.Replaces, err)
	}
	list := func(v uint64, current, next string) {
		t.Helper()
		update(t, tr, h.signed(t, version(v), func(m *keyshare.Manifest) { m.Bridges[0].SPKI, m.Bridges[0].Next = current, next }))
	}

	list(2, old, next.Fingerprint())
	uses("as the next one", next.Fingerprint())
	if on("identity.key") != old || on("identity.next.key") != next.Fingerprint() {
		t.Error("the old key's file is touched while the old key is enrolled")
	}
	// A restart now takes up the same key, and the old key is accepted still.
	restarted, err := identity.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if serverErr, _ := handshake(t, server, identity.ClientTLS(restarted, tr, identity.RoleKeeper, "")); serverErr != nil {
		t.Errorf("the old key: %v", serverErr)
	}
	if err := restarted.Follow(tr); err != nil || restarted.Fingerprint() != next.Fingerprint() {
		t.Errorf("after a restart: %v, the identity is another one", err)
	}

	stolen, err := identity.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	list(3, next.Fingerprint(), "")
	uses("alone", next.Fingerprint())
	if on("identity.key") != next.Fingerprint() || on("identity.next.key") != "" {
		t.Error("the next key did not take the old one's file")
	}
	if serverErr, _ := handshake(t, server, identity.ClientTLS(stolen, tr, identity.RoleKeeper, "")); !errors.Is(serverErr, identity.ErrNotEnrolled) {
		t.Errorf("the old key is refused: got %v", serverErr)
	}
	if !cmp.Equal(id.Sign("d", []byte("m")), next.Sign("d", []byte("m"))) {
		t.Error("it signs with another key than it says")
	}
}

// What may come between the steps of a rotation.
func TestRotationInterrupted(t *testing.T) {
	h := newHouse(t)
	begin := func(t *testing.T) (tr *identity.Trust, id, next *identity.Identity, list func(version uint64, current, next string)) {
		var err error
		if id, err = identity.Create(filepath.Join(t.TempDir(), "identity.key"), identity.RoleControl, "control-1"); err != nil {
			t.Fatal(err)
		}
		if next, err = id.Next(); err != nil {
			t.Fatal(err)
		}
		tr = identity.NewTrust(h.public())
		return tr, id, next, func(v uint64, current, next string) {
			t.Helper()
			update(t, tr, h.signed(t, version(v), func(m *keyshare.Manifest) {
				m.ControlPlanes = []keyshare.Peer{{Name: "control-1", SPKI: current, Next: next}}
			}))
		}
	}
	follow := func(t *testing.T, id *identity.Identity, tr *identity.Trust) {
		t.Helper()
		if err := id.Follow(tr); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("called off", func(t *testing.T) {
		tr, id, next, list := begin(t)
		old := id.Fingerprint()
		follow(t, id, tr)
		list(1, old, next.Fingerprint())
		if id.Fingerprint() != next.Fingerprint() {
			t.Error("the next key is not in use")
		}
		list(2, old, "")
		if id.Fingerprint() != old {
			t.Error("the old key is not back in use")
		}
	})
	t.Run("not running at the first step", func(t *testing.T) {
		tr, id, next, list := begin(t)
		list(1, next.Fingerprint(), "")
		follow(t, id, tr)
		if id.Fingerprint() != next.Fingerprint() {
			t.Error("the next key is not in use")
		}
	})
	t.Run("the next key of somebody else", func(t *testing.T) {
		tr, id, _, list := begin(t)
		old := id.Fingerprint()
		follow(t, id, tr)
		list(1, old, h.control.Fingerprint())
		if id.Fingerprint() != old {
			t.Error("another key is in use")
		}
	})
	t.Run("not listed at all", func(t *testing.T) {
		tr, id, _, _ := begin(t)
		old := id.Fingerprint()
		follow(t, id, tr)
		update(t, tr, h.signed(t, func(m *keyshare.Manifest) { m.ControlPlanes = []keyshare.Peer{} }))
		if id.Fingerprint() != old {
			t.Error("another key is in use")
		}
	})
	t.Run("a key that others can read", func(t *testing.T) {
		tr, id, next, list := begin(t)
		old := id.Fingerprint()
		list(1, old, next.Fingerprint())
		dir, err := filepath.Glob(filepath.Join(t.TempDir(), "..", "*", "identity.next.key"))
		if err != nil || len(dir) != 1 {
			t.Fatal(dir, err)
		}
		if err := os.Chmod(dir[0], 0o644); err != nil {
			t.Fatal(err)
		}
		if err := id.Follow(tr); err == nil || !strings.Contains(err.Error(), "chmod") || id.Fingerprint() != old {
			t.Errorf("got %v", err)
		}
	})
}
