package e2e_test

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding"
	endian "encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// needles are what to look for in memory, by name.
type needles map[string][]byte

// custodyNeedles are what a bridge needs only while it unseals and opens records: the
// unseal key and its shares, the RSA keys, the keys of the records.
func (m *material) custodyNeedles() needles {
	n := needles{"U": m.u}
	for name, share := range m.shares {
		n["share of "+name] = share[:32]
	}
	for _, key := range m.sealing {
		n.rsa(key)
	}
	for name, dek := range m.deks {
		n["DEK of "+name] = dek
	}
	for name, key := range m.records {
		n[name] = key
	}
	return n
}

// rsa adds the private numbers of a key as they lie in DER, and as words with the
// lowest first (math/big, crypto/internal/fips140/bigmod). 32 bytes from the
// middle of each, so that neither a sign byte nor a part that was overwritten hides it.
func (n needles) rsa(key *rsa.PrivateKey) {
	for name, number := range map[string][]byte{
		"P": key.Primes[0].Bytes(), "Q": key.Primes[1].Bytes(), "D": key.D.Bytes(),
		"Dp": key.Precomputed.Dp.Bytes(), "Dq": key.Precomputed.Dq.Bytes(), "Qinv": key.Precomputed.Qinv.Bytes(),
	} {
		words := slices.Clone(number)
		slices.Reverse(words)
		n["RSA "+name+" as bytes"] = number[16:48]
		n["RSA "+name+" as words"] = words[16:48]
	}
}

// sigV4 adds a secret, all keys that are derived from it for the days around now, and
// the SHA-256 states that HMAC keeps of each: who has a state can sign.
func (n needles) sigV4(name, secret string) {
	n[name] = []byte(secret)
	n.states(name+", AWS4", []byte("AWS4"+secret))
	for day := -1; day <= 1; day++ {
		key := []byte("AWS4" + secret)
		date := time.Now().UTC().AddDate(0, 0, day).Format("20060102")
		for _, part := range []string{date, provider.Region, "s3", "aws4_request"} {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(part))
			key = mac.Sum(nil)
			name := fmt.Sprintf("%s, derived for %s, %s", name, date, part)
			n[name] = key
			n.states(name, key)
		}
	}
}

func (n needles) states(name string, key []byte) {
	for pad, by := range map[string]byte{"inner": 0x36, "outer": 0x5c} {
		block := make([]byte, sha256.BlockSize)
		copy(block, key)
		for i := range block {
			block[i] ^= by
		}
		h := sha256.New()
		h.Write(block)
		marshalled, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			panic(err) // crypto/sha256 promises it
		}
		state := make([]byte, 0, sha256.Size)
		for i := range sha256.Size / 4 { // behind a magic of 4 bytes, big-endian
			state = endian.NativeEndian.AppendUint32(state, endian.BigEndian.Uint32(marshalled[4+4*i:]))
		}
		n[name+", "+pad+" state"] = state
	}
}

func (w *world) sigV4Needles() needles {
	n := needles{}
	n.sigV4("provider's S3 secret", w.s3.Secret)
	for name, key := range map[string]stack.Key{"ADMIN": w.admin, "READ": w.read, "WRITE": w.write} {
		n.sigV4("secret of the "+name+" key", key.Secret)
	}
	return n
}

// bearers pass through gRPC, protobuf and Envoy in headers, and are copied there.
func (w *world) bearers() needles {
	return needles{"provider's AI key": []byte(w.ai.Key), "AI key": []byte(w.aiKey), "other AI key": []byte(w.severalKey)}
}

// mayReadMemory says whether the memory of processes that are not dumpable can be
// read here. Where CI runs it must be.
func mayReadMemory(t *testing.T, pid int) bool {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err == nil {
		f.Close()
		return true
	}
	if os.Getenv("CI") != "" || os.Getuid() == 0 {
		t.Fatalf("the memory of the bridge cannot be read: %v; run as root with CAP_SYS_PTRACE", err)
	}
	t.Logf("NOT TESTED: the bridge's memory was not looked at, which takes root with CAP_SYS_PTRACE (%v)", err)
	return false
}

// report names what was found, and is empty if that was nothing.
func report(found map[string]leak.Found, locked bool) (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(found)) {
		f := found[name]
		if f.Unlocked > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d times, at %s", name, f.Unlocked, f.Where[0]))
		}
		if locked && f.Locked > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d times in locked memory", name, f.Locked))
		}
	}
	return lines
}

// What SECURITY.md promises of the bridge's memory, looked up in that of the real
// process: while it serves, and where it ends, with all it does before that done.
func TestMemory(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pid, err := w.PID(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	if !mayReadMemory(t, pid) {
		return
	}
	w.restart(ctx, t) // opens all records at once, as after any start
	if _, err := w.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	m := w.recover(ctx, t)
	args, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = w.PID(stack.Bridge); err != nil {
		t.Fatal(err)
	}
	if err := w.serving(ctx); err != nil {
		t.Fatal(err)
	}
	w.wantCleanMemory(ctx, t, pid, m)

	// Another record is opened in another window, soon after the first.
	key, err := w.tenant.StorageKey(ctx, w.repository, "later", "READ")
	if err != nil {
		t.Fatal(err)
	}
	w.read = key
	if err := w.serving(ctx); err != nil {
		t.Fatal(err)
	}
	m = w.recover(ctx, t)
	w.wantCleanMemory(ctx, t, pid, m)

	t.Run("SIGTERM", func(t *testing.T) { w.wantPurged(ctx, t, pid, syscall.SIGTERM, m) })
	again := w.orphan(t, args, "bridge.log")
	if err := w.serving(ctx); err != nil {
		t.Fatal(err)
	}
	t.Run("SIGINT", func(t *testing.T) { w.wantPurged(ctx, t, again, syscall.SIGINT, m) })
}

// orphan starts a process that is nobody's child here (leak.AtExit), with its output
// appended to a log of the stack.
func (w *world) orphan(t *testing.T, args []string, log string) (pid int) {
	t.Helper()
	sh := exec.Command("sh", append([]string{"-c", `"$@" >>"$0" 2>&1 & echo $!`, filepath.Join(w.Dir, "logs", log)}, args...)...)
	out, err := sh.Output()
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // if it still runs
		}
	})
	return pid
}

// wantCleanMemory wants, before long, that nothing is left outside locked memory of
// what unsealing and opening took, and of what signs.
func (w *world) wantCleanMemory(ctx context.Context, t *testing.T, pid int, m *material) {
	t.Helper()
	secret := m.custodyNeedles()
	maps.Copy(secret, w.sigV4Needles())
	var found map[string]leak.Found
	// runtime/secret erases what a window used with the collection after it, up to
	// unseal's eraseInterval later.
	patience, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var last []string
	err := w.Wait(patience, func() (err error) {
		if found, err = leak.Memory(fmt.Sprintf("/proc/%d", pid), secret); err != nil {
			return err
		}
		if last = report(found, false); len(last) > 0 {
			return fmt.Errorf("outside locked memory:\n%s", strings.Join(last, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// And the scan finds what is there: the bridge signs with these.
	for _, name := range []string{"provider's S3 secret", "secret of the READ key"} {
		if found[name].Locked == 0 {
			t.Errorf("%s is not even in locked memory", name)
		}
	}
	w.countBearers(t, fmt.Sprintf("/proc/%d", pid), "while serving")
}

func (w *world) countBearers(t *testing.T, proc, when string) {
	t.Helper()
	found, err := leak.Memory(proc, w.bearers())
	if err != nil {
		t.Fatal(err)
	}
	for name := range w.bearers() {
		t.Logf("bearer copies %s: %s: %d outside locked memory, %d inside", when, name, found[name].Unlocked, found[name].Locked)
	}
}

// wantPurged ends the bridge and wants nothing left of what it held, locked or not.
func (w *world) wantPurged(ctx context.Context, t *testing.T, pid int, signal syscall.Signal, m *material) {
	t.Helper()
	purged := func() int {
		log, err := w.Log(stack.Bridge)
		if err != nil {
			t.Error(err)
		}
		return strings.Count(log, `msg="bridge purged"`)
	}
	before := purged()
	err := leak.AtExit(ctx, pid, signal, func() bool { return purged() > before }, func(proc string) error {
		secret := m.custodyNeedles()
		maps.Copy(secret, w.sigV4Needles())
		found, err := leak.Memory(proc, secret)
		if err != nil {
			return err
		}
		for _, line := range report(found, true) {
			t.Error("after the purge: ", line)
		}
		w.countBearers(t, proc, "after the purge")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
