package identity_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"keybridge/keyshare/identity"
)

var rewrite = flag.Bool("update", false, "rewrite testdata with new keys, before a release only")

const vectorFile = "testdata/enrolment-v1.json"

// enrolmentVector is an identity file and the one enrolment that it makes, or that of
// the identity that is to replace it: Ed25519 signatures are deterministic.
type enrolmentVector struct {
	Identity  string `json:"identity"`
	Next      string `json:"next,omitempty"`
	Recipient []byte `json:"recipient,omitempty"`
	Enrolment string `json:"enrolment"`
}

func TestEnrolmentVectors(t *testing.T) {
	if *rewrite {
		writeEnrolmentVectors(t)
	}
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []enrolmentVector
	if err := json.Unmarshal(raw, &all); err != nil || len(all) != 4 {
		t.Fatalf("%d vectors, %v", len(all), err)
	}
	for _, v := range all {
		path := filepath.Join(t.TempDir(), "identity.key")
		if err := os.WriteFile(path, []byte(v.Identity), 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := identity.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if v.Next != "" {
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), "identity.next.key"), []byte(v.Next), 0o600); err != nil {
				t.Fatal(err)
			}
			if id, err = id.Next(); err != nil {
				t.Fatal(err)
			}
		}
		e, err := id.Enrolment(v.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(e); err != nil || string(got) != v.Enrolment {
			t.Errorf("%s enrols as %s, %v", id, got, err)
		}
		parsed, err := identity.ParseEnrolment([]byte(v.Enrolment))
		if err != nil || parsed.Name != id.Name() || parsed.Role != id.Role() || parsed.Fingerprint() != id.Fingerprint() {
			t.Errorf("%s: parsed as %+v, %v", id, parsed, err)
		}
	}
}

func writeEnrolmentVectors(t *testing.T) {
	t.Helper()
	var all []enrolmentVector
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for i, role := range []identity.Role{identity.RoleKeeper, identity.RoleBridge, identity.RoleControl, identity.RoleKeeper} {
		path := filepath.Join(t.TempDir(), "identity.key")
		id, err := identity.Create(path, role, string(role)+"-1")
		if err != nil {
			t.Fatal(err)
		}
		v := enrolmentVector{Identity: read(path)}
		if i == 3 {
			if id, err = id.Next(); err != nil {
				t.Fatal(err)
			}
			v.Next = read(filepath.Join(filepath.Dir(path), "identity.next.key"))
		}
		if role == identity.RoleKeeper {
			v.Recipient = bytes.Repeat([]byte{9}, 32)
		}
		e, err := id.Enrolment(v.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		v.Enrolment = string(b)
		all = append(all, v)
	}
	raw, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
