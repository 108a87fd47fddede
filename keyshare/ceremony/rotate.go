package ceremony

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

// Rotation says how a sealing key is rotated.
type Rotation struct {
	// RetireAfter is for how long the key that was current stays in the keyring at
	// least: as long as a backup may be needed that is sealed to it.
	RetireAfter time.Duration
	// Force switches without waiting for bridges, and begins a new rotation although
	// records are still sealed to earlier keys. A bridge that lags then cannot open what
	// is new until it has the keyring.
	Force bool
	// Wait goes on until no record is sealed to an earlier key.
	Wait bool
}

// RotateKey adds a sealing key to the keyring, waits until the bridges have it, makes
// it current and then, if asked to, waits for bridges to re-wrap what is sealed to
// earlier ones. It goes on from wherever an earlier run stopped.
func (o *Operator) RotateKey(ctx context.Context, r Rotation) (*Outcome, error) {
	out := &Outcome{Verb: "rotate-key", DryRun: o.DryRun}
	if err := o.rotate(ctx, r, out); err != nil {
		return nil, fmt.Errorf("rotate-key: %w", err)
	}
	return out, nil
}

func (o *Operator) rotate(ctx context.Context, r Rotation, out *Outcome) error {
	v, _, err := o.begin(ctx, out)
	if err != nil {
		return err
	}
	m := v.manifest
	out.SealingKey = m.CurrentSealingKey().ID
	pending, waiting := pendingKey(m), 0
	for _, k := range m.SealingKeys {
		if !k.Current && k.RetireAfter != nil {
			waiting += int(v.custody.Records[k.ID])
		}
	}
	switch {
	case pending != "":
		out.Resumed = true
	case waiting > 0 && !r.Force:
		out.Resumed = true
		return o.rewrapped(ctx, r, m)
	}
	if o.DryRun {
		if pending != "" {
			return o.step("plan", "", "sealing key %s, which is published, would become current", pending)
		}
		if err := v.enough(); err != nil {
			return err
		}
		return o.step("plan", "", "a new sealing key would be published in manifest version %d and become current in version %d", m.Version+1, m.Version+2)
	}
	if pending == "" {
		if m, err = o.publish(ctx, v, out); err != nil {
			return err
		}
		pending = pendingKey(m)
	}
	if err := o.taken(ctx, m, pending, r.Force); err != nil {
		return err
	}
	next, err := follow(m)
	if err != nil {
		return err
	}
	for i := range next.SealingKeys {
		k := &next.SealingKeys[i]
		if k.Current {
			until := next.CreatedAt.Add(r.RetireAfter).Truncate(time.Second)
			k.RetireAfter = &until
		}
		k.Current = k.ID == pending
	}
	if err := o.commit(ctx, next, "rotate-key"); err != nil {
		return err
	}
	if _, err := o.settle(ctx, next, nil, out); err != nil {
		return err
	}
	out.SealingKey = pending
	return o.rewrapped(ctx, r, next)
}

// pendingKey is a sealing key that is published and not current yet: one that was
// current has a RetireAfter.
func pendingKey(m *keyshare.Manifest) string {
	for _, k := range m.SealingKeys {
		if !k.Current && k.RetireAfter == nil {
			return k.ID
		}
	}
	return ""
}

// publish commits a manifest with a new sealing key that is not current yet.
func (o *Operator) publish(ctx context.Context, v *view, out *Outcome) (*keyshare.Manifest, error) {
	return o.editKeyring(ctx, v, out, "rotate-key publish", func(next *keyshare.Manifest, at unseal.Under) ([]byte, []*seal.PublicKey, error) {
		keyring, public, err := unseal.AddSealingKey(v.custody.Keyring, at)
		if err == nil {
			next.SealingKeys = append(next.SealingKeys, newSealingKey(public[len(public)-1]))
		}
		return keyring, public, err
	})
}

// editKeyring is the quorum ceremony that changes the keyring under the same U.
func (o *Operator) editKeyring(ctx context.Context, v *view, out *Outcome, verb string,
	edit func(next *keyshare.Manifest, at unseal.Under) ([]byte, []*seal.PublicKey, error),
) (*keyshare.Manifest, error) {
	next, err := follow(v.manifest)
	if err != nil {
		return nil, err
	}
	var keyring []byte
	if err := o.unseal(ctx, v, verb, func(at unseal.Under) error {
		var public []*seal.PublicKey
		var err error
		if keyring, public, err = edit(next, at); err != nil {
			return err
		}
		return sameKeys(next, public)
	}); err != nil {
		return nil, err
	}
	if err := o.stageKeyring(ctx, next, keyring); err != nil {
		return nil, err
	}
	if err := o.commit(ctx, next, verb); err != nil {
		return nil, err
	}
	_, err = o.settle(ctx, next, nil, out)
	return next, err
}

// taken waits until every enrolled bridge says that it can open with the key.
func (o *Operator) taken(ctx context.Context, m *keyshare.Manifest, key string, force bool) error {
	for last := ""; ; {
		custody, err := o.Custodian.Custody(ctx)
		if err != nil {
			return fmt.Errorf("control plane: %w", err)
		}
		var missing []string
		for _, b := range m.Bridges {
			i := slices.IndexFunc(custody.Bridges, func(s BridgeState) bool { return s.Name == b.Name })
			switch {
			case i < 0 || !custody.Bridges[i].Connected:
				missing = append(missing, b.Name+" (not connected)")
			case !slices.Contains(custody.Bridges[i].SealingKeys, key):
				missing = append(missing, b.Name)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if now := strings.Join(missing, ", "); now != last {
			last = now
			if err := o.step("bridges", "", "waiting until they have the new key: %s", now); err != nil {
				return err
			}
		}
		if force {
			return o.step("bridges", "", "forced: not waiting")
		}
		if err := o.pause(ctx); err != nil {
			return fmt.Errorf("%w; bridges without the new key: %s; they get it from %d keepers; --force goes on without them", err, last, m.Threshold)
		}
	}
}

// rewrapped tells, and waits for if asked to, how many records are sealed to keys that
// are not current.
func (o *Operator) rewrapped(ctx context.Context, r Rotation, m *keyshare.Manifest) error {
	current := m.CurrentSealingKey().ID
	for last := uint64(0); ; {
		custody, err := o.Custodian.Custody(ctx)
		if err != nil {
			return fmt.Errorf("control plane: %w", err)
		}
		var left, all uint64
		for id, n := range custody.Records {
			all += n
			if id != current {
				left += n
			}
		}
		if left != last || left == 0 || !r.Wait {
			last = left
			if err := o.step("re-wrap", "", "%d of %d records are sealed to the current key", all-left, all); err != nil {
				return err
			}
		}
		if left == 0 || !r.Wait || o.DryRun {
			return nil
		}
		if err := o.pause(ctx); err != nil {
			return fmt.Errorf("%w; the new key is current, and bridges go on re-wrapping without this command", err)
		}
	}
}

// Prune drops sealing keys from the keyring that are past their RetireAfter and that
// no record needs.
func (o *Operator) Prune(ctx context.Context) (*Outcome, error) {
	out := &Outcome{Verb: "rotate-key --prune", DryRun: o.DryRun}
	if err := o.prune(ctx, out); err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	return out, nil
}

func (o *Operator) prune(ctx context.Context, out *Outcome) error {
	v, _, err := o.begin(ctx, out)
	if err != nil {
		return err
	}
	out.SealingKey = v.manifest.CurrentSealingKey().ID
	var ids []string
	for _, k := range v.manifest.SealingKeys {
		why := ""
		switch n := v.custody.Records[k.ID]; {
		case k.Current:
			continue
		case k.RetireAfter == nil:
			why = "it is published and not current yet"
		case time.Now().Before(*k.RetireAfter):
			why = "it is kept until " + k.RetireAfter.Format(time.RFC3339)
		case n > 0:
			why = fmt.Sprintf("%d records are sealed to it", n)
		default:
			ids = append(ids, k.ID)
			continue
		}
		if err := o.step("keep", "", "sealing key %s: %s", k.ID, why); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return o.step("plan", "", "there is no sealing key to drop")
	}
	if o.DryRun {
		return errors.Join(v.enough(), o.step("plan", "", "would be dropped: %s", strings.Join(ids, ", ")))
	}
	_, err = o.editKeyring(ctx, v, out, "prune", func(next *keyshare.Manifest, at unseal.Under) ([]byte, []*seal.PublicKey, error) {
		next.SealingKeys = slices.DeleteFunc(next.SealingKeys, func(k keyshare.SealingKey) bool { return slices.Contains(ids, k.ID) })
		return unseal.Prune(v.custody.Keyring, at, ids...)
	})
	return err
}
