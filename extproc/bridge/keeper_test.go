package bridge_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
	"keybridge/xds/link"
)

// liar is a keeper with a genuine identity that seals something else than its share.
type liar struct {
	release.UnimplementedKeeperServer
	id       *identity.Identity
	manifest []byte
}

func (l *liar) Release(s grpc.BidiStreamingServer[release.ReleaseRequest, release.ReleaseResponse]) error {
	t := release.Transcript{Nonce: make([]byte, 32), Keeper: l.id.Fingerprint()}
	if err := s.Send(&release.ReleaseResponse{Message: &release.ReleaseResponse_Challenge{Challenge: &release.Challenge{Nonce: t.Nonce}}}); err != nil {
		return err
	}
	req, err := s.Recv()
	if err != nil {
		return err
	}
	t.Set, t.Epoch, t.Recipient, t.Reason = req.GetSet(), req.GetEpoch(), req.GetRecipient(), req.GetReason()
	share := make([]byte, keyshare.ShareSize)
	share[len(share)-1] = 1
	sealed, err := keyshare.SealShare(t.Recipient, t.Bytes(), share)
	if err != nil {
		return err
	}
	return s.Send(&release.ReleaseResponse{Message: &release.ReleaseResponse_Share{Share: &release.Share{Sealed: sealed, Manifest: l.manifest}}})
}

// A keeper that lies is named: in the report, which /sync shows, in the metrics and in
// the log. Enough others and the bridge starts all the same.
func TestLyingKeeperIsNamed(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.keepers[0]()
	w.keepers[2]() // so that the others are not enough before the liar has answered
	id, err := identity.Load(filepath.Join(w.keeperDirs[0], "identity.key"))
	must(t, err)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(id, w.trust(t), identity.RoleBridge))))
	release.RegisterKeeperServer(server, &liar{id: id, manifest: w.made.Manifest})
	w.keeperAddrs[0] = serve(t, server, "127.0.0.1:0")
	t.Cleanup(server.Stop)
	w.start(t)
	w.await(t, func() bool { return w.numbers(t)["keybridge_bridge_keeper keeper-1 bad"] == 1 })
	w.await(t, func() bool {
		return strings.Contains(w.log.String(), "level=ERROR msg=keeper keeper=keeper-1 state=bad")
	})
	reported := func() *link.KeeperReport {
		for _, b := range w.hub.Bridges() {
			for _, k := range b.Report.GetKeepers() {
				if k.Keeper == "keeper-1" {
					return k
				}
			}
		}
		return nil
	}
	w.await(t, func() bool {
		return reported().GetState() == "bad" && strings.Contains(reported().GetDetail(), "share of keeper keeper-1")
	})
	w.serveKeeper(t, 2)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	w.await(t, func() bool { return w.bridge.State() == bridge.Ready })
	if reported().GetState() != "bad" {
		t.Errorf("ready, it reports %v", reported())
	}
}

// A bridge that serves needs no keeper, but notices which are gone: it could not start again.
func TestKeepersAreLookedAfter(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.adjust = func(c *bridge.Config) { c.LookEvery = 10 * time.Millisecond }
	w.start(t)
	w.await(t, func() bool { return w.bridge.State() == bridge.Ready })
	w.await(t, func() bool { return w.numbers(t)["keybridge_bridge_keeper keeper-3 good"] == 1 }) // it was not needed to start
	w.keepers[1]()
	w.await(t, func() bool { return w.numbers(t)["keybridge_bridge_keeper keeper-2 unreachable"] == 1 })
	if w.bridge.State() != bridge.Ready {
		t.Error("it stopped serving")
	}
}
