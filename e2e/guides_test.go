package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/envoy"
	"keybridge/keyshare/keeper/keepertest"
)

// TestGuides runs every guide as written: all blocks marked sh of a page, in order,
// in one shell, beside a fresh `keybridge dev` and real providers. What a reader fills
// in or looks at, the test does in comments that begin with "test": they are not
// shown. Blocks marked console are what a reader has in another terminal, or at a
// provider; the stack stands for the former.
func TestGuides(t *testing.T) {
	eachGuide(t, "docs", 4, runGuide)
}

// eachGuide runs each page in a folder of the repository that has something to run, of
// which there are so many at least.
func eachGuide(t *testing.T, folder string, least int, run func(t *testing.T, root, script string)) {
	t.Helper()
	root, err := provider.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, folder, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		script, err := guide(string(text))
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		if script == "" {
			continue // not a guide
		}
		ran++
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) { run(t, root, script) })
	}
	if ran < least {
		t.Errorf("%d guides in %s", ran, folder)
	}
}

// guide is the shell script that a page is: its blocks, with the line of the page
// told before each command that fails.
func guide(page string) (string, error) {
	const none, block, hidden, other = 0, 1, 2, 3
	var script strings.Builder
	visible := false
	state := none
	for i, line := range strings.Split(page, "\n") {
		switch {
		case state == none && line == "```sh":
			state, visible = block, true
			fmt.Fprintf(&script, "at=%d\n", i+2)
		case state == none && line == "<!-- test":
			state = hidden
			fmt.Fprintf(&script, "at=%d\n", i+2)
		case state == none && strings.HasPrefix(line, "```"):
			state = other
		case state == block && line == "```", state == hidden && line == "-->", state == other && line == "```":
			state = none
		case state == block, state == hidden:
			script.WriteString(line + "\n")
		}
	}
	if state != none {
		return "", fmt.Errorf("a block is not closed")
	}
	if !visible {
		return "", nil
	}
	return "set -euo pipefail\ntrap 'echo \"failed in the block at line $at\"' ERR\n" + script.String(), nil
}

func runGuide(t *testing.T, root, script string) {
	p := startProviders(t)
	dir := shortDir(t)
	var output bytes.Buffer
	s, err := stack.Start(stack.Config{Binary: binary, Dir: filepath.Join(dir, ".state"), Output: &output})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("%v\n%s", err, output.String())
		}
	})
	if _, err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.run(t, root, dir, script, func() string {
		control, _ := s.Log(stack.Control)
		bridge, _ := s.Log(stack.Bridge)
		return "--- control\n" + tail(control) + "\n--- bridge\n" + tail(bridge)
	})
}

// guideProviders are the real providers beside which a page is run.
type guideProviders struct {
	s3       *provider.S3
	ai       *provider.OpenAI
	claude   *provider.Anthropic
	recorded *httptest.Server // what s3 was asked, for a page's curl
}

func startProviders(t *testing.T) guideProviders {
	t.Helper()
	ctx := t.Context()
	s3, err := provider.StartS3(ctx, provider.S3Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, s3.Close) })
	if err := s3.MakeBucket(ctx, bucket); err != nil {
		t.Fatal(err)
	}
	ai, err := provider.StartOpenAI(provider.OpenAIConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, ai.Close) })
	claude, err := provider.StartAnthropic(provider.AIConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, claude.Close) })
	recorded := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s3.Requests()) // the guide's curl is waiting
	}))
	t.Cleanup(recorded.Close)
	return guideProviders{s3, ai, claude, recorded}
}

// shortDir is a directory with a short path, because that of a unix socket has 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, func() error { return os.RemoveAll(dir) }) })
	return dir
}

// run runs a page's script in dir; logs is what is shown when it fails.
func (p guideProviders) run(t *testing.T, root, dir, script string, logs func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // what first-object.md promises
	defer cancel()
	versitygw, err := provider.Versitygw()
	if err != nil {
		t.Fatal(err)
	}
	envoyPath, err := envoy.Find("") // a guide that runs one by itself works elsewhere
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(bin, "keybridge")); err != nil {
		t.Fatal(err)
	}
	// The pinned AWS CLI, where it is installed; its modules are for it alone.
	if py := filepath.Join(root, ".tools", "py"); exists(filepath.Join(py, "bin", "aws")) {
		wrapper := fmt.Sprintf("#!/bin/sh\nPYTHONPATH='%s' exec python3 '%s' \"$@\"\n", py, filepath.Join(py, "bin", "aws"))
		if err := os.WriteFile(filepath.Join(bin, "aws"), []byte(wrapper), 0o700); err != nil {
			t.Fatal(err)
		}
	}

	addresses := make([]string, 12) // for what a page starts by itself
	for i := range addresses {
		addresses[i] = keepertest.FreeAddr(t)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LANG=C.UTF-8",
		"ENVOY=" + envoyPath, "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1",
		"TEST_S3=" + p.s3.URL(), "TEST_S3_KEY_ID=" + p.s3.Access, "TEST_S3_SECRET=" + p.s3.Secret, "TEST_RECORDED_S3=" + p.recorded.URL,
		"TEST_AI=" + p.ai.Endpoint(), "TEST_AI_KEY=" + p.ai.Key, "TEST_AI_MODEL=" + provider.Models[0],
		"TEST_CLAUDE=" + p.claude.Endpoint(), "TEST_CLAUDE_KEY=" + p.claude.Key, "TEST_CLAUDE_MODEL=" + provider.ClaudeModels[0],
		"TEST_VERSITYGW=" + versitygw, "TEST_ADDRESSES=" + strings.Join(addresses, " "),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, logs())
	}
	t.Logf("%.1f s\n%s", time.Since(begin).Seconds(), out)
	for _, secret := range []string{p.s3.Secret, p.ai.Key, p.claude.Key} {
		if bytes.Contains(out, []byte(secret)) {
			t.Error("a provider's secret is on the screen")
		}
	}
}

func closing(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
