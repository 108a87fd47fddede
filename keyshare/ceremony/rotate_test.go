package ceremony_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
)

// rotation is what most tests rotate with: the old key may go at once.
var rotation = ceremony.Rotation{Wait: true}

// keys says of each sealing key of a manifest whether it is current, pending or old.
func keys(m *keyshare.Manifest) string {
	var out []string
	for _, k := range m.SealingKeys {
		switch {
		case k.Current:
			out = append(out, "current")
		case k.RetireAfter == nil:
			out = append(out, "pending")
		default:
			out = append(out, "old")
		}
	}
	return strings.Join(out, " ")
}

// A rotation is killed before each of its steps; the next run goes on from there and
// makes no second key.
func TestRotateKeyKilled(t *testing.T) {
	var steps []ceremony.Step
	h := newHouse(t, 3, 2)
	if _, err := h.operator(t, func(s ceremony.Step) error { steps = append(steps, s); return nil }).RotateKey(t.Context(), rotation); err != nil {
		t.Fatal(err)
	}
	h.opens(t)
	if got := keys(h.inForce(t)); got != "old current" {
		t.Fatal(got)
	}
	for i, step := range steps {
		if step.Step == "status" || step.Step == "custody" {
			continue // nothing was done yet
		}
		t.Run(label(i, step), func(t *testing.T) {
			t.Parallel()
			h, n := newHouse(t, 3, 2), 0
			_, err := h.operator(t, func(ceremony.Step) error {
				if n++; n > i {
					return errKilled
				}
				return nil
			}).RotateKey(t.Context(), rotation)
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			h.opens(t)
			before := h.inForce(t)
			if before.Version == 3 {
				return // it was waiting for records only
			}
			out, err := h.operator(t, nil).RotateKey(t.Context(), rotation)
			if err != nil || len(out.Unfinished) != 0 {
				t.Fatalf("%+v, %v", out, err)
			}
			m := h.inForce(t)
			if keys(m) != "old current" || m.Version != 3 || m.Epoch != 1 || out.SealingKey != m.CurrentSealingKey().ID {
				t.Errorf("version %d has %q", m.Version, keys(m))
			}
			h.opens(t)
		})
	}
}

// The new key becomes current once every bridge has it, not before; and the command
// goes on until no record is sealed to the old one.
func TestRotateKeyWaits(t *testing.T) {
	h := newHouse(t, 3, 2)
	old := h.inForce(t).CurrentSealingKey().ID
	h.records = map[string]uint64{old: 2}
	looks := 0
	h.bridges = func(m *keyshare.Manifest) []ceremony.BridgeState {
		looks++
		s := all(m)
		if m.Version == 2 {
			switch {
			case looks < 4: // it has not fetched it
				s[0].SealingKeys = s[0].SealingKeys[:1]
			case looks < 6: // it is gone
				s = nil
			}
		}
		if current := m.CurrentSealingKey().ID; m.Version == 3 && h.records[old] > 0 { // and re-wraps
			h.records = map[string]uint64{old: h.records[old] - 1, current: h.records[current] + 1}
		}
		return s
	}
	var said []string
	o := h.operator(t, func(s ceremony.Step) error {
		if s.Step == "bridges" || s.Step == "re-wrap" || s.Step == "commit" {
			said = append(said, s.Step+": "+s.Detail)
		}
		return nil
	})
	if _, err := o.RotateKey(t.Context(), ceremony.Rotation{Wait: true, RetireAfter: time.Hour}); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(said, "\n")
	for _, want := range []string{"bridge-1\n", "bridge-1 (not connected)\n", "re-wrap: 2 of 2"} {
		if !strings.Contains(got+"\n", want) {
			t.Errorf("it did not say %q:\n%s", want, got)
		}
	}
	if strings.Index(got, "(not connected)") > strings.LastIndex(got, "commit") {
		t.Errorf("it did not wait for the bridge:\n%s", got)
	}
	m := h.inForce(t)
	if k := m.SealingKeys[0]; k.RetireAfter == nil || k.RetireAfter.Sub(m.CreatedAt) != time.Hour {
		t.Errorf("the old key is kept until %v, of %v", k.RetireAfter, m.CreatedAt)
	}
}

func TestRotateKeyWithoutItsBridges(t *testing.T) {
	h := newHouse(t, 3, 2)
	h.bridges = func(*keyshare.Manifest) []ceremony.BridgeState { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	o := h.operator(t, func(s ceremony.Step) error {
		if s.Step == "bridges" {
			cancel() // the operator has read it, and stops
		}
		return nil
	})
	_, err := o.RotateKey(ctx, rotation)
	if err == nil || !strings.Contains(err.Error(), "bridge-1") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("stopped with %v", err)
	}
	if got := keys(h.inForce(t)); got != "current pending" {
		t.Errorf("keys %q", got)
	}
	out, err := h.operator(t, nil).RotateKey(t.Context(), ceremony.Rotation{Force: true})
	if err != nil || !out.Resumed {
		t.Fatalf("%+v, %v", out, err)
	}
	if got := keys(h.inForce(t)); got != "old current" {
		t.Errorf("keys %q after --force", got)
	}
}

// A rotation whose records are still being re-wrapped is gone on with, not begun anew.
func TestRotateKeyAgain(t *testing.T) {
	h := newHouse(t, 3, 2)
	old := h.inForce(t).CurrentSealingKey().ID
	h.records = map[string]uint64{old: 5}
	for _, tt := range []struct {
		force bool
		want  string
	}{{false, "old current"}, {false, "old current"}, {true, "old old current"}} {
		if _, err := h.operator(t, nil).RotateKey(t.Context(), ceremony.Rotation{Force: tt.force}); err != nil {
			t.Fatal(err)
		}
		if got := keys(h.inForce(t)); got != tt.want {
			t.Errorf("keys %q, want %q", got, tt.want)
		}
	}
}

func TestPrune(t *testing.T) {
	h := newHouse(t, 3, 2)
	old := h.inForce(t).CurrentSealingKey().ID
	rotate := func(retire time.Duration) {
		t.Helper()
		if _, err := h.operator(t, nil).RotateKey(t.Context(), ceremony.Rotation{RetireAfter: retire, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	prune := func(want, why string) {
		t.Helper()
		said := ""
		o := h.operator(t, func(s ceremony.Step) error { said += s.Detail + "\n"; return nil })
		if _, err := o.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := keys(h.inForce(t)); got != want || !strings.Contains(said, why) {
			t.Errorf("keys %q, want %q and %q said in:\n%s", got, want, why, said)
		}
		h.opens(t)
	}
	prune("current", "no sealing key to drop")
	rotate(0)
	h.records = map[string]uint64{old: 1}
	prune("old current", "1 records are sealed to it")
	h.records = nil
	rotate(time.Hour)
	prune("old current", "it is kept until")
	prune("old current", "no sealing key to drop")
	if _, ok := h.key(t, old); ok {
		t.Error("the pruned key is in the manifest")
	}

	// Killed at any step it is done over.
	var steps []ceremony.Step
	rotate(0)
	o := h.operator(t, func(s ceremony.Step) error { steps = append(steps, s); return nil })
	o.DryRun = true
	if _, err := o.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"unseal", "stage keyring", "sign", "commit"} {
		_, err := h.operator(t, func(s ceremony.Step) error {
			if s.Step == at {
				return errKilled
			}
			return nil
		}).Prune(t.Context())
		if !errors.Is(err, errKilled) {
			t.Fatal(at, err)
		}
		h.opens(t)
	}
	prune("old current", "")
}

func (h *house) key(t *testing.T, id string) (keyshare.SealingKey, bool) {
	t.Helper()
	for _, k := range h.inForce(t).SealingKeys {
		if k.ID == id {
			return k, true
		}
	}
	return keyshare.SealingKey{}, false
}
