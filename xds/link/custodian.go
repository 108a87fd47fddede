package link

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
)

// Kept is what the control plane keeps of key custody.
type Kept struct {
	// Version is that of the record, for Keep.
	Version  uint64
	Manifest []byte   // in force, signed
	Keyring  []byte   // that it names, wrapped
	Staged   [][]byte // wrapped keyrings that a ceremony may put in force
}

// ErrChanged says that the custody was changed since it was read.
var ErrChanged = errors.New("the custody was changed by another ceremony meanwhile")

// Safe is where custody and records lie. The control plane implements it over its
// store and its audit log.
type Safe interface {
	Kept(ctx context.Context) (*Kept, error)
	// Keep replaces the custody in one compare-and-swap on next.Version ([ErrChanged]).
	Keep(ctx context.Context, next *Kept) error
	// Sealed counts the records that are sealed to each sealing key.
	Sealed(ctx context.Context) (map[string]uint64, error)
	// Records yields every record of the store, the custody first.
	Records(ctx context.Context) iter.Seq2[*BackupRecord, error]
	// Restore stores a record of a backup that is no custody, unless the store has that
	// record as new or newer; then it is false.
	Restore(ctx context.Context, r *BackupRecord) (restored bool, err error)
	// Custody reads the custody of a backup.
	Custody(r *BackupRecord) (*Kept, bool, error)
	// Audit writes the line that precedes a change; without it nothing is changed.
	Audit(ctx context.Context, operator, event string, data map[string]any) error
}

// Custodian implements CustodianServer.
type Custodian struct {
	UnimplementedCustodianServer
	root ed25519.PublicKey
	safe Safe
	hub  *Hub
	peer func(context.Context) (identity.Peer, error)
}

// NewCustodian serves safe to operators, as peer (identity.Trust.Peer) knows them.
// Manifests are put in force only if they verify under root.
func NewCustodian(root ed25519.PublicKey, safe Safe, hub *Hub, peer func(context.Context) (identity.Peer, error)) *Custodian {
	return &Custodian{root: root, safe: safe, hub: hub, peer: peer}
}

func (c *Custodian) operator(ctx context.Context) (identity.Peer, error) {
	p, err := c.peer(ctx)
	if err != nil {
		return p, status.Error(codes.Unauthenticated, err.Error())
	}
	if p.Role != identity.RoleOperator {
		return p, status.Errorf(codes.PermissionDenied, "%s %q is not an operator", p.Role, p.Name)
	}
	return p, nil
}

// held is the custody with its manifest, which verifies.
func (c *Custodian) held(ctx context.Context) (*Kept, *identity.Trust, error) {
	kept, err := c.safe.Kept(ctx)
	if err != nil {
		return nil, nil, status.Errorf(codes.Unavailable, "custody: %v", err)
	}
	trust := identity.NewTrust(c.root)
	if _, err := trust.Update(kept.Manifest); err != nil {
		return nil, nil, status.Errorf(codes.DataLoss, "manifest in the store: %v", err)
	}
	return kept, trust, nil
}

// Custody implements CustodianServer.
func (c *Custodian) Custody(ctx context.Context, _ *CustodianRequest) (*CustodianState, error) {
	if _, err := c.operator(ctx); err != nil {
		return nil, err
	}
	kept, trust, err := c.held(ctx)
	if err != nil {
		return nil, err
	}
	out := &CustodianState{Manifest: kept.Manifest, Keyring: kept.Keyring, Staged: kept.Staged}
	if out.Records, err = c.safe.Sealed(ctx); err != nil {
		return nil, status.Errorf(codes.Unavailable, "records: %v", err)
	}
	enrolled := map[string]bool{}
	for _, b := range trust.Manifest().Bridges {
		enrolled[b.Name] = true
	}
	for _, b := range c.hub.Bridges() {
		if enrolled[b.Name] {
			out.Bridges = append(out.Bridges, &CustodianBridge{
				Name: b.Name, Connected: b.Connected, State: b.Report.GetState(),
				ManifestVersion: b.Report.GetManifestVersion(), SealingKeys: b.Report.GetSealingKeys(),
			})
		}
	}
	return out, nil
}

// maxKeyring bounds what is staged: package unseal reads no larger keyring.
const maxKeyring = 1 << 20

// Stage implements CustodianServer. What was staged before is dropped: of two
// ceremonies at the same time the older one finds its keyring gone and cannot commit.
func (c *Custodian) Stage(ctx context.Context, req *StageKeyringRequest) (*StageKeyringResponse, error) {
	p, err := c.operator(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(req.Keyring); n == 0 || n > maxKeyring {
		return nil, status.Errorf(codes.InvalidArgument, "a keyring of %d bytes", n)
	}
	kept, trust, err := c.held(ctx)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(kept.Keyring, req.Keyring) || len(kept.Staged) == 1 && bytes.Equal(kept.Staged[0], req.Keyring) {
		return &StageKeyringResponse{}, nil
	}
	kept.Staged = [][]byte{req.Keyring}
	if err := c.change(ctx, p, "keyring staged", kept, map[string]any{
		"manifest": trust.Manifest().Version, "keyring": digest(req.Keyring),
	}); err != nil {
		return nil, err
	}
	return &StageKeyringResponse{}, nil
}

// Commit implements CustodianServer.
func (c *Custodian) Commit(ctx context.Context, req *CommitRequest) (*CommitResponse, error) {
	p, err := c.operator(ctx)
	if err != nil {
		return nil, err
	}
	if req.Verb == "" || len(req.Verb) > 64 {
		return nil, status.Error(codes.InvalidArgument, "the verb is not a word for the audit log")
	}
	kept, trust, err := c.held(ctx)
	if err != nil {
		return nil, err
	}
	before := trust.Manifest()
	changed, err := trust.Update(req.Manifest)
	switch {
	case err != nil:
		return nil, status.Errorf(codes.FailedPrecondition, "manifest: %v", err)
	case !changed:
		return &CommitResponse{}, nil // it is the one in force: the answer to the first try was lost
	}
	m := trust.Manifest()
	if m.Version != before.Version+1 {
		return nil, status.Errorf(codes.FailedPrecondition, "manifest version %d does not follow version %d, which is in force", m.Version, before.Version)
	}
	i := slices.IndexFunc(append([][]byte{kept.Keyring}, kept.Staged...), func(k []byte) bool {
		sum := sha256.Sum256(k)
		return bytes.Equal(sum[:], m.KeyringDigest)
	})
	switch {
	case i < 0:
		return nil, status.Error(codes.FailedPrecondition, "the keyring that the manifest names is neither in force nor staged: another ceremony may have begun meanwhile")
	case i > 0:
		kept.Keyring = kept.Staged[i-1]
	}
	kept.Manifest, kept.Staged = trust.Signed(), nil
	if err := c.change(ctx, p, req.Verb, kept, map[string]any{
		"version": m.Version, "set": m.Set, "epoch": m.Epoch, "threshold": m.Threshold, "shares": m.Shares, "keyring": digest(kept.Keyring),
	}); err != nil {
		return nil, err
	}
	return &CommitResponse{}, nil
}

// change writes the audit line, then the custody.
func (c *Custodian) change(ctx context.Context, p identity.Peer, event string, next *Kept, data map[string]any) error {
	if err := c.safe.Audit(ctx, p.Name, event, data); err != nil {
		return status.Errorf(codes.Unavailable, "no change without an audit line: %v", err)
	}
	switch err := c.safe.Keep(ctx, next); {
	case errors.Is(err, ErrChanged):
		return status.Error(codes.Aborted, err.Error())
	case err != nil:
		return status.Errorf(codes.Unavailable, "custody: %v", err)
	}
	return nil
}

func digest(keyring []byte) []byte {
	sum := sha256.Sum256(keyring)
	return sum[:]
}

// Backup implements CustodianServer.
func (c *Custodian) Backup(_ *BackupRequest, stream Custodian_BackupServer) error {
	p, err := c.operator(stream.Context())
	if err != nil {
		return err
	}
	if err := c.safe.Audit(stream.Context(), p.Name, "backup", nil); err != nil {
		return status.Errorf(codes.Unavailable, "no backup without an audit line: %v", err)
	}
	for r, err := range c.safe.Records(stream.Context()) {
		if err != nil {
			return status.Errorf(codes.Unavailable, "records: %v", err)
		}
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// Restore implements CustodianServer.
func (c *Custodian) Restore(stream Custodian_RestoreServer) error {
	ctx := stream.Context()
	p, err := c.operator(ctx)
	if err != nil {
		return err
	}
	if err := c.safe.Audit(ctx, p.Name, "restore", nil); err != nil {
		return status.Errorf(codes.Unavailable, "no restore without an audit line: %v", err)
	}
	out := &RestoreResponse{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(out)
		}
		if err != nil {
			return err
		}
		restored, err := c.restore(ctx, p, r)
		if err != nil {
			return err
		}
		if restored {
			out.Restored++
		} else {
			out.Kept++
		}
	}
}

func (c *Custodian) restore(ctx context.Context, p identity.Peer, r *BackupRecord) (bool, error) {
	saved, is, err := c.safe.Custody(r)
	if err != nil {
		return false, status.Errorf(codes.InvalidArgument, "backup: %v", err)
	}
	if is {
		return c.restoreCustody(ctx, p, saved)
	}
	restored, err := c.safe.Restore(ctx, r)
	if err != nil {
		return false, status.Errorf(codes.Unavailable, "restore a %s: %v", r.Kind, err)
	}
	return restored, nil
}

// restoreCustody takes the custody of a backup if it is newer than the one in force:
// then it is the store that was rolled back, and keepers refuse what it has.
func (c *Custodian) restoreCustody(ctx context.Context, p identity.Peer, saved *Kept) (bool, error) {
	kept, trust, err := c.held(ctx)
	if err != nil {
		return false, err
	}
	changed, err := trust.Update(saved.Manifest)
	switch {
	case errors.Is(err, identity.ErrStale):
		return false, nil
	case err != nil:
		return false, status.Errorf(codes.FailedPrecondition, "manifest of the backup: %v", err)
	case !changed:
		return false, nil
	}
	m := trust.Manifest()
	if !bytes.Equal(digest(saved.Keyring), m.KeyringDigest) {
		return false, status.Error(codes.FailedPrecondition, "the keyring of the backup is not the one that its manifest names")
	}
	kept.Manifest, kept.Keyring, kept.Staged = trust.Signed(), saved.Keyring, nil
	return true, c.change(ctx, p, "restored", kept, map[string]any{"version": m.Version, "set": m.Set, "epoch": m.Epoch})
}
