package bridge_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// decree puts the house's manifest in force at the control plane, changed, with the
// next version, and announces it as followManifest of cmd/keybridge does.
func (w *world) decree(t *testing.T, change func(m *keyshare.Manifest)) {
	t.Helper()
	m, err := keyshare.Verify(w.made.RootPublic, w.made.Manifest)
	must(t, err)
	m.Version = w.trusted.Manifest().Version + 1
	change(m)
	s, err := keyshare.Sign(w.made.RootPrivate, m)
	must(t, err)
	signed, err := json.Marshal(s)
	must(t, err)
	_, err = w.trusted.Update(signed)
	must(t, err)
	w.source.decree(signed)
	w.hub.Announce()
}

// ownKeepers gives a test keepers that may learn its manifests: those of the house
// are everybody's.
func (w *world) ownKeepers(t *testing.T) {
	t.Helper()
	h := *w.house
	h.keeperDirs = slices.Clone(h.keeperDirs)
	w.house = &h
	for i, from := range h.keeperDirs {
		w.keepers[i]()
		to := t.TempDir()
		entries, err := os.ReadDir(from)
		must(t, err)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(from, e.Name()))
			must(t, err)
			must(t, identity.WritePrivate(filepath.Join(to, e.Name()), b))
		}
		h.keeperDirs[i] = to
		w.serveKeeper(t, i)
	}
}

func TestRevokedBridgeSealsItself(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })

	w.decree(t, func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} })
	w.await(t, func() bool { return w.bridge.State() == bridge.Sealed && w.live.Load() == nil })
	w.await(t, func() bool { return strings.Contains(w.bridge.Status().Custody, identity.ErrNotEnrolled.Error()) })
	w.await(t, func() bool {
		b := w.hub.Bridges()
		return len(b) == 1 && !b[0].Connected
	})
	if s := w.bridge.Status(); s.Keys != 0 {
		t.Errorf("it says that it serves %d keys", s.Keys)
	}
	if w.trusted.Manifest().Version != 2 {
		t.Fatal("the test's manifest is not in force")
	}
}

func TestEnrolmentOfABridgeEnds(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	end := time.Now().Add(time.Second).UTC().Truncate(time.Second)
	w.decree(t, func(m *keyshare.Manifest) { m.Bridges[0].NotAfter = &end })
	w.await(t, func() bool { return w.bridge.State() == bridge.Sealed && w.live.Load() == nil })
	w.await(t, func() bool { return strings.Contains(w.bridge.Status().Custody, "enrolment ended at") })
}

// A bridge that starts with a manifest from before its enrolment, and one that is
// enrolled again, are served by the manifest that the control plane sends.
func TestEnrolledAgainUnsealsAgain(t *testing.T) {
	w := newWorld(t)
	w.ownKeepers(t)
	w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	// By its own clock only the bridge is out: the control plane lets it attach still, and send it the next one.
	past := time.Now().UTC().Truncate(time.Second)
	w.trusted.Clock = func() time.Time { return past.Add(-time.Hour) }
	w.decree(t, func(m *keyshare.Manifest) { m.Bridges[0].NotAfter = &past })
	w.await(t, func() bool { return w.bridge.State() == bridge.Sealed && w.live.Load() == nil })
	w.decree(t, func(m *keyshare.Manifest) {})
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector != nil })
	w.await(t, func() bool { return w.bridge.State() == bridge.Ready })
}
