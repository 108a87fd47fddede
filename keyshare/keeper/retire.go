package keeper

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
)

// retire erases each retired share that enough keepers have left behind, and says
// of which epochs. It is an error if there are retired shares and none may go.
func (s *shelf) retire(acks []*release.Acknowledgement) (erased []uint64, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	if err := s.settleLocked(); err != nil {
		return nil, err
	}
	m := s.trust.Manifest()
	if m == nil {
		return nil, nil
	}
	if len(acks) > maxAcknowledgements {
		return nil, refuse(codes.InvalidArgument, "%d acknowledgements", len(acks))
	}
	for _, a := range acks {
		if err := a.Verify(); err != nil {
			return nil, &coded{codes.InvalidArgument, err}
		}
	}
	if _, ok := s.enrolled(m); ok {
		// What this keeper has to erase is not needed any more; but it should not sit there with nothing.
		if !s.held.of(m) {
			return nil, refuse(codes.FailedPrecondition, "keeper %s does not hold its share of epoch %d yet and keeps the old ones", s.id.Name(), m.Epoch)
		}
		if err := s.check(m, s.held); err != nil {
			return nil, &coded{codes.FailedPrecondition, err}
		}
	}
	var missing []string
	for _, epoch := range slices.Clone(s.retired) {
		names, err := s.leftBehind(epoch, m, acks)
		if err != nil {
			missing = append(missing, fmt.Sprintf("epoch %d: %v", epoch, err))
			continue
		}
		line := auditLine{Event: eventErase, Manifest: m.Version, Epoch: epoch, Keepers: names}
		if _, _, err := s.log(line); err != nil {
			return erased, err
		}
		if err := errors.Join(s.erase(retiredFile(epoch, ".age")), s.remove(retiredFile(epoch, ".json"))); err != nil {
			return erased, err
		}
		s.mu.Lock()
		s.retired = slices.DeleteFunc(s.retired, func(e uint64) bool { return e == epoch })
		s.mu.Unlock()
		erased = append(erased, epoch)
	}
	if len(erased) == 0 && len(missing) > 0 {
		return nil, refuse(codes.FailedPrecondition, "no old share is erased: %s", strings.Join(missing, "; "))
	}
	return erased, nil
}

// maxAcknowledgements bounds a request: a set has at most 255 keepers.
const maxAcknowledgements = 1024

// leftBehind counts, for a retired share, the keepers of its own set that hold the
// manifest in force. Below t of them can still be on the old set once n-t+1 are not,
// so that nobody combines it any more: then the share may go.
func (s *shelf) leftBehind(epoch uint64, m *keyshare.Manifest, acks []*release.Acknowledgement) (names []string, err error) {
	b, err := identity.ReadPrivate(s.path(retiredFile(epoch, ".json")))
	if err != nil {
		return nil, fmt.Errorf("the manifest that described it: %w", err)
	}
	old, err := keyshare.Verify(s.root, b)
	if err != nil {
		return nil, err
	}
	for _, k := range old.Keepers {
		if slices.ContainsFunc(acks, func(a *release.Acknowledgement) bool {
			return k.Is(a.GetKeeper()) && a.GetSet() == m.Set && a.GetEpoch() == m.Epoch
		}) {
			names = append(names, k.Name)
		}
	}
	if want := old.Shares - old.Threshold + 1; len(names) < want {
		return nil, fmt.Errorf("acknowledgements of %d of its keepers for set %s epoch %d (%s), want %d",
			len(names), m.Set, m.Epoch, strings.Join(names, ", "), want)
	}
	return names, nil
}

// tidy removes the manifests of retired shares that are gone: what a kill between the
// two leaves. It runs once, after settle.
func (s *shelf) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := strings.CutSuffix(strings.TrimPrefix(e.Name(), retiredPrefix), ".json")
		if !ok || !strings.HasPrefix(e.Name(), retiredPrefix) {
			continue
		}
		if _, err := os.Stat(s.path(retiredPrefix + number + ".age")); errors.Is(err, fs.ErrNotExist) {
			if err := s.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// write replaces a file in one step.
func (s *shelf) write(file string, b []byte) error {
	if err := identity.WritePrivate(s.path(file), b); err != nil {
		return err
	}
	s.done("write " + file)
	return nil
}

// rename moves a file, durably.
func (s *shelf) rename(from, to string) error {
	if err := os.Rename(s.path(from), s.path(to)); err != nil {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.done("rename " + from)
	return nil
}

// remove unlinks a file, durably. One that is not there is fine.
func (s *shelf) remove(file string) error {
	if err := os.Remove(s.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.sync(); err != nil {
		return err
	}
	s.done("remove " + file)
	return nil
}

// erase overwrites a file before it unlinks it. On flash and on copy-on-write file
// systems the old blocks may survive; what they hold is encrypted under the Lock.
func (s *shelf) erase(file string) error {
	f, err := os.OpenFile(s.path(file), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	noise := make([]byte, st.Size())
	_, _ = rand.Read(noise) // never fails, crypto/rand
	if _, err := f.Write(noise); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s.done("overwrite " + file)
	return s.remove(file)
}

// sync makes renames and removals durable (fsync(2)).
func (s *shelf) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
