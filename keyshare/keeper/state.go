package keeper

import (
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
)

// Files of a keeper's directory.
const (
	identityFile = "identity.key"
	enrolFile    = "enrolment.key.age"
	shareFile    = "share.age"
	manifestFile = "manifest.json"
	auditFile    = "audit.log"
)

// custody is the content of share.age: the share and what it is a share of, so
// that a keeper knows which ceremony it belongs to whatever its manifest says.
type custody struct {
	Format int    `json:"format"`
	Set    string `json:"set"`
	Epoch  uint64 `json:"epoch"`
	Share  []byte `json:"share"`
}

// Enrol makes a keeper's identity and delivery key in dir and returns the
// enrolment to hand to the operator. Run again with the same name it returns the
// same enrolment, so that a lost one or an interrupted run costs nothing.
func Enrol(dir, name string, lock Lock) (identity.Enrolment, error) {
	e, err := enrol(dir, name, lock)
	if err != nil {
		return identity.Enrolment{}, fmt.Errorf("enrol keeper %s: %w", name, err)
	}
	return e, nil
}

func enrol(dir, name string, lock Lock) (identity.Enrolment, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return identity.Enrolment{}, err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return identity.Enrolment{}, err
	}
	defer unlock()

	id, err := identity.Load(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		id, err = identity.Create(filepath.Join(dir, identityFile), identity.RoleKeeper, name)
	}
	if err != nil {
		return identity.Enrolment{}, err
	}
	if id.Role() != identity.RoleKeeper || id.Name() != name {
		return identity.Enrolment{}, fmt.Errorf("%s already belongs to %s %s", dir, id.Role(), id.Name())
	}
	public, err := deliveryKey(filepath.Join(dir, enrolFile), lock)
	if err != nil {
		return identity.Enrolment{}, err
	}
	return id.Enrolment(public)
}

// deliveryKey is the public half of the delivery key, which is made if missing.
func deliveryKey(path string, lock Lock) (public []byte, err error) {
	lockedmem.Do(func() {
		var key hpke.PrivateKey
		key, err = loadDeliveryKey(path, lock)
		if errors.Is(err, fs.ErrNotExist) {
			key, err = makeDeliveryKey(path, lock)
		}
		if err == nil {
			public = key.PublicKey().Bytes()
		}
	})
	return public, err
}

func makeDeliveryKey(path string, lock Lock) (hpke.PrivateKey, error) {
	key, err := keyshare.NewRecipient()
	if err != nil {
		return nil, err
	}
	b, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make delivery key: %w", err)
	}
	defer lockedmem.Wipe(b)
	return key, lock.Save(path, b)
}

func loadDeliveryKey(path string, lock Lock) (hpke.PrivateKey, error) {
	b, err := lock.load(path)
	if err != nil {
		return nil, err
	}
	defer lockedmem.Wipe(b)
	key, err := keyshare.ParseRecipient(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// Accept takes what the ceremony made for this keeper: the signed manifest and the
// delivery with its share. Both are checked, the manifest under root and the share
// against the manifest, before anything is stored. It may be run again with the
// same documents; a share of another set or epoch is not overwritten, because it
// may still be needed.
func Accept(dir string, lock Lock, root ed25519.PublicKey, manifest, delivery []byte) error {
	if err := accept(dir, lock, root, manifest, delivery); err != nil {
		return fmt.Errorf("accept share: %w", err)
	}
	return nil
}

func accept(dir string, lock Lock, root ed25519.PublicKey, manifest, delivery []byte) error {
	unlock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer unlock()
	id, err := loadIdentity(dir)
	if err != nil {
		return err
	}
	m, err := keyshare.Verify(root, manifest)
	if err != nil {
		return err
	}
	trust, err := identity.OpenTrust(root, filepath.Join(dir, manifestFile))
	if err != nil {
		return err
	}
	if cur := trust.Manifest(); cur != nil && cur.Version > m.Version {
		return fmt.Errorf("manifest version %d, this keeper has %d: %w", m.Version, cur.Version, identity.ErrStale)
	}
	k, ok := m.Keeper(id.Name())
	if !ok || k.SPKI != id.Fingerprint() {
		return fmt.Errorf("keeper %s with key %s: %w", id.Name(), id.Fingerprint(), identity.ErrNotEnrolled)
	}
	audit, err := createAudit(filepath.Join(dir, auditFile))
	if err != nil {
		return err
	}
	lockedmem.Do(func() { err = store(dir, lock, audit, m, id.Name(), delivery) })
	if err != nil {
		return err
	}
	// Last, so that a manifest in the directory means that the share is there too.
	_, err = trust.Update(manifest)
	return err
}

// store runs inside lockedmem.Do.
func store(dir string, lock Lock, audit *auditLog, m *keyshare.Manifest, name string, delivery []byte) error {
	held, err := loadCustody(dir, lock)
	switch {
	case err == nil:
		lockedmem.Wipe(held.Share)
		if held.Set != m.Set || held.Epoch != m.Epoch {
			return fmt.Errorf("this keeper holds a share of set %s epoch %d and keeps it; the delivery is of set %s epoch %d",
				held.Set, held.Epoch, m.Set, m.Epoch)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	key, err := loadDeliveryKey(filepath.Join(dir, enrolFile), lock)
	if err != nil {
		return err
	}
	share, err := keyshare.Receive(m, name, key, delivery)
	if err != nil {
		return err
	}
	defer lockedmem.Wipe(share)
	line := auditLine{Time: time.Now().UTC(), Event: eventAccept, Manifest: m.Version, Set: m.Set, Epoch: m.Epoch}
	if _, err := audit.append(&line); err != nil {
		return err
	}
	b, err := json.Marshal(custody{Format: 1, Set: m.Set, Epoch: m.Epoch, Share: share})
	if err != nil {
		return err
	}
	defer lockedmem.Wipe(b)
	return lock.Save(filepath.Join(dir, shareFile), b)
}

// loadCustody reads share.age. It runs inside lockedmem.Do; the caller wipes the
// share. The share's own form is not judged here: CheckShare names what is wrong.
func loadCustody(dir string, lock Lock) (*custody, error) {
	path := filepath.Join(dir, shareFile)
	b, err := lock.load(path)
	if err != nil {
		return nil, err
	}
	defer lockedmem.Wipe(b)
	var c custody
	if err := json.Unmarshal(b, &c); err != nil || c.Format != 1 {
		lockedmem.Wipe(c.Share)
		return nil, fmt.Errorf("%s: not a share of format 1", path) // the parser's text could quote the share
	}
	return &c, nil
}

func loadIdentity(dir string) (*identity.Identity, error) {
	id, err := identity.Load(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, err
	}
	if id.Role() != identity.RoleKeeper {
		return nil, fmt.Errorf("%s holds the identity of a %s, not of a keeper", dir, id.Role())
	}
	return id, nil
}

// lockDir makes this process the only keeper of dir, by flock(2) on the directory
// itself: two would break the chain of the audit log. A directory in which others
// can write is refused, since they could replace its files.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	st, err := d.Stat()
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s: not a directory", dir)
	}
	if err == nil && st.Mode().Perm()&0o022 != 0 {
		err = fmt.Errorf("%s: mode %04o lets others write; run: chmod 700 %s", dir, st.Mode().Perm(), dir)
	}
	if err == nil {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%s: in use by another keeper process", dir)
		}
	}
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return func() { _ = d.Close() }, nil // closing releases the lock
}
