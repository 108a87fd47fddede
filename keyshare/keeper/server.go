package keeper

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/release"
)

// nonceLife is how long a bridge may take to answer a challenge. It signs at once;
// what comes later was held up by somebody.
const nonceLife = 30 * time.Second

// Config is what a keeper needs to serve.
type Config struct {
	// Dir is the state directory that Enrol and Accept filled.
	Dir string
	// Lock opens the share in it.
	Lock Lock
	// Root is the operator root, from configuration.
	Root ed25519.PublicKey
	// Logger gets one line per release and refusal; nil is slog.Default.
	Logger *slog.Logger
	// Policy, if set, may refuse a request that is otherwise good, of an enrolled bridge
	// or of an operator in a ceremony. The asker sees its error. Policy.Allow is one.
	Policy func(asker identity.Peer, from netip.Addr, request *release.Transcript) error
	// Clock is time.Now, except in tests.
	Clock func() time.Time

	step func(done string) // for tests: after each durable step of a change
}

// Server holds one share in locked memory and releases it.
type Server struct {
	cfg    Config
	unlock func()
	*shelf

	counters counters
}

// New opens the state directory, decrypts the share into locked memory, verifies the
// audit log and finishes a change of shares that was interrupted. Close gives all of
// it back. A share that does not fit the manifest is not fatal: the keeper says so in
// its log, in Status and to every bridge that asks, and can still be given a new
// manifest. A directory that was only enrolled serves too: a ceremony can stage its
// first share.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("keeper: %w", err)
	}
	s := &Server{cfg: cfg, unlock: unlock}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("keeper: %w", err)
	}
	if err := s.holds(); err != nil {
		cfg.Logger.Error("this keeper cannot release its share", "keeper", s.id.Name(), "error", err)
	}
	return s, nil
}

func (s *Server) open() error {
	id, err := loadIdentity(s.cfg.Dir)
	if err != nil {
		return err
	}
	trust, err := identity.OpenTrust(s.cfg.Root, filepath.Join(s.cfg.Dir, manifestFile))
	if err != nil {
		return err
	}
	if err := id.Follow(trust); err != nil {
		return err
	}
	known := trust.Manifest() != nil
	for _, file := range []string{shareFile, recordFile} {
		if _, err := os.Stat(filepath.Join(s.cfg.Dir, file)); err == nil && !known {
			return fmt.Errorf("%s has a share but no manifest yet: accept the ceremony's delivery again", s.cfg.Dir)
		}
	}
	if s.shelf, err = openShelf(s.cfg.Dir, s.cfg.Lock, s.cfg.Root, id, trust); err != nil {
		return err
	}
	s.clock, s.step = s.cfg.Clock, s.cfg.step
	if err := s.lost(); err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Dir, auditFile)
	if !known && s.staged.epoch == 0 {
		s.audit, err = createAudit(path)
	} else {
		s.audit, err = openAudit(path)
	}
	if err != nil {
		return err
	}
	if s.audit.seq == 0 && (known || s.staged.epoch != 0) {
		// Accept, Stage or Adopt wrote its first line. Accepting the same delivery again starts a new log.
		return errors.New("the audit log is empty although a share was accepted: it was cut")
	}
	if err := s.settle(); err != nil {
		return err
	}
	return s.tidy()
}

// Close wipes the share and releases the state directory. Stop the gRPC server
// first; a release still under way finishes before.
func (s *Server) Close() {
	if s.shelf != nil {
		s.close()
	}
	s.unlock()
}

// Identity is the keeper's own, for identity.ServerTLS. It follows Trust.
func (s *Server) Identity() *identity.Identity { return s.id }

// Trust is the keeper's manifest, kept in its directory: an Update is saved, and a
// newer file put there is taken up at the next handshake or call.
func (s *Server) Trust() *identity.Trust { return s.trust }

// Register adds the keeper's service to a gRPC server, which must have been made
// with identity.ServerTLS(s.Identity(), s.Trust(), Roles...): a call that did not come
// over such a connection is refused.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	release.RegisterKeeperServer(r, &service{server: s})
}

// Roles are those that a keeper's gRPC server lets through: each RPC then has its own.
var Roles = []identity.Role{identity.RoleBridge, identity.RoleOperator, identity.RoleControl, identity.RoleKeeper}

// service keeps the RPCs off Server's own surface.
type service struct {
	release.UnimplementedKeeperServer
	server *Server
}

// Release implements release.KeeperServer; the package comment numbers the steps.
func (v *service) Release(stream grpc.BidiStreamingServer[release.ReleaseRequest, release.ReleaseResponse]) error {
	s := v.server
	asker, err := s.asker(stream.Context())
	if err != nil {
		return s.refuse(asker, codeOf(err), err)
	}
	nonce := make([]byte, release.NonceSize)
	_, _ = rand.Read(nonce) // never fails, crypto/rand
	issued := s.cfg.Clock()
	if err := stream.Send(&release.ReleaseResponse{Message: &release.ReleaseResponse_Challenge{Challenge: &release.Challenge{Nonce: nonce}}}); err != nil {
		return err
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	if age := s.cfg.Clock().Sub(issued); age > nonceLife {
		return s.refuse(asker, codes.DeadlineExceeded, fmt.Errorf("the challenge was answered after %v, want at most %v", age, nonceLife))
	}
	// Again: the manifest may have changed while the bridge thought.
	if asker, err = s.asker(stream.Context()); err != nil {
		return s.refuse(asker, codeOf(err), err)
	}
	t := &release.Transcript{
		Nonce: nonce, Keeper: s.id.Fingerprint(), Set: req.GetSet(), Epoch: req.GetEpoch(),
		Recipient: req.GetRecipient(), Reason: req.GetReason(),
	}
	if err := t.Validate(); err != nil {
		return s.refuse(asker, codes.InvalidArgument, err)
	}
	// Signed by the identity at the other end of this very connection, not by any enrolled one.
	if !asker.Verify(release.Domain, t.Bytes(), req.GetSignature()) {
		return s.refuse(asker, codes.PermissionDenied, errors.New("the request's signature does not verify for this challenge and this peer's key"))
	}
	if signed := req.GetManifest(); len(signed) != 0 {
		// A ceremony may have ended without this keeper. An older manifest does no harm,
		// and the answer brings the newer one.
		if err := s.adopt(signed); err != nil && !errors.Is(err, identity.ErrStale) {
			return s.refuse(asker, codeOf(err), fmt.Errorf("the manifest that came with the request: %w", err))
		}
		// It may be the one that removes the asker.
		if asker, err = s.asker(stream.Context()); err != nil {
			return s.refuse(asker, codeOf(err), err)
		}
	}
	if err := s.usable(t.Set, t.Epoch); err != nil {
		// Told even so: a bridge with an old manifest learns the newer one from this.
		if err := stream.Send(answer(nil, s.trust.Signed())); err != nil {
			return err
		}
		return s.refuse(asker, codes.FailedPrecondition, err)
	}
	if s.cfg.Policy != nil {
		if err := s.cfg.Policy(asker, address(stream.Context()), t); err != nil {
			s.counters.policy.Add(1)
			return s.answerRefusal(asker, codes.PermissionDenied, fmt.Errorf("policy of keeper %s: %w", s.id.Name(), err))
		}
	}
	sealed, err := s.release(asker, t, req.GetSignature())
	if err != nil {
		return s.refuse(asker, codes.Internal, err)
	}
	return stream.Send(answer(sealed, s.trust.Signed()))
}

func answer(sealed, manifest []byte) *release.ReleaseResponse {
	return &release.ReleaseResponse{Message: &release.ReleaseResponse_Share{Share: &release.Share{Sealed: sealed, Manifest: manifest}}}
}

// asker is the caller, who must be one that shares are released to. It settles too:
// looking the caller up may have found a new manifest in the directory.
func (s *Server) asker(ctx context.Context) (identity.Peer, error) {
	p, err := s.trust.Peer(ctx)
	if err != nil {
		return p, &coded{codes.PermissionDenied, err}
	}
	if p.Role != identity.RoleBridge && p.Role != identity.RoleOperator {
		return p, refuse(codes.PermissionDenied, "%s %s is not a bridge: shares are released to bridges, and to an operator in a ceremony, only", p.Role, p.Name)
	}
	return p, s.settle()
}

// address is the caller's, invalid where the connection has none.
func address(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// holds says whether the share is the one that the manifest in force gives to this
// keeper.
func (s *Server) holds() error {
	m := s.trust.Manifest()
	if m == nil {
		return errNoManifest
	}
	return s.usable(m.Set, m.Epoch)
}

var errNoManifest = errors.New("no manifest yet: this keeper waits for its first ceremony")

// usable says whether the share may be released for a set and epoch.
func (s *Server) usable(set string, epoch uint64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.releasable(set, epoch)
}

// releasable runs under mu. What is asked for, what is held and what the manifest in
// force says must be one: a keeper that missed a rekey thereby stops releasing as soon
// as it has seen the new manifest.
func (s *Server) releasable(set string, epoch uint64) error {
	m := s.trust.Manifest()
	if m == nil {
		return errNoManifest
	}
	if set != m.Set || epoch != m.Epoch {
		return fmt.Errorf("asked for set %s epoch %d, the manifest in force is of set %s epoch %d", set, epoch, m.Set, m.Epoch)
	}
	if _, ok := s.enrolled(m); !ok {
		return fmt.Errorf("keeper %s: %w", s.id.Name(), identity.ErrNotEnrolled)
	}
	if s.closed {
		return errors.New("the keeper is stopping")
	}
	if s.held.epoch == 0 {
		if s.staged.of(m) {
			return fmt.Errorf("the staged share: %w", s.check(m, s.staged))
		}
		return fmt.Errorf("keeper %s holds no share of set %s epoch %d", s.id.Name(), m.Set, m.Epoch)
	}
	return s.check(m, s.held)
}

// release logs first and seals after: whatever happens between the two, there is
// never a share out without its line.
func (s *Server) release(asker identity.Peer, t *release.Transcript, signature []byte) (sealed []byte, err error) {
	name := asker.Name
	if asker.Role == identity.RoleOperator {
		name = string(asker.Role) + "/" + name
	}
	head, seq, err := s.log(auditLine{
		Event: eventRelease, Manifest: s.trust.Manifest().Version, Set: t.Set, Epoch: t.Epoch,
		Bridge: name, Reason: t.Reason, PublicKey: asker.Key, Request: t.Bytes(), Signature: signature,
	})
	if err != nil {
		return nil, fmt.Errorf("no release without an audit line: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	// Again, now that nothing can change it: a ceremony may have ended since.
	if err := s.releasable(t.Set, t.Epoch); err != nil {
		return nil, err
	}
	lockedmem.Do(func() {
		var b []byte
		if b, err = keyshare.SealShare(t.Recipient, t.Bytes(), s.held.secret.Bytes()); err == nil {
			sealed = b
		}
	})
	if err != nil {
		return nil, err
	}
	s.counters.releases.Add(1)
	s.cfg.Logger.Info("share released", "bridge", name, "reason", t.Reason,
		"set", t.Set, "epoch", t.Epoch, "audit_seq", seq, "audit_head", head)
	return sealed, nil
}

// refuse counts a refusal of the share, and answers it.
func (s *Server) refuse(asker identity.Peer, code codes.Code, err error) error {
	s.counters.refuse(code)
	return s.answerRefusal(asker, code, err)
}

// answerRefusal logs a refusal and makes it a status. Texts hold identities and
// reasons, never any part of a share.
func (s *Server) answerRefusal(asker identity.Peer, code codes.Code, err error) error {
	s.cfg.Logger.Warn("share refused", "bridge", asker.Name, "code", code.String(), "error", err)
	return status.Error(code, err.Error())
}

// codeOf is the status that an error of the shelf is answered with.
func codeOf(err error) codes.Code {
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	return codes.Internal
}
