package quorum_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/unseal"
)

// config asks all keepers of a site as its bridge, without waiting long.
func config(t *testing.T, s *keepertest.Site) quorum.Config {
	t.Helper()
	return quorum.Config{
		Identity: s.Bridge, Trust: s.Trust(t), Keepers: s.Addrs(), Reason: "test",
		MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond,
	}
}

// opensKeyring is a use that proves that u is the site's unseal key.
func opensKeyring(s *keepertest.Site, trust *identity.Trust) func(u []byte) error {
	return func(u []byte) error {
		k, err := unseal.OpenKeyring(u, s.Keyring, trust.Manifest().Set, trust.Manifest().Epoch)
		if err == nil {
			k.Purge()
		}
		return err
	}
}

func TestUnseal(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	for _, k := range s.Keepers {
		k.Start(t)
	}
	cfg := config(t, s)
	var kept []byte
	err := quorum.Unseal(t.Context(), cfg, func(u []byte) error {
		kept = u
		return opensKeyring(s, cfg.Trust)(u)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.Trim(kept, "\x00")) != 0 {
		t.Error("U is still there after use returned")
	}
	boom := errors.New("boom")
	if err := quorum.Unseal(t.Context(), cfg, func([]byte) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("the error of use: %v", err)
	}
}

func TestOneOfThreeDown(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[0].Start(t)
	s.Keepers[2].Start(t)
	cfg := config(t, s)
	if err := quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)); err != nil {
		t.Fatal(err)
	}
}

// Two down: Unseal waits, saying so, and goes on by itself when one returns.
func TestTwoOfThreeDown(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[0].Start(t)
	cfg := config(t, s)
	var once sync.Once
	seen := make(map[string]quorum.State)
	waiting := make(chan struct{})
	cfg.Report = func(r quorum.KeeperReport) {
		seen[r.Keeper] = r.State
		if len(seen) == 3 {
			once.Do(func() { close(waiting) })
		}
	}
	done := make(chan error, 1)
	go func() { done <- quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)) }()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatalf("ended with one keeper of three: %v", err)
	}
	s.Keepers[1].Start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := map[string]quorum.State{"keeper-1": quorum.StateGood, "keeper-2": quorum.StateGood, "keeper-3": quorum.StateUnreachable}
	for name, state := range want {
		if seen[name] != state {
			t.Errorf("%s was last reported %s, want %s", name, seen[name], state)
		}
	}
}

// until runs Unseal, which must not succeed, until a report of one keeper in one
// state, and gives the error after cancelling.
func until(t *testing.T, cfg quorum.Config, keeper string, state quorum.State) (quorum.KeeperReport, *quorum.Error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got quorum.KeeperReport
	cfg.Report = func(r quorum.KeeperReport) {
		if r.Keeper == keeper && r.State == state {
			got = r
			cancel()
		}
	}
	err := quorum.Unseal(ctx, cfg, func([]byte) error {
		t.Error("unsealed")
		return nil
	})
	var e *quorum.Error
	if !errors.As(err, &e) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "keeper "+keeper+": "+string(state)) {
		t.Errorf("the error does not name %s as %s: %v", keeper, state, err)
	}
	return got, e
}

func TestErrorNamesEveryKeeper(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[1].Start(t)
	cfg := config(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(map[string]bool)
	cfg.Report = func(r quorum.KeeperReport) {
		if seen[r.Keeper] = true; len(seen) == 3 {
			cancel()
		}
	}
	err := quorum.Unseal(ctx, cfg, func([]byte) error { return nil })
	var e *quorum.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if e.Good != 1 || e.Threshold != 2 || len(e.Keepers) != 3 {
		t.Errorf("%+v", e)
	}
	for _, want := range []string{"1 good shares of 2", "keeper keeper-1: unreachable", "keeper keeper-2: good", "keeper keeper-3: unreachable"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := quorum.Unseal(ctx, config(t, s), func([]byte) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// The bridge's identity is not enrolled at the keepers.
func TestUnenrolledBridge(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t)
	s.Keepers[1].Start(t)
	cfg := config(t, s)
	var err error
	if cfg.Identity, err = identity.Create(filepath.Join(t.TempDir(), "k"), identity.RoleBridge, "bridge-1"); err != nil {
		t.Fatal(err)
	}
	_, _ = until(t, cfg, "keeper-1", quorum.StateUnreachable) // TLS 1.3: the keeper just closes
}

// One keeper cannot write its audit log: it says so and releases nothing; the
// others are enough.
func TestKeeperThatCannotAudit(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[0].Start(t)
	if err := os.Remove(filepath.Join(s.Keepers[0].Config.Dir, "audit.log")); err != nil {
		t.Fatal(err)
	}
	s.Keepers[1].Start(t)
	cfg := config(t, s)
	r, _ := until(t, cfg, "keeper-1", quorum.StateRefused)
	if !strings.Contains(r.Detail, "no release without an audit line") {
		t.Error(r.Detail)
	}
	s.Keepers[2].Start(t)
	if err := quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)); err != nil {
		t.Error(err)
	}
}

// At keeper-1's address answers keeper-2, which is enrolled, but not as keeper-1.
func TestAnotherKeeperAnswers(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[1].Start(t)
	cfg := config(t, s)
	cfg.Keepers["keeper-1"] = s.Keepers[1].Addr
	r, e := until(t, cfg, "keeper-1", quorum.StateUntrusted)
	if !strings.Contains(r.Detail, "peer is keeper keeper-2, want keeper-1") || !errors.Is(e, identity.ErrNotEnrolled) {
		t.Errorf("%s; %v", r.Detail, e)
	}
}

func TestUnknownKeeper(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t)
	cfg := config(t, s)
	cfg.Keepers["keeper-9"] = s.Keepers[0].Addr
	_, _ = until(t, cfg, "keeper-9", quorum.StateUnknown)
}

// A bridge that knows of its own removal stops, even if keepers with an older
// manifest would still give it their shares.
func TestRemovedBridge(t *testing.T) {
	s := keepertest.New(t, 3, 3)
	for _, k := range s.Keepers {
		k.Start(t)
	}
	removed := s.Sign(t, func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} })
	cfg := config(t, s)
	if _, err := cfg.Trust.Update(removed); err != nil {
		t.Fatal(err)
	}
	err := quorum.Unseal(t.Context(), cfg, func([]byte) error {
		t.Error("unsealed")
		return nil
	})
	if !errors.Is(err, identity.ErrNotEnrolled) {
		t.Errorf("got %v", err)
	}
}

// Keepers hand on a manifest that the bridge did not have yet.
func TestNewerManifestIsAdopted(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	newer := s.Sign(t, func(m *keyshare.Manifest) { m.ControlPlanes = []keyshare.Peer{} })
	for _, k := range s.Keepers {
		server := k.Start(t)
		if _, err := server.Trust().Update(newer); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(t, s)
	if err := quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)); err != nil {
		t.Fatal(err)
	}
	if cfg.Trust.Manifest().Version != 2 {
		t.Error("the keepers' manifest was not adopted")
	}
}

func TestUnsealConfig(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	for name, change := range map[string]func(c *quorum.Config){
		"no manifest yet":     func(c *quorum.Config) { c.Trust = identity.NewTrust(s.Root) },
		"too few addresses":   func(c *quorum.Config) { delete(c.Keepers, "keeper-1") },
		"no addresses at all": func(c *quorum.Config) { c.Keepers = nil },
	} {
		cfg := config(t, s)
		change(&cfg)
		err := quorum.Unseal(t.Context(), cfg, func([]byte) error { return nil })
		var e *quorum.Error
		if err == nil || errors.As(err, &e) {
			t.Errorf("%s: got %v, want an error at once", name, err)
		}
	}
}
