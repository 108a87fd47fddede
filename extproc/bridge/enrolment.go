package bridge

import (
	"context"
	"errors"
	"time"

	"keybridge/extproc/grant"
	"keybridge/keyshare/identity"
)

// learn takes up a manifest that the control plane sends.
func (b *Bridge) learn(signed []byte) {
	switch changed, err := b.cfg.Trust.Update(signed); {
	case errors.Is(err, identity.ErrStale):
		// From a keeper this bridge has a newer one.
	case err != nil:
		b.cfg.Logger.Error("manifest from the control plane", "error", err)
	case changed:
		b.cfg.Logger.Info("manifest in force", "version", b.cfg.Trust.Manifest().Version)
		b.tell()
	}
}

// serveRecords serves for as long as this bridge is enrolled. A bridge that learns
// from the operator's signature that it is not any more, or whose enrolment has
// ended, seals itself: a bridge in the wrong hands obeys nobody, but one that was
// taken out of service or moved must not go on for MaxStale. Enrolled again, it
// unseals again.
func (b *Bridge) serveRecords(ctx context.Context) error {
	for {
		b.awaitEnrolment(ctx)
		g, session := newGroup(ctx)
		g.Go(func() error { return b.watchEnrolment(session) })
		g.Go(func() error { return b.unsealAndServe(session) })
		if err := g.Wait(); ctx.Err() != nil || !errors.Is(err, identity.ErrNotEnrolled) {
			return err
		}
		b.seal()
	}
}

// awaitEnrolment says why it waits. The manifest that ends the wait comes over Attach.
func (b *Bridge) awaitEnrolment(ctx context.Context) {
	for ctx.Err() == nil {
		changed := b.cfg.Trust.Changed()
		_, err := b.cfg.Trust.Enrolled(b.cfg.Identity)
		if err == nil {
			return
		}
		b.note(err.Error())
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// watchEnrolment returns an identity.ErrNotEnrolled as soon as there is one.
func (b *Bridge) watchEnrolment(ctx context.Context) error {
	for {
		changed := b.cfg.Trust.Changed()
		until, err := b.cfg.Trust.Enrolled(b.cfg.Identity)
		if err != nil {
			return err
		}
		var ends <-chan time.Time
		if !until.IsZero() {
			ends = b.cfg.Trust.At(until)
		}
		select {
		case <-changed:
		case <-ends:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seal refuses everything from now on and ends the requests that are open. The
// keyring is purged already; what was opened with it is wiped once no decision or
// probe can be reading it (retireAfter).
func (b *Bridge) seal() {
	b.serving.Lock()
	b.setState(Sealed)
	b.cfg.Live.Store(nil)
	b.serving.Unlock()
	b.endRevoked(nil)
	b.records.forget()
	b.reportProblems(nil, 0)
	b.cfg.Logger.Error("not enrolled any more: this bridge has sealed itself")
	b.changed()
}

// publish makes an index, or none, what is served, and state the bridge's: unless it
// has been sealed since the caller looked.
func (b *Bridge) publish(index *grant.Index, state State) bool {
	b.serving.Lock()
	defer b.serving.Unlock()
	if now := b.State(); now < Syncing || now == Purged {
		return false
	}
	b.cfg.Live.Store(index)
	b.setState(state)
	return true
}
