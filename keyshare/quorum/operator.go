package quorum

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
)

// operatorTimeout bounds one call: a keeper opens its files under scrypt meanwhile.
const operatorTimeout = 30 * time.Second

// Operator speaks to keepers one by one, in a ceremony. Each method makes one
// connection to the named keeper; its errors name it. The methods may be called
// concurrently, so that one slow keeper does not hold the others up.
type Operator struct {
	id     *identity.Identity
	trust  *identity.Trust
	addrs  map[string]string
	expect map[string]keyshare.Keeper
}

// NewOperator speaks as id, an operator's session, to the keepers at addrs, name to
// host:port. A keeper is recognised by the manifest in force in trust.
func NewOperator(id *identity.Identity, trust *identity.Trust, addrs map[string]string) *Operator {
	return &Operator{id: id, trust: trust, addrs: addrs, expect: make(map[string]keyshare.Keeper)}
}

// Expect has a keeper recognised by the keys that are given instead of those that the
// manifest in force lists: because it is to join or has left, or to see whether it uses
// the one and not the other. Call it before the other methods.
func (o *Operator) Expect(keeper keyshare.Keeper) { o.expect[keeper.Name] = keeper }

// Status asks a keeper what it holds.
func (o *Operator) Status(ctx context.Context, keeper string) (res *release.StatusResponse, err error) {
	err = o.call(ctx, keeper, func(ctx context.Context, c release.KeeperClient, _ *handshake) error {
		res, err = c.Status(ctx, &release.StatusRequest{})
		return err
	})
	return res, err
}

// Stage gives a keeper its share under an unsigned manifest. Before that the keeper
// is brought the manifest in force: it stages for the epoch that follows only.
func (o *Operator) Stage(ctx context.Context, keeper string, manifest, delivery []byte) error {
	return o.call(ctx, keeper, func(ctx context.Context, c release.KeeperClient, _ *handshake) error {
		if signed := o.trust.Signed(); signed != nil {
			_, err := c.Adopt(ctx, &release.AdoptRequest{Manifest: signed})
			// A keeper that lacks its share of the manifest in force says so by this code,
			// and is none the less to get one of the next.
			if err != nil && status.Code(err) != codes.FailedPrecondition {
				return err
			}
		}
		_, err := c.Stage(ctx, &release.StageRequest{Manifest: manifest, Delivery: delivery})
		return err
	})
}

// Adopt brings a keeper a signed manifest. The acknowledgement that it answers is
// genuine, the keeper's own, and of that manifest.
func (o *Operator) Adopt(ctx context.Context, keeper string, signed []byte) (ack *release.Acknowledgement, err error) {
	err = o.call(ctx, keeper, func(ctx context.Context, c release.KeeperClient, h *handshake) error {
		res, err := c.Adopt(ctx, &release.AdoptRequest{Manifest: signed})
		if err != nil {
			return err
		}
		// The keeper has verified it. Here it only says what to expect.
		var s keyshare.Signed
		if err := json.Unmarshal(signed, &s); err != nil {
			return err
		}
		m, err := keyshare.ParseManifest(s.Payload)
		if err != nil {
			return err
		}
		ack = res.GetAcknowledgement()
		if err := ack.Verify(); err != nil {
			return err
		}
		// The manifest may have had it take its next key, on a connection made with the one before.
		k, _ := m.Keeper(keeper)
		if by := ack.GetKeeper(); by != h.peer() && !k.Is(by) || ack.GetSet() != m.Set || ack.GetEpoch() != m.Epoch || ack.GetVersion() < m.Version {
			return fmt.Errorf("it acknowledged set %s epoch %d version %d as %s", ack.GetSet(), ack.GetEpoch(), ack.GetVersion(), ack.GetKeeper())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ack, nil
}

// Retire has a keeper erase the shares that the acknowledgements show to be over, and
// returns their epochs. A keeper that has none answers none.
func (o *Operator) Retire(ctx context.Context, keeper string, acks []*release.Acknowledgement) (erased []uint64, err error) {
	err = o.call(ctx, keeper, func(ctx context.Context, c release.KeeperClient, _ *handshake) error {
		res, err := c.Retire(ctx, &release.RetireRequest{Acknowledgements: acks})
		erased = res.GetErased()
		return err
	})
	return erased, err
}

// Prove has a keeper show that it has its share of the manifest in force in trust, at
// this moment: by signing a nonce with the key derived from it.
func (o *Operator) Prove(ctx context.Context, keeper string) error {
	return o.call(ctx, keeper, func(ctx context.Context, c release.KeeperClient, h *handshake) error {
		m := o.trust.Manifest()
		k, ok := m.Keeper(keeper)
		if !ok {
			return fmt.Errorf("it is %w", identity.ErrNotEnrolled)
		}
		nonce := make([]byte, release.NonceSize)
		_, _ = rand.Read(nonce) // never fails, crypto/rand
		res, err := c.Prove(ctx, &release.ProveRequest{Nonce: nonce})
		if err != nil {
			return err
		}
		if res.GetSet() != m.Set || res.GetEpoch() != m.Epoch {
			return fmt.Errorf("it proved a share of set %s epoch %d, the manifest in force is of set %s epoch %d", res.GetSet(), res.GetEpoch(), m.Set, m.Epoch)
		}
		if !ed25519.Verify(k.ShareKey, release.ProofTranscript(h.peer(), m.Set, m.Epoch, nonce), res.GetSignature()) {
			return &keyshare.ShareError{Keeper: keeper, Reason: "its proof does not verify under the key that the manifest has for it"}
		}
		return nil
	})
}

func (o *Operator) call(ctx context.Context, keeper string, f func(context.Context, release.KeeperClient, *handshake) error) error {
	addr, ok := o.addrs[keeper]
	if !ok {
		return fmt.Errorf("keeper %s: no address is configured for it", keeper)
	}
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	h := &handshake{config: identity.ClientTLS(o.id, o.trust, identity.RoleKeeper, keeper)}
	if k, ok := o.expect[keeper]; ok {
		h.config.VerifyConnection = func(cs tls.ConnectionState) error {
			// TLS has made sure that the peer has the key. Which name it goes by is the caller's.
			if len(cs.PeerCertificates) != 1 || !k.Is(fingerprint(cs)) {
				return fmt.Errorf("who answers there does not have the key %s: %w", k.SPKI, identity.ErrNotEnrolled)
			}
			return nil
		}
	}
	if err := h.call(addr, func(c release.KeeperClient) error { return f(ctx, c, h) }); err != nil {
		return fmt.Errorf("keeper %s: %w", keeper, err)
	}
	return nil
}
