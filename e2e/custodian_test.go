package e2e_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	endian "encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/e2e/stack"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/seal"
	"keybridge/xds/link"
)

// material is all that a stack's secrets hang on, taken from its state by who has
// every key file of it. The formats are read from their documentation, not with
// the code that the bridge opens them with.
type material struct {
	u       []byte
	shares  map[string][]byte // by keeper
	sealing map[string]*rsa.PrivateKey
	records map[string][]byte // record keys by key id
	deks    map[string][]byte // by record
	feed    []*link.Record
}

func (w *world) recover(ctx context.Context, t *testing.T) *material {
	t.Helper()
	m := &material{shares: map[string][]byte{}, sealing: map[string]*rsa.PrivateKey{}, records: map[string][]byte{}, deks: map[string][]byte{}}
	var shares []keyshare.Share
	for _, name := range stack.Keepers {
		share := w.share(t, name)
		m.shares[name] = share
		shares = append(shares, share)
	}
	manifest, keyring := w.feed(ctx, t, m)
	var err error
	if m.u, err = keyshare.Combine(shares[:manifest.Threshold]); err != nil {
		t.Fatal(err)
	}
	if check, err := keyshare.CheckValue(m.u, manifest.Set, manifest.Epoch); err != nil || !bytes.Equal(check, manifest.Check) {
		t.Fatalf("the shares do not combine to the unseal key: %v", err)
	}
	if err := m.openKeyring(keyring, manifest); err != nil {
		t.Fatal(err)
	}
	for _, r := range m.feed {
		if r.State == link.State_DELETED {
			continue
		}
		var s seal.Sealed
		if err := s.UnmarshalBinary(r.Sealed); err != nil {
			t.Fatal(err)
		}
		dek, err := m.unwrap(&s)
		if err != nil {
			t.Fatalf("%s %s: %v", r.Type, r.Id, err)
		}
		m.deks[r.Type+" "+r.Id] = dek
	}
	return m
}

// share is what a keeper holds, opened with its key file.
func (w *world) share(t *testing.T, name string) []byte {
	t.Helper()
	c, _ := w.openShare(t, name, filepath.Join(w.Dir, name, "share.age"))
	return c.Share
}

// feed fills in the sealed records as the bridge gets them.
func (w *world) feed(ctx context.Context, t *testing.T, m *material) (manifest *keyshare.Manifest, keyring []byte) {
	t.Helper()
	args, err := w.Args(stack.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	arg := func(name string) string {
		if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		t.Fatalf("the bridge has no %s", name)
		return ""
	}
	root, err := os.ReadFile(arg("--operator-root"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := identity.ParseRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(arg("--manifest"))
	if err != nil {
		t.Fatal(err)
	}
	trust := identity.NewTrust(public)
	if _, err := trust.Update(signed); err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(filepath.Join(arg("--dir"), "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(arg("--control"), grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(id, trust, identity.RoleControl, ""))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	custody, err := link.NewLinkClient(conn).Custody(ctx, &link.CustodyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = keyshare.Verify(public, custody.Manifest); err != nil {
		t.Fatal(err)
	}
	stream, err := link.NewLinkClient(conn).Watch(ctx, &link.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		batch, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		m.feed = append(m.feed, batch.Records...)
		if batch.Synced {
			return manifest, custody.Keyring
		}
	}
}

func aesGCM(key, iv, sealed, additional []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, iv, sealed, additional)
}

func lengthPrefixed(s string) []byte {
	return append(endian.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// openKeyring follows the package comment of keyshare/unseal.
func (m *material) openKeyring(wrapped []byte, of *keyshare.Manifest) error {
	body, ok := bytes.CutPrefix(wrapped, append(lengthPrefixed("keybridge keyring"), 0, 1))
	if !ok || len(body) < 12 {
		return errors.New("not a keyring of format 1")
	}
	additional := append(lengthPrefixed("keybridge keyring v1"), lengthPrefixed(of.Set)...)
	plain, err := aesGCM(m.u, body[:12], body[12:], endian.BigEndian.AppendUint64(additional, of.Epoch))
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	take := func(n int) []byte {
		b := plain[:n]
		plain = plain[n:]
		return b
	}
	uint16 := func() int { return int(endian.BigEndian.Uint16(take(2))) }
	for range uint16() {
		take(4)
		key, err := x509.ParsePKCS8PrivateKey(take(uint16()))
		if err != nil {
			return err
		}
		public, err := seal.NewPublicKey(&key.(*rsa.PrivateKey).PublicKey)
		if err != nil {
			return err
		}
		m.sealing[public.ID()] = key.(*rsa.PrivateKey)
	}
	for range uint16() {
		version := endian.BigEndian.Uint32(take(4))
		m.records[fmt.Sprintf("record-key-%d", version)] = take(32)
	}
	if len(plain) != 0 || len(m.sealing) == 0 || len(m.records) == 0 {
		return errors.New("keyring: not what its format says")
	}
	return nil
}

func (m *material) unwrap(s *seal.Sealed) ([]byte, error) {
	label := seal.Label(s.Header.Canonical(), s.Key.Suite, s.Key.KeyID)
	if s.Key.Suite == seal.SuiteRecordKey {
		return aesGCM(m.records[s.Key.KeyID], s.Key.Value[:12], s.Key.Value[12:], label)
	}
	key := m.sealing[s.Key.KeyID]
	if key == nil {
		return nil, fmt.Errorf("sealed to key %s, which the keyring lacks", s.Key.KeyID)
	}
	return rsa.DecryptOAEP(sha256.New(), nil, key, s.Key.Value, label)
}
