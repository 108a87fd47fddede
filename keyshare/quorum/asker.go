package quorum

import (
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/release"
)

// asker asks one keeper until it has given its share.
type asker struct {
	cfg        *Config
	arena      *lockedmem.Arena
	name, addr string
}

// run asks, sends the answer, and pauses; after a good answer it rests until told
// to ask again. It ends with ctx.
func (a *asker) run(ctx context.Context, answers chan<- answer, again <-chan struct{}) {
	pause := a.cfg.MinPause
	for {
		got := a.ask(ctx)
		select {
		case answers <- got:
		case <-ctx.Done():
			return // the arena is purged, share and all
		}
		var wake <-chan time.Time
		if got.State != StateGood {
			// Half of the pause at random, so that bridges that lost the same keeper
			// do not come back to it in step.
			wake = time.After(pause/2 + rand.N(pause/2+1)) //nolint:gosec // no secret depends on it
			pause = min(2*pause, a.cfg.MaxPause)
		}
		select {
		case <-wake:
		case <-again:
			pause = a.cfg.MinPause
		case <-ctx.Done():
			return
		}
	}
}

// ask makes one request and names what came of it.
func (a *asker) ask(ctx context.Context) answer {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	m := a.cfg.Trust.Manifest()
	got := answer{KeeperReport: KeeperReport{Keeper: a.name}, set: m.Set, epoch: m.Epoch}
	if _, ok := m.Keeper(a.name); !ok {
		got.State, got.Detail = StateUnknown, noSuchKeeper
		return got
	}
	got.share, got.err = a.release(ctx, m)
	got.State, got.Detail = judge(got.err)
	return got
}

// judge names what came of a call to a keeper.
func judge(err error) (State, string) {
	var shareError *keyshare.ShareError
	var notGenuine *answerError
	var notTrusted *untrustedError
	state := StateUnreachable
	switch {
	case err == nil:
		return StateGood, ""
	case errors.As(err, &shareError), errors.As(err, &notGenuine):
		state = StateBad
	case errors.As(err, &notTrusted):
		state = StateUntrusted
	case refusal(err):
		state = StateRefused
	}
	return state, err.Error()
}

// refusal says whether err is a keeper's considered answer, rather than the lack
// of one. Codes that gRPC itself makes of a broken connection are not.
func refusal(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return false
	}
	return true
}

// answerError is an answer that no honest keeper gives.
type answerError struct{ err error }

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// untrustedError is a TLS peer that the manifest does not know as this keeper. It
// is kept aside because gRPC reports a failed handshake as Unavailable, in text.
type untrustedError struct{ err error }

func (e *untrustedError) Error() string { return e.err.Error() }
func (e *untrustedError) Unwrap() error { return e.err }

// release runs the protocol of package keeper once, on a connection of its own, so
// that one attempt is one handshake and nothing of gRPC's own reconnecting hides
// what happened.
func (a *asker) release(ctx context.Context, m *keyshare.Manifest) (share lockedmem.Secret, err error) {
	h := &handshake{config: identity.ClientTLS(a.cfg.Identity, a.cfg.Trust, identity.RoleKeeper, a.name)}
	err = h.call(a.addr, func(client release.KeeperClient) error {
		share, err = a.exchange(ctx, client, m, h)
		return err
	})
	return share, err
}

func (a *asker) exchange(ctx context.Context, client release.KeeperClient, m *keyshare.Manifest, h *handshake) (lockedmem.Secret, error) {
	var none lockedmem.Secret
	stream, err := client.Release(ctx)
	if err != nil {
		return none, err
	}
	res, err := stream.Recv()
	if err != nil {
		return none, err
	}
	// Made per request and never stored: an answer recorded today opens for nobody tomorrow.
	var key hpke.PrivateKey
	lockedmem.Do(func() { key, err = keyshare.NewRecipient() })
	if err != nil {
		return none, err
	}
	t := release.Transcript{
		Nonce: res.GetChallenge().GetNonce(), Keeper: h.peer(), Set: m.Set, Epoch: m.Epoch,
		Recipient: key.PublicKey().Bytes(), Reason: a.cfg.Reason,
	}
	if err := t.Validate(); err != nil {
		return none, &answerError{fmt.Errorf("no usable challenge: %w", err)}
	}
	if err := stream.Send(&release.ReleaseRequest{
		Set: t.Set, Epoch: t.Epoch, Recipient: t.Recipient, Reason: t.Reason,
		Signature: a.cfg.Identity.Sign(release.Domain, t.Bytes()), Manifest: a.cfg.Trust.Signed(),
	}); err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv has the keeper's status
		return none, err
	}
	if res, err = stream.Recv(); err != nil {
		return none, err
	}
	if err := a.adopt(res.GetShare().GetManifest()); err != nil {
		return none, err
	}
	if len(res.GetShare().GetSealed()) == 0 {
		// A manifest without a share comes before a refusal.
		if _, err := stream.Recv(); err != nil && !errors.Is(err, io.EOF) {
			return none, err
		}
		return none, &answerError{errors.New("it sent neither share nor refusal")}
	}
	return a.open(m, key, &t, res.GetShare().GetSealed())
}

// adopt takes a newer manifest. One as old as ours or older says nothing; one that
// does not verify means that this is no keeper to believe.
func (a *asker) adopt(signed []byte) error {
	if len(signed) == 0 {
		return &answerError{errors.New("it sent no manifest")}
	}
	changed, err := a.cfg.Trust.Update(signed)
	if err == nil || changed || errors.Is(err, identity.ErrStale) {
		return nil // changed with an error: in force, but could not be saved
	}
	return &answerError{fmt.Errorf("its manifest: %w", err)}
}

func (a *asker) open(m *keyshare.Manifest, key hpke.PrivateKey, t *release.Transcript, sealed []byte) (share lockedmem.Secret, err error) {
	lockedmem.Do(func() {
		var b []byte
		if b, err = keyshare.OpenShare(key, t.Bytes(), sealed); err != nil {
			err = &keyshare.ShareError{Keeper: a.name, Reason: err.Error()}
			return
		}
		defer lockedmem.Wipe(b)
		if err = m.CheckShare(a.name, t.Set, t.Epoch, b); err == nil {
			share, err = a.arena.Copy(b)
		}
	})
	return share, err
}
