package keyshare_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare"
)

func TestSignVerify(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	signed := c.sign(t, c.manifest)
	got, err := keyshare.Verify(c.public(), append(signed, '\n'))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.manifest, got); diff != "" {
		t.Error(diff)
	}
	if k := got.CurrentSealingKey(); k.ID != c.manifest.SealingKeys[0].ID {
		t.Errorf("current sealing key %q", k.ID)
	}
	if again := c.sign(t, got); !bytes.Equal(signed, again) {
		t.Error("signing what was verified gives another document")
	}
}

func TestVerifyRefusesForgery(t *testing.T) {
	c, mallory := newCustody(t, testSet, 3, 2), newCustody(t, testSet, 3, 2)
	good := c.sign(t, c.manifest)
	payload := marshal(t, c.manifest)
	tests := []struct {
		name   string
		signed []byte
		want   error // nil: any
	}{
		{"signed by another root", mallory.sign(t, c.manifest), keyshare.ErrSignature},
		{"payload exchanged", marshal(t, &keyshare.Signed{
			Payload: marshal(t, mallory.manifest), Signature: signature(t, good),
		}), keyshare.ErrSignature},
		{"signed without the domain", marshal(t, &keyshare.Signed{
			Payload: payload, Signature: ed25519.Sign(c.root, payload),
		}), keyshare.ErrSignature},
		{"no signature", marshal(t, &keyshare.Signed{Payload: payload}), keyshare.ErrSignature},
		{"short signature", marshal(t, &keyshare.Signed{Payload: payload, Signature: signature(t, good)[:63]}), keyshare.ErrSignature},
		{"member added beside", bytes.Replace(good, []byte("{"), []byte(`{"x":1,`), 1), nil},
		{"member twice", bytes.Replace(good, []byte("{"), []byte(`{"payload":"AA==",`), 1), nil},
		{"other case", bytes.Replace(good, []byte("payload"), []byte("Payload"), 1), nil},
		{"trailing document", append(bytes.Clone(good), good...), nil},
		{"empty", nil, nil},
		{"huge", bytes.Repeat([]byte{' '}, 5<<20), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := keyshare.Verify(c.public(), tt.signed)
			if err == nil || m != nil {
				t.Fatal("accepted")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := keyshare.Verify(nil, good); err == nil {
		t.Error("accepted without a root")
	}
}

// Even the operator cannot put a manifest into force that means nothing, or that
// two readers could understand differently.
func TestVerifyIsStrict(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	payload := string(marshal(t, c.manifest))
	for name, p := range map[string]string{
		"unknown member":   strings.Replace(payload, "{", `{"extra":true,`, 1),
		"repeated member":  strings.Replace(payload, `"epoch":1`, `"epoch":1,"epoch":1`, 1),
		"float number":     strings.Replace(payload, `"epoch":1`, `"epoch":1.0`, 1),
		"space":            strings.Replace(payload, `"epoch":1`, `"epoch": 1`, 1),
		"local time":       strings.Replace(payload, "03:04:05Z", "03:04:05+00:00", 1),
		"fraction of time": strings.Replace(payload, "03:04:05Z", "03:04:05.5Z", 1),
		"null":             "null",
		"empty":            "",
	} {
		if p == payload {
			t.Fatalf("%s: the test changed nothing", name)
		}
		if _, err := keyshare.Verify(c.public(), signPayload(t, c.root, []byte(p))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := keyshare.Verify(c.public(), signPayload(t, c.root, []byte(`{"format":2,"new":1}`)))
	if err == nil || !strings.Contains(err.Error(), "format 2 is not known") {
		t.Errorf("a newer format: got %v", err)
	}
}

func TestManifestValidation(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *keyshare.Manifest)
		want   string
	}{
		{"format", func(m *keyshare.Manifest) { m.Format = 2 }, "format 2"},
		{"version 0", func(m *keyshare.Manifest) { m.Version = 0 }, "version"},
		{"epoch above version", func(m *keyshare.Manifest) { m.Epoch = 2 }, "epoch"},
		{"set is no UUID", func(m *keyshare.Manifest) { m.Set = "prod" }, "UUID"},
		{"set in upper case", func(m *keyshare.Manifest) { m.Set = strings.ToUpper(m.Set) }, "UUID"},
		{"threshold 1", func(m *keyshare.Manifest) { m.Threshold = 1 }, "threshold"},
		{"threshold above shares", func(m *keyshare.Manifest) { m.Threshold = 4 }, "threshold"},
		{"a keeper missing", func(m *keyshare.Manifest) { m.Keepers = m.Keepers[:2] }, "2 keepers for 3"},
		{"x = 0", func(m *keyshare.Manifest) { m.Keepers[0].X = 0 }, "x = 0"},
		{"x = 256", func(m *keyshare.Manifest) { m.Keepers[0].X = 256 }, "x = 256"},
		{"x twice", func(m *keyshare.Manifest) { m.Keepers[0].X = m.Keepers[1].X }, "each once"},
		{"share key twice", func(m *keyshare.Manifest) { m.Keepers[0].ShareKey = m.Keepers[1].ShareKey }, "share key"},
		{"share key short", func(m *keyshare.Manifest) { m.Keepers[0].ShareKey = m.Keepers[0].ShareKey[:31] }, "share key"},
		{"keeper name", func(m *keyshare.Manifest) { m.Keepers[0].Name = "../x" }, "name"},
		{"keeper twice", func(m *keyshare.Manifest) { m.Keepers[0].Name = m.Keepers[1].Name }, "twice"},
		{"SPKI in upper case", func(m *keyshare.Manifest) { m.Keepers[0].SPKI = strings.ToUpper(m.Keepers[0].SPKI) }, "digest"},
		{"one key, two roles", func(m *keyshare.Manifest) { m.Bridges[0].SPKI = m.Keepers[0].SPKI }, "same key"},
		{"bridge without workspaces", func(m *keyshare.Manifest) { m.Bridges[0].Workspaces = nil }, "no workspaces"},
		{"all and one workspace", func(m *keyshare.Manifest) { m.Bridges[0].Workspaces = []string{"*", workspace} }, "workspace"},
		{"workspace twice", func(m *keyshare.Manifest) { m.Bridges[0].Workspaces = []string{workspace, workspace} }, "twice"},
		{"workspaces unsorted", func(m *keyshare.Manifest) { m.Bridges[0].Workspaces = []string{workspace, otherSet} }, "order"},
		{"bridge twice", func(m *keyshare.Manifest) { m.Bridges = append(m.Bridges, m.Bridges[0]) }, "twice"},
		{"control plane's SPKI", func(m *keyshare.Manifest) { m.ControlPlanes[0].SPKI = "" }, "digest"},
		{"no sealing key", func(m *keyshare.Manifest) { m.SealingKeys = nil }, "0 current"},
		{"no current sealing key", func(m *keyshare.Manifest) { m.SealingKeys[0].Current = false }, "0 current"},
		{"sealing key under a false id", func(m *keyshare.Manifest) { m.SealingKeys[0].ID = digest("x") }, "id is not"},
		{"sealing key twice", func(m *keyshare.Manifest) { m.SealingKeys = append(m.SealingKeys, m.SealingKeys[0]) }, "twice"},
		{"sealing key not PEM", func(m *keyshare.Manifest) { m.SealingKeys[0].PEM = "x" }, "PEM"},
		{"sealing key with a tail", func(m *keyshare.Manifest) { m.SealingKeys[0].PEM += "x" }, "PEM"},
		{"digest short", func(m *keyshare.Manifest) { m.KeyringDigest = m.KeyringDigest[1:] }, "32 bytes"},
		{"no check value", func(m *keyshare.Manifest) { m.Check = nil }, "32 bytes"},
		{"next key is the key", func(m *keyshare.Manifest) { m.Bridges[0].Next = m.Bridges[0].SPKI }, "same key"},
		{"next key is another's", func(m *keyshare.Manifest) { m.Bridges[0].Next = m.Keepers[1].SPKI }, "same key"},
		{"next key is another's next", func(m *keyshare.Manifest) {
			m.Keepers[0].Next, m.ControlPlanes[0].Next = digest("next"), digest("next")
		}, "same key"},
		{"key is another's next", func(m *keyshare.Manifest) { m.Keepers[0].Next = m.ControlPlanes[0].SPKI }, "same key"},
		{"next key in upper case", func(m *keyshare.Manifest) { m.Keepers[0].Next = strings.ToUpper(digest("next")) }, "digest"},
		{"keeper's end in fractions", func(m *keyshare.Manifest) { m.Keepers[0].NotAfter = at(2026, 500) }, "whole seconds"},
		{"bridge's end elsewhere", func(m *keyshare.Manifest) {
			m.Bridges[0].NotAfter = new(at(2026, 0).In(time.FixedZone("", 3600)))
		}, "UTC"},
		{"control plane's end is none", func(m *keyshare.Manifest) { m.ControlPlanes[0].NotAfter = &time.Time{} }, "whole seconds"},
		{"current key to be retired", func(m *keyshare.Manifest) { m.SealingKeys[0].RetireAfter = at(2030, 0) }, "current"},
		{"retirement in fractions", func(m *keyshare.Manifest) {
			m.SealingKeys[0].RetireAfter = at(2030, 1)
		}, "whole seconds"},
		{"no time", func(m *keyshare.Manifest) { m.CreatedAt = time.Time{} }, "creation time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCustody(t, testSet, 3, 2)
			tt.change(c.manifest)
			if _, err := keyshare.Sign(c.root, c.manifest); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("sign: got %v, want %q", err, tt.want)
			}
			_, err := keyshare.Verify(c.public(), signPayload(t, c.root, marshal(t, c.manifest)))
			if err == nil || (tt.name != "format" && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("verify: got %v, want %q", err, tt.want)
			}
		})
	}
}

func at(year, nanoseconds int) *time.Time {
	return new(time.Date(year, 7, 1, 0, 0, 0, nanoseconds, time.UTC))
}

// Next keys and ends of enrolments survive signing, and are found.
func TestManifestRotationAndExpiry(t *testing.T) {
	c := newCustody(t, testSet, 3, 2)
	m := c.manifest
	m.Keepers[1].Next, m.Keepers[1].NotAfter = digest("keeper's next"), at(2027, 0)
	m.Bridges[0].Next, m.Bridges[0].NotAfter = digest("bridge's next"), at(2026, 0)
	m.ControlPlanes[0].Next = digest("control plane's next")
	got, err := keyshare.Verify(c.public(), c.sign(t, m))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
	k, b, p := got.Keepers[1], got.Bridges[0], got.ControlPlanes[0]
	for spki, is := range map[string][3]bool{
		k.SPKI: {0: true}, k.Next: {0: true}, b.SPKI: {1: true}, b.Next: {1: true}, p.SPKI: {2: true}, p.Next: {2: true},
		"": {}, got.Keepers[0].SPKI: {}, digest("x"): {},
	} {
		if got := [3]bool{k.Is(spki), b.Is(spki), p.Is(spki)}; got != is {
			t.Errorf("%q is keeper, bridge, control plane: %v, want %v", spki, got, is)
		}
	}
	if got.Keepers[0].Is("") {
		t.Error("no key is the next one of a keeper that has none")
	}
	ends := []keyshare.Expiry{{"bridge", b.Name, *b.NotAfter}, {"keeper", k.Name, *k.NotAfter}}
	for year, want := range map[int][]keyshare.Expiry{2025: nil, 2026: ends[:1], 2027: ends, 2028: ends} {
		if diff := cmp.Diff(want, got.Expiring(*at(year, 0))); diff != "" {
			t.Errorf("by %d: %s", year, diff)
		}
	}
}

func TestSignRefusesAWrongKey(t *testing.T) {
	if _, err := keyshare.Sign(nil, newCustody(t, testSet, 3, 2).manifest); err == nil {
		t.Error("signed without a key")
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "keeper-1", "eu.bridge_2", strings.Repeat("a", 63)} {
		if err := keyshare.CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "A", "a b", "a/b", "a\n", "..", strings.Repeat("a", 64), "é"} {
		if keyshare.CheckName(bad) == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func signature(t *testing.T, signed []byte) []byte {
	t.Helper()
	i := bytes.Index(signed, []byte(`"signature":`))
	if i < 0 {
		t.Fatal("no signature")
	}
	var sig []byte
	unmarshal(t, signed[i+len(`"signature":`):len(signed)-1], &sig)
	return slices.Clone(sig)
}

// FuzzVerify signs arbitrary payloads, so that the parser behind the signature is
// reached: whatever it accepts must be what it would write itself.
func FuzzVerify(f *testing.F) {
	c := newCustody(f, testSet, 3, 2)
	f.Add(marshal(f, c.manifest))
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, err := keyshare.Verify(c.public(), signPayload(t, c.root, payload))
		if err == nil && !bytes.Equal(marshal(t, m), bytes.TrimSpace(payload)) {
			t.Error("accepted a spelling that is not its own")
		}
		// Unsigned, by the same rules.
		if p, perr := keyshare.ParseManifest(payload); (perr == nil) != (err == nil) || !cmp.Equal(m, p) {
			t.Errorf("parsed as %v, %v; verified as %v, %v", p, perr, m, err)
		}
	})
}

// FuzzSigned feeds the envelope: nothing but the genuine document verifies.
func FuzzSigned(f *testing.F) {
	c := newCustody(f, testSet, 3, 2)
	good := c.sign(f, c.manifest)
	f.Add(good)
	f.Add([]byte(`{"payload":"","signature":""}`))
	f.Fuzz(func(t *testing.T, signed []byte) {
		if _, err := keyshare.Verify(c.public(), signed); err == nil && !bytes.Equal(bytes.TrimSpace(signed), good) {
			t.Error("a document verifies that the root did not sign")
		}
	})
}
