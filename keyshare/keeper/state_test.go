package keeper_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
)

func keyFileLock(t *testing.T) keeper.Lock {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lock")
	if err := keeper.CreateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	lock, err := keeper.KeyFileLock(path)
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func passphraseLock(t *testing.T, p string) keeper.Lock {
	t.Helper()
	lock, err := keeper.PassphraseLock([]byte(p))
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func TestEnrolAgain(t *testing.T) {
	dir, lock := filepath.Join(t.TempDir(), "k"), keyFileLock(t)
	first, err := keeper.Enrol(dir, "keeper-1", lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Validate(); err != nil || first.Role != identity.RoleKeeper {
		t.Error(first.Role, err)
	}
	again, err := keeper.Enrol(dir, "keeper-1", lock)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("enrolling again changed the enrolment: %s", diff)
	}
	if _, err := keeper.Enrol(dir, "keeper-2", lock); err == nil || !strings.Contains(err.Error(), "already belongs to keeper keeper-1") {
		t.Errorf("another name: %v", err)
	}
	if _, err := keeper.Enrol(dir, "keeper-1", keyFileLock(t)); err == nil || !strings.Contains(err.Error(), "does not open it") {
		t.Errorf("another lock: %v", err)
	}
	if _, err := keeper.Enrol(filepath.Join(t.TempDir(), "k"), "keeper-1", keeper.Lock{}); err == nil {
		t.Error("enrolled without a lock")
	}
	for _, f := range mustReadDir(t, dir) {
		if f.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), f.Mode())
		}
	}
}

func mustReadDir(t *testing.T, dir string) []fs.FileInfo {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	return infos
}

func TestAcceptRefuses(t *testing.T) {
	s, other := keepertest.New(t, 2, 2), keepertest.New(t, 2, 2)
	k := s.Keepers[0].Config
	fresh := func(t *testing.T) string { // the keeper before its first Accept
		t.Helper()
		dir := t.TempDir()
		for _, f := range []string{"identity.key", "enrolment.key.age"} {
			b, err := os.ReadFile(filepath.Join(k.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	newer := s.Sign(t, func(*keyshare.Manifest) {})
	tests := []struct {
		name               string
		dir                string
		manifest, delivery []byte
		want               string
	}{
		{"forged manifest", fresh(t), other.Manifest, s.Keepers[0].Delivery, "does not verify"},
		{"another keeper's delivery", fresh(t), s.Manifest, s.Keepers[1].Delivery, `made for keeper "keeper-2"`},
		{"another set's delivery", fresh(t), s.Manifest, other.Keepers[0].Delivery, "the manifest is of set"},
		{"truncated delivery", fresh(t), s.Manifest, s.Keepers[0].Delivery[:40], "parse"},
		{"not a keeper of the manifest", fresh(t), s.Sign(t, func(m *keyshare.Manifest) {
			m.Keepers[0].SPKI = strings.Repeat("0", 64)
		}), s.Keepers[0].Delivery, "not enrolled"},
		{"a share of another set is there", k.Dir, s.Sign(t, func(m *keyshare.Manifest) {
			m.Epoch, m.Set = 2, "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
		}), s.Keepers[0].Delivery, "the manifest is of set"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := keeper.Accept(tt.dir, k.Lock, s.Root, tt.manifest, tt.delivery)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if tt.dir == k.Dir {
				return
			}
			for _, f := range []string{"share.age", "manifest.json"} {
				if _, err := os.Stat(filepath.Join(tt.dir, f)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s was stored", f)
				}
			}
		})
	}

	t.Run("older manifest", func(t *testing.T) {
		dir := fresh(t)
		for range 2 { // and again, which changes nothing
			if err := keeper.Accept(dir, k.Lock, s.Root, newer, s.Keepers[0].Delivery); err != nil {
				t.Fatal(err)
			}
		}
		if err := keeper.Accept(dir, k.Lock, s.Root, s.Manifest, s.Keepers[0].Delivery); !errors.Is(err, identity.ErrStale) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("while the keeper runs", func(t *testing.T) {
		s.Keepers[0].Start(t)
		defer s.Keepers[0].Stop()
		err := keeper.Accept(k.Dir, k.Lock, s.Root, s.Manifest, s.Keepers[0].Delivery)
		if err == nil || !strings.Contains(err.Error(), "in use by another keeper") {
			t.Errorf("got %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	cfg := s.Keepers[0].Config
	open := func(change func(c *keeper.Config)) error {
		c := cfg
		change(&c)
		server, err := keeper.New(c)
		if err == nil {
			server.Close()
		}
		return err
	}
	if err := open(func(*keeper.Config) {}); err != nil {
		t.Fatal(err)
	}
	at := func(f string) string { return filepath.Join(cfg.Dir, f) }
	bridge := t.TempDir()
	if _, err := identity.Create(filepath.Join(bridge, "identity.key"), identity.RoleBridge, "b"); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		spoil func() error
		cfg   func(c *keeper.Config)
		want  string
	}{
		"another lock":         {cfg: func(c *keeper.Config) { c.Lock = keyFileLock(t) }, want: "does not open it"},
		"no lock":              {cfg: func(c *keeper.Config) { c.Lock = keeper.Lock{} }, want: "neither passphrase nor key file"},
		"another root":         {cfg: func(c *keeper.Config) { c.Root = keepertest.New(t, 2, 2).Root }, want: "does not verify"},
		"no root":              {cfg: func(c *keeper.Config) { c.Root = nil }, want: "operator root"},
		"no directory":         {cfg: func(c *keeper.Config) { c.Dir = filepath.Join(c.Dir, "absent") }, want: "no such file"},
		"a bridge's directory": {cfg: func(c *keeper.Config) { c.Dir = bridge }, want: "identity of a bridge"},
		"loose directory":      {spoil: func() error { return os.Chmod(cfg.Dir, 0o770) }, want: "chmod 700"},
		"loose identity":       {spoil: func() error { return os.Chmod(at("identity.key"), 0o644) }, want: "chmod 600"},
		"loose share":          {spoil: func() error { return os.Chmod(at("share.age"), 0o640) }, want: "chmod 600"},
		"loose audit log":      {spoil: func() error { return os.Chmod(at("audit.log"), 0o644) }, want: "audit log"},
		"no share":             {spoil: func() error { return os.Remove(at("share.age")) }, want: "no such file"},
		"truncated share file": {spoil: func() error { return os.Truncate(at("share.age"), 150) }, want: "share.age"},
		"no manifest":          {spoil: func() error { return os.Remove(at("manifest.json")) }, want: "no manifest yet"},
		"no audit log":         {spoil: func() error { return os.Remove(at("audit.log")) }, want: "audit log"},
		"empty audit log":      {spoil: func() error { return os.Truncate(at("audit.log"), 0) }, want: "it was cut"},
	} {
		t.Run(name, func(t *testing.T) {
			backup := t.TempDir()
			if err := os.CopyFS(filepath.Join(backup, "k"), os.DirFS(cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			if tt.spoil != nil {
				if err := tt.spoil(); err != nil {
					t.Fatal(err)
				}
			}
			if tt.cfg == nil {
				tt.cfg = func(*keeper.Config) {}
			}
			if err := open(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			restore(t, filepath.Join(backup, "k"), cfg.Dir)
		})
	}
	if err := open(func(*keeper.Config) {}); err != nil {
		t.Errorf("after all was put back: %v", err)
	}
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o700), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
	for _, f := range mustReadDir(t, to) {
		if err := os.Chmod(filepath.Join(to, f.Name()), 0o600); err != nil { // CopyFS is subject to the umask
			t.Fatal(err)
		}
	}
}

func TestPassphrase(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "f.age")
	secret := []byte("a share, as far as this test goes")
	if err := passphraseLock(t, "correct horse").Save(path, secret); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, secret) {
		t.Errorf("in clear on disk, or %v", err)
	}
	if _, err := keeper.Enrol(dir, "keeper-1", passphraseLock(t, "correct horse")); err != nil {
		t.Fatal(err)
	}
	if _, err := keeper.Enrol(dir, "keeper-1", passphraseLock(t, "wrong horse")); err == nil || !strings.Contains(err.Error(), "the passphrase does not open it") {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := keeper.Enrol(dir, "keeper-1", keyFileLock(t)); err == nil {
		t.Error("a key file opened what a passphrase had locked")
	}
	if _, err := keeper.PassphraseLock(nil); err == nil {
		t.Error("an empty passphrase was accepted")
	}
}

// Nothing in a keeper's directory, searched by someone with a copy of it, is the
// share or the delivery key.
func TestNothingAtRestInClear(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	tr, answer, err := v.release()
	if err != nil {
		t.Fatal(err)
	}
	share, err := keyshare.OpenShare(v.key, tr.Bytes(), answer.GetSealed())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range mustReadDir(t, k.Config.Dir) {
		b, err := os.ReadFile(filepath.Join(k.Config.Dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, share[:8]) || bytes.Contains(b, []byte(`"share":"`)) {
			t.Errorf("%s holds the share in clear", f.Name())
		}
		if strings.HasSuffix(f.Name(), ".age") && !bytes.HasPrefix(b, []byte("age-encryption.org/v1\n")) {
			t.Errorf("%s is not an age file", f.Name())
		}
		if f.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), f.Mode())
		}
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	if err := keeper.CreateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	if err := keeper.CreateKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwrote a key file: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := keeper.KeyFileLock(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a loose key file: %v", err)
	}
	secret := "AGE-SECRET-KEY-1BROKEN"
	for name, b := range map[string]string{"empty": "", "broken": secret, "a public key": "age1xyz"} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keeper.KeyFileLock(p); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
