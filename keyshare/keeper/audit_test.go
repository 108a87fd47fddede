package keeper_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
)

// threeReleases is a keeper that stands still after an accept and three releases,
// and its log.
func threeReleases(t *testing.T) (*keepertest.Keeper, string, []byte) {
	t.Helper()
	s := keepertest.New(t, 2, 2)
	k := s.Keepers[0]
	k.Start(t)
	v := visitAs(t, s, s.Bridge, k)
	for range 3 {
		if _, _, err := v.release(); err != nil {
			t.Fatal(err)
		}
	}
	k.Stop()
	path := filepath.Join(k.Config.Dir, "audit.log")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path, b
}

func TestAuditChain(t *testing.T) {
	k, path, good := threeReleases(t)
	lines := bytes.SplitAfter(good, []byte("\n"))
	if len(lines) != 5 { // the last one is empty
		t.Fatalf("%d lines", len(lines)-1)
	}
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, b := range map[string][]byte{
		"a line changed":      bytes.Replace(good, []byte(`"reason":"test"`), []byte(`"reason":"tesT"`), 1),
		"a line taken out":    join(lines[0], lines[1], lines[3]),
		"two lines exchanged": join(lines[0], lines[2], lines[1], lines[3]),
		"the first taken out": join(lines[1:]...),
		"a line twice":        join(lines[0], lines[1], lines[1]),
		"an invented line":    join(good, []byte(`{"seq":5,"time":"2026-01-01T00:00:00Z","event":"release","prev":""}`+"\n")),
		"garbage":             join(good, []byte("hello\n")),
		"a very long line":    join(good, bytes.Repeat([]byte("x"), 20<<10), []byte("\n")),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			server, err := keeper.New(k.Config)
			if err == nil {
				server.Close()
				t.Fatal("a changed log was taken")
			}
			if !strings.Contains(err.Error(), "audit log") {
				t.Error(err)
			}
		})
	}
}

// A machine that dies while a line is written leaves a part of it, on which no
// share went out.
func TestTornAuditLineIsRepaired(t *testing.T) {
	k, path, good := threeReleases(t)
	if err := os.WriteFile(path, append(bytes.Clone(good), `{"seq":5,"time":"20`...), 0o600); err != nil {
		t.Fatal(err)
	}
	k.Start(t)
	k.Stop()
	lines, text := auditLines(t, k)
	if lines != 5 || !strings.HasPrefix(text, string(good)) || !strings.Contains(text, `"event":"repair"`) {
		t.Errorf("%d lines:\n%s", lines, text)
	}
}

func FuzzAudit(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-01T00:00:00Z","event":"accept","prev":""}` + "\n"))
	f.Add([]byte(`{"seq":1,"time":"2026-01-01T00:00:00Z","event":"release","request":"AA==","prev":""}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, torn, err := keeper.VerifyAudit(bytes.NewReader(b))
		if err == nil && (lines != uint64(bytes.Count(b, []byte("\n"))) || torn > len(b)) {
			t.Errorf("%d lines, %d bytes torn", lines, torn)
		}
	})
}
