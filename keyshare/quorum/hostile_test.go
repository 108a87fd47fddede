package quorum_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
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

// hostile is a keeper with a genuine identity that answers as it likes.
type hostile struct {
	release.UnimplementedKeeperServer
	id *identity.Identity
	// answer gives the messages to send after the request, and how to end.
	answer func(t *release.Transcript) ([]*release.Share, error)
	nonce  []byte
}

func (h *hostile) Release(s grpc.BidiStreamingServer[release.ReleaseRequest, release.ReleaseResponse]) error {
	if err := s.Send(&release.ReleaseResponse{Message: &release.ReleaseResponse_Challenge{Challenge: &release.Challenge{Nonce: h.nonce}}}); err != nil {
		return err
	}
	req, err := s.Recv()
	if err != nil {
		return err
	}
	shares, err := h.answer(&release.Transcript{
		Nonce: h.nonce, Keeper: h.id.Fingerprint(), Set: req.GetSet(), Epoch: req.GetEpoch(),
		Recipient: req.GetRecipient(), Reason: req.GetReason(),
	})
	for _, share := range shares {
		if err := s.Send(&release.ReleaseResponse{Message: &release.ReleaseResponse_Share{Share: share}}); err != nil {
			return err
		}
	}
	return err
}

// serve puts a hostile keeper in the place of one of the site's.
func serve(t *testing.T, s *keepertest.Site, i int, answer func(t *release.Transcript) ([]*release.Share, error)) *hostile {
	t.Helper()
	k := s.Keepers[i]
	id, err := identity.Load(filepath.Join(k.Config.Dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{id: id, answer: answer, nonce: make([]byte, 32)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(id, s.Trust(t), identity.RoleBridge))))
	release.RegisterKeeperServer(g, h)
	l, err := net.Listen("tcp", k.Addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return h
}

// sealed is an answer as the protocol has it, around any share.
func sealed(tr *release.Transcript, share, manifest []byte) ([]*release.Share, error) {
	b, err := keyshare.SealShare(tr.Recipient, tr.Bytes(), share)
	return []*release.Share{{Sealed: b, Manifest: manifest}}, err
}

// steal has the genuine share of a keeper, by asking for it as the bridge would.
func steal(t *testing.T, s *keepertest.Site, i int) []byte {
	t.Helper()
	k := s.Keepers[i]
	k.Start(t)
	defer k.Stop()
	conn, err := grpc.NewClient(k.Addr, grpc.WithNoProxy(), grpc.WithTransportCredentials(
		credentials.NewTLS(identity.ClientTLS(s.Bridge, s.Trust(t), identity.RoleKeeper, k.Name))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st, err := release.NewKeeperClient(conn).Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	key, err := keyshare.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	m := s.Trust(t).Manifest()
	tr := release.Transcript{
		Nonce: res.GetChallenge().GetNonce(), Keeper: m.Keepers[i].SPKI, Set: m.Set, Epoch: m.Epoch,
		Recipient: key.PublicKey().Bytes(), Reason: "test",
	}
	if err := st.Send(&release.ReleaseRequest{
		Set: tr.Set, Epoch: tr.Epoch, Recipient: tr.Recipient, Reason: tr.Reason,
		Signature: s.Bridge.Sign(release.Domain, tr.Bytes()),
	}); err != nil {
		t.Fatal(err)
	}
	if res, err = st.Recv(); err != nil {
		t.Fatal(err)
	}
	share, err := keyshare.OpenShare(key, tr.Bytes(), res.GetShare().GetSealed())
	if err != nil {
		t.Fatal(err)
	}
	return share
}

// Whatever a keeper answers that is not its share, it is the one that is named,
// and one genuine share beside it is not enough.
func TestBadSharesAreNamed(t *testing.T) {
	s, other := keepertest.New(t, 3, 2), keepertest.New(t, 3, 2)
	own, neighbours, foreign := steal(t, s, 0), steal(t, s, 1), steal(t, other, 0)
	zero := append([]byte{}, own...)
	zero[32] = 0
	s.Keepers[1].Start(t)

	with := func(share []byte) func(tr *release.Transcript) ([]*release.Share, error) {
		return func(tr *release.Transcript) ([]*release.Share, error) { return sealed(tr, share, s.Manifest) }
	}
	tests := []struct {
		name   string
		answer func(tr *release.Transcript) ([]*release.Share, error)
		want   string
		share  bool // the error holds a keyshare.ShareError
	}{
		{"share of another set", with(foreign), "belongs to another set", true},
		{"x = 0", with(zero), "its x is 0", true},
		{"truncated", with(own[:20]), "truncated: 20 of 33", true},
		{"empty", with(nil), "truncated: 0 of 33", true},
		{"another keeper's share", with(neighbours), "it is the share of keeper keeper-2", true},
		{"sealed for another occasion", func(tr *release.Transcript) ([]*release.Share, error) {
			c := *tr
			c.Reason = "another"
			b, err := keyshare.SealShare(tr.Recipient, c.Bytes(), own)
			return []*release.Share{{Sealed: b, Manifest: s.Manifest}}, err
		}, "not sealed to this key for this occasion", true},
		{"garbage", func(*release.Transcript) ([]*release.Share, error) {
			return []*release.Share{{Sealed: make([]byte, 100), Manifest: s.Manifest}}, nil
		}, "not sealed to this key", true},
		{"forged manifest", func(tr *release.Transcript) ([]*release.Share, error) {
			return sealed(tr, own, other.Manifest)
		}, "its manifest: verify manifest: signature does not verify", false},
		{"no manifest", func(tr *release.Transcript) ([]*release.Share, error) { return sealed(tr, own, nil) }, "no manifest", false},
		{"neither share nor refusal", func(*release.Transcript) ([]*release.Share, error) {
			return []*release.Share{{Manifest: s.Manifest}}, nil
		}, "neither share nor refusal", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serve(t, s, 0, tt.answer)
			r, e := until(t, config(t, s), "keeper-1", quorum.StateBad)
			if !strings.Contains(r.Detail, tt.want) || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("report %q, error %q: want %q", r.Detail, e, tt.want)
			}
			var bad *keyshare.ShareError
			if errors.As(e, &bad) != tt.share || (tt.share && bad.Keeper != "keeper-1") {
				t.Errorf("share error %v", bad)
			}
		})
	}

	t.Run("two others are enough", func(t *testing.T) {
		serve(t, s, 0, with(foreign))
		s.Keepers[2].Start(t)
		cfg := config(t, s)
		if err := quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)); err != nil {
			t.Error(err)
		}
	})
}

// A keeper that goes on releasing its share after a rekey is named, and so is one
// that answers with the manifest of the time before.
func TestOldEpochsShare(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	old := steal(t, s, 0)
	next := s.Rekey(t, nil, 2, s.Keepers...)
	serve(t, s, 0, func(tr *release.Transcript) ([]*release.Share, error) { return sealed(tr, old, s.Manifest) })
	cfg := config(t, s)
	if _, err := cfg.Trust.Update(next.Signed); err != nil {
		t.Fatal(err)
	}
	r, _ := until(t, cfg, "keeper-1", quorum.StateBad)
	if !strings.Contains(r.Detail, "it is not a share of set "+next.Manifest.Set) || cfg.Trust.Manifest().Epoch != 2 {
		t.Error(r.Detail)
	}
}

// A keeper that accepts and never answers does not delay the others, at any point.
func TestStuckKeepers(t *testing.T) {
	s := keepertest.New(t, 4, 2)
	stuck := make(chan struct{}, 1)
	serve(t, s, 0, func(*release.Transcript) ([]*release.Share, error) {
		select {
		case stuck <- struct{}{}:
		default:
		}
		<-t.Context().Done() // until the end of the test: before its cleanups, which stop the server
		return nil, t.Context().Err()
	})
	deaf, err := net.Listen("tcp", s.Keepers[1].Addr) // accepts, in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	cfg := config(t, s)
	done := make(chan error, 1)
	go func() { done <- quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)) }()
	<-stuck
	s.Keepers[2].Start(t)
	s.Keepers[3].Start(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestChallengeOfTheWrongSize(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	h := serve(t, s, 0, func(*release.Transcript) ([]*release.Share, error) { return nil, nil })
	h.nonce = nil
	r, _ := until(t, config(t, s), "keeper-1", quorum.StateBad)
	if !strings.Contains(r.Detail, "no usable challenge") {
		t.Error(r.Detail)
	}
}

// A keeper that holds the share of a past epoch refuses, and is named for it.
func TestStaleCustodyIsNamed(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	server := s.Keepers[0].Start(t)
	rekeyed := s.Sign(t, func(m *keyshare.Manifest) { m.Epoch, m.Set = 2, "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55" })
	if _, err := server.Trust().Update(rekeyed); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, s)
	r, _ := until(t, cfg, "keeper-1", quorum.StateRefused)
	if !strings.Contains(r.Detail, "epoch") && !strings.Contains(r.Detail, "set") {
		t.Error(r.Detail)
	}
	if cfg.Trust.Manifest().Epoch != 2 {
		t.Error("the newer manifest that came with the refusal was not adopted")
	}
}

// An older manifest from a keeper neither harms nor helps.
func TestOlderManifestIsIgnored(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	s.Keepers[0].Start(t)
	s.Keepers[1].Start(t)
	cfg := config(t, s)
	if _, err := cfg.Trust.Update(s.Sign(t, func(*keyshare.Manifest) {})); err != nil {
		t.Fatal(err)
	}
	if err := quorum.Unseal(t.Context(), cfg, opensKeyring(s, cfg.Trust)); err != nil {
		t.Fatal(err)
	}
	if cfg.Trust.Manifest().Version != 2 {
		t.Error("went back")
	}
}

// A bridge whose manifest was rolled back holds a good share of the old epoch when
// it learns, from one keeper, that all was rekeyed: the old share is dropped and
// the new U comes out.
func TestRekeyedWhileCollecting(t *testing.T) {
	s := keepertest.New(t, 3, 3)
	old := [][]byte{steal(t, s, 0), steal(t, s, 1), steal(t, s, 2)}
	oldEpoch := s.Trust(t).Manifest().Epoch

	const newSet = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
	u := make([]byte, keyshare.SecretSize)
	_, _ = rand.Read(u)
	shares, err := keyshare.Split(u, 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	rekeyed := s.Sign(t, func(m *keyshare.Manifest) {
		m.Set, m.Epoch = newSet, 2
		if m.Check, err = keyshare.CheckValue(u, newSet, 2); err != nil {
			t.Fatal(err)
		}
		for i, share := range shares {
			key, err := keyshare.ShareKey(share, newSet, 2)
			if err != nil {
				t.Fatal(err)
			}
			m.Keepers[i].X, m.Keepers[i].ShareKey = int(share.X()), key.Public().(ed25519.PublicKey)
		}
	})
	good := make(chan struct{}) // closed when the bridge has two shares of the old epoch
	for i := range 3 {
		serve(t, s, i, func(tr *release.Transcript) ([]*release.Share, error) {
			switch {
			case tr.Epoch != oldEpoch:
				return sealed(tr, shares[i], rekeyed)
			case i < 2:
				return sealed(tr, old[i], s.Manifest)
			}
			<-good
			return []*release.Share{{Manifest: rekeyed}}, status.Error(codes.FailedPrecondition, "rekeyed")
		})
	}
	cfg := config(t, s)
	reported := 0
	cfg.Report = func(r quorum.KeeperReport) {
		if r.State == quorum.StateGood {
			if reported++; reported == 2 {
				close(good)
			}
		}
	}
	err = quorum.Unseal(t.Context(), cfg, func(got []byte) error {
		if string(got) != string(u) {
			t.Error("another U")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Trust.Manifest().Epoch != 2 {
		t.Error("the new manifest is not in force")
	}
}

// A manifest that contradicts itself, though signed, does not lead to a wrong U.
func TestWrongCheckValue(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	wrong := s.Sign(t, func(m *keyshare.Manifest) { m.Check = make([]byte, 32) })
	for _, k := range s.Keepers {
		// As if the ceremony itself had made it: a keeper adopts no other check value in the same epoch.
		if err := errors.Join(
			os.Remove(filepath.Join(k.Config.Dir, "share.json")),
			identity.WritePrivate(filepath.Join(k.Config.Dir, "manifest.json"), wrong),
		); err != nil {
			t.Fatal(err)
		}
		k.Start(t)
	}
	cfg := config(t, s)
	cfg.Trust = identity.NewTrust(s.Root)
	if _, err := cfg.Trust.Update(wrong); err != nil {
		t.Fatal(err)
	}
	err := quorum.Unseal(t.Context(), cfg, func([]byte) error {
		t.Error("unsealed")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "do not give the unseal key") {
		t.Errorf("got %v", err)
	}
}
