package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"path/filepath"

	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/store/audit"
	"keybridge/store/bolt"
	"keybridge/xds/link"
)

// storeCustodian does what a control plane's custodian does, on the store itself: for
// when there is no control plane left that anybody would believe.
type storeCustodian struct{ server *link.Custodian }

// openStore is a custodian on a store that no control plane has open.
func (d *desk) openStore(path, auditFile string, root ed25519.PublicKey, session *identity.Identity) (ceremony.Custodian, error) {
	records, err := bolt.Open(path)
	if err != nil {
		return nil, err
	}
	if auditFile == "" {
		auditFile = filepath.Join(filepath.Dir(path), "audit.log")
	}
	events, err := audit.Open(auditFile)
	if err != nil {
		return nil, errors.Join(err, records.Close())
	}
	d.closed = append(d.closed, func() { _ = errors.Join(events.Close(), records.Close()) }) // what was committed is on disk
	operator := func(context.Context) (identity.Peer, error) {
		return identity.Peer{Role: identity.RoleOperator, Name: session.Name()}, nil
	}
	safe := &custodySafe{store: records, audit: events}
	return storeCustodian{link.NewCustodian(root, safe, link.NewHub(slog.Default()), operator)}, nil
}

func (c storeCustodian) Custody(ctx context.Context) (*ceremony.Custody, error) {
	r, err := c.server.Custody(ctx, &link.CustodianRequest{})
	if err != nil {
		return nil, err
	}
	return custodyOf(r), nil
}

func (c storeCustodian) Stage(ctx context.Context, keyring []byte) error {
	_, err := c.server.Stage(ctx, &link.StageKeyringRequest{Keyring: keyring})
	return err
}

func (c storeCustodian) Commit(ctx context.Context, manifest []byte, verb string) error {
	_, err := c.server.Commit(ctx, &link.CommitRequest{Manifest: manifest, Verb: verb})
	return err
}
