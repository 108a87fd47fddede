package conformance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// flow is one way to run all of versitygw's own suite.
type flow struct {
	name      string
	versions  bool
	hostStyle bool
}

func flows() []flow {
	all := []flow{{"versions", true, false}, {"no versions", false, false}, {"bucket in the host", true, true}}
	if testing.Short() {
		return all[:1]
	}
	return all
}

// TestVersitygwSuite runs versitygw's own suite through the gateway, with an account
// connector and an ADMIN key. conformance.md names the cases that do not pass, and no
// other.
func TestVersitygwSuite(t *testing.T) {
	for _, f := range flows() {
		t.Run(f.name, func(t *testing.T) { compare(t, suite(t, f)) })
	}
}

// suite returns what the suite prints.
func suite(t *testing.T, f flow) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	a, err := newAdmin(ctx, t, shared(t), f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := shim(dir); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(a.gateway.dir, rand.Text()[:8]+".sock")
	a.serve(t, socket)
	front := a.front(t)
	_, port, _ := strings.Cut(front, ":")
	var command, flags []string
	endpoint := "http://" + front
	if f.versions {
		flags = []string{"--versioning-enabled"}
	}
	if f.hostStyle {
		endpoint = "http://" + domain + ":" + port
		if command, err = withHosts(dir); err != nil {
			t.Fatal(err)
		}
	}
	command = append(command, a.binary, "test", "-a", a.root.Key, "-s", a.root.Secret, "-e", endpoint)
	if f.hostStyle {
		command = append(command, "--host-style")
	}
	command = slices.Concat(command, []string{"full-flow", "--parallel"}, flags)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, adminSocket + "=" + socket}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return color.ReplaceAll(out.Bytes(), nil)
}

// withHosts is a command that runs another with an /etc/hosts that has all buckets of
// the suite below the domain: in a mount namespace, for nothing else sees it. The suite
// asks the system's resolver and takes no proxy.
func withHosts(dir string) ([]string, error) {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(hosts)
	fmt.Fprintf(b, "\n127.0.0.1 %[1]s incorrect-bucket.%[1]s non-existing-bucket.%[1]s bucket-no-exist.%[1]s new-bucket.%[1]s\n", domain)
	for i := range 1500 {
		fmt.Fprintf(b, "127.0.0.1 test-bucket-%d.%[2]s my-prefix-test-bucket-%[1]d.%[2]s\n", i, domain)
	}
	path := filepath.Join(dir, "hosts")
	return []string{
		"unshare", "--map-root-user", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, path,
	}, os.WriteFile(path, b.Bytes(), 0o600)
}

// newAdmin starts a server and makes a connector for all of it. The suite takes the
// key that it runs with for the owner of what it makes, so the server's root has the
// id of that key; their secrets differ.
func newAdmin(ctx context.Context, t *testing.T, g *gateway, f flow) (*admin, error) {
	t.Helper()
	binary, err := provider.Versitygw()
	if err != nil {
		return nil, err
	}
	later := place{"http://127.0.0.1:1", "later", "later"}
	connector, key, err := g.account(ctx, later)
	if err != nil {
		return nil, err
	}
	p, err := provider.StartS3(ctx, provider.S3Config{Unversioned: !f.versions, Access: key.Key, Secret: rand.Text() + rand.Text()[:14]})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := g.tenant.UpdateBucket(ctx, connector, client.BucketUpdate{Endpoint: p.URL(), Key: p.Access, Secret: client.Secret(p.Secret)}); err != nil {
		return nil, err
	}
	a := &admin{
		gateway: g, binary: binary, root: key, users: map[string]stack.Key{},
		server: place{p.URL(), p.Access, p.Secret},
	}
	return a, g.serves(ctx, key)
}

var (
	color   = regexp.MustCompile("\x1b\\[[0-9;]*m")
	outcome = regexp.MustCompile(`(?m)^(PASS|FAIL) (\w+)(.*)$`)
	total   = regexp.MustCompile(`(?m)^RAN: (\d+) PASS: \d+ FAIL: \d+ SKIP: 0$`)
	listed  = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")
)

// compare holds each case of the suite against conformance.md. A name that several
// cases have is that of a failing one if one of them fails.
func compare(t *testing.T, out []byte) {
	t.Helper()
	if !total.Match(out) {
		t.Fatalf("the suite did not run to its end, or skipped cases:\n%s", out[max(0, len(out)-2000):])
	}
	page, err := os.ReadFile("../conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	exceptions := map[string]bool{}
	for _, m := range listed.FindAllSubmatch(page, -1) {
		exceptions[string(m[1])] = true
	}
	failed, ran := map[string]string{}, map[string]bool{}
	for _, m := range outcome.FindAllStringSubmatch(string(out), -1) {
		ran[m[2]] = true
		if m[1] == "FAIL" {
			failed[m[2]] = m[3]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		if !exceptions[name] {
			t.Errorf("%s fails%s", name, failed[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exceptions)) {
		if _, ok := failed[name]; ran[name] && !ok {
			t.Errorf("%s passes, but conformance.md says that it does not", name)
		}
	}
	t.Log(fmt.Sprint(len(ran), " names ran, ", len(failed), " of them fail; "), strings.TrimSpace(string(total.Find(out))))
}
