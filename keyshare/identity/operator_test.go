package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
)

func session(t testing.TB, root ed25519.PrivateKey) *identity.Identity {
	t.Helper()
	id, err := identity.NewOperatorSession(root, "alice", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOperatorSession(t *testing.T) {
	h := newHouse(t)
	tr := h.trust(t)
	op := session(t, h.root)
	if op.Role() != identity.RoleOperator || op.Name() != "alice" || op.String() != "operator/alice" {
		t.Errorf("a session of %v", op)
	}
	if session(t, h.root).Fingerprint() == op.Fingerprint() {
		t.Error("two sessions with one key")
	}
	if _, err := op.Enrolment(nil); err == nil {
		t.Error("a session applied for enrolment")
	}
	client := func() *tls.Config { return identity.ClientTLS(op, tr, identity.RoleKeeper, "keeper-1") }
	tests := []struct {
		name   string
		server *tls.Config
		ok     bool
	}{
		{"where operators are accepted", identity.ServerTLS(h.keeper, tr, identity.RoleBridge, identity.RoleOperator), true},
		{"where bridges are", identity.ServerTLS(h.keeper, tr, identity.RoleBridge), false},
		{"where every enrolled role is", identity.ServerTLS(h.keeper, tr, identity.RoleBridge, identity.RoleKeeper, identity.RoleControl), false},
		{"where nobody is", identity.ServerTLS(h.keeper, tr), false},
		{"before the first manifest", identity.ServerTLS(h.keeper, identity.NewTrust(h.public()), identity.RoleOperator), true},
		{"without a root", identity.ServerTLS(h.keeper, identity.NewTrust(nil), identity.RoleOperator), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := handshake(t, tt.server, client())
			if (serverErr == nil) != tt.ok || (clientErr == nil) != tt.ok {
				t.Errorf("server %v, client %v", serverErr, clientErr)
			}
			if !tt.ok && !errors.Is(serverErr, identity.ErrNotEnrolled) {
				t.Errorf("refused with %v", serverErr)
			}
		})
	}
}

func TestOperatorSessionRefusesToBeMade(t *testing.T) {
	root := newKey(t)
	for name, tt := range map[string]struct {
		root ed25519.PrivateKey
		name string
		life time.Duration
	}{
		"no root":      {nil, "alice", time.Hour},
		"bad name":     {root, "alice/bob", time.Hour},
		"no life":      {root, "alice", 0},
		"ended before": {root, "alice", -time.Hour},
		"too long":     {root, "alice", 24*time.Hour + time.Second},
	} {
		if _, err := identity.NewOperatorSession(tt.root, tt.name, tt.life); err == nil {
			t.Errorf("%s: made", name)
		}
	}
}

// TestOperatorCertificates are certificates that are not quite a session's, with
// keys that their holders do have.
func TestOperatorCertificates(t *testing.T) {
	h := newHouse(t)
	now := time.Now().Truncate(time.Second)
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	alice := uri("spiffe://keybridge/operator/alice")
	enrolled := newKey(t)
	spki, err := x509.MarshalPKIXPublicKey(enrolled.Public())
	if err != nil {
		t.Fatal(err)
	}
	h.manifest.Bridges = append(h.manifest.Bridges, keyshare.Bridge{Name: "bridge-2", SPKI: digest(spki), Workspaces: []string{"*"}})
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(c *x509.Certificate)
		signer ed25519.PrivateKey // nil: the root
		key    crypto.Signer      // nil: fresh
		clock  time.Duration
		ok     bool
	}{
		{name: "as it should be", ok: true},
		{name: "in its last second", clock: time.Hour - time.Second, ok: true},
		{name: "expired", clock: time.Hour},
		{name: "long expired", clock: 1000 * time.Hour},
		{name: "not valid yet", clock: -time.Hour - time.Second},
		{name: "valid for too long", change: func(c *x509.Certificate) { c.NotAfter = now.Add(48 * time.Hour) }},
		{name: "valid for ever", change: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
		}},
		{name: "ends before it starts", change: func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(time.Hour), now.Add(-time.Hour) }},
		{name: "signed by another root", signer: newKey(t)},
		{name: "self-signed", signer: enrolled, key: enrolled},
		{name: "signed by an enrolled bridge", signer: enrolled},
		{name: "the root's own key", key: h.root},
		{name: "an enrolled bridge's key", key: enrolled},
		{name: "an enrolled bridge's key and name", key: enrolled, change: func(c *x509.Certificate) { c.URIs = uri("spiffe://keybridge/bridge/bridge-2") }},
		{name: "another kind of key", key: ec},
		{name: "a CA", change: func(c *x509.Certificate) { c.IsCA = true }},
		{name: "no URI", change: func(c *x509.Certificate) { c.URIs = nil }},
		{name: "two URIs", change: func(c *x509.Certificate) { c.URIs = append(uri("spiffe://keybridge/operator/bob"), alice...) }},
		{name: "a bridge's URI", change: func(c *x509.Certificate) { c.URIs = uri("spiffe://keybridge/bridge/bridge-1") }},
		{name: "another house", change: func(c *x509.Certificate) { c.URIs = uri("spiffe://other/operator/alice") }},
		{name: "no name", change: func(c *x509.Certificate) { c.URIs = uri("spiffe://keybridge/operator/") }},
		{name: "a path for a name", change: func(c *x509.Certificate) { c.URIs = uri("spiffe://keybridge/operator/alice/x") }},
		{name: "a query", change: func(c *x509.Certificate) { c.URIs = uri("spiffe://keybridge/operator/alice?x=1") }},
		{name: "a name of the subject only", change: func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"operator"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			template := &x509.Certificate{
				SerialNumber: big.NewInt(7), URIs: alice, BasicConstraintsValid: true,
				NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			}
			if tt.change != nil {
				tt.change(template)
			}
			signer, key := tt.signer, tt.key
			if signer == nil {
				signer = h.root
			}
			if key == nil {
				key = newKey(t)
			}
			public := key.Public()
			der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{}, public, signer)
			if err != nil {
				t.Fatal(err)
			}
			tr := h.trust(t)
			tr.Clock = func() time.Time { return now.Add(tt.clock) }
			client := &tls.Config{
				InsecureSkipVerify: true, NextProtos: []string{"h2"},
				Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
			}
			// Enrolled roles are not accepted here: a bridge under its own name is no operator.
			serverErr, _ := handshake(t, identity.ServerTLS(h.keeper, tr, identity.RoleOperator), client)
			if (serverErr == nil) != tt.ok {
				t.Errorf("got %v", serverErr)
			}
		})
	}
}

// What the root signs for an operator's certificate is no manifest, and the other
// way round.
func TestRootSignaturesAreNotInterchangeable(t *testing.T) {
	h := newHouse(t)
	own, err := identity.ClientTLS(session(t, h.root), h.trust(t), identity.RoleKeeper, "").GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if cert.RawTBSCertificate[0] != 0x30 {
		t.Errorf("a TBSCertificate begins with %#x", cert.RawTBSCertificate[0])
	}
	forged, err := json.Marshal(keyshare.Signed{Payload: cert.RawTBSCertificate, Signature: cert.Signature})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyshare.Verify(h.public(), forged); !errors.Is(err, keyshare.ErrSignature) {
		t.Errorf("a certificate as a manifest: %v", err)
	}
	var s keyshare.Signed
	if err := json.Unmarshal(h.signed(t), &s); err != nil {
		t.Fatal(err)
	}
	if ed25519.Verify(h.public(), cert.RawTBSCertificate, s.Signature) || ed25519.Verify(h.public(), s.Payload, s.Signature) {
		t.Error("a manifest's signature holds without its domain")
	}
}
