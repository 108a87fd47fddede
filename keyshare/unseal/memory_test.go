package unseal_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

// The promise of the package comment, looked up in the memory of a process that
// opened a keyring and a record: U, the RSA key, the record's key, the record
// key and the plaintext are nowhere outside locked memory.
//
// The process is a child, this binary again, which never held the needles
// otherwise: it gets them, and U, with all bits inverted.
func TestNothingIsLeftBehind(t *testing.T) {
	if lockedmem.SecretMode() == "none" {
		t.Skip("needs GOEXPERIMENT=runtimesecret")
	}
	v := readJSON[keyringVector](t, vectorFile)
	records, _ := readRecords(t)
	key, err := x509.ParsePKCS8PrivateKey(records.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	private := key.(*rsa.PrivateKey)
	var s seal.Sealed
	if err := s.UnmarshalBinary(records.Records[0].Binary); err != nil {
		t.Fatal(err)
	}
	dek, err := rsa.DecryptOAEP(sha256.New(), nil, private, s.Key.Value, seal.Label(s.Header.Canonical(), s.Key.Suite, s.Key.KeyID))
	if err != nil {
		t.Fatal(err)
	}
	task := childTask{
		U: invert(v.U), Set: v.Set, Epoch: v.Epoch, Wrapped: v.Wrapped, Record: records.Records[0].Binary,
		Needles: map[string]hexBytes{
			"U": invert(v.U), "DEK": invert(dek), "plaintext": invert(records.Records[0].Plaintext), "record key": invert(recordKeys()[0].value),
		},
	}
	// Numbers lie in memory as in DER, or as words with the lowest first.
	for name, number := range map[string][]byte{"D": private.D.Bytes(), "P": private.Primes[0].Bytes(), "Q": private.Primes[1].Bytes(), "Dp": private.Precomputed.Dp.Bytes()} {
		low := bytes.Clone(number)
		slices.Reverse(low)
		task.Needles[name+" as bytes"] = invert(number[16:48])
		task.Needles[name+" as words"] = invert(low[16:48])
	}
	raw, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "task.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

const childEnv = "UNSEAL_TEST_CHILD"

type childTask struct {
	U       hexBytes // inverted
	Set     string
	Epoch   uint64
	Wrapped hexBytes
	Record  hexBytes
	Needles map[string]hexBytes // inverted
}

func invert(b []byte) hexBytes {
	c := bytes.Clone(b)
	for i := range c {
		c[i] = ^c[i]
	}
	return c
}

func TestMain(m *testing.M) {
	if file := os.Getenv(childEnv); file != "" {
		if err := childMain(file); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childMain(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var task childTask
	if err := json.Unmarshal(raw, &task); err != nil {
		return err
	}
	// What a scan reads into: locked, so that it skips it.
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	if err := unix.Mlock(buf); err != nil {
		return err
	}
	u := invert(task.U)
	if found, err := scan(buf, task.Needles); err != nil {
		return err
	} else if !slices.Equal(found, []string{"U"}) {
		return fmt.Errorf("the scan finds %q before the keyring is opened, not U alone", found)
	}
	k, err := unseal.OpenKeyring(u, task.Wrapped, task.Set, task.Epoch)
	lockedmem.Wipe(u)
	if err != nil {
		return err
	}
	arena, err := lockedmem.NewArena()
	if err != nil {
		return err
	}
	var s seal.Sealed
	if err := s.UnmarshalBinary(task.Record); err != nil {
		return err
	}
	var secret lockedmem.Secret
	err = k.Window(context.Background(), func(w *unseal.Window) error {
		return w.Open(&s, func(plain []byte) (err error) {
			secret, err = arena.Copy(plain)
			return err
		})
	})
	if err != nil {
		return err
	}
	if secret.Len() == 0 || bytes.Equal(secret.Bytes(), make([]byte, secret.Len())) {
		return errors.New("the record did not open")
	}
	if found, err := scan(buf, task.Needles); err != nil {
		return err
	} else if len(found) != 0 {
		return fmt.Errorf("left behind outside locked memory: %q", found)
	}
	return nil
}

// scan looks for the inverted needles in all memory of this process that is
// writable and not locked, and returns the names it found.
func scan(buf []byte, needles map[string]hexBytes) ([]string, error) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil, err
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer func() { _ = mem.Close() }()

	found := map[string]bool{}
	var from, to uint64
	for line := range strings.Lines(string(smaps)) {
		var first, last uint64
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s ", &first, &last, &perms); n == 3 {
			from, to = first, last
			if !strings.HasPrefix(perms, "rw") {
				to = from
			}
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		if !ok || from == to || strings.Contains(flags, " lo ") {
			continue
		}
		const overlap = 64
		for at := from; at < to; at += uint64(len(buf)) - overlap {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			if err != nil && err != io.EOF && n == 0 {
				break // [vvar] and what was unmapped meanwhile
			}
			for i := range buf[:n] {
				buf[i] = ^buf[i]
			}
			for name, needle := range needles {
				if bytes.Contains(buf[:n], needle) {
					found[name] = true
				}
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
