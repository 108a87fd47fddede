package ceremony_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
)

// A dry run of each verb changes nothing, anywhere.
func TestDryRun(t *testing.T) {
	all := append(verbs(), verb{name: "rotate-key", run: func(ctx context.Context, h *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
		return o.RotateKey(ctx, ceremony.Rotation{Wait: true})
	}}, verb{name: "bridge revoke", run: func(ctx context.Context, _ *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
		return o.Revoke(ctx, identity.RoleBridge, "bridge-1")
	}}, verb{name: "prune", run: func(ctx context.Context, _ *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
		return o.Prune(ctx)
	}})
	h := newHouse(t, 3, 2)
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			planned := false
			o := h.operator(t, func(s ceremony.Step) error {
				switch s.Step {
				case "plan":
					planned = true
				case "custody", "status", "keep":
				default:
					t.Errorf("step %+v", s)
				}
				return nil
			})
			o.DryRun = true
			out, err := v.run(t.Context(), h, o)
			if err != nil || !out.DryRun || !planned {
				t.Errorf("%+v, planned %v, %v", out, planned, err)
			}
			if !bytes.Equal(h.manifest, h.result.Manifest) || h.staged != nil {
				t.Error("it changed the control plane")
			}
			states, _, err := h.operator(t, nil).Verify(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range states {
				if !k.Proven || k.StagedEpoch != 0 || k.Version != 1 {
					t.Errorf("it changed a keeper: %+v", k)
				}
			}
		})
	}
}

func TestVerify(t *testing.T) {
	h := newHouse(t, 3, 2)
	verify := func() ([]ceremony.KeeperState, error) {
		t.Helper()
		states, out, err := h.operator(t, nil).Verify(t.Context(), true)
		if out == nil {
			t.Fatal(err)
		}
		return states, err
	}
	states, err := verify()
	if err != nil || len(states) != 3 {
		t.Fatalf("%+v, %v", states, err)
	}
	h.keepers[1].Stop()
	if states, err = verify(); err != nil || states[1].Proven || states[1].Problem == "" || !states[0].Proven || !states[2].Proven {
		t.Errorf("one keeper down: %+v, %v", states, err)
	}
	h.keepers[2].Stop()
	if _, err = verify(); err == nil || !strings.Contains(err.Error(), "2 are needed") {
		t.Errorf("two keepers down: %v", err)
	}
	h.keepers[1].Start(t)
	h.keepers[2].Start(t)

	// The store is put back in time: any keeper tells.
	keyring := h.keyring
	if _, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"}); err != nil {
		t.Fatal(err)
	}
	h.manifest, h.keyring = h.result.Manifest, keyring
	if _, err = verify(); !errors.Is(err, ceremony.ErrRolledBack) {
		t.Errorf("a store that was rolled back: %v", err)
	}
	if _, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"}); !errors.Is(err, ceremony.ErrRolledBack) {
		t.Errorf("a rekey on a store that was rolled back: %v", err)
	}
}

func TestRekeyRefuses(t *testing.T) {
	h := newHouse(t, 3, 2)
	for _, tt := range []struct {
		name   string
		change ceremony.Change
		want   string
	}{
		{"threshold 1", ceremony.Change{Threshold: 1}, "threshold"},
		{"threshold above keepers", ceremony.Change{Threshold: 4}, "threshold"},
		{"too few keepers", ceremony.Change{Remove: []string{"keeper-1", "keeper-2"}}, "threshold"},
		{"a keeper that is not there", ceremony.Change{Remove: []string{"keeper-9"}, Threshold: 3}, "no keeper keeper-9"},
		{"a name that is taken", ceremony.Change{Add: []identity.Enrolment{renamed(t, h)}}, "replace it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.change.Verb = "rekey"
			if _, err := h.operator(t, nil).Rekey(t.Context(), tt.change); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("a keeper that is down", func(t *testing.T) {
		h.keepers[2].Stop()
		defer h.keepers[2].Start(t)
		_, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"})
		if err == nil || !strings.Contains(err.Error(), "keeper-3") || !strings.Contains(err.Error(), "keeper replace") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a keyring of another manifest", func(t *testing.T) {
		h.tampered = func(c *ceremony.Custody) { c.Keyring = append(bytes.Clone(c.Keyring), 0) }
		defer func() { h.tampered = nil }()
		if _, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"}); err == nil || !strings.Contains(err.Error(), "keyring") {
			t.Errorf("got %v", err)
		}
	})
	if !bytes.Equal(h.manifest, h.result.Manifest) {
		t.Error("something is in force")
	}
	h.opens(t)
}

// renamed is an enrolment of a new key under the name of a keeper that is there.
func renamed(t *testing.T, h *house) identity.Enrolment {
	t.Helper()
	id, err := identity.Create(t.TempDir()+"/key", identity.RoleKeeper, "keeper-1")
	fatal(t, err)
	e, err := id.Enrolment(h.spare.Recipient)
	fatal(t, err)
	return e
}

// Two ceremonies at once: the one that staged first finds that out before it commits.
func TestTwoCeremoniesAtOnce(t *testing.T) {
	h := newHouse(t, 3, 2)
	other := func() {
		_, err := h.operator(t, func(s ceremony.Step) error {
			if s.Step == "sign" {
				return errKilled
			}
			return nil
		}).Rekey(t.Context(), ceremony.Change{Verb: "rekey"})
		if !errors.Is(err, errKilled) {
			t.Error(err)
		}
	}
	for _, at := range []string{"check", "commit"} {
		done := false
		_, err := h.operator(t, func(s ceremony.Step) error {
			if s.Step == at && !done {
				done = true
				other()
			}
			return nil
		}).Rekey(t.Context(), ceremony.Change{Verb: "rekey"})
		if err == nil {
			t.Errorf("overtaken at %s, and yet it committed", at)
		}
		h.opens(t)
	}
	if _, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"}); err != nil {
		t.Fatal(err)
	}
	h.opens(t)
	h.dead(t)
}

func TestEnrolAndRevoke(t *testing.T) {
	h := newHouse(t, 3, 2)
	e, err := h.second()
	fatal(t, err)
	workspace := "11111111-2222-4333-8444-555555555555"
	until := time.Date(2100, 1, 2, 3, 4, 5, 600, time.UTC)
	enrol := func(e ceremony.Enrolling) *ceremony.Outcome {
		t.Helper()
		out, err := h.operator(t, nil).Enrol(t.Context(), e)
		fatal(t, err)
		return out
	}
	bridge := func(name string) keyshare.Bridge {
		for _, b := range h.inForce(t).Bridges {
			if b.Name == name {
				return b
			}
		}
		return keyshare.Bridge{}
	}
	enrol(ceremony.Enrolling{Enrolment: e, Workspaces: []string{workspace}, NotAfter: &until})
	if b := bridge("bridge-2"); b.SPKI != e.Fingerprint() || len(b.Workspaces) != 1 || b.NotAfter == nil || !b.NotAfter.Equal(until.Truncate(time.Second)) {
		t.Errorf("enrolled as %+v", b)
	}
	if out := enrol(ceremony.Enrolling{Enrolment: e, NotAfter: &until}); !out.Resumed || out.Version != 2 {
		t.Errorf("the same again: %+v", out)
	}
	// A new key, of a bridge that has lost its own: first beside the old one, then alone.
	id, err := identity.Create(t.TempDir()+"/key", identity.RoleBridge, "bridge-2")
	fatal(t, err)
	next, err := id.Enrolment(nil)
	fatal(t, err)
	if _, err := h.operator(t, nil).Enrol(t.Context(), ceremony.Enrolling{Enrolment: next, Only: true}); err == nil {
		t.Error("a key was the only one at once")
	}
	for range 2 {
		enrol(ceremony.Enrolling{Enrolment: next})
	}
	if b := bridge("bridge-2"); b.SPKI != e.Fingerprint() || b.Next != next.Fingerprint() || b.Workspaces[0] != workspace || b.NotAfter == nil {
		t.Errorf("beside the old one: %+v", b)
	}
	for range 2 {
		enrol(ceremony.Enrolling{Enrolment: next, Only: true})
	}
	if b := bridge("bridge-2"); b.SPKI != next.Fingerprint() || b.Next != "" {
		t.Errorf("alone: %+v", b)
	}

	out, err := h.operator(t, nil).Revoke(t.Context(), identity.RoleBridge, "bridge-1")
	fatal(t, err)
	if bridge("bridge-1").Name != "" || out.Version != 5 {
		t.Errorf("revoked: %+v", out)
	}
	if err := h.askFor(t, h.inForce(t), h.keepers[0]); err == nil {
		t.Error("a keeper serves a revoked bridge")
	}
	if _, err := h.operator(t, nil).Revoke(t.Context(), identity.RoleControl, "control-1"); err == nil {
		t.Error("the last control plane was revoked")
	}
	if _, err := h.operator(t, nil).Revoke(t.Context(), identity.RoleKeeper, "keeper-1"); err == nil {
		t.Error("a keeper was revoked without a rekey")
	}
	h.keepers[1].Stop()
	for range 2 {
		out, err := h.operator(t, nil).Revoke(t.Context(), identity.RoleBridge, "bridge-2")
		fatal(t, err)
		if out.Version != 6 || len(out.Unfinished) != 1 || out.Unfinished["keeper-2"] == "" {
			t.Errorf("with a keeper away: %+v", out)
		}
	}
}
