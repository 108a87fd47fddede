package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

func TestTrustNeverGoesBack(t *testing.T) {
	h := newHouse(t)
	rekeyed := func(m *keyshare.Manifest) {
		m.Version, m.Epoch, m.Set = 6, 2, setB
		m.Keepers[0].ShareKey, m.Keepers[1].ShareKey = newKey(t).Public().(ed25519.PublicKey), newKey(t).Public().(ed25519.PublicKey)
	}
	tr := h.trust(t)
	update(t, tr, h.signed(t, version(5), withoutBridges))
	tests := []struct {
		name    string
		signed  []byte
		changed bool
		stale   bool
		fails   bool
		want    string
	}{
		{"the same again", h.signed(t, version(5), withoutBridges), false, false, false, "version 5, epoch 1"},
		{"older, with the bridge", h.signed(t, version(4)), false, true, true, "version 5, epoch 1"},
		{"another of the same version", h.signed(t, version(5)), false, false, true, "version 5, epoch 1"},
		{"another set in the same epoch", h.signed(t, version(6), func(m *keyshare.Manifest) { m.Set = setB }), false, false, true, "version 5, epoch 1"},
		{"another U in the same epoch", h.signed(t, version(6), func(m *keyshare.Manifest) { m.Check = bytes.Repeat([]byte{1}, 32) }), false, false, true, "version 5, epoch 1"},
		{"another share in the same epoch", h.signed(t, version(6), func(m *keyshare.Manifest) {
			m.Keepers[0].ShareKey = newKey(t).Public().(ed25519.PublicKey)
		}), false, false, true, "version 5, epoch 1"},
		{"another root", sign(t, newKey(t), h.manifest, version(9)), false, false, true, "version 5, epoch 1"},
		{"garbage", []byte("{}"), false, false, true, "version 5, epoch 1"},
		{"a new epoch", h.signed(t, rekeyed), true, false, false, "version 6, epoch 2"},
		{"a newer version of the old epoch", h.signed(t, version(7)), false, false, true, "version 6, epoch 2"},
	}
	for _, tt := range tests { // in order: each starts from what the one before left
		changed, err := tr.Update(tt.signed)
		if changed != tt.changed || (err != nil) != tt.fails || errors.Is(err, identity.ErrStale) != tt.stale {
			t.Errorf("%s: changed %v, error %v", tt.name, changed, err)
		}
		if got := describe(tr.Manifest()); got != tt.want {
			t.Errorf("%s: in force is %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestTrustBeforeTheFirstManifest(t *testing.T) {
	tr := identity.NewTrust(newHouse(t).public())
	if tr.Manifest() != nil || tr.Signed() != nil {
		t.Error("a manifest out of nowhere")
	}
	if _, err := identity.NewTrust(nil).Update(newHouse(t).signed(t)); err == nil {
		t.Error("a trust without root accepted a manifest")
	}
}

func TestOpenTrustPersists(t *testing.T) {
	h := newHouse(t)
	path := filepath.Join(t.TempDir(), "manifest.json")
	tr, err := identity.OpenTrust(h.public(), path)
	if err != nil {
		t.Fatal(err)
	}
	if tr.Manifest() != nil {
		t.Error("a manifest out of nowhere")
	}
	update(t, tr, h.signed(t, version(2)))

	again, err := identity.OpenTrust(h.public(), path)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(again.Manifest()); got != "version 2, epoch 1" || !bytes.Equal(again.Signed(), tr.Signed()) {
		t.Errorf("after a restart: %s", got)
	}

	// The operator replaces the file; an older or broken one changes nothing.
	put := func(b []byte) {
		t.Helper()
		if err := identity.WritePrivate(path, b); err != nil {
			t.Fatal(err)
		}
	}
	put(h.signed(t, version(3), withoutBridges))
	if err := again.Refresh(); err != nil || again.Manifest().Version != 3 {
		t.Errorf("a newer file: %s, %v", describe(again.Manifest()), err)
	}
	put(h.signed(t, version(1)))
	if err := again.Refresh(); !errors.Is(err, identity.ErrStale) || again.Manifest().Version != 3 {
		t.Errorf("an older file: %s, %v", describe(again.Manifest()), err)
	}
	put([]byte("{"))
	if err := again.Refresh(); err == nil || again.Manifest().Version != 3 {
		t.Errorf("a broken file: %s, %v", describe(again.Manifest()), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := again.Refresh(); err != nil || again.Manifest().Version != 3 {
		t.Errorf("no file: %s, %v", describe(again.Manifest()), err)
	}
	put([]byte("{"))
	if _, err := identity.OpenTrust(h.public(), path); err == nil {
		t.Error("opened a broken file")
	}
}

// Not being able to save a revocation must not keep the revoked in.
func TestUpdateHoldsWhenItCannotBeSaved(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tr, err := identity.OpenTrust(h.public(), filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	update(t, tr, h.signed(t))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	changed, err := tr.Update(h.signed(t, version(2), withoutBridges))
	if !changed || err == nil || tr.Manifest().Version != 2 {
		t.Errorf("changed %v, error %v, in force %s", changed, err, describe(tr.Manifest()))
	}
}

// Who waits for the end of an enrolment notices a wall clock that is set meanwhile.
func TestAtLooksAtTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := identity.NewTrust(nil)
		start := time.Now()
		tr.Clock = func() time.Time { return start }
		if took := (<-tr.At(start.Add(time.Second))).Sub(start); took != time.Second {
			t.Errorf("after %v", took)
		}
		if took := (<-tr.At(start.Add(24 * time.Hour))).Sub(start); took > 2*time.Minute {
			t.Errorf("after %v", took)
		}
	})
}
