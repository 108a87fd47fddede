package ceremony

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"keybridge/keyshare"
	"keybridge/keyshare/unseal"
)

// KeeperState is what one keeper says of itself, and whether that is true.
type KeeperState struct {
	Keeper  string `json:"keeper"`
	Version uint64 `json:"version,omitempty"` // of the manifest that it has
	Set     string `json:"set,omitempty"`
	Epoch   uint64 `json:"epoch,omitempty"`
	// Holds says that it has, by its own word, the share that the manifest gives it.
	Holds bool `json:"holds"`
	// Proven says that it signed a nonce with the key derived from that very share.
	Proven       bool     `json:"proven"`
	StagedEpoch  uint64   `json:"stagedEpoch,omitempty"`
	RetiredEpoch []uint64 `json:"retiredEpochs,omitempty"`
	// Problem is why it could not release its share; empty when it could.
	Problem string `json:"problem,omitempty"`
}

// Verify is the fire drill: every keeper proves its share by a signature, and the
// control plane shows that it has the manifest in force and its keyring. Nothing is
// changed and no share leaves a keeper. The error says what is wrong beyond single
// keepers; prove = false asks keepers for their states only.
func (o *Operator) Verify(ctx context.Context, prove bool) ([]KeeperState, *Outcome, error) {
	out := &Outcome{Verb: "verify"}
	v, err := o.look(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("verify: %w", err)
	}
	m := v.manifest
	out.describe(m)
	out.SealingKey = m.CurrentSealingKey().ID
	var states []KeeperState
	good := 0
	for _, k := range m.Keepers {
		st := KeeperState{Keeper: k.Name}
		if err := v.failed[k.Name]; err != nil {
			st.Problem = err.Error()
			states = append(states, st)
			continue
		}
		r := v.status[k.Name]
		st.Version, st.Set, st.Epoch, st.Holds = o.version(r), r.GetSet(), r.GetEpoch(), r.GetHoldsShare()
		st.StagedEpoch, st.RetiredEpoch, st.Problem = r.GetStagedEpoch(), r.GetRetired(), r.GetProblem()
		if prove {
			if err := o.step("prove", k.Name, "signing a nonce with the key of its share"); err != nil {
				return nil, nil, fmt.Errorf("verify: %w", err)
			}
			if err := o.Keepers.Prove(ctx, k.Name); err != nil {
				st.Problem = err.Error()
			} else {
				st.Proven = true
			}
		}
		if st.Proven || !prove && st.Holds && st.Problem == "" {
			good++
		}
		states = append(states, st)
	}
	if good < m.Threshold {
		err = errors.Join(err, fmt.Errorf("%d keepers of %d are good, and %d are needed: no bridge could start", good, m.Shares, m.Threshold))
	}
	if inForce, verr := keyshare.Verify(o.public(), v.custody.Manifest); verr != nil {
		err = errors.Join(err, fmt.Errorf("control plane: %w", verr))
	} else if inForce.Version < m.Version {
		err = errors.Join(err, fmt.Errorf("the control plane has manifest version %d, keepers know version %d: %w", inForce.Version, m.Version, ErrRolledBack))
	} else if digest := unseal.Digest(v.custody.Keyring); !bytes.Equal(digest[:], m.KeyringDigest) {
		err = errors.Join(err, errors.New("control plane: its keyring is not the one that the manifest names"))
	}
	return states, out, err
}
