package ceremony_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/release"
	"keybridge/keyshare/unseal"
)

// plan is a custody as a first ceremony left it, of which every test gets a copy: the
// RSA key, which takes most of the time, is made once.
type plan struct {
	dir    string
	result *ceremony.InitResult
	bridge *identity.Identity
	spare  identity.Enrolment // of keeper-4, which is in no set
}

var (
	plans   = map[[2]int]*plan{}
	plansMu sync.Mutex
)

func planOf(t *testing.T, n, threshold int) *plan {
	t.Helper()
	plansMu.Lock()
	defer plansMu.Unlock()
	if p := plans[[2]int{n, threshold}]; p != nil {
		return p
	}
	dir, err := os.MkdirTemp("", "ceremony-") // outlives the test that happens to need it first
	fatal(t, err)
	leftovers = append(leftovers, dir)
	p := &plan{dir: dir}
	p.bridge, err = identity.Create(filepath.Join(dir, "bridge.key"), identity.RoleBridge, "bridge-1")
	fatal(t, err)
	control, err := identity.Create(filepath.Join(dir, "control.key"), identity.RoleControl, "control-1")
	fatal(t, err)
	cfg := ceremony.InitConfig{Threshold: threshold}
	for _, id := range []*identity.Identity{p.bridge, control} {
		e, err := id.Enrolment(nil)
		fatal(t, err)
		if id == control {
			cfg.ControlPlanes = append(cfg.ControlPlanes, e)
		} else {
			cfg.Bridges = append(cfg.Bridges, e)
		}
	}
	for i := range n + 1 {
		e, err := keeper.Enrol(filepath.Join(dir, keeperName(i)), keeperName(i), p.lock(t, i))
		fatal(t, err)
		if p.spare = e; i < n {
			cfg.Keepers = append(cfg.Keepers, e)
		}
	}
	p.result, err = ceremony.Init(cfg)
	fatal(t, err)
	for i := range n {
		fatal(t, keeper.Accept(filepath.Join(dir, keeperName(i)), p.lock(t, i), p.result.RootPublic, p.result.Manifest, p.result.Deliveries[keeperName(i)]))
	}
	plans[[2]int{n, threshold}] = p
	return p
}

var leftovers []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range leftovers {
		_ = os.RemoveAll(dir) // below the system's temporary folder
	}
	os.Exit(code)
}

func (p *plan) lock(t *testing.T, i int) keeper.Lock {
	t.Helper()
	path := filepath.Join(p.dir, keeperName(i)+".lock")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		fatal(t, keeper.CreateKeyFile(path))
	}
	l, err := keeper.KeyFileLock(path)
	fatal(t, err)
	return l
}

func keeperName(i int) string { return fmt.Sprintf("keeper-%d", i+1) }

// house is a copy of a plan with its keepers running, one more that has no share yet,
// and a control plane.
type house struct {
	*plan
	*vault
	keepers []*keepertest.Keeper
	nextKey identity.Enrolment // of keeper-1, once it has one
}

func newHouse(t *testing.T, n, threshold int) *house {
	t.Helper()
	p := planOf(t, n, threshold)
	h := &house{plan: p, vault: &vault{
		root: p.result.RootPublic, manifest: p.result.Manifest, keyring: p.result.Keyring, records: map[string]uint64{},
	}}
	dir := t.TempDir()
	for i := range n + 1 {
		name := keeperName(i)
		fatal(t, os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(p.dir, name))))
		fatal(t, os.Chmod(filepath.Join(dir, name), 0o700))
		files, err := os.ReadDir(filepath.Join(dir, name))
		fatal(t, err)
		for _, f := range files {
			fatal(t, os.Chmod(filepath.Join(dir, name, f.Name()), 0o600))
		}
		k := &keepertest.Keeper{Name: name, Addr: keepertest.FreeAddr(t), Config: keeper.Config{
			Dir: filepath.Join(dir, name), Lock: p.lock(t, i), Root: p.result.RootPublic, Logger: slog.New(slog.DiscardHandler),
		}}
		k.Start(t)
		t.Cleanup(k.Stop)
		h.keepers = append(h.keepers, k)
	}
	return h
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) addrs() map[string]string {
	out := map[string]string{}
	for _, k := range h.keepers {
		out[k.Name] = k.Addr
	}
	return out
}

// operator is one who sits down for one run of one command: with a session of their
// own, and with the first manifest, as a file that was never replaced.
func (h *house) operator(t *testing.T, progress func(ceremony.Step) error) *ceremony.Operator {
	t.Helper()
	session, err := identity.NewOperatorSession(h.result.RootPrivate, "alice", time.Hour)
	fatal(t, err)
	trust := h.trust(t, h.result.Manifest)
	return &ceremony.Operator{
		Root: h.result.RootPrivate, Trust: trust, Custodian: h.vault, Keepers: quorum.NewOperator(session, trust, h.addrs()),
		Progress: progress, Pause: time.Millisecond,
		Unseal: func(ctx context.Context, reason string, use func(u []byte) error) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			return quorum.Unseal(ctx, quorum.Config{
				Identity: session, Trust: trust, Keepers: h.of(trust.Manifest()), Reason: reason, MinPause: time.Millisecond, MaxPause: 50 * time.Millisecond,
			}, use)
		},
	}
}

func (h *house) trust(t *testing.T, signed []byte) *identity.Trust {
	t.Helper()
	trust := identity.NewTrust(h.result.RootPublic)
	_, err := trust.Update(signed)
	fatal(t, err)
	return trust
}

// of are the addresses of a manifest's keepers.
func (h *house) of(m *keyshare.Manifest) map[string]string {
	out := h.addrs()
	for name := range out {
		if _, ok := m.Keeper(name); !ok {
			delete(out, name)
		}
	}
	return out
}

func (h *house) inForce(t *testing.T) *keyshare.Manifest {
	t.Helper()
	m, err := keyshare.Verify(h.result.RootPublic, h.manifest)
	fatal(t, err)
	return m
}

// opens wants a bridge that starts now, with what the control plane has, to get U from
// the first and the last of the running keepers, as many as are needed, and to open the
// keyring with it.
func (h *house) opens(t *testing.T) {
	t.Helper()
	m := h.inForce(t)
	addrs := h.of(m)
	var running []string
	for _, k := range h.keepers {
		if _, ok := addrs[k.Name]; ok && !h.stopped(k) {
			running = append(running, k.Name)
		}
	}
	if len(running) < m.Threshold {
		t.Errorf("%d keepers run, %d are needed", len(running), m.Threshold)
		return
	}
	for _, quorate := range [][]string{running[:m.Threshold], running[len(running)-m.Threshold:]} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		some := map[string]string{}
		for _, name := range quorate {
			some[name] = addrs[name]
		}
		err := quorum.Unseal(ctx, quorum.Config{
			Identity: h.bridge, Trust: h.trust(t, h.manifest), Keepers: some, Reason: "test", MinPause: time.Millisecond, MaxPause: 50 * time.Millisecond,
		}, func(u []byte) error {
			k, err := unseal.OpenKeyring(u, h.keyring, m.Set, m.Epoch)
			if err == nil {
				k.Purge()
			}
			return err
		})
		cancel()
		if err != nil {
			t.Errorf("manifest version %d does not open with %v: %v", m.Version, quorate, err)
		}
	}
}

func (h *house) stopped(k *keepertest.Keeper) bool {
	c, err := net.Dial("tcp", k.Addr)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

// dead wants that no keeper releases a share of the first set, or has one on its disk.
func (h *house) dead(t *testing.T) {
	t.Helper()
	first, err := keyshare.Verify(h.result.RootPublic, h.result.Manifest)
	fatal(t, err)
	for _, k := range h.keepers {
		if _, had := first.Keeper(k.Name); !had || h.stopped(k) {
			continue
		}
		if err := h.askFor(t, first, k); err == nil {
			t.Errorf("%s released a share of the old set", k.Name)
		}
		files, err := filepath.Glob(filepath.Join(k.Config.Dir, "*retired*"))
		fatal(t, err)
		if _, still := h.inForce(t).Keeper(k.Name); still && len(files) != 0 {
			t.Errorf("%s has kept %v", k.Name, files)
		}
	}
}

// askFor asks a keeper for its share of a set as a bridge that knows no newer one.
func (h *house) askFor(t *testing.T, m *keyshare.Manifest, k *keepertest.Keeper) error {
	t.Helper()
	// The keeper may have left the manifest: its key is still that of the first one.
	tls := identity.ClientTLS(h.bridge, h.trust(t, h.result.Manifest), identity.RoleKeeper, k.Name)
	conn, err := grpc.NewClient(k.Addr, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	fatal(t, err)
	defer conn.Close()
	stream, err := release.NewKeeperClient(conn).Release(t.Context())
	if err != nil {
		return err
	}
	res, err := stream.Recv()
	if err != nil {
		return err
	}
	key, err := keyshare.NewRecipient()
	fatal(t, err)
	spki, _ := m.Keeper(k.Name)
	tr := release.Transcript{
		Nonce: res.GetChallenge().GetNonce(), Keeper: spki.SPKI, Set: m.Set, Epoch: m.Epoch, Recipient: key.PublicKey().Bytes(), Reason: "test",
	}
	if err := stream.Send(&release.ReleaseRequest{
		Set: tr.Set, Epoch: tr.Epoch, Recipient: tr.Recipient, Reason: tr.Reason, Signature: h.bridge.Sign(release.Domain, tr.Bytes()),
	}); err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		if len(res.GetShare().GetSealed()) > 0 {
			return nil
		}
	}
}

// vault is a control plane: the rules of xds/link's Custodian, in memory, so that a
// test can stop it where it likes.
type vault struct {
	root     ed25519.PublicKey
	manifest []byte
	keyring  []byte
	staged   []byte
	records  map[string]uint64
	bridges  func(m *keyshare.Manifest) []ceremony.BridgeState // what they report; nil: all have every key

	// down refuses everything; die, before or after Commit's change, makes it down.
	down     bool
	die      string
	commits  []string
	tampered func(*ceremony.Custody)
}

var errDown = errors.New("the control plane is down")

func (v *vault) Custody(context.Context) (*ceremony.Custody, error) {
	if v.down {
		return nil, errDown
	}
	c := &ceremony.Custody{Manifest: v.manifest, Keyring: v.keyring, Records: v.records}
	m, err := keyshare.Verify(v.root, v.manifest)
	if err != nil {
		return nil, err
	}
	if v.bridges != nil {
		c.Bridges = v.bridges(m)
	} else {
		c.Bridges = all(m)
	}
	if v.tampered != nil {
		v.tampered(c)
	}
	return c, nil
}

// all is every bridge, with every key.
func all(m *keyshare.Manifest) (out []ceremony.BridgeState) {
	for _, b := range m.Bridges {
		s := ceremony.BridgeState{Name: b.Name, Connected: true}
		for _, k := range m.SealingKeys {
			s.SealingKeys = append(s.SealingKeys, k.ID)
		}
		out = append(out, s)
	}
	return out
}

func (v *vault) Stage(_ context.Context, keyring []byte) error {
	if v.down {
		return errDown
	}
	v.staged = bytes.Clone(keyring)
	return nil
}

func (v *vault) Commit(_ context.Context, signed []byte, verb string) error {
	if v.die == "before" {
		v.down = true
	}
	if v.down {
		return errDown
	}
	trust := identity.NewTrust(v.root)
	if _, err := trust.Update(v.manifest); err != nil {
		return err
	}
	before := trust.Manifest().Version
	if changed, err := trust.Update(signed); err != nil || !changed {
		return err
	}
	m := trust.Manifest()
	next := [][]byte{v.keyring, v.staged}
	i := slices.IndexFunc(next, func(k []byte) bool {
		sum := sha256.Sum256(k)
		return bytes.Equal(sum[:], m.KeyringDigest)
	})
	if i < 0 || m.Version != before+1 {
		return errors.New("refused")
	}
	v.manifest, v.keyring, v.staged = bytes.Clone(signed), next[i], nil
	v.commits = append(v.commits, verb)
	if v.die == "after" {
		v.down = true
		return errDown
	}
	return nil
}
