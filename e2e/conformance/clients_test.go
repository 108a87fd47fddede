package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/e2e/provider"
)

// place is where a client is sent, and as whom.
type place struct{ url, access, secret string }

// clients are the programs, each with what it is to do: make a bucket of its own, use
// it, and remove it.
var clients = map[string]func(*testing.T, place) []string{
	"aws-sdk-go-v2": goSDK,
	"boto3":         boto3,
	"AWS CLI":       awsCLI,
	"rclone":        rclone,
	"s5cmd":         s5cmd,
	"mc":            mc,
	"s3cmd":         s3cmd,
}

// servers are what stands behind.
var servers = map[string]func(context.Context) (server, error){
	"versitygw": func(ctx context.Context) (server, error) {
		s, err := provider.StartS3(ctx, provider.S3Config{})
		if err != nil {
			return server{}, err
		}
		return server{place{s.URL(), s.Access, s.Secret}, s.Close}, nil
	},
	"MinIO":     other(provider.StartMinIO),
	"SeaweedFS": other(provider.StartSeaweedFS),
}

type server struct {
	place
	close func() error
}

func other(start func(context.Context) (*provider.Server, error)) func(context.Context) (server, error) {
	return func(ctx context.Context) (server, error) {
		s, err := start(ctx)
		if err != nil {
			return server{}, err
		}
		return server{place{s.URL, s.Access, s.Secret}, s.Close}, nil
	}
}

// chosen are the servers of this run; -short leaves those out that take minutes to make.
func chosen() map[string]func(context.Context) (server, error) {
	if testing.Short() {
		return map[string]func(context.Context) (server, error){"versitygw": servers["versitygw"]}
	}
	return servers
}

// eachServer runs a test at every server that is chosen.
func eachServer(t *testing.T, test func(ctx context.Context, t *testing.T, name string, s server)) {
	for name, start := range chosen() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			test(ctx, t, name, started(ctx, t, start))
		})
	}
}

// started is a server until the test ends.
func started(ctx context.Context, t *testing.T, start func(context.Context) (server, error)) server {
	t.Helper()
	s, err := start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestClients: every client has the same outcome at a server and through the gateway.
func TestClients(t *testing.T) {
	eachServer(t, func(ctx context.Context, t *testing.T, name string, s server) {
		g := shared(t)
		_, key, err := g.account(ctx, s.place)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.serves(ctx, key); err != nil {
			t.Fatal(err)
		}
		through := place{"http://" + g.S3, key.Key, key.Secret}
		for client, run := range clients {
			if testing.Short() && !slices.Contains([]string{"aws-sdk-go-v2", "boto3", "rclone"}, client) {
				continue
			}
			t.Run(client, func(t *testing.T) {
				compareOutcomes(t, run(t, s.place), run(t, through), differs[client+" × "+name])
			})
		}
	})
}

// differs names steps whose outcome is another through the gateway; conformance.md says
// why.
var differs = map[string][]string{
	"s5cmd × MinIO":     {copySpaces},
	"s5cmd × SeaweedFS": {copySpaces},
	"s3cmd × MinIO":     {byURL},
	"s3cmd × SeaweedFS": {byURL},
}

const (
	byURL      = "by URL:"
	copySpaces = "cp s3://conformance-s5cmd/odd/sub/ü €+=&'()~!$.txt"
)

func compareOutcomes(t *testing.T, direct, through, differ []string) {
	t.Helper()
	if len(direct) != len(through) {
		t.Fatalf("%d outcomes directly, %d through the gateway", len(direct), len(through))
	}
	for i := range direct {
		if testing.Verbose() {
			t.Log(direct[i])
		}
		known := slices.ContainsFunc(differ, func(step string) bool { return strings.HasPrefix(direct[i], step) })
		diff := cmp.Diff(direct[i], through[i])
		switch {
		case known && diff == "":
			t.Errorf("the same at both, which is no longer expected: %s", direct[i])
		case !known && diff != "":
			t.Errorf("directly (-) and through the gateway (+):\n%s", diff)
		}
	}
}

// program runs a client program step by step, in a folder and an environment of its own.
type program struct {
	t        *testing.T
	place    place
	command  []string
	env      []string
	dir      string
	outcomes []string
}

func newProgram(t *testing.T, p place, env ...string) *program {
	t.Helper()
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "back"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(home, "files")
	for name, size := range map[string]int{"a.txt": 10, "empty": 0, "sub/ü €+=&'()~!$.txt": 5000, "sub/deep/big.bin": 9 << 20} {
		path := filepath.Join(files, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content(size), 0o600)); err != nil {
			t.Fatal(err)
		}
		when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	return &program{t: t, place: p, dir: home, env: append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC", "PYTHONDONTWRITEBYTECODE=1", "NO_COLOR=1",
	}, env...)}
}

// content is the same for a size, every time.
func content(size int) []byte {
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = random.Read(b)
	return b
}

// ok runs a step that must succeed, fails one that must not, and does one of which the
// program or the server has its own opinion. What a step prints is part of its outcome.
func (p *program) ok(args ...string) string {
	p.t.Helper()
	out, err := p.does(args...)
	if err != nil {
		p.t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, p.outcomes[len(p.outcomes)-1])
	}
	return out
}

func (p *program) fails(args ...string) {
	p.t.Helper()
	if _, err := p.does(args...); err == nil {
		p.t.Errorf("%s: it works", strings.Join(args, " "))
	}
}

func (p *program) does(args ...string) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	all := slices.Concat(p.command, args)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	p.note("%s: exit %d\n%s", p.plain(strings.Join(args, " ")), code, p.plain(stdout.String()+"\n"+stderr.String()))
	return stdout.String(), err
}

func (p *program) note(format string, args ...any) {
	p.outcomes = append(p.outcomes, fmt.Sprintf(format, args...))
}

// What differs from one run to the next.
var volatile = []struct {
	pattern *regexp.Regexp
	to      string
}{
	{regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(UTC|Z|\+00:?00))?`), "TIME"},
	{regexp.MustCompile(`(?i)(x-amz-request-id|x-amz-id-2|request ?id|host ?id)["']?[:=] ?["']?[^\s,"'<]*`), "ID"},
	{regexp.MustCompile(`[0-9.]+ ?[KMG]?i?B/s`), "SPEED"},
	{regexp.MustCompile(`[0-9.]+ (seconds|s|ms|µs)\b`), "DURATION"},
	{regexp.MustCompile(`(X-Amz-(Signature|Date|Credential)|AWSAccessKeyId|Expires|Signature)=[^&\s]+`), "AUTH"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} [0-9:]{8} GMT`), "TIME"},
	{regexp.MustCompile(`<(RequestId|HostId|Resource)>[^<]*</\w+>`), ""},
	{regexp.MustCompile(`[ac]time:\d+`), "TIME"},
}

func (p *program) plain(s string) string {
	s = strings.NewReplacer(p.place.url, "URL", strings.TrimPrefix(p.place.url, "http://"), "HOST", p.place.access, "ACCESS", p.dir, "HOME").Replace(s)
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.to)
	}
	lines := slices.DeleteFunc(strings.Split(s, "\n"), func(line string) bool {
		// mc's table of durations; what Go's client says of a server's parting words.
		return line == "" || strings.ContainsAny(line, "│┌└") || strings.Contains(line, "Unsolicited response received on idle HTTP channel")
	})
	slices.Sort(lines) // programs do several things at a time
	return strings.Join(lines, "\n")
}

// same compares two folders, or what a step wrote with what was sent.
func (p *program) same(folder string) {
	p.t.Helper()
	sent, got := p.files("files"), p.files(folder)
	p.note("%s: as it was sent: %v", folder, maps.Equal(sent, got))
	if !maps.Equal(sent, got) {
		p.t.Errorf("%s holds other files: %q, not %q", folder, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(sent)))
	}
}

func (p *program) files(folder string) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	dir := filepath.Join(p.dir, folder)
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = string(b)
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	return out
}

// fetch gets a presigned URL.
func (p *program) fetch(url string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, strings.TrimSpace(url), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body)
	p.note("by URL: %d %s", res.StatusCode, p.plain(b.String()))
}

// tool is a program of .tools.
func tool(t *testing.T, path ...string) string {
	t.Helper()
	root, err := provider.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(append([]string{root, ".tools"}, path...)...)
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("%v; `make conformance` installs it", err)
	}
	return name
}
