package quorum_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/release"
)

// A rekey as the operator runs it: keeper-1 stays, keeper-2 leaves, keeper-4 joins,
// keeper-3 is down and comes back when all is over.
func TestOperatorRekeys(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	joins := s.Keeper(t, "keeper-4")
	joins.Config.Root = s.Root
	for _, k := range []*keepertest.Keeper{s.Keepers[0], s.Keepers[1], joins} {
		k.Start(t)
	}
	addrs := s.Addrs()
	addrs["keeper-4"] = joins.Addr
	trust, ctx := s.Trust(t), t.Context()
	op := quorum.NewOperator(s.Operator(t), trust, addrs)
	op.Expect(keyshare.Keeper{Name: "keeper-4", SPKI: joins.Enrolled.Fingerprint()})

	cfg := config(t, s)
	cfg.Identity, cfg.Reason = s.Operator(t), "rekey"
	if err := quorum.Unseal(ctx, cfg, opensKeyring(s, cfg.Trust)); err != nil {
		t.Fatal(err)
	}
	next := s.Rekey(t, nil, 2, s.Keepers[0], joins)
	for _, name := range []string{"keeper-1", "keeper-4"} {
		if err := op.Stage(ctx, name, next.Payload, next.Deliveries[name]); err != nil {
			t.Fatal(err)
		}
		if st, err := op.Status(ctx, name); err != nil || st.GetStagedSet() != next.Manifest.Set || string(st.GetManifest()) != string(s.Manifest) {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if err := op.Prove(ctx, "keeper-1"); err != nil {
		t.Error(err)
	}
	// Signed. From here on keeper-2 is known by its key only.
	if _, err := trust.Update(next.Signed); err != nil {
		t.Fatal(err)
	}
	op = quorum.NewOperator(s.Operator(t), trust, addrs)
	if _, err := op.Adopt(ctx, "keeper-2", next.Signed); !errors.Is(err, identity.ErrNotEnrolled) {
		t.Errorf("got %v", err)
	}
	op.Expect(keyshare.Keeper{Name: "keeper-2", SPKI: s.Keepers[1].Enrolled.Fingerprint()})
	var acks []*release.Acknowledgement
	for _, name := range []string{"keeper-1", "keeper-4", "keeper-2"} {
		ack, err := op.Adopt(ctx, name, next.Signed)
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, ack)
		if err := op.Prove(ctx, name); (err == nil) != (name != "keeper-2") {
			t.Errorf("%s proves: %v", name, err)
		}
	}
	if _, err := op.Retire(ctx, "keeper-1", acks[:2]); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "keeper keeper-1: ") {
		t.Errorf("got %v", err)
	}
	for name, want := range map[string][]uint64{"keeper-1": {1}, "keeper-4": nil, "keeper-2": {1}} {
		if erased, err := op.Retire(ctx, name, acks); err != nil || !slices.Equal(erased, want) {
			t.Errorf("%s erased %v, %v", name, erased, err)
		}
	}

	// keeper-3 missed it all and still opens nothing.
	s.Keepers[2].Start(t)
	op.Expect(keyshare.Keeper{Name: "keeper-3", SPKI: s.Keepers[2].Enrolled.Fingerprint()})
	ack, err := op.Adopt(ctx, "keeper-3", next.Signed)
	if err != nil || ack.GetEpoch() != 2 {
		t.Errorf("%v, %v", ack, err)
	}
	if erased, err := op.Retire(ctx, "keeper-3", append(acks, ack)); err != nil || !slices.Equal(erased, []uint64{1}) {
		t.Errorf("erased %v, %v", erased, err)
	}

	// A bridge whose manifest is the old one learns of it and gets the new U.
	cfg = config(t, s)
	cfg.Keepers["keeper-4"] = joins.Addr
	var got []byte
	if err := quorum.Unseal(ctx, cfg, func(u []byte) error { got = bytes.Clone(u); return nil }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, next.U) {
		t.Error("not the new U")
	}
}

// The ceremony ended before the keepers heard of it: the first bridge tells them.
func TestBridgeEndsTheCeremony(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	op := quorum.NewOperator(s.Operator(t), s.Trust(t), s.Addrs())
	for _, k := range s.Keepers {
		k.Start(t)
		if err := op.Stage(t.Context(), k.Name, next.Payload, next.Deliveries[k.Name]); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config(t, s)
	if _, err := cfg.Trust.Update(next.Signed); err != nil {
		t.Fatal(err)
	}
	var got []byte
	if err := quorum.Unseal(t.Context(), cfg, func(u []byte) error { got = bytes.Clone(u); return nil }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, next.U) {
		t.Error("not the new U")
	}
}

// A second attempt stages over the first, also where a keeper missed a manifest.
func TestOperatorStagesAgain(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	trust := s.Trust(t)
	enrolled := s.Sign(t, func(m *keyshare.Manifest) { m.ControlPlanes = []keyshare.Peer{} })
	if _, err := trust.Update(enrolled); err != nil {
		t.Fatal(err)
	}
	k := s.Keepers[0]
	k.Start(t)
	op := quorum.NewOperator(s.Operator(t), trust, s.Addrs())
	for range 2 {
		next := s.Rekey(t, trust.Manifest(), 2, s.Keepers...)
		if err := op.Stage(t.Context(), k.Name, next.Payload, next.Deliveries[k.Name]); err != nil {
			t.Fatal(err)
		}
		st, err := op.Status(t.Context(), k.Name)
		if err != nil || st.GetStagedSet() != next.Manifest.Set || string(st.GetManifest()) != string(enrolled) {
			t.Errorf("%v, %v", st, err)
		}
	}
}

// liar is a keeper with a genuine identity that answers an operator as it likes.
type liar struct {
	release.UnimplementedKeeperServer
	ack   *release.Acknowledgement
	proof *release.ProveResponse
	stuck chan struct{} // closed when somebody waits for a status
}

func (l *liar) Adopt(context.Context, *release.AdoptRequest) (*release.AdoptResponse, error) {
	return &release.AdoptResponse{Acknowledgement: l.ack}, nil
}

func (l *liar) Prove(context.Context, *release.ProveRequest) (*release.ProveResponse, error) {
	return l.proof, nil
}

func (l *liar) Status(ctx context.Context, _ *release.StatusRequest) (*release.StatusResponse, error) {
	close(l.stuck)
	<-ctx.Done()
	return nil, ctx.Err()
}

func lie(t *testing.T, s *keepertest.Site, id *identity.Identity, addr string, l *liar) {
	t.Helper()
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(id, s.Trust(t), identity.RoleOperator))))
	release.RegisterKeeperServer(g, l)
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func identityOf(t *testing.T, k *keepertest.Keeper) *identity.Identity {
	t.Helper()
	id, err := identity.Load(filepath.Join(k.Config.Dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOperatorBelievesNoLie(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	m := s.Trust(t).Manifest()
	mine, neighbours := identityOf(t, s.Keepers[0]), identityOf(t, s.Keepers[1])
	ackBy := func(id *identity.Identity, epoch uint64) *release.Acknowledgement {
		a := &release.Acknowledgement{Keeper: id.Fingerprint(), PublicKey: id.PublicKey(), Set: m.Set, Epoch: epoch, Version: epoch}
		a.Signature = id.Sign(release.AcknowledgementDomain, a.Transcript())
		return a
	}
	forged := ackBy(mine, 1)
	forged.Signature[0] ^= 1
	l := &liar{}
	lie(t, s, mine, s.Keepers[0].Addr, l)
	op := quorum.NewOperator(s.Operator(t), s.Trust(t), s.Addrs())
	for name, tt := range map[string]struct {
		ack  *release.Acknowledgement
		want string
	}{
		"none":              {nil, "acknowledgement"},
		"forged":            {forged, "does not verify"},
		"another keeper's":  {ackBy(neighbours, 1), "it acknowledged set"},
		"of another epoch":  {ackBy(mine, 2), "it acknowledged set"},
		"the genuine thing": {ackBy(mine, 1), ""},
	} {
		l.ack = tt.ack
		_, err := op.Adopt(t.Context(), "keeper-1", s.Manifest)
		if (err == nil) != (tt.want == "") || (err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "keeper keeper-1: "))) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, proof := range map[string]*release.ProveResponse{
		"nothing":       {},
		"no signature":  {Set: m.Set, Epoch: 1},
		"garbage":       {Set: m.Set, Epoch: 1, Signature: make([]byte, 64)},
		"another epoch": {Set: m.Set, Epoch: 2, Signature: make([]byte, 64)},
	} {
		l.proof = proof
		if err := op.Prove(t.Context(), "keeper-1"); err == nil || !strings.Contains(err.Error(), "keeper keeper-1: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A keeper that accepts and never answers holds up nobody but its own call.
func TestOperatorAndAStuckKeeper(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	l := &liar{stuck: make(chan struct{})}
	lie(t, s, identityOf(t, s.Keepers[0]), s.Keepers[0].Addr, l)
	s.Keepers[1].Start(t)
	op := quorum.NewOperator(s.Operator(t), s.Trust(t), s.Addrs())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stuck := make(chan error, 1)
	go func() {
		_, err := op.Status(ctx, "keeper-1")
		stuck <- err
	}()
	<-l.stuck
	if st, err := op.Status(t.Context(), "keeper-2"); err != nil || !st.GetHoldsShare() {
		t.Errorf("%v, %v", st, err)
	}
	cancel()
	if err := <-stuck; status.Code(err) != codes.Canceled || !strings.Contains(err.Error(), "keeper keeper-1: ") {
		t.Errorf("got %v", err)
	}
}

func TestOperatorIsRefused(t *testing.T) {
	s, other := keepertest.New(t, 2, 2), keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	for name, tt := range map[string]struct {
		id   *identity.Identity
		code codes.Code
	}{
		"a bridge":        {s.Bridge, codes.PermissionDenied},
		"a control plane": {s.Control, codes.PermissionDenied},
		"another root's":  {other.Operator(t), codes.Unavailable}, // the handshake
	} {
		op := quorum.NewOperator(tt.id, s.Trust(t), s.Addrs())
		if err := op.Stage(t.Context(), "keeper-1", next.Payload, next.Deliveries["keeper-1"]); status.Code(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	op := quorum.NewOperator(s.Operator(t), s.Trust(t), map[string]string{"keeper-1": s.Keepers[0].Addr, "keeper-9": s.Keepers[0].Addr})
	if _, err := op.Status(t.Context(), "keeper-2"); err == nil || !strings.Contains(err.Error(), "keeper keeper-2: no address") {
		t.Error(err)
	}
	op.Expect(keyshare.Keeper{Name: "keeper-9", SPKI: s.Keepers[1].Enrolled.Fingerprint()})
	if _, err := op.Status(t.Context(), "keeper-9"); !errors.Is(err, identity.ErrNotEnrolled) || !strings.Contains(err.Error(), "keeper keeper-9: ") {
		t.Errorf("got %v", err)
	}
}
