package ceremony

import (
	"context"
	"fmt"
	"slices"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

// Enrolling says how a bridge or a control plane is listed.
type Enrolling struct {
	Enrolment identity.Enrolment
	// Workspaces of a bridge; none: all.
	Workspaces []string
	// NotAfter ends the enrolment by itself; nil: nothing does.
	NotAfter *time.Time
}

// Enrol lists a bridge or a control plane, in a manifest of its own: no quorum is
// needed. One that is listed under another key is given the new one as its next:
// both are accepted, until the same is enrolled once more, which ends the old one.
func (o *Operator) Enrol(ctx context.Context, e Enrolling) (*Outcome, error) {
	role := e.Enrolment.Role
	return o.amend(ctx, fmt.Sprintf("%s enrol", role), func(next *keyshare.Manifest) (bool, error) {
		if role != identity.RoleBridge && role != identity.RoleControl {
			return false, fmt.Errorf("%s applied as %s: keepers are enrolled by keeper add", e.Enrolment.Name, role)
		}
		if err := e.Enrolment.Validate(); err != nil {
			return false, err
		}
		if e.NotAfter != nil {
			t := e.NotAfter.UTC().Truncate(time.Second)
			e.NotAfter = &t
		}
		if role == identity.RoleControl {
			return e.control(next), nil
		}
		return e.bridge(next), nil
	})
}

func (e *Enrolling) bridge(m *keyshare.Manifest) (changed bool) {
	workspaces := e.Workspaces
	if len(workspaces) == 0 {
		workspaces = []string{"*"}
	}
	b := keyshare.Bridge{
		Name: e.Enrolment.Name, SPKI: e.Enrolment.Fingerprint(), NotAfter: e.NotAfter,
		Workspaces: slices.Sorted(slices.Values(workspaces)),
	}
	i := slices.IndexFunc(m.Bridges, func(o keyshare.Bridge) bool { return o.Name == b.Name })
	if i < 0 {
		m.Bridges = append(m.Bridges, b)
		return true
	}
	old := m.Bridges[i]
	if len(e.Workspaces) == 0 {
		b.Workspaces = old.Workspaces
	}
	b.SPKI, b.Next = succeed(old.SPKI, old.Next, b.SPKI)
	m.Bridges[i] = b
	return b.SPKI != old.SPKI || b.Next != old.Next || !slices.Equal(b.Workspaces, old.Workspaces) || !sameTime(b.NotAfter, old.NotAfter)
}

func (e *Enrolling) control(m *keyshare.Manifest) (changed bool) {
	p := keyshare.Peer{Name: e.Enrolment.Name, SPKI: e.Enrolment.Fingerprint(), NotAfter: e.NotAfter}
	i := slices.IndexFunc(m.ControlPlanes, func(o keyshare.Peer) bool { return o.Name == p.Name })
	if i < 0 {
		m.ControlPlanes = append(m.ControlPlanes, p)
		return true
	}
	old := m.ControlPlanes[i]
	p.SPKI, p.Next = succeed(old.SPKI, old.Next, p.SPKI)
	m.ControlPlanes[i] = p
	return p.SPKI != old.SPKI || p.Next != old.Next || !sameTime(p.NotAfter, old.NotAfter)
}

// succeed is what an entry's keys become when key is enrolled for it.
func succeed(current, next, key string) (string, string) {
	switch key {
	case current:
		return current, next
	case next:
		return next, ""
	}
	return current, key
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

// Revoke strikes a bridge or a control plane off the manifest.
func (o *Operator) Revoke(ctx context.Context, role identity.Role, name string) (*Outcome, error) {
	return o.amend(ctx, fmt.Sprintf("%s revoke", role), func(next *keyshare.Manifest) (bool, error) {
		before := len(next.Bridges) + len(next.ControlPlanes)
		switch role {
		case identity.RoleBridge:
			next.Bridges = slices.DeleteFunc(next.Bridges, func(b keyshare.Bridge) bool { return b.Name == name })
		case identity.RoleControl:
			next.ControlPlanes = slices.DeleteFunc(next.ControlPlanes, func(p keyshare.Peer) bool { return p.Name == name })
			if len(next.ControlPlanes) == 0 {
				return false, fmt.Errorf("%s is the last control plane: enrol another first", name)
			}
		default:
			return false, fmt.Errorf("a %s is not revoked: keepers leave by keeper remove", role)
		}
		return len(next.Bridges)+len(next.ControlPlanes) != before, nil
	})
}

// amend is a ceremony that changes the manifest and nothing else. A change that is in
// force already is a success.
func (o *Operator) amend(ctx context.Context, verb string, change func(next *keyshare.Manifest) (bool, error)) (*Outcome, error) {
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
	changed, err := change(next)
	switch {
	case err != nil:
		return fail(err)
	case !changed:
		out.Resumed = true
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
