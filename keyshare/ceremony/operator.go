package ceremony

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/release"
	"keybridge/keyshare/unseal"
)

// Custody is what the control plane has, and how far its bridges are.
type Custody struct {
	Manifest []byte // in force, signed
	Keyring  []byte // that it names
	Bridges  []BridgeState
	// Records counts, by id, the records that are sealed to each sealing key.
	Records map[string]uint64
}

// BridgeState is an enrolled bridge that has attached.
type BridgeState struct {
	Name        string
	Connected   bool
	SealingKeys []string // ids of those that it can open records of
}

// Custodian is the control plane. Commit is the one step of a ceremony that puts
// something in force; a manifest that is in force already is committed again without
// an error.
type Custodian interface {
	Custody(ctx context.Context) (*Custody, error)
	Stage(ctx context.Context, keyring []byte) error
	Commit(ctx context.Context, manifest []byte, verb string) error
}

// Keepers are share holders, by name; *quorum.Operator is them. One is reached by the
// keys that the manifest in force lists, or by those that Expect was told.
type Keepers interface {
	Expect(keeper keyshare.Keeper)
	Status(ctx context.Context, keeper string) (*release.StatusResponse, error)
	Stage(ctx context.Context, keeper string, manifest, delivery []byte) error
	Adopt(ctx context.Context, keeper string, signed []byte) (*release.Acknowledgement, error)
	Retire(ctx context.Context, keeper string, acks []*release.Acknowledgement) ([]uint64, error)
	Prove(ctx context.Context, keeper string) error
}

// Step is one act of a ceremony, told before it is done.
type Step struct {
	Step   string `json:"step"`
	Keeper string `json:"keeper,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Operator does ceremonies with a custody that is in use.
type Operator struct {
	// Root signs manifests. It is read inside lockedmem.Do only, and may be in locked memory.
	Root ed25519.PrivateKey
	// Trust knows a manifest of this root, and learns newer ones. It is in memory: the
	// caller saves what it has come to once a ceremony has returned without an error, so
	// that one that was killed before still knows which keepers have left.
	Trust     *identity.Trust
	Custodian Custodian
	Keepers   Keepers
	// Unseal recovers the unseal key of Trust's manifest from keepers and lends it to use.
	Unseal func(ctx context.Context, reason string, use func(u []byte) error) error
	// Progress is told every step; an error of it ends the ceremony before the step.
	Progress func(Step) error
	// DryRun checks everything that can be checked without changing anything.
	DryRun bool
	// Pause is the time between two looks at what is waited for. Zero: 1 s.
	Pause time.Duration
}

// Outcome is where a ceremony has come to.
type Outcome struct {
	Verb      string `json:"verb"`
	Version   uint64 `json:"version"` // of the manifest in force
	Set       string `json:"set"`
	Epoch     uint64 `json:"epoch"`
	Threshold int    `json:"threshold"`
	Shares    int    `json:"shares"`
	// Resumed says that this run finished, or found finished, what an earlier one began.
	Resumed bool `json:"resumed,omitempty"`
	// DryRun says that nothing was changed.
	DryRun bool `json:"dryRun,omitempty"`
	// SealingKey is the current sealing key, where it is what the verb is about.
	SealingKey string `json:"sealingKey,omitempty"`
	// Unfinished says, for each keeper that could not be brought up to date, why. What
	// was committed is in force all the same; the same command again tries again.
	Unfinished map[string]string `json:"unfinished,omitempty"`
	// Untold says why a keeper that left could not be told so. Too few keepers of its set
	// hold a share still for it to open anything; it keeps its own until it is told.
	Untold map[string]string `json:"untold,omitempty"`
}

// ErrRolledBack means that the control plane has an older manifest than others know.
var ErrRolledBack = errors.New("the control plane's store was rolled back: restore a newer backup")

// view is what a ceremony begins with.
type view struct {
	custody  *Custody
	manifest *keyshare.Manifest // in force
	status   map[string]*release.StatusResponse
	failed   map[string]error
}

func (o *Operator) step(name, keeper, format string, args ...any) error {
	if o.Progress == nil {
		return nil
	}
	return o.Progress(Step{Step: name, Keeper: keeper, Detail: fmt.Sprintf(format, args...)})
}

// look asks the control plane and every keeper where they are, and changes nothing.
func (o *Operator) look(ctx context.Context) (*view, error) {
	if err := o.step("custody", "", "asking the control plane"); err != nil {
		return nil, err
	}
	custody, err := o.Custodian.Custody(ctx)
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if _, err := o.Trust.Update(custody.Manifest); err != nil && !errors.Is(err, identity.ErrStale) {
		return nil, fmt.Errorf("control plane: manifest: %w", err)
	}
	v := &view{custody: custody, status: map[string]*release.StatusResponse{}, failed: map[string]error{}}
	for {
		m := o.Trust.Manifest()
		for _, k := range m.Keepers {
			if _, asked := v.status[k.Name]; asked || v.failed[k.Name] != nil {
				continue
			}
			if err := o.step("status", k.Name, "asking what it holds"); err != nil {
				return nil, err
			}
			st, err := o.Keepers.Status(ctx, k.Name)
			if err == nil && len(st.GetManifest()) > 0 {
				if _, uerr := o.Trust.Update(st.GetManifest()); uerr != nil && !errors.Is(uerr, identity.ErrStale) {
					err = fmt.Errorf("its manifest: %w", uerr)
				}
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				v.failed[k.Name] = err
				continue
			}
			v.status[k.Name] = st
		}
		if v.manifest = o.Trust.Manifest(); v.manifest == m {
			return v, nil
		}
	}
}

// version is that of the newest manifest that a keeper says it knows.
func (o *Operator) version(st *release.StatusResponse) uint64 {
	m, err := keyshare.Verify(o.public(), st.GetManifest())
	if err != nil {
		return 0
	}
	return m.Version
}

func (o *Operator) public() ed25519.PublicKey {
	return ed25519.PublicKey(bytes.Clone(o.Root[ed25519.SeedSize:]))
}

// begin looks, and finishes what an earlier ceremony left. resumed says that a keeper
// went over to the share set in force by that, or left the one before behind.
func (o *Operator) begin(ctx context.Context, out *Outcome) (v *view, resumed bool, err error) {
	known := o.Trust.Manifest()
	if v, err = o.look(ctx); err != nil {
		return nil, false, err
	}
	if inForce, err := keyshare.Verify(o.public(), v.custody.Manifest); err != nil {
		return nil, false, fmt.Errorf("control plane: %w", err)
	} else if inForce.Version < v.manifest.Version {
		// Signed and sent, and lost on the way back; or the store is an older one.
		if o.DryRun {
			return nil, false, fmt.Errorf("the control plane has manifest version %d, keepers version %d: %w", inForce.Version, v.manifest.Version, ErrRolledBack)
		}
		if err := o.step("commit", "", "bringing manifest version %d to the control plane, which has %d", v.manifest.Version, inForce.Version); err != nil {
			return nil, false, err
		}
		if err := o.Custodian.Commit(ctx, o.Trust.Signed(), "resumed"); err != nil {
			return nil, false, fmt.Errorf("manifest version %d is known, the control plane has %d and refuses it (%w): %w", v.manifest.Version, inForce.Version, err, ErrRolledBack)
		}
		if v, err = o.look(ctx); err != nil {
			return nil, false, err
		}
	}
	if digest := unseal.Digest(v.custody.Keyring); !bytes.Equal(digest[:], v.manifest.KeyringDigest) {
		return nil, false, errors.New("control plane: its keyring is not the one that the manifest names")
	}
	out.describe(v.manifest)
	if o.DryRun {
		return v, false, nil
	}
	behind := map[string]bool{} // keepers that have not heard, and whether they are an epoch behind
	retired := false
	// Who had left when the earlier run was stopped, and may not have been told.
	var former []keyshare.Keeper
	if known != nil && known.Epoch < v.manifest.Epoch {
		former = leavers(known, v.manifest)
	}
	for _, k := range v.manifest.Keepers {
		st := v.status[k.Name]
		if st == nil {
			continue
		}
		if old, err := keyshare.Verify(o.public(), st.GetManifest()); err != nil || old.Version != v.manifest.Version {
			behind[k.Name] = st.GetEpoch() != v.manifest.Epoch
			if err == nil && old.Epoch < v.manifest.Epoch {
				former = leavers(old, v.manifest)
			}
		}
		retired = retired || len(st.GetRetired()) > 0
	}
	if len(behind) == 0 && !retired && len(former) == 0 {
		return v, resumed, nil
	}
	erased, err := o.settle(ctx, v.manifest, former, out)
	if err != nil {
		return nil, false, err
	}
	for name, epoch := range behind {
		resumed = resumed || epoch && out.Unfinished[name] == ""
	}
	resumed = resumed || erased
	v, err = o.look(ctx) // at what they hold now
	return v, resumed, err
}

func (out *Outcome) describe(m *keyshare.Manifest) {
	out.Version, out.Set, out.Epoch, out.Threshold, out.Shares = m.Version, m.Set, m.Epoch, m.Threshold, m.Shares
}

// settle has every keeper adopt the manifest in force, which is m, and erase shares
// that are over. former are keepers of the manifest before, which may be gone: they
// are told if they can be reached. erased says that a share was.
func (o *Operator) settle(ctx context.Context, m *keyshare.Manifest, former []keyshare.Keeper, out *Outcome) (erased bool, err error) {
	out.describe(m)
	out.Unfinished, out.Untold = nil, nil
	signed := o.Trust.Signed()
	var acks []*release.Acknowledgement
	var reached []string
	adopt := func(name string) error {
		ack, err := o.Keepers.Adopt(ctx, name, signed)
		if err == nil {
			reached = append(reached, name)
			if ack != nil {
				acks = append(acks, ack)
			}
		}
		return err
	}
	for _, k := range m.Keepers {
		if err := o.step("adopt", k.Name, "manifest version %d", m.Version); err != nil {
			return erased, err
		}
		if err := adopt(k.Name); err != nil {
			out.Unfinished = put(out.Unfinished, k.Name, err)
		}
	}
	for _, k := range former {
		if err := o.step("adopt", k.Name, "manifest version %d, which lists it no more", m.Version); err != nil {
			return erased, err
		}
		o.Keepers.Expect(k)
		if err := adopt(k.Name); err != nil {
			out.Untold = put(out.Untold, k.Name, err)
		}
	}
	for _, name := range reached {
		st, err := o.Keepers.Status(ctx, name)
		if err != nil {
			out.Unfinished = put(out.Unfinished, name, err)
			continue
		}
		if len(st.GetRetired()) == 0 {
			continue
		}
		if err := o.step("retire", name, "shares of epochs %v", st.GetRetired()); err != nil {
			return erased, err
		}
		epochs, err := o.Keepers.Retire(ctx, name, acks)
		if err != nil {
			out.Unfinished = put(out.Unfinished, name, err)
		}
		erased = erased || len(epochs) > 0
	}
	return erased, ctx.Err()
}

// leavers are the keepers of old whose names m does not have. One whose name has gone
// to another identity cannot be reached: the address of that name is its successor's.
func leavers(old, m *keyshare.Manifest) (out []keyshare.Keeper) {
	for _, k := range old.Keepers {
		if _, again := m.Keeper(k.Name); !again {
			out = append(out, k)
		}
	}
	return out
}

func put(m map[string]string, keeper string, err error) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[keeper] = err.Error()
	return m
}

// follow is the manifest that comes after m, with room for changes.
func follow(m *keyshare.Manifest) (*keyshare.Manifest, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	next := new(keyshare.Manifest)
	if err := json.Unmarshal(b, next); err != nil {
		return nil, err
	}
	next.Version++
	next.CreatedAt = time.Now().UTC().Truncate(time.Second)
	return next, nil
}

// stageKeyring gives the control plane a keyring to be put in force by next.
func (o *Operator) stageKeyring(ctx context.Context, next *keyshare.Manifest, keyring []byte) error {
	digest := unseal.Digest(keyring)
	next.KeyringDigest = digest[:]
	if err := o.step("stage keyring", "", "at the control plane"); err != nil {
		return err
	}
	if err := o.Custodian.Stage(ctx, keyring); err != nil {
		return fmt.Errorf("stage the keyring at the control plane: %w", err)
	}
	return nil
}

// commit signs next and has the control plane put it in force.
func (o *Operator) commit(ctx context.Context, next *keyshare.Manifest, verb string) error {
	if err := o.step("sign", "", "manifest version %d", next.Version); err != nil {
		return err
	}
	var signed []byte
	var err error
	lockedmem.Do(func() {
		root := bytes.Clone(o.Root)
		defer lockedmem.Wipe(root)
		signed, err = sign(root, next)
	})
	if err != nil {
		return err
	}
	if err := o.step("commit", "", "manifest version %d, epoch %d: from here on it is in force", next.Version, next.Epoch); err != nil {
		return err
	}
	if err := o.Custodian.Commit(ctx, signed, verb); err != nil {
		// The answer may have been lost, not the question.
		if c, cerr := o.Custodian.Custody(ctx); cerr != nil || !bytes.Equal(c.Manifest, signed) {
			return fmt.Errorf("commit: %w", err)
		}
	}
	_, err = o.Trust.Update(signed)
	return err
}

// reachable says that every keeper of m answered.
func (v *view) reachable(m *keyshare.Manifest) error {
	var errs []error
	for _, k := range m.Keepers {
		if err := v.failed[k.Name]; err != nil {
			errs = append(errs, fmt.Errorf("keeper %s: %w", k.Name, err))
		}
	}
	return errors.Join(errs...)
}

// enough says that U can be recovered now, as far as keepers' statuses tell.
func (v *view) enough() error {
	good := 0
	errs := []error{nil}
	for _, k := range v.manifest.Keepers {
		switch st := v.status[k.Name]; {
		case st == nil:
			errs = append(errs, fmt.Errorf("keeper %s: %w", k.Name, v.failed[k.Name]))
		case !st.GetHoldsShare() || st.GetSet() != v.manifest.Set:
			errs = append(errs, fmt.Errorf("keeper %s cannot release its share: %s", k.Name, st.GetProblem()))
		default:
			good++
		}
	}
	if good >= v.manifest.Threshold {
		return nil
	}
	errs[0] = fmt.Errorf("%d keepers can release their shares, %d are needed", good, v.manifest.Threshold)
	return errors.Join(errs...)
}

// unseal recovers U of the very manifest that v has.
func (o *Operator) unseal(ctx context.Context, v *view, reason string, use func(at unseal.Under) error) error {
	if err := o.step("unseal", "", "asking %d keepers for their shares", v.manifest.Shares); err != nil {
		return err
	}
	return o.Unseal(ctx, reason, func(u []byte) error {
		if m := o.Trust.Manifest(); m.Version != v.manifest.Version {
			return fmt.Errorf("manifest version %d came into force meanwhile", m.Version)
		}
		return use(unseal.Under{Set: v.manifest.Set, Epoch: v.manifest.Epoch, U: u})
	})
}

// pause waits a while.
func (o *Operator) pause(ctx context.Context) error {
	d := o.Pause
	if d == 0 {
		d = time.Second
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
