package keyshare

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/google/uuid"
)

// validName is what an enrolled process may be called. The name becomes the last
// segment of a SPIFFE ID (SPIFFE-ID §2.2 allows letters, digits, ".", "-", "_"),
// a log field and an xDS node id; upper case is left out so that names differ
// visibly.
var validName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$`)

// CheckName refuses names that no manifest may carry.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: want 1 to 63 of a-z, 0-9, '.', '-', '_', with a letter or digit at both ends", name)
	}
	return nil
}

const recipientSize = 32 // X25519 public key, RFC 9180 §7.1

// validate checks everything that a manifest promises on its own. It runs before
// signing, so that a mistake is found in the ceremony, and after verifying, so
// that the rest of the program may rely on it.
func (m *Manifest) validate() error {
	if m.Format != ManifestFormat {
		return fmt.Errorf("manifest: format %d, want %d", m.Format, ManifestFormat)
	}
	if m.Version == 0 || m.Epoch == 0 || m.Epoch > m.Version {
		return fmt.Errorf("manifest: version %d and epoch %d: want 1 ≤ epoch ≤ version", m.Version, m.Epoch)
	}
	if err := checkUUID(m.Set); err != nil {
		return fmt.Errorf("manifest: set: %w", err)
	}
	if err := checkQuorum(m.Shares, m.Threshold); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if len(m.KeyringDigest) != sha256.Size || len(m.Check) != sha256.Size {
		return errors.New("manifest: keyring digest and check value: want 32 bytes each")
	}
	if err := checkTime(&m.CreatedAt); err != nil {
		return fmt.Errorf("manifest: creation time: %w", err)
	}
	if err := m.validatePeers(); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := m.validateSealingKeys(); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

func (m *Manifest) validatePeers() error {
	if len(m.Keepers) != m.Shares {
		return fmt.Errorf("%d keepers for %d shares", len(m.Keepers), m.Shares)
	}
	// One key, one role: otherwise a stolen keeper key could also speak as a bridge.
	spkis := make(map[string]string)
	enrol := func(names map[string]bool, role, name, spki, next string, notAfter *time.Time) error {
		if err := CheckName(name); err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		if names[name] {
			return fmt.Errorf("%s %s is listed twice", role, name)
		}
		names[name] = true
		keys := []string{spki}
		if next != "" {
			keys = append(keys, next)
		}
		for _, key := range keys {
			if err := checkDigest(key); err != nil {
				return fmt.Errorf("%s %s: SPKI: %w", role, name, err)
			}
			if other, ok := spkis[key]; ok {
				return fmt.Errorf("%s %s has the same key as %s", role, name, other)
			}
			spkis[key] = role + " " + name
		}
		if err := checkTime(notAfter); err != nil {
			return fmt.Errorf("%s %s: end of its enrolment: %w", role, name, err)
		}
		return nil
	}
	xs, shareKeys, names := make(map[int]bool), make(map[string]bool), make(map[string]bool)
	for _, k := range m.Keepers {
		if err := enrol(names, "keeper", k.Name, k.SPKI, k.Next, k.NotAfter); err != nil {
			return err
		}
		if k.X < 1 || k.X > 255 || xs[k.X] {
			return fmt.Errorf("keeper %s: x = %d: want 1 to 255, each once", k.Name, k.X)
		}
		if len(k.ShareKey) != ed25519.PublicKeySize || shareKeys[string(k.ShareKey)] {
			return fmt.Errorf("keeper %s: share key: want an Ed25519 public key of its own", k.Name)
		}
		if len(k.Recipient) != recipientSize {
			return fmt.Errorf("keeper %s: recipient of %d bytes, want an X25519 public key of %d", k.Name, len(k.Recipient), recipientSize)
		}
		xs[k.X], shareKeys[string(k.ShareKey)] = true, true
	}
	names = make(map[string]bool)
	for _, b := range m.Bridges {
		if err := enrol(names, "bridge", b.Name, b.SPKI, b.Next, b.NotAfter); err != nil {
			return err
		}
		if err := checkWorkspaces(b.Workspaces); err != nil {
			return fmt.Errorf("bridge %s: %w", b.Name, err)
		}
	}
	names = make(map[string]bool)
	for _, c := range m.ControlPlanes {
		if err := enrol(names, "control plane", c.Name, c.SPKI, c.Next, c.NotAfter); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) validateSealingKeys() error {
	current, ids := 0, make(map[string]bool)
	for _, k := range m.SealingKeys {
		block, rest := pem.Decode([]byte(k.PEM))
		if block == nil || block.Type != "PUBLIC KEY" || len(block.Headers) != 0 || len(rest) != 0 {
			return fmt.Errorf("sealing key %q: want one PEM block PUBLIC KEY", k.ID)
		}
		if sum := sha256.Sum256(block.Bytes); k.ID != hex.EncodeToString(sum[:]) {
			return fmt.Errorf("sealing key %q: its id is not the SHA-256 of its key", k.ID)
		}
		if k.Suite == 0 || ids[k.ID] {
			return fmt.Errorf("sealing key %s: no suite, or listed twice", k.ID)
		}
		ids[k.ID] = true
		if err := checkTime(k.RetireAfter); err != nil {
			return fmt.Errorf("sealing key %s: when it may be retired: %w", k.ID, err)
		}
		if k.Current && k.RetireAfter != nil {
			return fmt.Errorf("sealing key %s is current and is to be retired", k.ID)
		}
		if k.Current {
			current++
		}
	}
	if current != 1 {
		return fmt.Errorf("%d current sealing keys, want exactly one", current)
	}
	return nil
}

// checkWorkspaces wants sorted entries: then each occurs once, and two manifests
// that mean the same are the same.
func checkWorkspaces(ws []string) error {
	if len(ws) == 1 && ws[0] == "*" {
		return nil
	}
	if len(ws) == 0 {
		return errors.New(`no workspaces: list their UUIDs, or "*" for all`)
	}
	for i, w := range ws {
		if err := checkUUID(w); err != nil {
			return fmt.Errorf("workspace: %w", err)
		}
		if i > 0 && w == ws[i-1] {
			return fmt.Errorf("workspace %s is listed twice", w)
		}
	}
	if !slices.IsSorted(ws) {
		return errors.New("workspaces are not in ascending order")
	}
	return nil
}

// checkTime wants the one spelling of an instant that the manifest has; nil is none.
func checkTime(t *time.Time) error {
	if t != nil && (t.IsZero() || !t.Equal(t.Truncate(time.Second)) || t.Location() != time.UTC) {
		return errors.New("want whole seconds in UTC")
	}
	return nil
}

func checkUUID(s string) error {
	if u, err := uuid.Parse(s); err != nil || u.String() != s || u == uuid.Nil {
		return fmt.Errorf("%q is not a UUID in lower-case canonical form", s)
	}
	return nil
}

func checkDigest(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != s {
		return fmt.Errorf("%q is not a SHA-256 digest in lower-case hex", s)
	}
	return nil
}
