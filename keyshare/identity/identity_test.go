package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/identity"
)

func TestCreateLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	made, err := identity.Create(path, identity.RoleBridge, "bridge-1")
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	got, err := identity.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Role() != identity.RoleBridge || got.Name() != "bridge-1" || got.Fingerprint() != made.Fingerprint() {
		t.Errorf("loaded %v with %s, made %v with %s", got, got.Fingerprint(), made, made.Fingerprint())
	}
	if !bytes.Equal(got.Sign("d", []byte("m")), made.Sign("d", []byte("m"))) {
		t.Error("another key was loaded")
	}
	if _, err := identity.Create(path, identity.RoleBridge, "bridge-1"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created over an existing file: %v", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, got); s != "bridge/bridge-1" {
			t.Errorf("%s prints %q", verb, s)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if _, err := identity.Create(path, "admin", "a"); err == nil {
		t.Error("an unknown role was accepted")
	}
	if _, err := identity.Create(path, identity.RoleBridge, "a/b"); err == nil {
		t.Error("a bad name was accepted")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a refused identity left a file")
	}
}

func TestLoadRefuses(t *testing.T) {
	good, err := os.ReadFile(func() string {
		p := filepath.Join(t.TempDir(), "k")
		if _, err := identity.Create(p, identity.RoleKeeper, "k"); err != nil {
			t.Fatal(err)
		}
		return p
	}())
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: ecDER, Headers: map[string]string{"Role": "keeper", "Name": "k"}})
	tests := []struct {
		name string
		mode fs.FileMode
		b    []byte
		want string
	}{
		{"readable by the group", 0o640, good, "chmod 600"},
		{"readable by the world", 0o604, good, "chmod 600"},
		{"writable by the group", 0o620, good, "chmod 600"},
		{"empty", 0o600, nil, "PEM"},
		{"with a tail", 0o600, append(bytes.Clone(good), 'x'), "PEM"},
		{"without role", 0o600, bytes.Replace(good, []byte("Role: keeper\n"), nil, 1), "role"},
		{"bad role", 0o600, bytes.Replace(good, []byte("Role: keeper"), []byte("Role: root"), 1), "role"},
		{"bad name", 0o600, bytes.Replace(good, []byte("Name: k"), []byte("Name: ../k"), 1), "name"},
		{"another kind of key", 0o600, ecPEM, "want Ed25519"},
		{"no key", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}), "PKCS #8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "identity.key")
			if err := os.WriteFile(path, tt.b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil { // WriteFile is subject to the umask
				t.Fatal(err)
			}
			_, err := identity.Load(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := identity.Load(t.TempDir()); err == nil {
		t.Error("a directory was loaded")
	}
	if _, err := identity.Load(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}

func TestWritePrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, want := range []string{"one", "two, longer"} {
		if err := identity.WritePrivate(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := identity.ReadPrivate(path)
		if err != nil || string(got) != want {
			t.Fatalf("read %q, %v; wrote %q", got, err, want)
		}
	}
	if err := identity.WritePrivate(filepath.Join(dir, "no", "f"), nil); err == nil {
		t.Error("wrote into a directory that is not there")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("temporary files are left: %v, %v", entries, err)
	}
}

func TestParseRoot(t *testing.T) {
	pub := newHouse(t).public()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	b64 := base64.StdEncoding.EncodeToString(pub)
	for name, b := range map[string]string{"PEM": string(asPEM), "base64": b64, "base64 line": " " + b64 + "\n"} {
		got, err := identity.ParseRoot([]byte(b))
		if err != nil || !pub.Equal(got) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	rsaLike := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der[1:]})
	for name, b := range map[string]string{
		"empty": "", "short": b64[:40], "SPKI in base64": base64.StdEncoding.EncodeToString(der), "two blocks": string(asPEM) + string(asPEM),
		"broken DER": string(rsaLike), "a certificate": strings.ReplaceAll(string(asPEM), "PUBLIC KEY", "CERTIFICATE"),
		"very long": strings.Repeat("A", 4000),
	} {
		if _, err := identity.ParseRoot([]byte(b)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEnrolment(t *testing.T) {
	keeper, bridge := create(t, identity.RoleKeeper, "keeper-1"), create(t, identity.RoleBridge, "bridge-1")
	e, err := keeper.Enrolment(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.ParseEnrolment(append(b, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	if got.Fingerprint() != keeper.Fingerprint() {
		t.Error("another fingerprint")
	}
	if _, err := keeper.Enrolment(nil); err == nil {
		t.Error("a keeper enrolled without a recipient")
	}
	if _, err := bridge.Enrolment(make([]byte, 32)); err == nil {
		t.Error("a bridge enrolled with a recipient")
	}
	eb, err := bridge.Enrolment(nil)
	if err != nil {
		t.Fatal(err)
	}

	change := func(f func(e *identity.Enrolment)) []byte {
		c := e
		f(&c)
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"another name":        change(func(e *identity.Enrolment) { e.Name = "keeper-2" }),
		"another role":        change(func(e *identity.Enrolment) { e.Role, e.Recipient = identity.RoleBridge, nil }),
		"another recipient":   change(func(e *identity.Enrolment) { e.Recipient = bytes.Repeat([]byte{1}, 32) }),
		"another key":         change(func(e *identity.Enrolment) { e.PublicKey = eb.PublicKey }),
		"another's signature": change(func(e *identity.Enrolment) { e.Signature = eb.Signature }),
		"a replaced key":      change(func(e *identity.Enrolment) { e.Replaces = bridge.Fingerprint() }),
		"no signature":        change(func(e *identity.Enrolment) { e.Signature = nil }),
		"another format":      change(func(e *identity.Enrolment) { e.Format = 2 }),
		"unknown role":        change(func(e *identity.Enrolment) { e.Role = "root" }),
		"bad name":            change(func(e *identity.Enrolment) { e.Name = "" }),
		"unknown member":      bytes.Replace(b, []byte("{"), []byte(`{"a":1,`), 1),
		"too long":            bytes.Repeat([]byte(" "), 5000),
		"nothing":             nil,
	} {
		if _, err := identity.ParseEnrolment(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseEnrolment(f *testing.F) {
	e, err := create(f, identity.RoleKeeper, "keeper-1").Enrolment(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(e)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"role":"keeper"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := identity.ParseEnrolment(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(e)
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(b)) {
			t.Error("accepted a spelling that is not its own")
		}
	})
}

func FuzzParseRoot(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := identity.ParseRoot(b)
		if err == nil && len(k) != 32 {
			t.Errorf("a key of %d bytes", len(k))
		}
	})
}
