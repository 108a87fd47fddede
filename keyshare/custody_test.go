package keyshare_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"keybridge/keyshare"
)

const (
	testSet   = "6f1b1d52-9f4e-4c52-8d5c-6d0b0d3c9a11"
	otherSet  = "0b54f0b0-31a5-4c8e-9a53-2f8f2f9f7f55"
	workspace = "11111111-2222-4333-8444-555555555555"
)

// custody is a whole share set, as a ceremony would make it.
type custody struct {
	root       ed25519.PrivateKey
	u          []byte
	shares     []keyshare.Share
	manifest   *keyshare.Manifest
	recipients []hpke.PrivateKey
}

func newCustody(t testing.TB, set string, n, threshold int) *custody {
	t.Helper()
	c := &custody{root: must(ed25519.GenerateKey(nil)), u: make([]byte, keyshare.SecretSize)}
	_, _ = rand.Read(c.u)
	shares, err := keyshare.Split(c.u, n, threshold)
	if err != nil {
		t.Fatal(err)
	}
	c.shares = shares
	check, err := keyshare.CheckValue(c.u, set, 1)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(must(ed25519.GenerateKey(nil)).Public())
	if err != nil {
		t.Fatal(err)
	}
	c.manifest = &keyshare.Manifest{
		Format: 1, Version: 1, Set: set, Epoch: 1, Threshold: threshold, Shares: n,
		KeyringDigest: bytes.Repeat([]byte{7}, 32), Check: check,
		Bridges:       []keyshare.Bridge{{Name: "bridge-1", SPKI: digest("bridge-1"), Workspaces: []string{"*"}}},
		ControlPlanes: []keyshare.Peer{{Name: "control-1", SPKI: digest("control-1")}},
		SealingKeys: []keyshare.SealingKey{{
			ID: digest(string(der)), Suite: 1, Current: true,
			PEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		}},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	for i, s := range shares {
		key, err := keyshare.ShareKey(s, set, 1)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("keeper-%d", i+1)
		r, err := keyshare.NewRecipient()
		if err != nil {
			t.Fatal(err)
		}
		c.recipients = append(c.recipients, r)
		c.manifest.Keepers = append(c.manifest.Keepers, keyshare.Keeper{
			Name: name, X: int(s.X()), SPKI: digest(name), ShareKey: key.Public().(ed25519.PublicKey),
			Recipient: r.PublicKey().Bytes(),
		})
	}
	return c
}

func (c *custody) sign(t testing.TB, m *keyshare.Manifest) []byte {
	t.Helper()
	s, err := keyshare.Sign(c.root, m)
	if err != nil {
		t.Fatal(err)
	}
	return marshal(t, s)
}

// signPayload signs whatever payload is, as a careless root would.
func signPayload(t testing.TB, root ed25519.PrivateKey, payload []byte) []byte {
	t.Helper()
	return marshal(t, &keyshare.Signed{
		Payload: payload, Signature: ed25519.Sign(root, append([]byte("keybridge manifest v1\n"), payload...)),
	})
}

func (c *custody) public() ed25519.PublicKey { return c.root.Public().(ed25519.PublicKey) }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func must(_ ed25519.PublicKey, k ed25519.PrivateKey, err error) ed25519.PrivateKey {
	if err != nil {
		panic(err)
	}
	return k
}
