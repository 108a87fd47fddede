package main_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What the control plane is made of must not even link the code that opens
// records or collects shares (DESIGN §3). Direct imports are held by depguard;
// this holds transitive ones.
func TestControlPlaneCannotOpenRecords(t *testing.T) {
	forbidden := []string{
		"keybridge/keyshare/unseal", "keybridge/keyshare/quorum", "keybridge/keyshare/keeper",
		"keybridge/keyshare/ceremony", "keybridge/keyshare/lockedmem", "keybridge/extproc",
	}
	for _, pkg := range goList(t, "keybridge/store/...", "keybridge/xds/...") {
		for _, dep := range goList(t, "-deps", pkg) {
			for _, f := range forbidden {
				if dep == f || strings.HasPrefix(dep, f+"/") {
					t.Errorf("%s reaches %s", pkg, dep)
				}
			}
		}
	}
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}
