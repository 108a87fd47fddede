package keeper_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/release"
)

// payload is what is signed in a signed manifest.
func payload(t *testing.T, signed []byte) []byte {
	t.Helper()
	var s keyshare.Signed
	if err := json.Unmarshal(signed, &s); err != nil {
		t.Fatal(err)
	}
	return s.Payload
}

func denied(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %v with %q", err, code, text)
	}
}

// Whoever is in no ceremony may look and bring manifests, no more.
func TestRolesOfCeremonies(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	k := s.Keepers[0]
	k.Start(t)
	neighbour, err := identity.Load(filepath.Join(s.Keepers[1].Config.Dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []*identity.Identity{s.Bridge, s.Control, neighbour} {
		v := visitAs(t, s, id, k)
		denied(t, v.stage(next), codes.PermissionDenied, "is not an operator")
		_, err := v.retire()
		denied(t, err, codes.PermissionDenied, "is not an operator")
		_, err = v.client.Prove(t.Context(), &release.ProveRequest{Nonce: make([]byte, 32)})
		denied(t, err, codes.PermissionDenied, "is not an operator")
		if _, err := v.adopt(s.Manifest); err != nil {
			t.Errorf("%s: adopt: %v", id, err)
		}
		if !v.status().GetHoldsShare() {
			t.Errorf("%s: status", id)
		}
		if id == s.Bridge {
			continue
		}
		st, err := v.client.Release(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		v.refused(nil, err, codes.PermissionDenied, "is not a bridge")
	}
	want(t, k, "share.age", "share.json")
}

func TestOperatorSessions(t *testing.T) {
	s, other := keepertest.New(t, 2, 2), keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	for name, id := range map[string]*identity.Identity{"expired": s.OperatorFor(t, time.Nanosecond), "of another root": other.Operator(t)} {
		v := visitAs(t, s, id, k)
		if _, err := v.client.Status(t.Context(), &release.StatusRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v, want a failed handshake", name, err)
		}
	}
	if err := visitAs(t, s, s.Operator(t), k).opens(); err != nil {
		t.Error(err)
	}
}

func TestStageRefuses(t *testing.T) {
	s, other := keepertest.New(t, 2, 2), keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Operator(t), k)
	next, foreign := s.Rekey(t, nil, 2, s.Keepers...), other.Rekey(t, nil, 2, other.Keepers...)
	later := s.Rekey(t, next.Manifest, 2, s.Keepers...)
	third := s.Keeper(t, "keeper-3")
	without := s.Rekey(t, nil, 2, s.Keepers[1], third)
	mine := s.Keepers[0].Enrolled
	s.Keepers[0].Enrolled.Recipient = s.Keepers[1].Enrolled.Recipient
	misdirected := s.Rekey(t, nil, 2, s.Keepers...)
	s.Keepers[0].Enrolled = mine
	for _, tt := range []struct {
		name              string
		payload, delivery []byte
		code              codes.Code
		text              string
	}{
		{"a signed manifest", next.Signed, next.Deliveries[k.Name], codes.InvalidArgument, "staged manifest"},
		{"no manifest", nil, next.Deliveries[k.Name], codes.InvalidArgument, "staged manifest"},
		{"another keeper's delivery", next.Payload, next.Deliveries["keeper-2"], codes.InvalidArgument, `made for keeper "keeper-2"`},
		{"another set's delivery", next.Payload, foreign.Deliveries[k.Name], codes.InvalidArgument, "the manifest is of set"},
		{"truncated delivery", next.Payload, next.Deliveries[k.Name][:50], codes.InvalidArgument, "delivery"},
		{"the set in force", payload(t, s.Manifest), k.Delivery, codes.FailedPrecondition, "want the next epoch"},
		{"an epoch left out", later.Payload, later.Deliveries[k.Name], codes.FailedPrecondition, "want the next epoch"},
		{"a set without this keeper", without.Payload, without.Deliveries["keeper-3"], codes.FailedPrecondition, "not enrolled"},
		{"another recipient", misdirected.Payload, misdirected.Deliveries[k.Name], codes.FailedPrecondition, "another recipient"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := v.client.Stage(t.Context(), &release.StageRequest{Manifest: tt.payload, Delivery: tt.delivery})
			denied(t, err, tt.code, tt.text)
		})
	}
	want(t, k, "share.age", "share.json")
	if err := v.opens(); err != nil {
		t.Error(err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	s, other := keepertest.New(t, 2, 2), keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Operator(t), k)
	revoked := s.Sign(t, func(m *keyshare.Manifest) { m.ControlPlanes = []keyshare.Peer{} })
	for range 2 {
		if _, err := v.adopt(revoked); err != nil { // the same epoch: nothing moves
			t.Fatal(err)
		}
	}
	want(t, k, "share.age", "share.json")
	for _, tt := range []struct {
		name   string
		signed []byte
		code   codes.Code
		text   string
	}{
		{"forged", other.Manifest, codes.InvalidArgument, "does not verify"},
		{"nothing", nil, codes.InvalidArgument, "verify manifest"},
		{"truncated", revoked[:len(revoked)/2], codes.InvalidArgument, "verify manifest"},
		{"unsigned", s.Rekey(t, nil, 2, s.Keepers...).Payload, codes.InvalidArgument, "verify manifest"},
		{"rolled back", s.Manifest, codes.FailedPrecondition, "older than the manifest in force"},
		{"another of the same version", s.Sign(t, func(m *keyshare.Manifest) { m.Bridges = []keyshare.Bridge{} }), codes.InvalidArgument, "the operator root signed two"},
		{"other shares in the same epoch", s.Sign(t, func(m *keyshare.Manifest) {
			m.Version, m.Set = 3, "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
		}), codes.InvalidArgument, "other shares in the same epoch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := v.adopt(tt.signed)
			denied(t, err, tt.code, tt.text)
			// And by way of a bridge: refused, or, if it is only old, no harm.
			st, nonce := v.challenge()
			req := request(v.transcript(nonce), v.id)
			req.Manifest = tt.signed
			share, err := v.send(st, req)
			if tt.code == codes.InvalidArgument && len(tt.signed) != 0 {
				v.refused(share, err, codes.InvalidArgument, tt.text)
			} else if err != nil || string(share.GetManifest()) != string(revoked) {
				t.Errorf("got %v", err)
			}
		})
	}
	if lines, text := auditLines(t, k); strings.Count(text, `"adopt"`) != 1 {
		t.Errorf("%d audit lines:\n%s", lines, text)
	}
}

func TestRetireRefuses(t *testing.T) {
	s := keepertest.New(t, 3, 2) // n-t+1 = 2
	fourth := s.Keeper(t, "keeper-4")
	next := s.Rekey(t, nil, 2, s.Keepers[0], s.Keepers[1], fourth)
	operator := s.Operator(t)
	acks := make([]*release.Acknowledgement, 2)
	for i, k := range s.Keepers[:2] {
		k.Start(t)
		v := visitAs(t, s, operator, k)
		if err := v.stage(next); err != nil {
			t.Fatal(err)
		}
		var err error
		if acks[i], err = v.adopt(next.Signed); err != nil {
			t.Fatal(err)
		}
	}
	v := visitAs(t, s, operator, s.Keepers[0])
	// by is an acknowledgement as the holder of an identity would make it.
	by := func(dir string, change func(a *release.Acknowledgement)) *release.Acknowledgement {
		id, err := identity.Load(filepath.Join(dir, "identity.key"))
		if err != nil {
			t.Fatal(err)
		}
		a := &release.Acknowledgement{
			Keeper: id.Fingerprint(), PublicKey: id.PublicKey(), Set: next.Manifest.Set, Epoch: 2, Version: 2,
		}
		change(a)
		a.Signature = id.Sign(release.AcknowledgementDomain, a.Transcript())
		return a
	}
	asIs := func(*release.Acknowledgement) {}
	second := s.Keepers[1].Config.Dir
	forged := by(second, asIs)
	forged.Signature[0] ^= 1
	renamed := by(fourth.Config.Dir, func(a *release.Acknowledgement) { a.Keeper = acks[1].GetKeeper() })
	misused := by(second, asIs)
	misused.PublicKey = acks[0].GetPublicKey()
	other := by(second, asIs)
	id, err := identity.Load(filepath.Join(second, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	other.Signature = id.Sign("another domain", other.Transcript())
	altered := by(second, func(a *release.Acknowledgement) { a.Epoch, a.Version = 1, 1 })
	altered.Epoch, altered.Version = 2, 2
	for _, tt := range []struct {
		name string
		acks []*release.Acknowledgement
		code codes.Code
		text string
	}{
		{"none", nil, codes.FailedPrecondition, "acknowledgements of 0 of its keepers"},
		{"too few", acks[:1], codes.FailedPrecondition, "(keeper-1), want 2"},
		{"twice the same", []*release.Acknowledgement{acks[0], acks[0]}, codes.FailedPrecondition, "(keeper-1), want 2"},
		{"a keeper of the new set only", []*release.Acknowledgement{acks[0], by(fourth.Config.Dir, asIs)}, codes.FailedPrecondition, "(keeper-1), want 2"},
		{"of the old epoch", []*release.Acknowledgement{acks[0], by(second, func(a *release.Acknowledgement) { a.Epoch = 1 })}, codes.FailedPrecondition, "want 2"},
		{"of another set", []*release.Acknowledgement{acks[0], by(second, func(a *release.Acknowledgement) {
			a.Set = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
		})}, codes.FailedPrecondition, "want 2"},
		{"forged", []*release.Acknowledgement{acks[0], forged}, codes.InvalidArgument, "does not verify"},
		{"altered", []*release.Acknowledgement{acks[0], altered}, codes.InvalidArgument, "does not verify"},
		{"of another domain", []*release.Acknowledgement{acks[0], other}, codes.InvalidArgument, "does not verify"},
		{"in another's name", []*release.Acknowledgement{acks[0], renamed}, codes.InvalidArgument, "is not the keeper's"},
		{"with another's key", []*release.Acknowledgement{acks[0], misused}, codes.InvalidArgument, "is not the keeper's"},
		{"empty", []*release.Acknowledgement{acks[0], {}}, codes.InvalidArgument, "fingerprint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := v.retire(tt.acks...)
			denied(t, err, tt.code, tt.text)
			want(t, s.Keepers[0], "retired-1.age", "retired-1.json", "share.age", "share.json")
		})
	}
	if erased, err := v.retire(acks...); err != nil || !slices.Equal(erased, []uint64{1}) {
		t.Errorf("erased %v, %v", erased, err)
	}
}
