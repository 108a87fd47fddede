package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds what is read: keys are hundreds of bytes, manifests kilobytes.
const maxFile = 8 << 20

// ReadPrivate reads a file that only its owner may touch and refuses one that
// others can read or write, as ssh does with its keys: a loose mode is a leak that
// nobody notices otherwise.
func ReadPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkPrivate(f); err != nil {
		return nil, err
	}
	return readBounded(f)
}

// readPublic reads a file that is no secret and needs no protection, because what
// is in it is signed.
func readPublic(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", f.Name(), maxFile)
	}
	return b, nil
}

// checkPrivate asks the open file, not the path: what is checked is what is read.
func checkPrivate(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", f.Name())
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%s: mode %04o lets others in; run: chmod 600 %s", f.Name(), perm, f.Name())
	}
	return nil
}

// WritePrivate replaces a file of mode 0600 in one step: after a crash there is
// the old content or the new, whole, and after a return the new one is on disk.
func WritePrivate(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := fill(f, b); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// CreatePrivate makes a new file of mode 0600 and refuses to overwrite.
func CreatePrivate(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten: %w", path, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	if err := fill(f, b); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func fill(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// syncDir makes a new or renamed entry durable (fsync(2): syncing the file does
// not ensure that its directory entry has reached the disk).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
