package keeper

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/release"
)

// caller is who calls an RPC of a ceremony; with roles, it must have one of them. It
// settles first, as asker does.
func (s *Server) caller(ctx context.Context, roles ...identity.Role) error {
	p, err := s.trust.Peer(ctx)
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	if len(roles) != 0 && !slices.Contains(roles, p.Role) {
		s.cfg.Logger.Warn("a peer asked for what only an operator may", "role", string(p.Role), "name", p.Name)
		return status.Error(codes.PermissionDenied, fmt.Sprintf("%s %s is not an operator in a ceremony", p.Role, p.Name))
	}
	if err := s.settle(); err != nil {
		s.cfg.Logger.Error("the shares could not be brought in line with the manifest in force", "error", err)
	}
	return nil
}

// fail logs what went wrong in an RPC of a ceremony, and makes it a status.
func (s *Server) fail(what string, err error) error {
	s.cfg.Logger.Warn("a step of a ceremony failed", "step", what, "error", err)
	return status.Error(codeOf(err), err.Error())
}

// Status implements release.KeeperServer, for any enrolled peer.
func (v *service) Status(ctx context.Context, _ *release.StatusRequest) (*release.StatusResponse, error) {
	s := v.server
	if err := s.caller(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	res := &release.StatusResponse{
		Set: s.held.set, Epoch: s.held.epoch, StagedSet: s.staged.set, StagedEpoch: s.staged.epoch,
		Retired: slices.Clone(s.retired), Manifest: s.trust.Signed(),
	}
	s.mu.RUnlock()
	if err := s.holds(); err != nil {
		res.Problem = err.Error()
	}
	res.HoldsShare = res.Problem == ""
	return res, nil
}

// Stage implements release.KeeperServer.
func (v *service) Stage(ctx context.Context, req *release.StageRequest) (*release.StageResponse, error) {
	s := v.server
	if err := s.caller(ctx, identity.RoleOperator); err != nil {
		return nil, err
	}
	m, err := keyshare.ParseManifest(req.GetManifest())
	if err != nil {
		return nil, s.fail("stage", refuse(codes.InvalidArgument, "staged manifest: %w", err))
	}
	if err := s.stage(m, req.GetDelivery()); err != nil {
		return nil, s.fail("stage", err)
	}
	s.cfg.Logger.Info("share staged", "set", m.Set, "epoch", m.Epoch)
	return &release.StageResponse{}, nil
}

// Adopt implements release.KeeperServer, for any enrolled peer.
func (v *service) Adopt(ctx context.Context, req *release.AdoptRequest) (*release.AdoptResponse, error) {
	s := v.server
	if err := s.caller(ctx); err != nil {
		return nil, err
	}
	if err := s.adopt(req.GetManifest()); err != nil {
		return nil, s.fail("adopt", err)
	}
	ack, err := s.acknowledge()
	if err != nil {
		return nil, s.fail("adopt", err)
	}
	return &release.AdoptResponse{Acknowledgement: ack}, nil
}

// acknowledge is the keeper's word on the manifest in force: that it holds its share
// of it or, where the manifest gives it none, that it holds none; and in both cases
// that it releases no other. A keeper that should hold a share and does not gives no word.
func (s *Server) acknowledge() (*release.Acknowledgement, error) {
	s.change.Lock()
	defer s.change.Unlock()
	m := s.trust.Manifest()
	if m == nil {
		return nil, &coded{codes.FailedPrecondition, errNoManifest}
	}
	if _, ok := s.enrolled(m); ok {
		if err := s.usable(m.Set, m.Epoch); err != nil {
			return nil, &coded{codes.FailedPrecondition, fmt.Errorf("manifest version %d is in force here, but: %w", m.Version, err)}
		}
	}
	a := &release.Acknowledgement{
		Keeper: s.id.Fingerprint(), PublicKey: s.id.PublicKey(), Set: m.Set, Epoch: m.Epoch, Version: m.Version,
	}
	a.Signature = s.id.Sign(release.AcknowledgementDomain, a.Transcript())
	return a, nil
}

// Retire implements release.KeeperServer.
func (v *service) Retire(ctx context.Context, req *release.RetireRequest) (*release.RetireResponse, error) {
	s := v.server
	if err := s.caller(ctx, identity.RoleOperator); err != nil {
		return nil, err
	}
	erased, err := s.retire(req.GetAcknowledgements())
	if err != nil {
		return nil, s.fail("retire", err)
	}
	if len(erased) != 0 {
		s.cfg.Logger.Info("old shares erased", "epochs", erased)
	}
	return &release.RetireResponse{Erased: erased}, nil
}

// Prove implements release.KeeperServer.
func (v *service) Prove(ctx context.Context, req *release.ProveRequest) (*release.ProveResponse, error) {
	s := v.server
	if err := s.caller(ctx, identity.RoleOperator); err != nil {
		return nil, err
	}
	if len(req.GetNonce()) != release.NonceSize {
		return nil, s.fail("prove", refuse(codes.InvalidArgument, "nonce of %d bytes, want %d", len(req.GetNonce()), release.NonceSize))
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.trust.Manifest()
	if m == nil {
		return nil, s.fail("prove", &coded{codes.FailedPrecondition, errNoManifest})
	}
	if err := s.releasable(m.Set, m.Epoch); err != nil {
		return nil, s.fail("prove", &coded{codes.FailedPrecondition, err})
	}
	res := &release.ProveResponse{Set: m.Set, Epoch: m.Epoch}
	var err error
	lockedmem.Do(func() {
		var key ed25519.PrivateKey
		if key, err = keyshare.ShareKey(s.held.secret.Bytes(), m.Set, m.Epoch); err == nil {
			defer lockedmem.Wipe(key)
			res.Signature = ed25519.Sign(key, release.ProofTranscript(s.id.Fingerprint(), m.Set, m.Epoch, req.GetNonce()))
		}
	})
	if err != nil {
		return nil, s.fail("prove", err)
	}
	return res, nil
}
