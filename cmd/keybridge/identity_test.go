package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
)

func TestIdentityRotate(t *testing.T) {
	dir := t.TempDir()
	enrolled := func(role identity.Role) string {
		t.Helper()
		var lock keeper.Lock
		if role == identity.RoleKeeper {
			file := filepath.Join(dir, "keeper.lock")
			if err := keeper.CreateKeyFile(file); err != nil {
				t.Fatal(err)
			}
			var err error
			if lock, err = keeper.KeyFileLock(file); err != nil {
				t.Fatal(err)
			}
		}
		at := filepath.Join(dir, string(role))
		if _, err := enrol(role, string(role)+"-1", at, lock); err != nil {
			t.Fatal(err)
		}
		return at
	}
	read := func(at string) identity.Enrolment {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(at, enrolmentFile))
		if err != nil {
			t.Fatal(err)
		}
		e, err := identity.ParseEnrolment(raw)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for _, role := range []identity.Role{identity.RoleKeeper, identity.RoleBridge, identity.RoleControl} {
		t.Run(string(role), func(t *testing.T) {
			at := enrolled(role)
			old := read(at)
			out := must(t, "identity", "rotate", "--dir", at)
			e := read(at)
			if e.Role != role || e.Name != old.Name || e.Fingerprint() == old.Fingerprint() || string(e.Recipient) != string(old.Recipient) || e.Replaces != old.Fingerprint() {
				t.Errorf("the enrolment is of %s %s, key %s", e.Role, e.Name, e.Fingerprint())
			}
			if !strings.Contains(out, e.Fingerprint()) {
				t.Errorf("printed %q", out)
			}
			id, err := identity.Load(filepath.Join(at, identityFile))
			if err != nil || id.Fingerprint() != old.Fingerprint() {
				t.Errorf("the key in use was touched: %v", err)
			}
			if again := must(t, "identity", "rotate", "--dir", at); again != out {
				t.Errorf("run again it printed %q", again)
			}
		})
	}
	if _, errs, status := run(t, "", "identity", "rotate", "--dir", dir); status == 0 || !strings.Contains(errs, identityFile) {
		t.Errorf("without an identity: status %d, %q", status, errs)
	}
}
