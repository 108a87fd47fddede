package leak_test

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/e2e/leak"
)

const secret = "wJalr+XUtnFEMI/K7MDENG?bPxRfiCYEXAMPLEKEY"

func TestForms(t *testing.T) {
	var set leak.Set
	set.Add("key", secret)
	for name, text := range map[string]string{
		"plain":   "authorization: " + secret + "\r\n",
		"hex":     "x" + hex.EncodeToString([]byte(secret)) + "x",
		"HEX":     strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"base64":  base64.StdEncoding.EncodeToString([]byte(secret)),
		"shift 1": base64.StdEncoding.EncodeToString([]byte("a" + secret + "b")),
		"shift 2": base64.RawStdEncoding.EncodeToString([]byte("ab" + secret + "cd")),
		"shift 4": base64.URLEncoding.EncodeToString([]byte("abcd" + secret)),
	} {
		if len(set.In([]byte(text))) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	for name, text := range map[string]string{
		"nothing":   "",
		"a prefix":  secret[:20],
		"a stretch": "wJalr+XUtnFEMI/K7MDENG-bPxRfiCYEXAMPLEKEY",
	} {
		if got := set.In([]byte(text)); len(got) != 0 {
			t.Errorf("%s: found %v", name, got)
		}
	}
}

func TestScannerFindsAcrossWrites(t *testing.T) {
	text := strings.Repeat("-", 3000) + secret + strings.Repeat("-", 3000)
	for _, step := range []int{1, 7, 40, 41, 1024, 5000, len(text)} {
		var set leak.Set
		set.Add("key", secret)
		hits := 0
		sc := set.Scanner(func(string) { hits++ })
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if _, err := sc.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if hits == 0 {
			t.Errorf("step %d: not found", step)
		}
	}
}

func TestScannerLearnsLate(t *testing.T) {
	var set leak.Set
	hits := map[string]bool{}
	sc := set.Scanner(func(n string) { hits[n] = true })
	_, _ = sc.Write([]byte(secret[:10]))
	set.Add("key", secret)
	_, _ = sc.Write([]byte(secret[10:]))
	if !hits["key (plain)"] {
		t.Error("a secret that was added mid-stream was not found")
	}
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/store.db":  "x" + base64.StdEncoding.EncodeToString([]byte(secret)),
		"clean.log":   "nothing here",
		"admin.token": secret,
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var set leak.Set
	set.Add("key", secret)
	got, err := set.Tree(dir, func(rel string) bool { return rel == "admin.token" })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/store.db: key (base64)"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sh", "-c", "echo; read x; : "+secret)
	cmd.Env = []string{"TOKEN=" + secret}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs: exec has set its command line
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	var set leak.Set
	set.Add("key", secret)
	got, err := set.Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cmdline: key (plain)", "environ: key (plain)"}, got); diff != "" {
		t.Error(diff)
	}
}
