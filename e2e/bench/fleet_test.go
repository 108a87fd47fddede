//go:build !race

package bench_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/api/client"
	"keybridge/store/bolt"
)

// patience bounds every wait.
const patience = time.Minute

// fleet is a real control plane process with real keepers, and n real bridges
// over mutual TLS; the bridges share this process and have no Envoy.
type fleet struct {
	admin *client.Client
	live  []*grant.Live
}

func startFleet(t testing.TB, n int) *fleet {
	t.Helper()
	site := keepertest.New(t, 3, 2)
	dir := shortDir(t)
	control := filepath.Join(dir, "control")
	must(t, os.Mkdir(control, 0o700))
	id, err := identity.Create(filepath.Join(control, "identity.key"), identity.RoleControl, "control")
	must(t, err)
	var bridges []*identity.Identity
	manifest := site.Sign(t, func(m *keyshare.Manifest) {
		m.ControlPlanes = append(m.ControlPlanes, keyshare.Peer{Name: id.Name(), SPKI: id.Fingerprint()})
		for i := range n {
			b, err := identity.Create(filepath.Join(dir, fmt.Sprintf("bridge-%d.key", i)), identity.RoleBridge, fmt.Sprintf("node-%d", i))
			must(t, err)
			bridges = append(bridges, b)
			m.Bridges = append(m.Bridges, keyshare.Bridge{Name: b.Name(), SPKI: b.Fingerprint(), Workspaces: []string{"*"}})
		}
	})
	for _, k := range site.Keepers {
		_, err := k.Start(t).Trust().Update(manifest)
		must(t, err)
	}

	f := &fleet{}
	path := filepath.Join(control, "keybridge.db")
	token := initialise(t, path, manifest, site.Keyring)
	adminAddr, bridgesAddr := keepertest.FreeAddr(t), keepertest.FreeAddr(t)
	spki, err := x509.MarshalPKIXPublicKey(site.Root)
	must(t, err)
	root := filepath.Join(dir, "root.pub")
	must(t, os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600))
	startControl(t, "control", "--dir", control, "--operator-root", root, "--store", path,
		"--admin", adminAddr, "--bridges", bridgesAddr, "--listener", "s3=127.0.0.1:1")
	f.admin, err = client.New("http://"+adminAddr, token, client.Options{})
	must(t, err)

	for i, b := range bridges {
		trust := identity.NewTrust(site.Root)
		_, err := trust.Update(manifest)
		must(t, err)
		live := &grant.Live{}
		f.live = append(f.live, live)
		socketDir := filepath.Join(dir, fmt.Sprint(i))
		f.run(t, bridge.Config{
			Identity: b, Trust: trust, Keepers: site.Addrs(), Live: live,
			Dir: socketDir, EnvoyUID: os.Getuid(), SystemRoots: root, MaxStale: time.Hour,
		}, bridgesAddr)
	}
	f.await(t, func(l *grant.Live) bool { return l.Load() != nil })
	return f
}

func (f *fleet) run(t testing.TB, cfg bridge.Config, control string) {
	t.Helper()
	log := &syncBuffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	conn, err := grpc.NewClient(control, grpc.WithTransportCredentials(
		credentials.NewTLS(identity.ClientTLS(cfg.Identity, cfg.Trust, identity.RoleControl, ""))))
	must(t, err)
	cfg.Control = conn
	b, err := bridge.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %+v\n%s", cfg.Identity.Name(), b.Status(), log)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", cfg.Identity.Name(), err)
		}
		conn.Close()
	})
}

// await waits until every bridge's index is as ok wants it.
func (f *fleet) await(t testing.TB, ok func(*grant.Live) bool) {
	t.Helper()
	took := f.times(t, time.Now(), ok)
	if len(took) != len(f.live) {
		t.FailNow()
	}
}

// times says how long after start each bridge's index was as ok wants it.
func (f *fleet) times(t testing.TB, start time.Time, ok func(*grant.Live) bool) []time.Duration {
	t.Helper()
	took := make([]time.Duration, 0, len(f.live))
	done := make([]bool, len(f.live))
	tick := time.NewTicker(250 * time.Microsecond)
	defer tick.Stop()
	for {
		for i, l := range f.live {
			if !done[i] && ok(l) {
				done[i] = true
				took = append(took, time.Since(start))
			}
		}
		if len(took) == len(f.live) {
			return took
		}
		if time.Since(start) > patience {
			t.Fatalf("%d of %d bridges did not follow", len(f.live)-len(took), len(f.live))
		}
		<-tick.C
	}
}

// initialise makes the store as `keybridge init` does.
func initialise(t testing.TB, path string, manifest, keyring []byte) (token string) {
	t.Helper()
	records, err := bolt.Open(path)
	must(t, err)
	token, admin, err := api.NewToken("bench", map[string]store.Access{"*": store.AccessAdmin})
	must(t, err)
	_, err = records.Apply(t.Context(),
		store.Put(admin),
		store.Put(&store.Custody{M: store.Meta{ID: store.CustodyID}, Manifest: manifest, Keyring: keyring}))
	must(t, err)
	must(t, records.Close())
	return token
}

func startControl(t testing.TB, args ...string) {
	t.Helper()
	log := &syncBuffer{}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("control plane: %v", err)
		}
		if t.Failed() {
			t.Logf("control plane:\n%s", log)
		}
	})
}

// shortDir leaves room for a unix socket's name (107 bytes in all).
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kb")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
