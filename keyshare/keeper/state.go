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
	recordFile   = "share.json"
	stagedFile   = "staged.age"
	manifestFile = "manifest.json"
	auditFile    = "audit.log"
	// retiredPrefix, the epoch, ".age" or ".json".
	retiredPrefix = "retired-"
)

// custody is the content of share.age, staged.age and retired-N.age: the share and what it is a share of, so
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

// Accept takes what a ceremony made for this keeper: the signed manifest and the
// delivery with its share. Both are checked, the manifest under root and the share
// against the manifest, before anything is stored. It may be run again with the
// same documents. It also ends, offline, a ceremony that could not reach this keeper:
// a share of an earlier epoch is set aside, as by Adopt, not overwritten.
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
	s, err := openShelf(dir, lock, root, id, trust)
	if err != nil {
		return err
	}
	defer s.close()
	if cur := trust.Manifest(); cur != nil && cur.Version > m.Version {
		return fmt.Errorf("manifest version %d, this keeper has %d: %w", m.Version, cur.Version, identity.ErrStale)
	}
	if _, ok := s.enrolled(m); !ok {
		return fmt.Errorf("keeper %s with key %s: %w", id.Name(), id.Fingerprint(), identity.ErrNotEnrolled)
	}
	if s.held.epoch > m.Epoch || (s.held.epoch == m.Epoch && s.held.set != m.Set) {
		return fmt.Errorf("this keeper holds a share of set %s epoch %d and keeps it; the delivery is of set %s epoch %d",
			s.held.set, s.held.epoch, m.Set, m.Epoch)
	}
	if s.audit, err = createAudit(filepath.Join(dir, auditFile)); err != nil {
		return err
	}
	// Where there is nothing to set aside the share needs no second place.
	file := stagedFile
	if s.held.epoch == 0 || s.held.of(m) {
		file = shareFile
	}
	lockedmem.Do(func() { err = s.put(file, eventAccept, m, delivery) })
	if err != nil {
		return err
	}
	// After the share, so that a manifest in the directory means that it is there too.
	if _, err = trust.Update(manifest); err != nil {
		return err
	}
	return s.settle()
}

// loadCustody reads a share at rest. It runs inside lockedmem.Do; the caller wipes the
// share. The share's own form is not judged here: CheckShare names what is wrong.
func loadCustody(path string, lock Lock) (*custody, error) {
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
