package keeper

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
)

// shelf is the part of a keeper's directory that ceremonies change, and its shares in
// locked memory. The package comment says what each file is. Every change is a row of
// single steps, each durable before the next (rename(2), or a file written aside and
// renamed), in an order in which settle can go on from any of them.
type shelf struct {
	dir   string
	lock  Lock
	root  ed25519.PublicKey
	id    *identity.Identity
	trust *identity.Trust
	audit *auditLog
	arena *lockedmem.Arena
	clock func() time.Time
	step  func(done string) // after each durable step, for tests

	change  sync.Mutex // one change at a time; guards record
	record  []byte     // the signed manifest in share.json, nil if there is none
	settled atomic.Pointer[keyshare.Manifest]

	mu      sync.RWMutex // guards what follows; held for reading while a share is read
	held    holding      // of share.age
	staged  holding      // of staged.age
	retired []uint64     // epochs of retired-N.age, ascending
	closed  bool
}

// holding is a share in locked memory and what it is a share of. Epoch 0: none.
type holding struct {
	secret lockedmem.Secret
	set    string
	epoch  uint64
}

// of says whether a holding belongs to the manifest's share set.
func (h holding) of(m *keyshare.Manifest) bool { return h.set == m.Set && h.epoch == m.Epoch }

// coded is an error with the status that a caller is to see it under.
type coded struct {
	code codes.Code
	error
}

func (c *coded) Unwrap() error { return c.error }

func refuse(code codes.Code, format string, args ...any) error {
	return &coded{code, fmt.Errorf(format, args...)}
}

func (s *shelf) path(file string) string { return filepath.Join(s.dir, file) }

func retiredFile(epoch uint64, suffix string) string {
	return retiredPrefix + strconv.FormatUint(epoch, 10) + suffix
}

func (s *shelf) done(what string) {
	if s.step != nil {
		s.step(what)
	}
}

// openShelf reads a directory that the caller has locked. The caller adds the audit log.
func openShelf(dir string, lock Lock, root ed25519.PublicKey, id *identity.Identity, trust *identity.Trust) (*shelf, error) {
	s := &shelf{dir: dir, lock: lock, root: root, id: id, trust: trust, clock: time.Now}
	if err := s.list(); err != nil {
		return nil, err
	}
	if err := s.readRecord(); err != nil {
		return nil, err
	}
	var err error
	if s.arena, err = lockedmem.NewArena(); err != nil {
		return nil, err
	}
	lockedmem.Do(func() { err = errors.Join(s.read(shareFile, &s.held), s.read(stagedFile, &s.staged)) })
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// list finds the retired shares, and erases what a write that was killed left beside
// its file: nobody would do it later, and it may hold a share.
func (s *shelf) list() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, file := range []string{shareFile, stagedFile, recordFile, manifestFile, enrolFile, retiredPrefix} {
			if strings.HasPrefix(e.Name(), "."+file) && e.Type().IsRegular() {
				if err := s.erase(e.Name()); err != nil {
					return err
				}
			}
		}
		number, isRetired := strings.CutPrefix(e.Name(), retiredPrefix)
		number, isShare := strings.CutSuffix(number, ".age")
		if epoch, err := strconv.ParseUint(number, 10, 64); isRetired && isShare && err == nil && e.Name() == retiredFile(epoch, ".age") {
			s.retired = append(s.retired, epoch)
		}
	}
	slices.Sort(s.retired)
	return nil
}

// readRecord reads the signed manifest that describes the held share. It is also a
// second copy of what this keeper has seen: a manifest.json that was put back in time
// is brought forward again.
func (s *shelf) readRecord() error {
	b, err := identity.ReadPrivate(s.path(recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.record = b
	if _, err := s.trust.Update(b); err != nil && !errors.Is(err, identity.ErrStale) {
		return fmt.Errorf("%s: %w", s.path(recordFile), err)
	}
	return nil
}

// lost says that a share is gone that this keeper had, other than by being over.
func (s *shelf) lost() error {
	if s.record == nil || s.held.epoch != 0 {
		return nil
	}
	m, err := keyshare.Verify(s.root, s.record)
	if err != nil {
		return err
	}
	if slices.Contains(s.retired, m.Epoch) {
		return nil
	}
	_, err = os.Stat(s.path(shareFile))
	return fmt.Errorf("the share of epoch %d was removed: %w", m.Epoch, err)
}

// read runs inside lockedmem.Do. A file that is not there is no holding.
func (s *shelf) read(file string, into *holding) error {
	c, err := loadCustody(s.path(file), s.lock)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Epoch == 0 {
		lockedmem.Wipe(c.Share)
		return fmt.Errorf("%s: a share of epoch 0", s.path(file))
	}
	secret, err := s.arena.Copy(c.Share) // wipes
	*into = holding{secret, c.Set, c.Epoch}
	return err
}

func (s *shelf) close() {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.held, s.staged = holding{}, holding{}
	if s.arena != nil {
		s.arena.Purge()
	}
}

func (s *shelf) log(line auditLine) (head string, seq uint64, err error) {
	line.Time = s.clock().UTC()
	head, err = s.audit.append(&line)
	if err == nil {
		s.done("audit " + line.Event)
	}
	return head, line.Seq, err
}

// settle brings the directory in line with the manifest in force, wherever that came
// from: Adopt, a file that the operator put there, or the last run of this keeper.
func (s *shelf) settle() error {
	if m := s.trust.Manifest(); m == nil || m == s.settled.Load() {
		return nil
	}
	s.change.Lock()
	defer s.change.Unlock()
	return s.settleLocked()
}

func (s *shelf) settleLocked() error {
	m := s.trust.Manifest()
	if m == nil || m == s.settled.Load() {
		return nil
	}
	if s.held.epoch != 0 && s.held.epoch < m.Epoch {
		if err := s.setAside(); err != nil {
			return fmt.Errorf("set the share of epoch %d aside: %w", s.held.epoch, err)
		}
	}
	if s.staged.epoch != 0 && s.staged.epoch <= m.Epoch {
		if err := s.promote(m); err != nil {
			return fmt.Errorf("promote the staged share of epoch %d: %w", s.staged.epoch, err)
		}
	}
	if s.held.of(m) {
		if err := s.describe(s.trust.Signed()); err != nil {
			return err
		}
	} else if s.held.epoch == 0 && s.record != nil {
		if err := s.remove(recordFile); err != nil {
			return err
		}
		s.record = nil
	}
	s.settled.Store(m)
	return nil
}

// setAside keeps a share whose set is over as retired-N, with the last manifest that
// described it: that names the keepers whose acknowledgements count for erasing it.
func (s *shelf) setAside() error {
	epoch := s.held.epoch
	if _, _, err := s.log(auditLine{Event: eventOver, Manifest: s.trust.Manifest().Version, Set: s.held.set, Epoch: epoch}); err != nil {
		return err
	}
	if s.record != nil {
		if err := s.write(retiredFile(epoch, ".json"), s.record); err != nil {
			return err
		}
	}
	if err := s.rename(shareFile, retiredFile(epoch, ".age")); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arena.Free(s.held.secret)
	s.held = holding{}
	if !slices.Contains(s.retired, epoch) {
		s.retired = append(s.retired, epoch)
		slices.Sort(s.retired)
	}
	return nil
}

// promote puts the staged share in the place of the held one if the manifest in force
// gives it to this keeper. A staged share of a set that can never come into force,
// because its epoch is taken, is erased.
func (s *shelf) promote(m *keyshare.Manifest) error {
	if !s.staged.of(m) {
		if err := s.erase(stagedFile); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.arena.Free(s.staged.secret)
		s.staged = holding{}
		return nil
	}
	if s.check(m, s.staged) != nil || s.held.epoch != 0 {
		return nil // it stays where it is; problem says why there is nothing to release
	}
	if _, _, err := s.log(auditLine{Event: eventPromote, Manifest: m.Version, Set: m.Set, Epoch: m.Epoch}); err != nil {
		return err
	}
	if err := s.rename(stagedFile, shareFile); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.staged = s.staged, holding{}
	return nil
}

func (s *shelf) describe(signed []byte) error {
	if string(s.record) == string(signed) {
		return nil
	}
	if err := s.write(recordFile, signed); err != nil {
		return err
	}
	s.record = signed
	return nil
}

// check is Manifest.CheckShare of a holding. The caller holds change or mu.
func (s *shelf) check(m *keyshare.Manifest, h holding) (err error) {
	lockedmem.Do(func() { err = m.CheckShare(s.id.Name(), h.set, h.epoch, h.secret.Bytes()) })
	return err
}

// stage stores a share of a set that is not in force yet.
func (s *shelf) stage(m *keyshare.Manifest, delivery []byte) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.settleLocked(); err != nil {
		return err
	}
	// The next epoch and no later one: a ceremony that goes past the manifest that this
	// keeper has could replace a staged share that is in force elsewhere already.
	if cur := s.trust.Manifest(); cur != nil && (m.Epoch != cur.Epoch+1 || m.Version <= cur.Version) {
		return refuse(codes.FailedPrecondition, "the staged manifest is version %d of epoch %d, in force here is version %d of epoch %d: want the next epoch; let the keeper adopt the manifest in force first",
			m.Version, m.Epoch, cur.Version, cur.Epoch)
	}
	if _, ok := s.enrolled(m); !ok {
		return refuse(codes.FailedPrecondition, "keeper %s with key %s: %w in the staged manifest", s.id.Name(), s.id.Fingerprint(), identity.ErrNotEnrolled)
	}
	var err error
	lockedmem.Do(func() { err = s.put(stagedFile, eventStage, m, delivery) })
	return err
}

// put opens a delivery and stores the share in it, after an audit line. It runs
// inside lockedmem.Do.
func (s *shelf) put(file, event string, m *keyshare.Manifest, delivery []byte) error {
	key, err := loadDeliveryKey(s.path(enrolFile), s.lock)
	if err != nil {
		return err
	}
	if k, _ := s.enrolled(m); string(k.Recipient) != string(key.PublicKey().Bytes()) {
		return refuse(codes.FailedPrecondition, "the manifest has another recipient for keeper %s than it enrolled with", k.Name)
	}
	share, err := keyshare.Receive(m, s.id.Name(), key, delivery)
	if err != nil {
		return &coded{codes.InvalidArgument, err}
	}
	defer lockedmem.Wipe(share)
	if _, _, err := s.log(auditLine{Event: event, Manifest: m.Version, Set: m.Set, Epoch: m.Epoch}); err != nil {
		return err
	}
	b, err := json.Marshal(custody{Format: 1, Set: m.Set, Epoch: m.Epoch, Share: share})
	if err != nil {
		return err
	}
	defer lockedmem.Wipe(b)
	if err := s.lock.Save(s.path(file), b); err != nil {
		return err
	}
	s.done("write " + file)
	secret, err := s.arena.Copy(share)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	into := &s.held
	if file == stagedFile {
		into = &s.staged
	}
	s.arena.Free(into.secret)
	*into = holding{secret, m.Set, m.Epoch}
	return nil
}

// adopt puts a newer signed manifest into force and settles.
func (s *shelf) adopt(signed []byte) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.settleLocked(); err != nil {
		return err
	}
	// Tried beside the real one first: the audit line is written for what will be done,
	// and before it is.
	try := identity.NewTrust(s.root)
	if cur := s.trust.Signed(); cur != nil {
		if _, err := try.Update(cur); err != nil {
			return err
		}
	}
	changed, err := try.Update(signed)
	switch {
	case errors.Is(err, identity.ErrStale):
		return &coded{codes.FailedPrecondition, err}
	case err != nil:
		return &coded{codes.InvalidArgument, err}
	case !changed:
		return nil
	}
	m := try.Manifest()
	if _, _, err := s.log(auditLine{Event: eventAdopt, Manifest: m.Version, Set: m.Set, Epoch: m.Epoch}); err != nil {
		return err
	}
	if _, err := s.trust.Update(signed); err != nil {
		return err
	}
	s.done("write " + manifestFile)
	return s.settleLocked()
}

// enrolled is this keeper's entry in a manifest.
func (s *shelf) enrolled(m *keyshare.Manifest) (keyshare.Keeper, bool) {
	k, ok := m.Keeper(s.id.Name())
	return k, ok && k.Is(s.id.Fingerprint())
}
