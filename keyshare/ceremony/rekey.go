package ceremony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

// Change is what a rekey changes beside the unseal key and every share.
type Change struct {
	// Verb is for audit lines, e.g. "rekey".
	Verb string
	// Threshold of the new set; 0: as it is.
	Threshold int
	// Add are new keepers; Remove are names of those that leave. A name in both is a
	// keeper that moves to a new identity.
	Add    []identity.Enrolment
	Remove []string
}

// Rekey makes a new unseal key and a new share set, wraps the keyring under it and
// puts it in force. There is no other way to change threshold or keepers: new shares
// of the same unseal key would leave the old ones alive.
func (o *Operator) Rekey(ctx context.Context, change Change) (*Outcome, error) {
	out := &Outcome{Verb: change.Verb, DryRun: o.DryRun}
	if err := o.rekey(ctx, change, out); err != nil {
		return nil, fmt.Errorf("%s: %w", change.Verb, err)
	}
	return out, nil
}

func (o *Operator) rekey(ctx context.Context, change Change, out *Outcome) error {
	v, resumed, err := o.begin(ctx, out)
	if err != nil {
		return err
	}
	named := len(change.Add)+len(change.Remove) > 0
	if (resumed || named) && change.done(v.manifest) {
		out.Resumed = true
		return nil
	}
	next, err := change.next(v.manifest)
	if err != nil {
		return err
	}
	if err := o.meet(ctx, v, next, change); err != nil {
		return err
	}
	if err := v.enough(); err != nil {
		return err
	}
	if o.DryRun {
		return o.step("plan", "", "%d of %d keepers would recover a new unseal key, in manifest version %d, epoch %d", next.Threshold, next.Shares, next.Version, next.Epoch)
	}

	var keyring []byte
	var deliveries map[string][]byte
	if err := o.unseal(ctx, v, change.Verb, func(at unseal.Under) (err error) {
		keyring, deliveries, err = renew(next, v.custody.Keyring, at)
		return err
	}); err != nil {
		return err
	}
	if err := o.stage(ctx, next, keyring, deliveries); err != nil {
		return err
	}
	if err := o.commit(ctx, next, change.Verb); err != nil {
		return err
	}
	_, err = o.settle(ctx, next, leavers(v.manifest, next), out)
	return err
}

// done says whether m is what the change asks for.
func (c *Change) done(m *keyshare.Manifest) bool {
	if c.Threshold != 0 && c.Threshold != m.Threshold {
		return false
	}
	for _, e := range c.Add {
		if k, ok := m.Keeper(e.Name); !ok || k.SPKI != e.Fingerprint() {
			return false
		}
	}
	for _, name := range c.Remove {
		if _, there := m.Keeper(name); there && !slices.ContainsFunc(c.Add, func(e identity.Enrolment) bool { return e.Name == name }) {
			return false
		}
	}
	return true
}

// next describes the new set, without its shares.
func (c *Change) next(m *keyshare.Manifest) (*keyshare.Manifest, error) {
	next, err := follow(m)
	if err != nil {
		return nil, err
	}
	next.Set, next.Epoch = uuid.NewString(), m.Epoch+1
	for _, name := range c.Remove {
		if _, ok := next.Keeper(name); !ok {
			return nil, fmt.Errorf("there is no keeper %s", name)
		}
		next.Keepers = slices.DeleteFunc(next.Keepers, func(k keyshare.Keeper) bool { return k.Name == name })
	}
	for _, e := range c.Add {
		if err := check(&e, identity.RoleKeeper); err != nil {
			return nil, err
		}
		if _, twice := next.Keeper(e.Name); twice {
			return nil, fmt.Errorf("there is a keeper %s already: to move it to a new identity, replace it", e.Name)
		}
		next.Keepers = append(next.Keepers, keyshare.Keeper{Name: e.Name, SPKI: e.Fingerprint(), Recipient: e.Recipient})
	}
	if c.Threshold != 0 {
		next.Threshold = c.Threshold
	}
	next.Shares = len(next.Keepers)
	if next.Threshold < 2 || next.Threshold > next.Shares || next.Shares > 255 {
		return nil, fmt.Errorf("%d keepers with threshold %d: want 2 ≤ threshold ≤ keepers ≤ 255", next.Shares, next.Threshold)
	}
	return next, nil
}

// meet makes sure that every holder of the new set can be given a share.
func (o *Operator) meet(ctx context.Context, v *view, next *keyshare.Manifest, change Change) error {
	for _, e := range change.Add {
		if err := o.step("status", e.Name, "is the new keeper there?"); err != nil {
			return err
		}
		o.Keepers.Expect(keyshare.Keeper{Name: e.Name, SPKI: e.Fingerprint()})
		delete(v.failed, e.Name)
		if _, err := o.Keepers.Status(ctx, e.Name); err != nil {
			v.failed[e.Name] = err
		}
	}
	if err := v.reachable(next); err != nil {
		return fmt.Errorf("every keeper of the new set must be given its share; start those that do not answer, or leave them out by keeper remove or keeper replace: %w", err)
	}
	return nil
}

// renew makes U′, wraps the keyring under it and splits it; U′ is gone when it
// returns, and so are the shares but for the sealed deliveries.
func renew(next *keyshare.Manifest, old []byte, at unseal.Under) (keyring []byte, deliveries map[string][]byte, err error) {
	arena, err := lockedmem.NewArena()
	if err != nil {
		return nil, nil, err
	}
	defer arena.Purge()
	u, err := newUnsealKey(arena)
	if err != nil {
		return nil, nil, err
	}
	var public []*seal.PublicKey
	keyring, public, err = unseal.Rekey(old, at, unseal.Under{Set: next.Set, Epoch: next.Epoch, U: u.Bytes()})
	if err != nil {
		return nil, nil, err
	}
	if err := sameKeys(next, public); err != nil {
		return nil, nil, err
	}
	if next.Check, err = keyshare.CheckValue(u.Bytes(), next.Set, next.Epoch); err != nil {
		return nil, nil, err
	}
	deliveries, err = distribute(next, u.Bytes(), keyring)
	return keyring, deliveries, err
}

// sameKeys says that keyring and manifest have the same sealing keys.
func sameKeys(m *keyshare.Manifest, public []*seal.PublicKey) error {
	for _, p := range public {
		if !slices.ContainsFunc(m.SealingKeys, func(k keyshare.SealingKey) bool { return k.ID == p.ID() }) {
			return fmt.Errorf("the keyring has a sealing key %s that the manifest does not list", p.ID())
		}
	}
	if len(public) != len(m.SealingKeys) {
		return fmt.Errorf("the manifest lists %d sealing keys, the keyring has %d", len(m.SealingKeys), len(public))
	}
	return nil
}

// stage brings the keyring to the control plane and to each keeper its share, and
// makes sure, last of all, that they are still there.
func (o *Operator) stage(ctx context.Context, next *keyshare.Manifest, keyring []byte, deliveries map[string][]byte) error {
	if err := o.stageKeyring(ctx, next, keyring); err != nil {
		return err
	}
	payload, err := json.Marshal(next)
	if err != nil {
		return err
	}
	for _, k := range next.Keepers {
		if err := o.step("stage", k.Name, "its share of epoch %d", next.Epoch); err != nil {
			return err
		}
		if err := o.Keepers.Stage(ctx, k.Name, payload, deliveries[k.Name]); err != nil {
			return fmt.Errorf("stage the share of keeper %s: %w", k.Name, err)
		}
	}
	for _, k := range next.Keepers {
		if err := o.step("check", k.Name, "that it has what was staged"); err != nil {
			return err
		}
		st, err := o.Keepers.Status(ctx, k.Name)
		if err != nil {
			return fmt.Errorf("keeper %s: %w", k.Name, err)
		}
		if st.GetStagedSet() != next.Set || st.GetStagedEpoch() != next.Epoch {
			return fmt.Errorf("keeper %s: %w", k.Name, errOther)
		}
	}
	return nil
}

var errOther = errors.New("another ceremony has staged its share meanwhile: one at a time")
