package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keybridge/e2e/stack"
	"keybridge/keyshare/keeper/keepertest"
)

// ended is what a ceremony's command printed last, with its steps before.
type ended struct {
	Result    string `json:"result"`
	Version   uint64 `json:"version"`
	Epoch     uint64 `json:"epoch"`
	Threshold int    `json:"threshold"`
	Shares    int    `json:"shares"`
	Restored  int    `json:"restored"`
	Records   int    `json:"records"`
	Error     string `json:"error"`
	Resumed   bool   `json:"resumed"`

	Unfinished map[string]string `json:"unfinished"`

	status int
	said   string
}

// operate runs a command of the operator, who has the stack's operator folder and
// knows where its processes listen; more are addresses of further keepers, or names of
// keepers that it is not to know.
func (w *world) operate(ctx context.Context, t *testing.T, more []string, args ...string) ended {
	t.Helper()
	bridge, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	args = append(args, "--json", "--root", filepath.Join(w.Dir, "operator", "root.key.age"), "--key-file", filepath.Join(w.Dir, "operator.key"))
	for i, a := range bridge {
		name, _, _ := strings.Cut(a, "=")
		if i > 0 && (bridge[i-1] == "--keeper" && !slices.Contains(more, name) || bridge[i-1] == "--control") {
			args = append(args, bridge[i-1], a)
		}
	}
	for _, k := range more {
		if strings.Contains(k, "=") {
			args = append(args, "--keeper", k)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	e := ended{status: cmd.ProcessState.ExitCode(), said: string(out) + stderr.String()}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("not JSON: %q", l)
		}
	}
	_ = json.Unmarshal([]byte(lines[len(lines)-1]), &e) // its emptiness is noticed by who looks at it
	return e
}

// done is operate, of what must come to its end.
func (w *world) done(ctx context.Context, t *testing.T, more []string, args ...string) ended {
	t.Helper()
	e := w.operate(ctx, t, more, args...)
	if e.status != 0 || e.Result != "done" || len(e.Unfinished) != 0 {
		t.Fatalf("keybridge %s: exit status %d\n%s", strings.Join(args, " "), e.status, e.said)
	}
	return e
}

// The life of a custody in use: every verb, with real processes, and traffic after
// each of them.
func TestCeremonies(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	serving := func(when string) {
		t.Helper()
		if err := w.serving(ctx); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}

	w.done(ctx, t, nil, "verify")
	share := filepath.Join(w.Dir, "keeper-1", "share.age")
	old, err := os.ReadFile(share)
	if err != nil {
		t.Fatal(err)
	}

	// A dry run, then the thing itself, with a new threshold.
	if e := w.operate(ctx, t, nil, "rekey", "--threshold", "3", "--dry-run"); e.status != 0 || e.Result != "planned" || e.Version != 1 {
		t.Fatalf("dry run: %s", e.said)
	}
	if e := w.done(ctx, t, nil, "rekey", "--threshold", "3"); e.Version != 2 || e.Epoch != 2 || e.Threshold != 3 || e.Shares != 3 {
		t.Errorf("rekey: %s", e.said)
	}
	serving("after rekey")
	for _, k := range stack.Keepers {
		if left, _ := filepath.Glob(filepath.Join(w.Dir, k, "retired-*")); len(left) != 0 { // the pattern is good
			t.Errorf("%s has kept its old share: %v", k, left)
		}
	}
	current, err := os.ReadFile(share)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(share, old, 0o600); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(w.Dir, "control", "keybridge.db")
	older, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	w.again(t)
	w.wantLogged(ctx, t, "keeper-1", `cannot release its share`)
	w.wantSealed(ctx, t)
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for file, was := range map[string][]byte{share: current} {
		if err := os.WriteFile(file, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Putting the old share back made the keeper set it aside, as one that is over.
	for _, f := range []string{"retired-1.age", "retired-1.json"} {
		if err := os.Remove(filepath.Join(w.Dir, "keeper-1", f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	w.again(t)
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal("a bridge that starts with the new shares: ", err)
	}
	serving("restarted after rekey")

	// One keeper more, and without it again.
	address, stop := w.newKeeper(ctx, t, "keeper-4")
	defer stop()
	four := []string{"keeper-4=" + address}
	if e := w.done(ctx, t, four, "keeper", "add", "--enrolment", filepath.Join(w.Dir, "keeper-4", "enrolment.json")); e.Shares != 4 || e.Threshold != 3 || e.Epoch != 3 {
		t.Errorf("keeper add: %s", e.said)
	}
	if e := w.done(ctx, t, four, "verify"); strings.Count(e.said, `"proven":true`) != 4 {
		t.Errorf("verify: %s", e.said)
	}
	if e := w.done(ctx, t, four, "keeper", "remove", "keeper-4", "--threshold", "2"); e.Shares != 3 || e.Threshold != 2 || e.Epoch != 4 {
		t.Errorf("keeper remove: %s", e.said)
	}
	if left, _ := filepath.Glob(filepath.Join(w.Dir, "keeper-4", "*share*")); len(left) != 0 { // the pattern is good
		t.Errorf("keeper-4 has kept %v", left)
	}
	w.done(ctx, t, nil, "keeper", "status")
	serving("after the keepers came and went")

	// A new sealing key. The command returns once every record is sealed to it.
	e := w.done(ctx, t, nil, "rotate-key", "--retire-after", "0s")
	if e.Version != 6 || !strings.Contains(e.said, `"step":"re-wrap"`) {
		t.Errorf("rotate-key: %s", e.said)
	}
	serving("after rotate-key")
	key, err := w.tenant.StorageKey(ctx, w.repository, "made after", "ADMIN")
	if err != nil {
		t.Fatal(err)
	}
	head := func() error {
		return w.Wait(ctx, func() error {
			res, err := w.askS3(ctx, s3Request{method: http.MethodHead, path: "/" + bucket + "/" + present, key: key})
			if err == nil && res.status != http.StatusOK {
				err = fmt.Errorf("HEAD: %d", res.status)
			}
			return err
		})
	}
	if err := head(); err != nil {
		t.Fatal("a key that was made after rotate-key: ", err)
	}
	if e := w.done(ctx, t, nil, "rotate-key", "--prune"); e.Version != 7 {
		t.Errorf("rotate-key --prune: %s", e.said)
	}
	serving("after prune")

	// A second bridge comes and goes.
	w.secondBridge(ctx, t)

	// A keeper that runs is given another key.
	w.rotateKeeper(ctx, t)
	serving("after a keeper's key was replaced")

	// A backup of now, restored into the store of an earlier epoch.
	backup := filepath.Join(w.dir, "keybridge.backup")
	if e := w.done(ctx, t, nil, "backup", "--out", backup); e.Records == 0 {
		t.Errorf("backup: %s", e.said)
	}
	text, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{key.Secret, w.s3.Secret, w.aiKey, w.ai.Key} {
		if bytes.Contains(text, []byte(secret)) {
			t.Error("the backup has a secret in clear")
		}
	}
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, older, 0o600); err != nil {
		t.Fatal(err)
	}
	w.again(t)
	w.wantSealed(ctx, t)
	if e := w.operate(ctx, t, nil, "verify"); e.status != 1 || !strings.Contains(e.said, "rolled back") {
		t.Errorf("verify of a store that was rolled back: exit status %d, %s", e.status, e.said)
	}
	if e := w.done(ctx, t, nil, "restore", "--from", backup); e.Restored < 2 {
		t.Errorf("restore: %s", e.said)
	}
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal("after restore: ", err)
	}
	serving("after restore")
	if err := head(); err != nil {
		t.Fatal("a key that only the backup had: ", err)
	}
	w.done(ctx, t, nil, "verify")

	// And into none at all.
	if err := w.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, binary, "restore", "--from", backup, "--store", store,
		"--operator-root", filepath.Join(w.Dir, "operator", "root.pub")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.again(t)
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal("after restore of a lost store: ", err)
	}
	serving("after restore of a lost store")
	if err := head(); err != nil {
		t.Fatal("a key that only the backup had: ", err)
	}

	audit, err := exec.CommandContext(ctx, binary, "audit", "export", filepath.Join(w.Dir, "control", "audit.log"), "--context", "custody").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"rekey", "keeper add", "keeper remove", "rotate-key publish", "rotate-key", "prune", "bridge enrol", "bridge revoke", "keeper enrol", "backup", "restore", "restored"} {
		if !bytes.Contains(audit, []byte(`"event":"`+event+`"`)) {
			t.Errorf("no audit line of %s:\n%s", event, audit)
		}
	}
	w.scan(t)
}

// again starts the stack, which was stopped, as it was.
func (w *world) again(t *testing.T) {
	t.Helper()
	s, err := stack.Start(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	w.Stack = s
}

// background runs a command until stop, or the end of the test.
func (w *world) background(t *testing.T, name string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(w.Dir, "logs", name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // its log says what there is to say
		log.Close()
	}
	t.Cleanup(stop)
	return stop
}

func (w *world) run(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput(); err != nil {
		t.Fatalf("keybridge %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// newKeeper is a keeper that has enrolled and runs, without a share.
func (w *world) newKeeper(ctx context.Context, t *testing.T, name string) (address string, stop func()) {
	t.Helper()
	dir, lock := filepath.Join(w.Dir, name), filepath.Join(w.Dir, name+".key")
	w.run(ctx, t, "keeper", "key-file", lock)
	w.run(ctx, t, "enrol", "--role", "keeper", "--name", name, "--dir", dir, "--key-file", lock)
	address = keepertest.FreeAddr(t)
	stop = w.background(t, name, "keeper", "run", "--dir", dir, "--key-file", lock, "--listen", address,
		"--operator-root", filepath.Join(w.Dir, "operator", "root.pub"))
	if err := w.Wait(ctx, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return address, stop
}

// secondBridge enrols a bridge, which unseals, and revokes it, which ends it.
func (w *world) secondBridge(ctx context.Context, t *testing.T) {
	t.Helper()
	state, stop := w.newBridge(ctx, t, "bridge-2", stack.Keepers...)
	defer stop()
	if err := state("syncing", "ready"); err != nil {
		t.Fatal(err)
	}
	// A keeper that cannot be told does not hold it up; it is told by a second run.
	e := w.operate(ctx, t, []string{"keeper-3"}, "bridge", "revoke", "bridge-2")
	begin := time.Now()
	if e.status != 3 || e.Result != "unfinished" || e.Unfinished["keeper-3"] == "" {
		t.Errorf("revoke with a keeper away: exit status %d, %s", e.status, e.said)
	}
	if err := state("sealed"); err != nil {
		t.Fatal("revoked: ", err)
	}
	if e := w.done(ctx, t, nil, "bridge", "revoke", "bridge-2"); !e.Resumed {
		t.Errorf("revoke again: %s", e.said)
	}
	t.Logf("the revoked bridge sealed itself within %v of the command's end", time.Since(begin).Round(time.Millisecond))
}

// newBridge enrols a bridge and starts it with the addresses of some keepers; state
// waits until it is in one of the states that are wanted.
func (w *world) newBridge(ctx context.Context, t *testing.T, name string, keepers ...string) (state func(want ...string) error, stop func()) {
	t.Helper()
	dir, health := filepath.Join(w.Dir, name), keepertest.FreeAddr(t)
	w.run(ctx, t, "enrol", "--role", "bridge", "--name", name, "--dir", dir)
	w.done(ctx, t, nil, "bridge", "enrol", "--enrolment", filepath.Join(dir, "enrolment.json"))
	of, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for i := 1; i < len(of); i++ {
		switch of[i] {
		case "--dir":
			args, i = append(args, of[i], dir), i+1
		case "--health":
			args, i = append(args, of[i], health), i+1
		case "--keeper":
			i++
			if keeper, _, _ := strings.Cut(of[i], "="); slices.Contains(keepers, keeper) {
				args = append(args, "--keeper", of[i])
			}
		default:
			args = append(args, of[i])
		}
	}
	stop = w.background(t, name, args...)
	return func(want ...string) error {
		return w.Wait(ctx, func() error {
			q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+"/live", nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(q)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			var s struct {
				State string `json:"state"`
			}
			if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
				return err
			}
			if !slices.Contains(want, s.State) {
				return fmt.Errorf("%s is %q", name, s.State)
			}
			return nil
		})
	}, stop
}

// keyOf is the fingerprint of the key that answers at a keeper's address.
func keyOf(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// As TLS 1.3 has it our side is done with the server's certificate before the server misses ours.
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// rotateKeeper replaces the key of keeper-1, which runs, and starts a bridge that
// cannot unseal without it.
func (w *world) rotateKeeper(ctx context.Context, t *testing.T) {
	t.Helper()
	file := func(dir string) string { return filepath.Join(w.Dir, dir, "enrolment.json") }
	args, err := w.Args("keeper-1")
	if err != nil {
		t.Fatal(err)
	}
	address := args[slices.Index(args, "--listen")+1]
	pid, err := w.PID("keeper-1")
	if err != nil {
		t.Fatal(err)
	}
	old := keyOf(t, address)
	first, err := os.ReadFile(file("keeper-1"))
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(w.dir, "stale.json")
	if err := os.WriteFile(stale, first, 0o600); err != nil {
		t.Fatal(err)
	}
	version := w.done(ctx, t, nil, "verify").Version
	refused := func(what, enrolment, want string, flags ...string) {
		t.Helper()
		e := w.operate(ctx, t, nil, append([]string{"keeper", "enrol", "--enrolment", enrolment}, flags...)...)
		if e.status != 1 || !strings.Contains(e.said, want) {
			t.Errorf("%s: exit status %d, want %q: %s", what, e.status, want, e.said)
		}
		if e := w.done(ctx, t, nil, "verify"); e.Version != version {
			t.Errorf("%s: version %d is in force", what, e.Version)
		}
	}
	enrol := func(flags ...string) ended {
		t.Helper()
		return w.done(ctx, t, nil, append([]string{"keeper", "enrol", "--enrolment", file("keeper-1")}, flags...)...)
	}

	w.run(ctx, t, "keeper", "key-file", filepath.Join(w.Dir, "impostor.key"))
	w.run(ctx, t, "enrol", "--role", "keeper", "--name", "keeper-1", "--dir", filepath.Join(w.Dir, "impostor"), "--key-file", filepath.Join(w.Dir, "impostor.key"))
	refused("a keeper that is not listed", file("keeper-4"), "keeper add")
	refused("a key that was made elsewhere", file("impostor"), "does not replace")
	refused("a bridge's", file("bridge"), "applied as bridge")
	if e := w.done(ctx, t, nil, "keeper", "enrol", "--enrolment", file("keeper-2")); !e.Resumed || e.Version != version {
		t.Errorf("another keeper's, whose key is listed: %s", e.said)
	}

	w.run(ctx, t, "identity", "rotate", "--dir", filepath.Join(w.Dir, "keeper-1"))
	refused("one that has ended before it begins", file("keeper-1"), "which is past", "--expires-in", "-1h")
	refused("the old key ended at once", file("keeper-1"), "list it first", "--only")
	if e := w.operate(ctx, t, nil, "keeper", "enrol", "--enrolment", file("keeper-1"), "--dry-run"); e.status != 0 || e.Result != "planned" {
		t.Errorf("dry run: %s", e.said)
	}
	if key := keyOf(t, address); key != old {
		t.Error("the next key is in use before it is listed")
	}
	for range 2 {
		if e := enrol(); e.Version != version+1 {
			t.Errorf("listed: %s", e.said)
		}
	}
	next := keyOf(t, address)
	if next == old {
		t.Error("the next key is not in use")
	}
	w.done(ctx, t, nil, "verify")
	for range 2 {
		if e := enrol("--only"); e.Version != version+2 {
			t.Errorf("the old key ended: %s", e.said)
		}
	}
	version += 2
	refused("the key before, replayed", stale, "does not replace")
	if now, err := w.PID("keeper-1"); err != nil || now != pid || keyOf(t, address) != next {
		t.Errorf("another process, or another key, answers for keeper-1: %v", err)
	}

	// Two shares are needed, and this bridge knows of two keepers.
	state, stop := w.newBridge(ctx, t, "bridge-3", "keeper-1", "keeper-2")
	defer stop()
	if err := state("syncing", "ready"); err != nil {
		t.Fatal("without keeper-1's share: ", err)
	}
	w.done(ctx, t, nil, "bridge", "revoke", "bridge-3")
	if err := state("sealed"); err != nil {
		t.Fatal(err)
	}
}
