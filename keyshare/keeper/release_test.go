package keeper_test

import (
	"context"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/release"
)

// visit is one bridge's connection to one keeper.
type visit struct {
	t        *testing.T
	site     *keepertest.Site
	id       *identity.Identity
	manifest *keyshare.Manifest
	keeper   keyshare.Keeper
	client   release.KeeperClient
	key      hpke.PrivateKey
}

func visitAs(t *testing.T, s *keepertest.Site, id *identity.Identity, k *keepertest.Keeper) *visit {
	t.Helper()
	return visitTrusting(t, s, s.Trust(t), id, k)
}

// visitNew is an operator's visit to a keeper that only the next set's manifest lists.
func visitNew(t *testing.T, s *keepertest.Site, next *keepertest.Set, k *keepertest.Keeper) *visit {
	t.Helper()
	trust := s.Trust(t)
	if _, err := trust.Update(next.Signed); err != nil {
		t.Fatal(err)
	}
	return visitTrusting(t, s, trust, s.Operator(t), k)
}

func visitTrusting(t *testing.T, s *keepertest.Site, trust *identity.Trust, id *identity.Identity, k *keepertest.Keeper) *visit {
	t.Helper()
	conn, err := grpc.NewClient(k.Addr, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(id, trust, identity.RoleKeeper, k.Name))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	key, err := keyshare.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	enrolled, _ := trust.Manifest().Keeper(k.Name)
	return &visit{t: t, site: s, id: id, manifest: trust.Manifest(), keeper: enrolled, client: release.NewKeeperClient(conn), key: key}
}

type stream = grpc.BidiStreamingClient[release.ReleaseRequest, release.ReleaseResponse]

// challenge opens a stream and takes the keeper's nonce.
func (v *visit) challenge() (stream, []byte) {
	v.t.Helper()
	s, err := v.client.Release(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	res, err := s.Recv()
	if err != nil {
		v.t.Fatal(err)
	}
	return s, res.GetChallenge().GetNonce()
}

func (v *visit) transcript(nonce []byte) *release.Transcript {
	return &release.Transcript{
		Nonce: nonce, Keeper: v.keeper.SPKI, Set: v.manifest.Set, Epoch: v.manifest.Epoch,
		Recipient: v.key.PublicKey().Bytes(), Reason: "test",
	}
}

func request(t *release.Transcript, signer *identity.Identity) *release.ReleaseRequest {
	return &release.ReleaseRequest{
		Set: t.Set, Epoch: t.Epoch, Recipient: t.Recipient, Reason: t.Reason,
		Signature: signer.Sign(release.Domain, t.Bytes()),
	}
}

// send sends a request and takes the answer.
func (v *visit) send(s stream, req *release.ReleaseRequest) (*release.Share, error) {
	v.t.Helper()
	if err := s.Send(req); err != nil {
		v.t.Fatal(err)
	}
	res, err := s.Recv()
	return res.GetShare(), err
}

// release runs the whole protocol.
func (v *visit) release() (*release.Transcript, *release.Share, error) {
	v.t.Helper()
	s, nonce := v.challenge()
	tr := v.transcript(nonce)
	share, err := v.send(s, request(tr, v.id))
	return tr, share, err
}

// refused is for answers that must hold no share.
func (v *visit) refused(share *release.Share, err error, code codes.Code, text string) {
	v.t.Helper()
	if len(share.GetSealed()) != 0 {
		v.t.Error("a share was released")
	}
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		v.t.Errorf("got %v, want %v with %q", err, code, text)
	}
}

func auditLines(t *testing.T, k *keepertest.Keeper) (lines uint64, text string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(k.Config.Dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	lines, torn, err := keeper.VerifyAudit(strings.NewReader(string(b)))
	if err != nil || torn != 0 {
		t.Errorf("audit log: %v, %d bytes torn", err, torn)
	}
	return lines, string(b)
}

func TestRelease(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	tr, answer, err := v.release()
	if err != nil {
		t.Fatal(err)
	}
	share, err := keyshare.OpenShare(v.key, tr.Bytes(), answer.GetSealed())
	if err != nil {
		t.Fatal(err)
	}
	if err := v.manifest.CheckShare(k.Name, tr.Set, tr.Epoch, share); err != nil {
		t.Error(err)
	}
	if string(answer.GetManifest()) != string(s.Manifest) {
		t.Error("the newest manifest did not come along")
	}
	other := *tr
	other.Reason = "another"
	if _, err := keyshare.OpenShare(v.key, other.Bytes(), answer.GetSealed()); err == nil {
		t.Error("the share opens with another transcript")
	}
	lines, text := auditLines(t, k)
	if lines != 2 || !strings.Contains(text, `"event":"release"`) || !strings.Contains(text, `"bridge":"bridge-1","reason":"test"`) {
		t.Errorf("%d audit lines:\n%s", lines, text)
	}
	st, err := v.client.Status(t.Context(), &release.StatusRequest{})
	if err != nil || st.GetSet() != tr.Set || st.GetEpoch() != 1 || !st.GetHoldsShare() {
		t.Errorf("status %v, %v", st, err)
	}
}

func TestReleaseRefuses(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	tests := []struct {
		name   string
		change func(tr *release.Transcript) // before signing
		after  func(req *release.ReleaseRequest)
		signer *identity.Identity
		code   codes.Code
		text   string
	}{
		{name: "signed by another enrolled identity", signer: s.Control, code: codes.PermissionDenied, text: "signature"},
		{name: "no signature", after: func(r *release.ReleaseRequest) { r.Signature = nil }, code: codes.PermissionDenied, text: "signature"},
		{name: "recipient exchanged", after: func(r *release.ReleaseRequest) { r.Recipient[0] ^= 1 }, code: codes.PermissionDenied, text: "signature"},
		{name: "reason exchanged", after: func(r *release.ReleaseRequest) { r.Reason = "other" }, code: codes.PermissionDenied, text: "signature"},
		{name: "nonce of its own", change: func(tr *release.Transcript) { tr.Nonce = make([]byte, 32) }, code: codes.PermissionDenied, text: "signature"},
		{name: "meant for another keeper", change: func(tr *release.Transcript) { tr.Keeper = strings.Repeat("0", 64) }, code: codes.PermissionDenied, text: "signature"},
		{name: "no reason", change: func(tr *release.Transcript) { tr.Reason = "" }, code: codes.InvalidArgument, text: "reason"},
		{name: "two lines of reason", change: func(tr *release.Transcript) { tr.Reason = "a\nb" }, code: codes.InvalidArgument, text: "reason"},
		{name: "short recipient", change: func(tr *release.Transcript) { tr.Recipient = tr.Recipient[:31] }, code: codes.InvalidArgument, text: "recipient"},
		{name: "epoch 0", change: func(tr *release.Transcript) { tr.Epoch = 0 }, code: codes.InvalidArgument, text: "epoch"},
		{name: "set is no UUID", change: func(tr *release.Transcript) { tr.Set = "prod" }, code: codes.InvalidArgument, text: "set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st, nonce := v.challenge()
			tr := v.transcript(nonce)
			if tt.change != nil {
				tt.change(tr)
			}
			if tt.signer == nil {
				tt.signer = s.Bridge
			}
			req := request(tr, tt.signer)
			if tt.after != nil {
				tt.after(req)
			}
			share, err := v.send(st, req)
			v.refused(share, err, tt.code, tt.text)
		})
	}
	if lines, _ := auditLines(t, k); lines != 1 {
		t.Errorf("%d audit lines, want the one of Accept: nothing was released", lines)
	}
}

// Another set or epoch is refused, but not without the newest manifest, from which
// a bridge with an old one learns what to ask for.
func TestReleaseOfAnotherEpoch(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	s.Keepers[0].Start(t)
	v := visitAs(t, s, s.Bridge, s.Keepers[0])
	for name, change := range map[string]func(tr *release.Transcript){
		"epoch": func(tr *release.Transcript) { tr.Epoch = 2 },
		"set":   func(tr *release.Transcript) { tr.Set = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55" },
	} {
		t.Run(name, func(t *testing.T) {
			st, nonce := v.challenge()
			tr := v.transcript(nonce)
			change(tr)
			share, err := v.send(st, request(tr, s.Bridge))
			if err != nil || string(share.GetManifest()) != string(s.Manifest) {
				t.Fatalf("no manifest before the refusal: %v", err)
			}
			_, rerr := st.Recv()
			v.refused(share, rerr, codes.FailedPrecondition, "in force")
		})
	}
}

func TestReplayedRequest(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	for _, k := range s.Keepers {
		k.Start(t)
	}
	v := visitAs(t, s, s.Bridge, s.Keepers[0])
	st, nonce := v.challenge()
	recorded := request(v.transcript(nonce), s.Bridge)
	if _, err := v.send(st, recorded); err != nil {
		t.Fatal(err)
	}
	again, _ := v.challenge()
	share, err := v.send(again, recorded)
	v.refused(share, err, codes.PermissionDenied, "does not verify for this challenge")

	elsewhere := visitAs(t, s, s.Bridge, s.Keepers[1])
	st, _ = elsewhere.challenge()
	share, err = elsewhere.send(st, recorded)
	v.refused(share, err, codes.PermissionDenied, "does not verify for this challenge")
}

func TestStaleChallenge(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	clock := make(chan time.Time, 8)
	k.Config.Clock = func() time.Time { return <-clock }
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	clock <- time.Unix(1000, 0)
	st, nonce := v.challenge()
	clock <- time.Unix(1031, 0)
	share, err := v.send(st, request(v.transcript(nonce), s.Bridge))
	v.refused(share, err, codes.DeadlineExceeded, "31s")
}

func TestWrongRole(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t) // keepertest lets control planes through TLS
	v := visitAs(t, s, s.Control, s.Keepers[0])
	if _, err := v.client.Status(t.Context(), &release.StatusRequest{}); err != nil {
		t.Errorf("status: %v", err)
	}
	st, err := v.client.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Recv()
	v.refused(nil, err, codes.PermissionDenied, "not a bridge")
}

func TestUnenrolledPeer(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t)
	stranger, err := identity.Create(filepath.Join(t.TempDir(), "k"), identity.RoleBridge, "bridge-1")
	if err != nil {
		t.Fatal(err)
	}
	v := visitAs(t, s, stranger, s.Keepers[0])
	if _, err := v.client.Status(t.Context(), &release.StatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want a failed handshake", err)
	}
}

// Removal takes effect on an open connection, at every step of the protocol.
func TestRevokedPeer(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	server := k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	st, nonce := v.challenge()
	removed := s.Sign(t, func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} })
	if changed, err := server.Trust().Update(removed); err != nil || !changed {
		t.Fatal(changed, err)
	}
	share, err := v.send(st, request(v.transcript(nonce), s.Bridge))
	v.refused(share, err, codes.PermissionDenied, "not enrolled")
	if _, err := v.client.Status(t.Context(), &release.StatusRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("status: %v", err)
	}
	// The keeper has not forgotten after a restart.
	k.Stop()
	k.Start(t)
	if _, err := visitAs(t, s, s.Bridge, k).client.Status(t.Context(), &release.StatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("after a restart: %v", err)
	}
}

// The operator enrols a bridge by putting a new manifest into the directory of a
// running keeper.
func TestManifestFileIsPickedUp(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	second, err := identity.Create(filepath.Join(t.TempDir(), "k"), identity.RoleBridge, "bridge-2")
	if err != nil {
		t.Fatal(err)
	}
	signed := s.Sign(t, func(m *keyshare.Manifest) {
		m.Bridges = append(m.Bridges, keyshare.Bridge{Name: "bridge-2", SPKI: second.Fingerprint(), Workspaces: []string{"*"}})
	})
	if err := identity.WritePrivate(filepath.Join(k.Config.Dir, "manifest.json"), signed); err != nil {
		t.Fatal(err)
	}
	_, share, err := visitAs(t, s, second, k).release()
	if err != nil || string(share.GetManifest()) != string(signed) {
		t.Errorf("%v", err)
	}
}

// A keeper that learns of a rekey that it missed keeps its old share to itself.
func TestStaleCustody(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	server := k.Start(t)
	rekeyed := s.Sign(t, func(m *keyshare.Manifest) { m.Epoch, m.Set = 2, "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55" })
	if _, err := server.Trust().Update(rekeyed); err != nil {
		t.Fatal(err)
	}
	v := visitAs(t, s, s.Bridge, k)
	for _, epoch := range []uint64{1, 2} {
		st, nonce := v.challenge()
		tr := v.transcript(nonce)
		if epoch == 2 {
			tr.Set, tr.Epoch = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55", 2
		}
		share, err := v.send(st, request(tr, s.Bridge))
		if err != nil || string(share.GetManifest()) != string(rekeyed) {
			t.Fatalf("epoch %d: no manifest: %v", epoch, err)
		}
		_, err = st.Recv()
		v.refused(share, err, codes.FailedPrecondition, "of set")
	}
	if st, err := v.client.Status(t.Context(), &release.StatusRequest{}); err != nil || st.GetHoldsShare() || st.GetEpoch() != 0 ||
		len(st.GetRetired()) != 1 || !strings.Contains(st.GetProblem(), "holds no share of set") {
		t.Errorf("status %v, %v", st, err)
	}
}

func TestNoReleaseWithoutAudit(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	path := filepath.Join(k.Config.Dir, "audit.log")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"not writable": func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"gone":         func() error { return os.Remove(path) },
		"cut":          func() error { return os.Truncate(path, 10) },
		"written to":   func() error { return os.WriteFile(path, append(good[:len(good):len(good)], 'x'), 0o600) },
		"a link":       func() error { return errors.Join(os.Remove(path), os.Symlink("/dev/full", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			_, share, err := v.release()
			v.refused(share, err, codes.Internal, "no release without an audit line")
			if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, good, 0o600)); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, share, err := v.release(); err != nil || len(share.GetSealed()) == 0 {
		t.Errorf("with the log back: %v", err)
	}
	if lines, _ := auditLines(t, k); lines != 2 {
		t.Errorf("%d audit lines, want 2", lines)
	}
}

func TestPolicy(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Config.Policy = func(bridge identity.Peer, from netip.Addr, r *release.Transcript) error {
		if bridge.Name == "bridge-1" && from.IsLoopback() && r.Reason == "test" {
			return errors.New("not on Sundays")
		}
		return nil
	}
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	_, share, err := v.release()
	v.refused(share, err, codes.PermissionDenied, "not on Sundays")
}

// A share at rest that is not the manifest's is named to whoever asks.
func TestWrongShareAtRest(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	m := s.Trust(t).Manifest()
	for name, tt := range map[string]struct {
		share []byte
		want  string
	}{
		"truncated": {make([]byte, 12), "share of keeper keeper-1: it is truncated: 12 of 33"},
		"x = 0":     {make([]byte, 33), "share of keeper keeper-1: its x is 0"},
		"garbage":   {[]byte(strings.Repeat("g", 33)), "share of keeper keeper-1: it is not a share of set"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(keeper.CustodyJSON{Format: 1, Set: m.Set, Epoch: 1, Share: tt.share})
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Config.Lock.Save(filepath.Join(k.Config.Dir, "share.age"), b); err != nil {
				t.Fatal(err)
			}
			k.Start(t)
			defer k.Stop()
			v := visitAs(t, s, s.Bridge, k)
			st, nonce := v.challenge()
			share, err := v.send(st, request(v.transcript(nonce), s.Bridge))
			if err != nil {
				t.Fatal(err)
			}
			_, err = st.Recv()
			v.refused(share, err, codes.FailedPrecondition, tt.want)
			if st, err := v.client.Status(context.Background(), &release.StatusRequest{}); err != nil || st.GetHoldsShare() {
				t.Errorf("status %v, %v", st, err)
			}
		})
	}
}
