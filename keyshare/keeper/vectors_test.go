package keeper_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
)

var update = flag.Bool("update", false, "rewrite testdata with a new keeper, before a release only")

// A keeper's state directory as version 1 of its formats left it, with the key file
// that opens the share and the operator root. It protects nothing.
const vectorDir = "testdata/keeper-v1"

// No version of keybridge may fail to take up a keeper that an earlier one left.
func TestStateVector(t *testing.T) {
	if *update {
		writeStateVector(t)
	}
	dir := filepath.Join(t.TempDir(), "keeper")
	copyFiles(t, dir, filepath.Join(vectorDir, "state"))
	keyFile := filepath.Join(t.TempDir(), "key")
	copyFile(t, keyFile, filepath.Join(vectorDir, "key"))
	lock, err := keeper.KeyFileLock(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(vectorDir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := identity.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(vectorDir, "state", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if lines, torn, err := keeper.VerifyAudit(bytes.NewReader(log)); err != nil || lines == 0 || torn != 0 {
		t.Errorf("audit log: %d lines, %d bytes torn, %v", lines, torn, err)
	}
	var out bytes.Buffer
	k, err := keeper.New(keeper.Config{Dir: dir, Lock: lock, Root: root, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	// It would say so if its share were not the one that the manifest names.
	if strings.Contains(out.String(), "level=ERROR") {
		t.Error(out.String())
	}
	if k.Identity().Name() != "keeper-1" || k.Trust().Manifest().Version != 1 {
		t.Errorf("it is %s, at manifest %d", k.Identity(), k.Trust().Manifest().Version)
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFiles(t *testing.T, to, from string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		copyFile(t, filepath.Join(to, f.Name()), filepath.Join(from, f.Name()))
	}
}

func writeStateVector(t *testing.T) {
	t.Helper()
	k := keepertest.New(t, 3, 2)
	first := k.Keepers[0]
	copyFiles(t, filepath.Join(vectorDir, "state"), first.Config.Dir)
	copyFile(t, filepath.Join(vectorDir, "key"), first.KeyFile)
	root := base64.StdEncoding.EncodeToString(k.Root) + "\n"
	if err := os.WriteFile(filepath.Join(vectorDir, "root"), []byte(root), 0o600); err != nil {
		t.Fatal(err)
	}
}
