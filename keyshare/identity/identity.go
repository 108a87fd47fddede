package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"keybridge/keyshare"
)

// Role is what an enrolled process is. One key has one role.
type Role string

// The roles of DESIGN §2.
const (
	RoleKeeper  Role = "keeper"
	RoleBridge  Role = "bridge"
	RoleControl Role = "control"
	// RoleOperator is nobody's enrolled role: it is that of an operator's session
	// (NewOperatorSession), for as long as its certificate is valid.
	RoleOperator Role = "operator"
)

// check refuses roles that cannot be enrolled.
func (r Role) check() error {
	switch r {
	case RoleKeeper, RoleBridge, RoleControl:
		return nil
	}
	return fmt.Errorf("role %q: want keeper, bridge or control", string(r))
}

// Identity is a process's own key with the role and name it was made for. It
// prints as its public parts. It is safe for concurrent use; its key may be replaced
// while it runs, see Follow.
type Identity struct {
	role    Role
	name    string
	path    string // of its file; "" : it has none
	current atomic.Pointer[material]
	// replaces is the fingerprint of the key whose Next it is; "" : it is nobody's.
	replaces string
}

// material is a key with what is made of it. Immutable.
type material struct {
	key         ed25519.PrivateKey
	spki        []byte // DER
	certificate tls.Certificate
}

const pemType = "PRIVATE KEY"

// Create makes a key and writes it to path: PKCS #8 in PEM, mode 0600, with role
// and name as PEM headers. An existing file is never overwritten (fs.ErrExist),
// because its key may be enrolled.
func Create(path string, role Role, name string) (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	id, err := newIdentity(role, name, key)
	if err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	block := pem.Block{Type: pemType, Headers: map[string]string{"Role": string(role), "Name": name}, Bytes: der}
	if err := CreatePrivate(path, pem.EncodeToMemory(&block)); err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	id.path = path
	return id, nil
}

// Load reads what Create wrote. A file that group or others can read or write is
// refused.
func Load(path string) (*Identity, error) {
	b, err := ReadPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(rest) != 0 {
		return nil, fmt.Errorf("load identity: %s: want one PEM block %q", path, pemType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: not a PKCS #8 key", path) // the parser's text could quote the key
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load identity: %s: a %T, want Ed25519", path, key)
	}
	id, err := newIdentity(Role(block.Headers["Role"]), block.Headers["Name"], ed)
	if err != nil {
		return nil, fmt.Errorf("load identity: %s: %w", path, err)
	}
	id.path = path
	return id, nil
}

func newIdentity(role Role, name string, key ed25519.PrivateKey) (*Identity, error) {
	if err := role.check(); err != nil {
		return nil, err
	}
	if err := keyshare.CheckName(name); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	certificate, err := newCertificate(role, name, key)
	if err != nil {
		return nil, err
	}
	id := &Identity{role: role, name: name}
	id.current.Store(&material{key: key, spki: spki, certificate: certificate})
	return id, nil
}

// Role is the role that the identity was made for.
func (id *Identity) Role() Role { return id.role }

// Name is the name that the identity was made for.
func (id *Identity) Name() string { return id.name }

// Fingerprint is what the manifest enrols: hex SHA-256 of the public key's SPKI.
func (id *Identity) Fingerprint() string { return fingerprint(id.current.Load().spki) }

// PublicKey is the DER SubjectPublicKeyInfo that Fingerprint digests.
func (id *Identity) PublicKey() []byte { return bytes.Clone(id.current.Load().spki) }

// String shows the public parts; Format keeps %+v and %#v from showing the key.
func (id *Identity) String() string { return string(id.role) + "/" + id.name }

// Format implements fmt.Formatter.
func (id *Identity) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(id.String())) }

// Sign signs msg for one purpose: Ed25519 over the length-prefixed domain and
// msg, so that no signature made for one domain holds in another. Peer.Verify is
// its counterpart.
func (id *Identity) Sign(domain string, msg []byte) []byte {
	return ed25519.Sign(id.current.Load().key, keyshare.Transcript(domain, msg))
}

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// ParseRoot reads the operator root's public half as operators configure it: PEM
// ("PUBLIC KEY", Ed25519) or base64 of the 32 bytes.
func ParseRoot(b []byte) (ed25519.PublicKey, error) {
	if block, rest := pem.Decode(b); block != nil {
		if block.Type != "PUBLIC KEY" || len(rest) != 0 {
			return nil, errors.New("operator root: want one PEM block PUBLIC KEY")
		}
		return parseSPKI(block.Bytes)
	}
	text := strings.TrimSpace(string(b))
	if base64.StdEncoding.DecodedLen(len(text)) < 1024 {
		if raw, err := base64.StdEncoding.Strict().DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
			return raw, nil
		}
	}
	return nil, errors.New("operator root: want an Ed25519 public key, in PEM or as base64 of its 32 bytes")
}

// parseSPKI reads a DER SubjectPublicKeyInfo of an Ed25519 key, in the one
// encoding that DER allows: a fingerprint must have one key and a key one
// fingerprint.
func parseSPKI(der []byte) (ed25519.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	ed, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key: a %T, want Ed25519", key)
	}
	again, err := x509.MarshalPKIXPublicKey(ed)
	if err != nil || string(again) != string(der) {
		return nil, errors.New("public key: not in canonical DER")
	}
	return ed, nil
}
