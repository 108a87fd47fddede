package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/bolt"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	if dir := os.Getenv("KEYBRIDGE_PROFILE"); dir != "" {
		profiled(dir)
		return
	}
	code := m.Run()
	lockedmem.Purge()
	if dir, err := initialised(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// initialised is what `keybridge dev` makes at its first start, once for all tests: a
// store with a manifest, an admin token and the operator's root.
var initialised = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kb-cli-")
	if err != nil {
		return "", err
	}
	return dir, (&dev{state: dir}).initialise(context.Background())
})

// environment is the real admin API over a real store, and a working directory and
// variables in which the command line finds it.
func environment(t *testing.T, change ...func(*api.Config)) store.Store {
	t.Helper()
	dir, err := initialised()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	raw, err := os.ReadFile(filepath.Join(dir, devControl, "keybridge.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("keybridge.db", raw, 0o600); err != nil {
		t.Fatal(err)
	}
	records, err := bolt.Open("keybridge.db")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	})
	rootFile := filepath.Join(dir, "operator", rootPublicFile)
	pub, err := readRoot(rootFile)
	if err != nil {
		t.Fatal(err)
	}
	custody, err := records.Get(t.Context(), store.KindCustody, store.CustodyID)
	if err != nil {
		t.Fatal(err)
	}
	c := &control{store: records, trust: identity.NewTrust(pub)}
	if _, err := c.trust.Update(custody.(*store.Custody).Manifest); err != nil {
		t.Fatal(err)
	}
	policy, err := seal.ParseEndpointPolicy([]string{"http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	config := api.Config{Store: records, Seal: c.sealingKey, Manifest: c.trust.Signed, Policy: policy}
	for _, f := range change {
		f(&config)
	}
	srv := httptest.NewServer(api.New(config))
	t.Cleanup(srv.Close)
	t.Setenv(envAdmin, srv.URL)
	t.Setenv(envTokenFile, filepath.Join(dir, "admin.token"))
	t.Setenv(envRoot, rootFile)
	t.Setenv(envWorkspace, "")
	if err := os.WriteFile("secret.txt", []byte("wJalrXUtnFEMI/K7MDENG\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return records
}

// run runs one command line and returns what it prints and its exit status.
func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	if c, err := cmd.ExecuteContextC(t.Context()); err != nil {
		status = fail(&errs, c, err)
	}
	return out.String(), errs.String(), status
}

// must runs a command that has to work and returns what it prints.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, status := run(t, "", args...)
	if status != 0 {
		t.Fatalf("keybridge %s: %d\n%s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

// TestTranscripts runs the command lines in testdata/cli as an operator would, each
// file against a fresh control plane, and compares what they print.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/cli/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts: ", err)
	}
	for _, file := range files {
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			environment(t)
			var got strings.Builder
			for line := range strings.Lines(string(want)) {
				switch {
				case strings.HasPrefix(line, "#"):
					if got.Len() > 0 {
						got.WriteByte('\n')
					}
					got.WriteString(line)
				case strings.HasPrefix(line, "$ "):
					got.WriteString(line)
					transcribe(t, &got, strings.TrimSpace(line[2:]))
				}
			}
			text := stable(got.String())
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(want), text); diff != "" {
				t.Error("differs; -update if that is meant (-want +got):\n", diff)
			}
		})
	}
}

// transcribe runs a line such as `echo TEXT | keybridge key list`.
func transcribe(t *testing.T, w io.Writer, line string) {
	t.Helper()
	stdin := ""
	if echo, rest, ok := strings.Cut(line, " | "); ok {
		stdin, line = strings.TrimPrefix(echo, "echo ")+"\n", rest
	}
	words := strings.Fields(line)
	if words[0] != "keybridge" {
		t.Fatal("not a command of this program: ", line)
	}
	out, errs, status := run(t, stdin, words[1:]...)
	fmt.Fprint(w, out, errs)
	if status != 0 {
		fmt.Fprintf(w, "[exit status %d]\n", status)
	}
}

// stable replaces what differs between runs by something as long.
func stable(s string) string {
	for _, r := range []struct {
		pattern, to string
	}{
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "00000000-0000-0000-0000-%012d"},
		{`\b[A-Z0-9]{20}\b`, "KEYID%015d"},
		{`\b[A-Za-z0-9]{40}\b`, "secret%034d"},
		{`\bkb-[a-z0-9]{20}-[A-Za-z0-9]{43}\b`, "kb-repository-key-%03d"},
		{`\bkbt-[A-Za-z0-9]{43}\b`, "kbt-%039d"},
		{`\b[a-z0-9]{20}\b`, "keyid%015d"},
		{`20\d\d-\d\d-\d\dT\d\d:\d\dZ`, "2026-01-01T00:00Z"},
		{`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "2026-01-01T00:00:00Z"},
		{`127\.0\.0\.1:\d{4,5}`, "127.0.0.1:%04d"},
	} {
		seen := map[string]string{}
		s = regexp.MustCompile(r.pattern).ReplaceAllStringFunc(s, func(found string) string {
			if seen[found] == "" {
				to := r.to
				if strings.Contains(to, "%") {
					to = fmt.Sprintf(to, len(seen)+1)
				}
				seen[found] = to
			}
			return seen[found]
		})
	}
	return s
}
