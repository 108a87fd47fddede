package ceremony_test

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

const workspace = "11111111-2222-4333-8444-555555555555"

// applicants are processes that have enrolled, and what opens their deliveries.
type applicants struct {
	cfg  ceremony.InitConfig
	keys map[string]hpke.PrivateKey
}

func newApplicants(t *testing.T, keepers ...string) *applicants {
	t.Helper()
	a := &applicants{keys: make(map[string]hpke.PrivateKey)}
	for _, name := range keepers {
		key, err := keyshare.NewRecipient()
		if err != nil {
			t.Fatal(err)
		}
		a.keys[name] = key
		a.cfg.Keepers = append(a.cfg.Keepers, enrol(t, identity.RoleKeeper, name, key.PublicKey().Bytes()))
	}
	a.cfg.Bridges = []identity.Enrolment{enrol(t, identity.RoleBridge, "bridge-1", nil), enrol(t, identity.RoleBridge, "bridge-2", nil)}
	a.cfg.ControlPlanes = []identity.Enrolment{enrol(t, identity.RoleControl, "control-1", nil)}
	a.cfg.Workspaces = map[string][]string{"bridge-2": {workspace, "00000000-2222-4333-8444-555555555555"}}
	a.cfg.Now = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	return a
}

func enrol(t *testing.T, role identity.Role, name string, recipient []byte) identity.Enrolment {
	t.Helper()
	id, err := identity.Create(filepath.Join(t.TempDir(), "k"), role, name)
	if err != nil {
		t.Fatal(err)
	}
	e, err := id.Enrolment(recipient)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestInit(t *testing.T) {
	for _, tt := range []struct {
		keepers         []string
		threshold, want int
	}{
		{[]string{"a", "b", "c"}, 0, 2},
		{[]string{"a", "b"}, 0, 2},
		{[]string{"a", "b", "c", "d", "e"}, 4, 4},
	} {
		t.Run(strings.Join(tt.keepers, ""), func(t *testing.T) {
			a := newApplicants(t, tt.keepers...)
			a.cfg.Threshold = tt.threshold
			r, err := ceremony.Init(a.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Wipe()
			m, err := keyshare.Verify(r.RootPublic, r.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			if m.Threshold != tt.want || m.Shares != len(tt.keepers) || m.Version != 1 || m.Epoch != 1 {
				t.Errorf("%d of %d, version %d, epoch %d", m.Threshold, m.Shares, m.Version, m.Epoch)
			}
			u := combine(t, a, r, m)
			k, err := unseal.OpenKeyring(u, r.Keyring, m.Set, m.Epoch)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Purge()
			sealsAndOpens(t, m, k)
		})
	}
}

// combine receives the deliveries as the keepers would and combines the last t.
func combine(t *testing.T, a *applicants, r *ceremony.InitResult, m *keyshare.Manifest) []byte {
	t.Helper()
	var shares []keyshare.Share
	for _, k := range m.Keepers {
		s, err := keyshare.Receive(m, k.Name, a.keys[k.Name], r.Deliveries[k.Name])
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	u, err := keyshare.Combine(shares[m.Shares-m.Threshold:])
	if err != nil {
		t.Fatal(err)
	}
	check, err := keyshare.CheckValue(u, m.Set, m.Epoch)
	if err != nil || !bytes.Equal(check, m.Check) {
		t.Fatalf("check value differs, or %v", err)
	}
	return u
}

// sealsAndOpens proves that the manifest's sealing key and the keyring belong
// together.
func sealsAndOpens(t *testing.T, m *keyshare.Manifest, k *unseal.Keyring) {
	t.Helper()
	pub, err := seal.ParsePublicKey([]byte(m.CurrentSealingKey().PEM))
	if err != nil {
		t.Fatal(err)
	}
	if pub.ID() != m.CurrentSealingKey().ID {
		t.Error("the manifest calls the sealing key otherwise than seal does")
	}
	secret := []byte("provider secret")
	h := seal.Header{
		Format: 1, Workspace: workspace, Type: seal.TypeCredential, Record: "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11", Version: 1,
		Binding: seal.Binding{Use: "s3", Key: "AKIA", Scheme: "https", Host: "s3.example.com", Port: 443, Scope: "bucket"},
	}
	sealed, err := seal.Seal(pub, h, secret)
	if err != nil {
		t.Fatal(err)
	}
	err = k.Window(t.Context(), func(w *unseal.Window) error {
		return w.Open(sealed, func(got []byte) error {
			if string(got) != "provider secret" {
				t.Error("opened to something else")
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInitDescribesEverybody(t *testing.T) {
	a := newApplicants(t, "a", "b", "c")
	r, err := ceremony.Init(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Wipe()
	m, err := keyshare.Verify(r.RootPublic, r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	digest := unseal.Digest(r.Keyring)
	if !bytes.Equal(digest[:], m.KeyringDigest) {
		t.Error("keyring digest")
	}
	bridges := []keyshare.Bridge{
		{Name: "bridge-1", SPKI: a.cfg.Bridges[0].Fingerprint(), Workspaces: []string{"*"}},
		{Name: "bridge-2", SPKI: a.cfg.Bridges[1].Fingerprint(), Workspaces: []string{"00000000-2222-4333-8444-555555555555", workspace}},
	}
	if diff := cmp.Diff(bridges, m.Bridges); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]keyshare.Peer{{Name: "control-1", SPKI: a.cfg.ControlPlanes[0].Fingerprint()}}, m.ControlPlanes); diff != "" {
		t.Error(diff)
	}
	for i, k := range m.Keepers {
		if k.Name != a.cfg.Keepers[i].Name || k.SPKI != a.cfg.Keepers[i].Fingerprint() {
			t.Errorf("keeper %d is %s with %s", i, k.Name, k.SPKI)
		}
	}
	if !m.CreatedAt.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Error(m.CreatedAt)
	}

	// Two runs share nothing.
	again, err := ceremony.Init(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if again.RootPublic.Equal(r.RootPublic) || bytes.Equal(again.Keyring, r.Keyring) || strings.Contains(string(again.Manifest), m.Set) {
		t.Error("a second ceremony repeats the first")
	}
	key := again.RootPrivate
	again.Wipe()
	if len(bytes.Trim(key, "\x00")) != 0 || again.RootPrivate != nil {
		t.Error("Wipe left the root's private key")
	}
}

// What Init hands out for transport, root key aside, holds no share in clear.
func TestInitLeaksNothing(t *testing.T) {
	a := newApplicants(t, "a", "b", "c")
	r, err := ceremony.Init(a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := keyshare.Verify(r.RootPublic, r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	u := combine(t, a, r, m)
	share, err := keyshare.Receive(m, "a", a.keys["a"], r.Deliveries["a"])
	if err != nil {
		t.Fatal(err)
	}
	root := r.RootPrivate.Seed()
	r.Wipe()
	deliveries, err := json.Marshal(r.Deliveries)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"manifest": r.Manifest, "keyring": r.Keyring, "deliveries": deliveries} {
		for secret, s := range map[string][]byte{"U": u, "a share": share[:32], "the root": root} {
			encoded, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, s) || bytes.Contains(b, encoded[1:40]) {
				t.Errorf("%s holds %s", name, secret)
			}
		}
	}
}

func TestInitRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, c *ceremony.InitConfig)
		want   string
	}{
		{"one keeper", func(_ *testing.T, c *ceremony.InitConfig) { c.Keepers = c.Keepers[:1] }, "threshold"},
		{"no keeper", func(_ *testing.T, c *ceremony.InitConfig) { c.Keepers = nil }, "threshold"},
		{"threshold 1", func(_ *testing.T, c *ceremony.InitConfig) { c.Threshold = 1 }, "threshold"},
		{"threshold above keepers", func(_ *testing.T, c *ceremony.InitConfig) { c.Threshold = 4 }, "threshold"},
		{"a bridge as keeper", func(_ *testing.T, c *ceremony.InitConfig) { c.Keepers[0] = c.Bridges[0] }, "applied as bridge"},
		{"a keeper as bridge", func(_ *testing.T, c *ceremony.InitConfig) { c.Bridges[0] = c.Keepers[0] }, "applied as keeper"},
		{"a bridge as control plane", func(_ *testing.T, c *ceremony.InitConfig) { c.ControlPlanes[0] = c.Bridges[0] }, "applied as bridge"},
		{"an enrolment changed on the way", func(_ *testing.T, c *ceremony.InitConfig) {
			c.Keepers[0].Recipient = bytes.Repeat([]byte{9}, 32)
		}, "signature"},
		{"a keeper twice", func(_ *testing.T, c *ceremony.InitConfig) { c.Keepers[1] = c.Keepers[0] }, "listed twice"},
		{"a bridge twice", func(_ *testing.T, c *ceremony.InitConfig) { c.Bridges = append(c.Bridges, c.Bridges[0]) }, "listed twice"},
		{"two bridges of one name", func(t *testing.T, c *ceremony.InitConfig) {
			c.Bridges = append(c.Bridges, enrol(t, identity.RoleBridge, "bridge-1", nil))
		}, "listed twice"},
		{"workspaces of nobody", func(_ *testing.T, c *ceremony.InitConfig) { c.Workspaces["bridge-3"] = nil }, "bridge-3"},
		{"no workspace", func(_ *testing.T, c *ceremony.InitConfig) { c.Workspaces["bridge-1"] = nil }, "no workspaces"},
		{"a workspace that is none", func(_ *testing.T, c *ceremony.InitConfig) { c.Workspaces["bridge-1"] = []string{"x"} }, "UUID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newApplicants(t, "a", "b", "c")
			tt.change(t, &a.cfg)
			r, err := ceremony.Init(a.cfg)
			if err == nil || r != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
