package conformance_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// TestClients: every client has the same outcome at a server and through the gateway.
func TestClients(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			s, err := start(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.close(); err != nil {
					t.Error(err)
				}
			})
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
				t.Run(client, func(t *testing.T) {
					direct := run(t, s.place)
					if diff := cmp.Diff(direct, run(t, through)); diff != "" {
						t.Errorf("directly (-) and through the gateway (+):\n%s", diff)
					}
					if testing.Verbose() {
						t.Log(strings.Join(direct, "\n"))
					}
				})
			}
		})
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

// ok runs a step that must succeed, fails one that must not.
func (p *program) ok(args ...string)    { p.t.Helper(); p.step(true, args) }
func (p *program) fails(args ...string) { p.t.Helper(); p.step(false, args) }

func (p *program) step(want bool, args []string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	all := slices.Concat(p.command, args)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if (err == nil) != want {
		p.t.Errorf("%s: %v\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	p.note("%s: exit %d\n%s", p.plain(strings.Join(args, " ")), code, p.plain(stdout.String()+"\n"+stderr.String()))
	return stdout.String()
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
	{regexp.MustCompile(`X-Amz-(Signature|Date|Credential)=[^&\s]+`), "AUTH"},
}

func (p *program) plain(s string) string {
	s = strings.NewReplacer(p.place.url, "URL", strings.TrimPrefix(p.place.url, "http://"), "HOST", p.place.access, "ACCESS", p.dir, "HOME").Replace(s)
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.to)
	}
	lines := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(lines) // programs do several things at a time
	return strings.Join(lines, "\n")
}

// same compares two folders, or what a step wrote with what was sent.
func (p *program) same(folder string) {
	p.t.Helper()
	p.note("%s: %s", folder, cmp.Diff(p.files("files"), p.files(folder)))
	if diff := cmp.Diff(p.files("files"), p.files(folder)); diff != "" {
		p.t.Error(diff)
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
	p.note("by URL: %d %q", res.StatusCode, b.String())
	if res.StatusCode != http.StatusOK {
		p.t.Errorf("by URL: %d %s", res.StatusCode, b.String())
	}
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
