package keeper

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
	// Policy, if set, may refuse a request of an enrolled bridge that is otherwise
	// good, for instance outside of a maintenance window. The bridge sees its error.
	Policy func(bridge identity.Peer, request *release.Transcript) error
	// Clock is time.Now, except in tests.
	Clock func() time.Time
}

// Server holds one share in locked memory and releases it.
type Server struct {
	cfg    Config
	id     *identity.Identity
	trust  *identity.Trust
	audit  *auditLog
	unlock func()
	arena  *lockedmem.Arena

	counters counters

	mu    sync.RWMutex // held for reading while the share is read
	share lockedmem.Secret
	set   string
	epoch uint64
}

// New opens the state directory, decrypts the share into locked memory and verifies
// the audit log. Close gives all of it back. A share that does not fit the manifest
// is not fatal: the keeper says so in its log, in Status and to every bridge that
// asks, and can still be given a new manifest.
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

func (s *Server) open() (err error) {
	if s.id, err = loadIdentity(s.cfg.Dir); err != nil {
		return err
	}
	if s.trust, err = identity.OpenTrust(s.cfg.Root, filepath.Join(s.cfg.Dir, manifestFile)); err != nil {
		return err
	}
	if s.trust.Manifest() == nil {
		return fmt.Errorf("%s has no manifest yet: accept the ceremony's delivery first", s.cfg.Dir)
	}
	if s.audit, err = openAudit(filepath.Join(s.cfg.Dir, auditFile)); err != nil {
		return err
	}
	if s.audit.seq == 0 {
		// Accept wrote its first line. Accepting the same delivery again starts a new log.
		return errors.New("the audit log is empty although a share was accepted: it was cut")
	}
	if s.arena, err = lockedmem.NewArena(); err != nil {
		return err
	}
	lockedmem.Do(func() {
		var c *custody
		if c, err = loadCustody(s.cfg.Dir, s.cfg.Lock); err == nil {
			s.set, s.epoch = c.Set, c.Epoch
			s.share, err = s.arena.Copy(c.Share)
		}
	})
	return err
}

// Close wipes the share and releases the state directory. Stop the gRPC server
// first; a release still under way finishes before.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arena != nil {
		s.arena.Purge()
	}
	s.share = lockedmem.Secret{}
	s.unlock()
}

// Identity is the keeper's own, for identity.ServerTLS.
func (s *Server) Identity() *identity.Identity { return s.id }

// Trust is the keeper's manifest, kept in its directory: an Update is saved, and a
// newer file put there is taken up at the next handshake or call.
func (s *Server) Trust() *identity.Trust { return s.trust }

// Register adds the keeper's service to a gRPC server, which must have been made
// with identity.ServerTLS(s.Identity(), s.Trust(), identity.RoleBridge): a call
// that did not come over such a connection is refused.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	release.RegisterKeeperServer(r, &service{server: s})
}

// service keeps the RPCs off Server's own surface.
type service struct {
	release.UnimplementedKeeperServer
	server *Server
}

// Status implements release.KeeperServer, for any enrolled peer.
func (v *service) Status(ctx context.Context, _ *release.StatusRequest) (*release.StatusResponse, error) {
	s := v.server
	if _, err := s.trust.Peer(ctx); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return &release.StatusResponse{Set: s.set, Epoch: s.epoch, HoldsShare: s.holds() == nil}, nil
}

// Release implements release.KeeperServer; the package comment numbers the steps.
func (v *service) Release(stream grpc.BidiStreamingServer[release.ReleaseRequest, release.ReleaseResponse]) error {
	s := v.server
	bridge, err := s.bridge(stream.Context())
	if err != nil {
		return s.refuse(bridge, codes.PermissionDenied, err)
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
		return s.refuse(bridge, codes.DeadlineExceeded, fmt.Errorf("the challenge was answered after %v, want at most %v", age, nonceLife))
	}
	// Again: the manifest may have changed while the bridge thought.
	if bridge, err = s.bridge(stream.Context()); err != nil {
		return s.refuse(bridge, codes.PermissionDenied, err)
	}
	t := &release.Transcript{
		Nonce: nonce, Keeper: s.id.Fingerprint(), Set: req.GetSet(), Epoch: req.GetEpoch(),
		Recipient: req.GetRecipient(), Reason: req.GetReason(),
	}
	if err := t.Validate(); err != nil {
		return s.refuse(bridge, codes.InvalidArgument, err)
	}
	// Signed by the identity at the other end of this very connection, not by any enrolled one.
	if !bridge.Verify(release.Domain, t.Bytes(), req.GetSignature()) {
		return s.refuse(bridge, codes.PermissionDenied, errors.New("the request's signature does not verify for this challenge and this bridge's key"))
	}
	if err := s.usable(t.Set, t.Epoch); err != nil {
		// Told even so: a bridge with an old manifest learns the newer one from this.
		if err := stream.Send(answer(nil, s.trust.Signed())); err != nil {
			return err
		}
		return s.refuse(bridge, codes.FailedPrecondition, err)
	}
	if s.cfg.Policy != nil {
		if err := s.cfg.Policy(bridge, t); err != nil {
			return s.refuse(bridge, codes.PermissionDenied, err)
		}
	}
	sealed, err := s.release(bridge, t, req.GetSignature())
	if err != nil {
		return s.refuse(bridge, codes.Internal, err)
	}
	return stream.Send(answer(sealed, s.trust.Signed()))
}

func answer(sealed, manifest []byte) *release.ReleaseResponse {
	return &release.ReleaseResponse{Message: &release.ReleaseResponse_Share{Share: &release.Share{Sealed: sealed, Manifest: manifest}}}
}

// bridge is the caller, who must be one.
func (s *Server) bridge(ctx context.Context) (identity.Peer, error) {
	p, err := s.trust.Peer(ctx)
	if err == nil && p.Role != identity.RoleBridge {
		err = fmt.Errorf("%s %s is not a bridge: shares are released to bridges only", p.Role, p.Name)
	}
	return p, err
}

// holds says whether the share is the one that the manifest in force gives to this
// keeper.
func (s *Server) holds() error {
	m := s.trust.Manifest()
	return s.usable(m.Set, m.Epoch)
}

// usable says whether the share may be released for a set and epoch: what is asked
// for, what is held and what the manifest in force says must be one. A keeper that
// missed a rekey thereby stops releasing as soon as it has seen the new manifest.
func (s *Server) usable(set string, epoch uint64) error {
	m := s.trust.Manifest()
	if set != m.Set || epoch != m.Epoch {
		return fmt.Errorf("asked for set %s epoch %d, the manifest in force is of set %s epoch %d", set, epoch, m.Set, m.Epoch)
	}
	if k, ok := m.Keeper(s.id.Name()); !ok || k.SPKI != s.id.Fingerprint() {
		return fmt.Errorf("keeper %s: %w", s.id.Name(), identity.ErrNotEnrolled)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.share.Len() == 0 {
		return errors.New("the keeper is stopping")
	}
	var err error
	lockedmem.Do(func() { err = m.CheckShare(s.id.Name(), s.set, s.epoch, s.share.Bytes()) })
	return err
}

// release logs first and seals after: whatever happens between the two, there is
// never a share out without its line.
func (s *Server) release(bridge identity.Peer, t *release.Transcript, signature []byte) (sealed []byte, err error) {
	line := auditLine{
		Time: s.cfg.Clock().UTC(), Event: eventRelease, Manifest: s.trust.Manifest().Version, Set: t.Set, Epoch: t.Epoch,
		Bridge: bridge.Name, Reason: t.Reason, PublicKey: bridge.Key, Request: t.Bytes(), Signature: signature,
	}
	head, err := s.audit.append(&line)
	if err != nil {
		return nil, fmt.Errorf("no release without an audit line: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.share.Len() == 0 {
		return nil, errors.New("the keeper is stopping")
	}
	lockedmem.Do(func() {
		var b []byte
		if b, err = keyshare.SealShare(t.Recipient, t.Bytes(), s.share.Bytes()); err == nil {
			sealed = b
		}
	})
	if err != nil {
		return nil, err
	}
	s.counters.releases.Add(1)
	s.cfg.Logger.Info("share released", "bridge", bridge.Name, "reason", t.Reason,
		"set", t.Set, "epoch", t.Epoch, "audit_seq", line.Seq, "audit_head", head)
	return sealed, nil
}

// refuse logs a refusal and makes it a status. Texts hold identities and reasons,
// never any part of a share.
func (s *Server) refuse(bridge identity.Peer, code codes.Code, err error) error {
	s.counters.refuse(code)
	s.cfg.Logger.Warn("share refused", "bridge", bridge.Name, "code", code.String(), "error", err)
	return status.Error(code, err.Error())
}
