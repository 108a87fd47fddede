package ceremony

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// Enrolling says how a process is listed.
type Enrolling struct {
	Enrolment identity.Enrolment
	// Only ends the other key of a process whose key is being replaced.
	Only bool
	// Workspaces of a bridge; none: all, or those that it has.
	Workspaces []string
	// NotAfter ends the enrolment by itself; nil: nothing does, or what does now.
	NotAfter *time.Time
}

// Enrol lists a bridge, a control plane or a keeper's next key, in a manifest of its
// own: no quorum is needed. What is listed under another key is given the new one as
// its next: both are accepted, until Only ends the old one, and the process takes the
// new one into use as soon as it has the manifest.
func (o *Operator) Enrol(ctx context.Context, e Enrolling) (*Outcome, error) {
	of := &e.Enrolment
	return o.amend(ctx, fmt.Sprintf("%s enrol", of.Role), func(next *keyshare.Manifest) error {
		if err := of.Validate(); err != nil {
			return err
		}
		entry, err := find(next, of)
		if err != nil {
			return err
		}
		was := keyshare.Keeper{SPKI: *entry.SPKI, Next: *entry.Next}
		switch key := of.Fingerprint(); {
		case e.Only && !was.Is(key):
			return fmt.Errorf("%s %s cannot have only a key that is not listed beside its old one: list it first", of.Role, of.Name)
		case e.Only:
			*entry.SPKI, *entry.Next = key, ""
		case !was.Is(key):
			*entry.Next = key
		}
		if ends := was.Next != "" && *entry.Next != was.Next; ends && of.Role == identity.RoleKeeper {
			if err := o.answers(ctx, keyshare.Keeper{Name: of.Name, SPKI: *entry.SPKI, Next: *entry.Next}); err != nil {
				return err
			}
		}
		if e.NotAfter != nil {
			*entry.NotAfter = new(e.NotAfter.UTC().Truncate(time.Second))
			if !e.NotAfter.After(next.CreatedAt) {
				return fmt.Errorf("the enrolment of %s %s would end at %s, which is past", of.Role, of.Name, e.NotAfter.Format(time.RFC3339))
			}
		}
		for i := range next.Bridges {
			if b := &next.Bridges[i]; of.Role == identity.RoleBridge && b.Name == of.Name && len(e.Workspaces) > 0 {
				b.Workspaces = slices.Sorted(slices.Values(e.Workspaces))
			}
		}
		return nil
	})
}

// find is the entry of m that an enrolment may change. A bridge or a control plane
// that is new is added to m.
func find(m *keyshare.Manifest, of *identity.Enrolment) (*keyshare.Entry, error) {
	key, entry := of.Fingerprint(), m.Entry(string(of.Role), of.Name)
	if entry == nil {
		switch of.Role {
		case identity.RoleBridge:
			m.Bridges = append(m.Bridges, keyshare.Bridge{Name: of.Name, SPKI: key, Workspaces: []string{"*"}})
		case identity.RoleControl:
			m.ControlPlanes = append(m.ControlPlanes, keyshare.Peer{Name: of.Name, SPKI: key})
		default:
			return nil, fmt.Errorf("the manifest lists no keeper %s: a new keeper needs a share, by keeper add", of.Name)
		}
		return m.Entry(string(of.Role), of.Name), nil
	}
	// A bridge or control plane that has lost its key applies anew, and replaces none. A
	// keeper has lost its share with it.
	anew := of.Replaces == "" && of.Role != identity.RoleKeeper
	if key != *entry.SPKI && key != *entry.Next && of.Replaces != *entry.SPKI && !anew {
		return nil, fmt.Errorf("%s %s is enrolled with key %s, which this enrolment does not replace: it is an old one, or not made by identity rotate", of.Role, of.Name, *entry.SPKI)
	}
	if k, _ := m.Keeper(of.Name); of.Role == identity.RoleKeeper && !bytes.Equal(k.Recipient, of.Recipient) {
		return nil, fmt.Errorf("keeper %s is enrolled with another recipient of its share: another one is a matter of keeper replace", of.Name)
	}
	return entry, nil
}

// answers makes sure that a keeper goes by a key that stays: nobody would know it under
// another, to bring it the manifest that says so. The other roles need no such care: a
// control plane has the manifest in its store, and a bridge is given one at its start.
func (o *Operator) answers(ctx context.Context, k keyshare.Keeper) error {
	if err := o.step("status", k.Name, "does it use a key that stays?"); err != nil {
		return err
	}
	o.Keepers.Expect(k)
	if _, err := o.Keepers.Status(ctx, k.Name); err != nil {
		return fmt.Errorf("a key ends once the keeper uses one that stays: %w", err)
	}
	return nil
}

// Revoke strikes a bridge or a control plane off the manifest.
func (o *Operator) Revoke(ctx context.Context, role identity.Role, name string) (*Outcome, error) {
	return o.amend(ctx, fmt.Sprintf("%s revoke", role), func(next *keyshare.Manifest) error {
		switch role {
		case identity.RoleBridge:
			next.Bridges = slices.DeleteFunc(next.Bridges, func(b keyshare.Bridge) bool { return b.Name == name })
		case identity.RoleControl:
			next.ControlPlanes = slices.DeleteFunc(next.ControlPlanes, func(p keyshare.Peer) bool { return p.Name == name })
			if len(next.ControlPlanes) == 0 {
				return fmt.Errorf("%s is the last control plane: enrol another first", name)
			}
		default:
			return fmt.Errorf("a %s is not revoked: keepers leave by keeper remove", role)
		}
		return nil
	})
}

// amend is a ceremony that changes the manifest and nothing else. A change that is in
// force already is a success.
func (o *Operator) amend(ctx context.Context, verb string, change func(next *keyshare.Manifest) error) (*Outcome, error) {
	out := &Outcome{Verb: verb, DryRun: o.DryRun}
	fail := func(err error) (*Outcome, error) { return nil, fmt.Errorf("%s: %w", verb, err) }
	v, _, err := o.begin(ctx, out)
	if err != nil {
		return fail(err)
	}
	next, err := follow(v.manifest)
	if err != nil {
		return fail(err)
	}
	before, err := json.Marshal(next)
	if err != nil {
		return fail(err)
	}
	if err := change(next); err != nil {
		return fail(err)
	}
	after, err := json.Marshal(next)
	if err != nil {
		return fail(err)
	}
	switch {
	case bytes.Equal(before, after):
		out.Resumed = true
		for _, k := range v.manifest.Keepers {
			if err := v.failed[k.Name]; err != nil {
				out.Unfinished = put(out.Unfinished, k.Name, err)
			}
		}
		return out, nil
	case o.DryRun:
		if err := o.step("plan", "", "manifest version %d", next.Version); err != nil {
			return fail(err)
		}
		return out, nil
	}
	if err := o.commit(ctx, next, verb); err != nil {
		return fail(err)
	}
	if _, err := o.settle(ctx, next, nil, out); err != nil {
		return fail(err)
	}
	return out, nil
}
