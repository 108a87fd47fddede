package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

func TestEnrolledNames(t *testing.T) {
	m := &keyshare.Manifest{
		Bridges:       []keyshare.Bridge{{Name: "bridge-1"}, {Name: "bridge-2"}},
		ControlPlanes: []keyshare.Peer{{Name: "control"}},
	}
	if diff := cmp.Diff([]string{"bridge-1", "bridge-2"}, enrolledNames(m, identity.RoleBridge)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"control"}, enrolledNames(m, identity.RoleControl)); diff != "" {
		t.Error(diff)
	}
}

// A control plane is enrolled in the store itself, or at a control plane, not both and
// not nowhere; a store is not made by mistake.
func TestOfflineFlags(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"neither": {"control", "revoke", "x"},
		"both":    {"control", "revoke", "x", "--control", "127.0.0.1:1", "--store", filepath.Join(dir, "store")},
		"bridge":  {"bridge", "revoke", "x", "--store", filepath.Join(dir, "store")},
	} {
		cmd := root()
		cmd.SetArgs(args)
		if err := cmd.Execute(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "store")); err == nil {
		t.Error("a store was made")
	}
}
