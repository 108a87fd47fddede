package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"keybridge/e2e/stack"
	"keybridge/keyshare"
)

// The life of a set of shares, over four starts of one stack: with all keepers,
// with one missing, with two missing, and with a bad share offered.
func TestCustody(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()

	for _, k := range stack.Keepers {
		if err := w.Kill(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.serving(ctx); err != nil {
		t.Fatal("a running bridge needs no keeper: ", err)
	}
	w.restart(ctx, t, "keeper-3")
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal("one keeper of three down: ", err)
	}
	if err := w.serving(ctx); err != nil {
		t.Fatal("keys and data from before the restart: ", err)
	}

	w.restart(ctx, t, "keeper-2", "keeper-3")
	w.wantSealed(ctx, t)
	share := filepath.Join(w.Dir, "keeper-2", "share.age")
	genuine, err := os.ReadFile(share)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, reason string
		spoil        func(*custody)
	}{
		{"x = 0", "x is 0", func(c *custody) { c.Share[len(c.Share)-1] = 0 }},
		{"truncated", "truncated", func(c *custody) { c.Share = c.Share[1:] }},
		{"of another set", "set 00000000-0000-4000-8000-000000000000", func(c *custody) { c.Set = "00000000-0000-4000-8000-000000000000" }},
		{"altered", "not a share of set", func(c *custody) { c.Share[3] ^= 1 }},
	} {
		t.Run("share "+c.name, func(t *testing.T) {
			w.rewrite(t, share, c.spoil)
			stop := w.runKeeper(t, "keeper-2")
			defer stop()
			w.wantLogged(ctx, t, "keeper-2", `keeper-2.*`+regexp.QuoteMeta(c.reason))
			w.wantSealed(ctx, t)
			if c.name != "altered" {
				return
			}
			// The bridge asks again after up to 15 s, and names the keeper as well.
			w.wantLogged(ctx, t, stack.Bridge, `keeper=keeper-2 state=(refused|bad)`)
			w.wantSealed(ctx, t)
		})
	}

	if err := os.WriteFile(share, genuine, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := w.runKeeper(t, "keeper-2")
	defer stop()
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal("the second keeper is back: ", err)
	}
	if err := w.serving(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := w.serving(ctx); err != nil {
		t.Fatal(err)
	}
	w.scan(t)
}

// restart stops the stack and starts it again, at the same addresses.
func (w *world) restart(ctx context.Context, t *testing.T, without ...string) {
	t.Helper()
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	config := w.Config
	config.Without = without
	s, err := stack.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	w.Stack = s
}

// wantSealed wants a stack that lives, is not ready and refuses.
func (w *world) wantSealed(ctx context.Context, t *testing.T) {
	t.Helper()
	// Until the listeners are there.
	if err := w.Wait(ctx, func() error {
		for _, address := range []string{w.S3, w.AI} {
			q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
			if err != nil {
				return err
			}
			if _, err := ask(q); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal("a sealed bridge should answer: ", err)
	}
	w.wantClosed(t, nil)
	live, ready := w.health(ctx, t)
	if live != http.StatusOK || ready == http.StatusOK {
		t.Errorf("live %d, ready %d", live, ready)
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "endpoints.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("endpoints.json is there: %v", err)
	}
}

// health asks the bridge at the address that it was given.
func (w *world) health(ctx context.Context, t *testing.T) (live, ready int) {
	t.Helper()
	args, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.Index(args, "--health")
	if i < 0 || i+1 == len(args) {
		t.Fatalf("the bridge has no --health: %q", args)
	}
	status := func(path string) int {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+args[i+1]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := ask(q)
		if err != nil {
			t.Fatal(err)
		}
		return a.status
	}
	return status("/live"), status("/ready")
}

// runKeeper starts a keeper that the stack was started without, as its operator
// would: with the command line of keeper-1, but for names and address.
func (w *world) runKeeper(t *testing.T, name string) (stop func()) {
	t.Helper()
	args, err := w.Args("keeper-1")
	if err != nil {
		t.Fatal(err)
	}
	bridge, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	address := ""
	for _, a := range bridge {
		if rest, ok := strings.CutPrefix(a, name+"="); ok {
			address = rest
		}
	}
	for i := range args {
		if i > 0 && args[i-1] == "--listen" {
			args[i] = address
		}
		args[i] = strings.ReplaceAll(args[i], "keeper-1", name)
	}
	log, err := os.OpenFile(filepath.Join(w.Dir, "logs", name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it may have refused to start: the log says so
		log.Close()
	}
	t.Cleanup(stop)
	return stop
}

// custody is the content of a keeper's share.age.
type custody struct {
	Format int    `json:"format"`
	Set    string `json:"set"`
	Epoch  uint64 `json:"epoch"`
	Share  []byte `json:"share"`
}

// openShare opens a keeper's share file as someone could who has its key file, and
// returns the keys that it was opened with.
func (w *world) openShare(t *testing.T, keeper, path string) (c custody, ids []age.Identity) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(w.Dir, keeper+".key"))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err = age.ParseIdentities(bytes.NewReader(key)); err != nil || len(ids) != 1 {
		t.Fatal("key file: ", err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := age.Decrypt(f, ids...)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &c); err != nil || len(c.Share) != keyshare.ShareSize {
		t.Fatalf("%s holds something else: %v", path, err)
	}
	return c, ids
}

// rewrite changes keeper-2's share as someone could who has its key file.
func (w *world) rewrite(t *testing.T, path string, change func(*custody)) {
	t.Helper()
	genuine := path + ".genuine"
	if _, err := os.Stat(genuine); errors.Is(err, os.ErrNotExist) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(genuine, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, ids := w.openShare(t, "keeper-2", genuine)
	change(&c)
	plain, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	enc, err := age.Encrypt(&out, ids[0].(*age.X25519Identity).Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantLogged wants a line that matches in the log of a process, before long.
func (w *world) wantLogged(ctx context.Context, t *testing.T, process, pattern string) {
	t.Helper()
	line := regexp.MustCompile(pattern)
	if err := w.Wait(ctx, func() error {
		text, err := w.Log(process)
		if err == nil && !line.MatchString(text) {
			err = fmt.Errorf("the log of %s does not say %q", process, pattern)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
