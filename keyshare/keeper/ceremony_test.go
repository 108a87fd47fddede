package keeper_test

import (
	"crypto/ed25519"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/release"
)

// under has a visit ask by another manifest than the site's first.
func (v *visit) under(m *keyshare.Manifest) *visit {
	c := *v
	c.manifest = m
	return &c
}

// opens says whether the keeper releases its genuine share under v's manifest.
func (v *visit) opens() error {
	v.t.Helper()
	tr, answer, err := v.release()
	if err != nil {
		return err
	}
	if len(answer.GetSealed()) == 0 {
		return errors.New("no share in the answer")
	}
	share, err := keyshare.OpenShare(v.key, tr.Bytes(), answer.GetSealed())
	if err != nil {
		return err
	}
	return v.manifest.CheckShare(v.keeper.Name, tr.Set, tr.Epoch, share)
}

func (v *visit) stage(next *keepertest.Set) error {
	_, err := v.client.Stage(v.t.Context(), &release.StageRequest{Manifest: next.Payload, Delivery: next.Deliveries[v.keeper.Name]})
	return err
}

func (v *visit) adopt(signed []byte) (*release.Acknowledgement, error) {
	res, err := v.client.Adopt(v.t.Context(), &release.AdoptRequest{Manifest: signed})
	return res.GetAcknowledgement(), err
}

func (v *visit) retire(acks ...*release.Acknowledgement) ([]uint64, error) {
	res, err := v.client.Retire(v.t.Context(), &release.RetireRequest{Acknowledgements: acks})
	return res.GetErased(), err
}

func (v *visit) status() *release.StatusResponse {
	v.t.Helper()
	st, err := v.client.Status(v.t.Context(), &release.StatusRequest{})
	if err != nil {
		v.t.Fatal(err)
	}
	return st
}

// exists lists which of the files of a share set a keeper has.
func exists(t *testing.T, k *keepertest.Keeper) []string {
	t.Helper()
	var names []string
	for _, f := range mustReadDir(t, k.Config.Dir) {
		if !slices.Contains([]string{"audit.log", "enrolment.key.age", "identity.key", "manifest.json"}, f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names
}

func want(t *testing.T, k *keepertest.Keeper, files ...string) {
	t.Helper()
	if got := exists(t, k); !slices.Equal(got, files) {
		t.Errorf("%s has %v, want %v", k.Name, got, files)
	}
}

func TestCeremony(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	operator := s.Operator(t)
	visits := make([]*visit, 2)
	acks := make([]*release.Acknowledgement, 2)
	for i, k := range s.Keepers {
		k.Start(t)
		v := visitAs(t, s, operator, k)
		visits[i] = v
		want(t, k, "share.age", "share.json")
		if err := v.stage(next); err != nil {
			t.Fatal(err)
		}
		want(t, k, "share.age", "share.json", "staged.age")
		if st := v.status(); st.GetStagedSet() != next.Manifest.Set || st.GetStagedEpoch() != 2 || st.GetEpoch() != 1 || !st.GetHoldsShare() {
			t.Errorf("staged: %v", st)
		}
		if err := v.opens(); err != nil {
			t.Errorf("the old share, staged: %v", err)
		}
		if err := v.under(next.Manifest).opens(); err == nil {
			t.Error("a staged share was released")
		}
		if _, err := v.retire(); err != nil {
			t.Errorf("nothing to retire: %v", err)
		}
	}
	for i, v := range visits {
		var err error
		if acks[i], err = v.adopt(next.Signed); err != nil {
			t.Fatal(err)
		}
		if err := acks[i].Verify(); err != nil {
			t.Error(err)
		}
		if again, err := v.adopt(next.Signed); err != nil || string(again.GetSignature()) != string(acks[i].GetSignature()) {
			t.Errorf("again: %v", err)
		}
		want(t, s.Keepers[i], "retired-1.age", "retired-1.json", "share.age", "share.json")
		if st := v.status(); st.GetEpoch() != 2 || !st.GetHoldsShare() || !slices.Equal(st.GetRetired(), []uint64{1}) ||
			string(st.GetManifest()) != string(next.Signed) || st.GetStagedEpoch() != 0 || st.GetProblem() != "" {
			t.Errorf("adopted: %v", st)
		}
		if err := v.opens(); err == nil {
			t.Error("the old share was released")
		}
		if err := v.under(next.Manifest).opens(); err != nil {
			t.Errorf("the new share: %v", err)
		}
	}
	// n-t+1 is 1 here.
	for i, v := range visits {
		if erased, err := v.retire(acks[0]); err != nil || !slices.Equal(erased, []uint64{1}) {
			t.Errorf("erased %v, %v", erased, err)
		}
		want(t, s.Keepers[i], "share.age", "share.json")
		if erased, err := v.retire(acks...); err != nil || len(erased) != 0 {
			t.Errorf("again erased %v, %v", erased, err)
		}
	}
	_, text := auditLines(t, s.Keepers[0])
	at := 0
	for _, event := range []string{
		`"accept"`, `"stage"`, `"release"`, `"adopt"`, `"over"`, `"promote"`, `"bridge":"operator/ada"`,
		`"event":"erase","manifest":2,"epoch":1,"keepers":["keeper-1"]`,
	} {
		i := strings.Index(text[at:], event)
		if i < 0 {
			t.Fatalf("no %s in its place in\n%s", event, text)
		}
		at += i
	}
	// All of it after a restart.
	k := s.Keepers[0]
	k.Stop()
	k.Start(t)
	if err := visitAs(t, s, operator, k).under(next.Manifest).opens(); err != nil {
		t.Error(err)
	}
}

// A staged share whose manifest is never signed is replaced by the next attempt, and
// is erased when another set takes its epoch.
func TestStagedButNeverSigned(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Operator(t), k)
	first, second, third := s.Rekey(t, nil, 2, s.Keepers...), s.Rekey(t, nil, 2, s.Keepers...), s.Rekey(t, nil, 2, s.Keepers...)
	for _, next := range []*keepertest.Set{first, second} {
		if err := v.stage(next); err != nil {
			t.Fatal(err)
		}
	}
	k.Stop()
	k.Start(t)
	v = visitAs(t, s, s.Operator(t), k)
	if st := v.status(); st.GetStagedSet() != second.Manifest.Set || !st.GetHoldsShare() {
		t.Errorf("%v", st)
	}
	if err := v.opens(); err != nil {
		t.Error(err)
	}
	// Signed is a set that this keeper was never given a share of.
	_, err := v.adopt(third.Signed)
	denied(t, err, codes.FailedPrecondition, "is in force here, but: keeper keeper-1 holds no share of set "+third.Manifest.Set)
	want(t, k, "retired-1.age", "retired-1.json")
	if err := v.under(third.Manifest).opens(); err == nil {
		t.Error("released something")
	}
	// It is not to be left with nothing.
	_, err = v.retire()
	denied(t, err, codes.FailedPrecondition, "keeps the old ones")
	// What was not delivered can be carried there.
	k.Stop()
	if err := keeper.Accept(k.Config.Dir, k.Config.Lock, s.Root, third.Signed, third.Deliveries[k.Name]); err != nil {
		t.Fatal(err)
	}
	k.Start(t)
	v = visitAs(t, s, s.Operator(t), k).under(third.Manifest)
	if err := v.opens(); err != nil {
		t.Error(err)
	}
	if _, err := v.adopt(third.Signed); err != nil {
		t.Error(err)
	}
	want(t, k, "retired-1.age", "retired-1.json", "share.age", "share.json")
}

// Accept also ends a ceremony that could not reach the keeper at all.
func TestAcceptOfTheNextEpoch(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	next := s.Rekey(t, nil, 2, s.Keepers...)
	for range 2 {
		if err := keeper.Accept(k.Config.Dir, k.Config.Lock, s.Root, next.Signed, next.Deliveries[k.Name]); err != nil {
			t.Fatal(err)
		}
		want(t, k, "retired-1.age", "retired-1.json", "share.age", "share.json")
	}
	k.Start(t)
	if err := visitAs(t, s, s.Bridge, k).under(next.Manifest).opens(); err != nil {
		t.Error(err)
	}
}

// A bridge brings the manifest that a keeper missed: it promotes and answers.
func TestBridgeBringsTheManifest(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	if err := visitAs(t, s, s.Operator(t), k).stage(next); err != nil {
		t.Fatal(err)
	}
	v := visitAs(t, s, s.Bridge, k).under(next.Manifest)
	st, nonce := v.challenge()
	req := request(v.transcript(nonce), s.Bridge)
	req.Manifest = next.Signed
	share, err := v.send(st, req)
	if err != nil || len(share.GetSealed()) == 0 || string(share.GetManifest()) != string(next.Signed) {
		t.Fatalf("got %v", err)
	}
	want(t, k, "retired-1.age", "retired-1.json", "share.age", "share.json")
}

// So does a file that the operator puts there, also while the keeper is away.
func TestManifestFileEndsTheCeremony(t *testing.T) {
	for _, running := range []bool{true, false} {
		s := keepertest.New(t, 2, 2)
		k := s.Keepers[0]
		k.Start(t)
		next := s.Rekey(t, nil, 2, s.Keepers...)
		if err := visitAs(t, s, s.Operator(t), k).stage(next); err != nil {
			t.Fatal(err)
		}
		if !running {
			k.Stop()
		}
		if err := identity.WritePrivate(filepath.Join(k.Config.Dir, "manifest.json"), next.Signed); err != nil {
			t.Fatal(err)
		}
		if !running {
			k.Start(t)
		}
		if err := visitAs(t, s, s.Bridge, k).under(next.Manifest).opens(); err != nil {
			t.Error(err)
		}
		want(t, k, "retired-1.age", "retired-1.json", "share.age", "share.json")
	}
}

// Somebody puts an old manifest.json back, for instance from a backup.
func TestManifestFileRolledBack(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	v := visitAs(t, s, s.Operator(t), k)
	if err := v.stage(next); err != nil {
		t.Fatal(err)
	}
	if _, err := v.adopt(next.Signed); err != nil {
		t.Fatal(err)
	}
	for _, restart := range []bool{false, true} {
		if err := identity.WritePrivate(filepath.Join(k.Config.Dir, "manifest.json"), s.Manifest); err != nil {
			t.Fatal(err)
		}
		if restart {
			k.Stop()
			k.Start(t)
		}
		v = visitAs(t, s, s.Bridge, k)
		if err := v.opens(); err == nil {
			t.Error("the old share was released")
		}
		if err := v.under(next.Manifest).opens(); err != nil {
			t.Error(err)
		}
	}
}

// A keeper that a manifest leaves out holds nothing, says so, and erases.
func TestRemovedKeeper(t *testing.T) {
	s := keepertest.New(t, 3, 2)
	next := s.Rekey(t, nil, 2, s.Keepers[:2]...)
	operator := s.Operator(t)
	acks := make([]*release.Acknowledgement, 3)
	for i, k := range s.Keepers {
		k.Start(t)
		v := visitAs(t, s, operator, k)
		if i < 2 {
			if err := v.stage(next); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if acks[i], err = v.adopt(next.Signed); err != nil {
			t.Fatal(err)
		}
	}
	k := s.Keepers[2]
	want(t, k, "retired-1.age", "retired-1.json")
	k.Stop()
	k.Start(t)
	v := visitAs(t, s, operator, k)
	if st := v.status(); st.GetHoldsShare() || !strings.Contains(st.GetProblem(), "not enrolled") {
		t.Errorf("%v", st)
	}
	_, err := v.retire(acks[2])
	denied(t, err, codes.FailedPrecondition, "(keeper-3), want 2")
	if erased, err := v.retire(acks[2], acks[0]); err != nil || !slices.Equal(erased, []uint64{1}) {
		t.Errorf("erased %v, %v", erased, err)
	}
	want(t, k)
	k.Stop()
	k.Start(t) // and it starts with nothing
}

func TestProve(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Operator(t), k)
	nonce := []byte(strings.Repeat("n", 32))
	res, err := v.client.Prove(t.Context(), &release.ProveRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	m := v.manifest
	for name, tr := range map[string][]byte{
		"":               release.ProofTranscript(v.keeper.SPKI, m.Set, 1, nonce),
		"another nonce":  release.ProofTranscript(v.keeper.SPKI, m.Set, 1, make([]byte, 32)),
		"another keeper": release.ProofTranscript(m.Keepers[1].SPKI, m.Set, 1, nonce),
		"another epoch":  release.ProofTranscript(v.keeper.SPKI, m.Set, 2, nonce),
	} {
		if ed25519.Verify(v.keeper.ShareKey, tr, res.GetSignature()) != (name == "") {
			t.Errorf("%q", name)
		}
	}
	_, err = v.client.Prove(t.Context(), &release.ProveRequest{Nonce: nonce[:31]})
	denied(t, err, codes.InvalidArgument, "nonce of 31 bytes")
	if _, err := v.adopt(s.Rekey(t, nil, 2, s.Keepers...).Signed); err == nil {
		t.Error("acknowledged without a share")
	}
	_, err = v.client.Prove(t.Context(), &release.ProveRequest{Nonce: nonce})
	denied(t, err, codes.FailedPrecondition, "holds no share")
}

// A keeper that was only enrolled serves, waits, and is given its share by a ceremony.
func TestNewHolder(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keeper(t, "keeper-3")
	k.Config.Root = s.Root
	next := s.Rekey(t, nil, 2, s.Keepers[0], k)
	k.Start(t)
	k.Stop()
	k.Start(t)
	v := visitNew(t, s, next, k)
	if st := v.status(); st.GetHoldsShare() || !strings.Contains(st.GetProblem(), "no manifest yet") {
		t.Errorf("%v", st)
	}
	if _, err := v.retire(); err != nil {
		t.Error(err)
	}
	_, err := v.client.Prove(t.Context(), &release.ProveRequest{Nonce: make([]byte, 32)})
	denied(t, err, codes.FailedPrecondition, "no manifest yet")
	if err := v.opens(); err == nil {
		t.Error("released something")
	}
	if err := v.stage(next); err != nil {
		t.Fatal(err)
	}
	k.Stop()
	k.Start(t)
	v = visitNew(t, s, next, k)
	if _, err := v.adopt(next.Signed); err != nil {
		t.Fatal(err)
	}
	if err := v.opens(); err != nil {
		t.Error(err)
	}
	want(t, k, "share.age", "share.json")
}

// What a write that was killed left beside its file is erased at the next start.
func TestLeftoversAreErased(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	left := filepath.Join(k.Config.Dir, ".staged.age.123456")
	if err := os.WriteFile(left, []byte("half a share"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.Start(t)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}
