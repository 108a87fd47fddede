package envoy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/envoy"
)

// fake writes an executable that answers --version.
func fake(t *testing.T, path, version string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho\necho \"$0  version: 0123abcd/" + version + "/Clean/RELEASE/BoringSSL\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		explicit, env string // below the directory; "" for none
		path, tool    string // version there; "" for nothing
		want          string // below the directory
		err           string
	}{
		"explicit wins":           {explicit: "a/envoy", env: "b/envoy", path: envoy.Version, tool: envoy.Version, want: "a/envoy"},
		"environment":             {env: "b/envoy", path: envoy.Version, tool: envoy.Version, want: "b/envoy"},
		"in PATH":                 {path: envoy.Version, tool: envoy.Version, want: "bin/envoy"},
		"patch release in PATH":   {path: "1.40.7", tool: envoy.Version, want: "bin/envoy"},
		"other version in PATH":   {path: "1.39.0", tool: envoy.Version, want: ".tools/envoy/envoy/_bin/envoy"},
		"prefix of a version":     {path: "1.400.0", tool: envoy.Version, want: ".tools/envoy/envoy/_bin/envoy"},
		"installed":               {tool: envoy.Version, want: ".tools/envoy/envoy/_bin/envoy"},
		"nowhere":                 {err: "make envoy"},
		"nowhere but in PATH":     {path: "1.39.0", err: "its version is 1.39.0"},
		"explicit does not exist": {explicit: "none", tool: envoy.Version, err: "--envoy"},
		"environment is a folder": {env: ".", tool: envoy.Version, err: "$ENVOY"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(dir)
			fake(t, "a/envoy", "1.0.0")
			fake(t, "b/envoy", "1.0.0")
			t.Setenv("PATH", filepath.Join(dir, "bin")+":/bin:/usr/bin")
			t.Setenv("ENVOY", c.env)
			if c.path != "" {
				fake(t, "bin/envoy", c.path)
			}
			if c.tool != "" {
				fake(t, ".tools/envoy/envoy/_bin/envoy", c.tool)
			}
			got, err := envoy.Find(c.explicit)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %q, %v; want an error with %q", got, err, c.err)
				}
				return
			}
			if want := filepath.Join(dir, c.want); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestSystemRoots(t *testing.T) {
	file := filepath.Join(t.TempDir(), "roots.pem")
	t.Setenv("SSL_CERT_FILE", file)
	if got := envoy.SystemRoots(); got != "" {
		t.Errorf("got %q, which does not exist", got)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := envoy.SystemRoots(); got != file {
		t.Errorf("got %q, want %q", got, file)
	}
}
