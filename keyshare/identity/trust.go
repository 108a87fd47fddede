package identity

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"keybridge/keyshare"
)

// ErrStale means that a manifest is genuine but older than the one in force.
var ErrStale = errors.New("older than the manifest in force")

// Trust is the newest manifest known to this process and the root it verifies
// under. It is safe for concurrent use.
type Trust struct {
	root ed25519.PublicKey
	path string // "" : in memory only

	// Clock is time.Now, except in tests; set before use.
	Clock func() time.Time

	mu   sync.Mutex // serialises Update, Refresh and Follow
	seen os.FileInfo
	own  []*Identity // that follow
	cur  atomic.Pointer[verified]
}

// verified is one manifest that verified, with the bytes that did; the first is
// none. Immutable.
type verified struct {
	manifest *keyshare.Manifest
	signed   []byte
	replaced chan struct{} // closed once another is in force
}

// NewTrust trusts nobody until the first Update.
func NewTrust(root ed25519.PublicKey) *Trust {
	t := &Trust{root: slices.Clone(root)}
	t.cur.Store(&verified{replaced: make(chan struct{})})
	return t
}

// OpenTrust keeps the newest manifest in a file: Update replaces it in one step, so that a restart does not forget a revocation, and a newer one that
// an operator puts there is taken up at the next Refresh, handshake or call of
// Peer. The file need not exist yet.
func OpenTrust(root ed25519.PublicKey, path string) (*Trust, error) {
	t := NewTrust(root)
	t.path = path
	if err := t.Refresh(); err != nil {
		return nil, err
	}
	return t, nil
}

// Manifest is the manifest in force, nil before the first. Read only.
func (t *Trust) Manifest() *keyshare.Manifest { return t.cur.Load().manifest }

// Signed is the JSON of the signed manifest in force, for others to verify; nil
// before the first. Read only.
func (t *Trust) Signed() []byte { return t.cur.Load().signed }

// Changed is closed once the manifest in force is another one. Ask for it before
// Manifest, so that no change goes unseen in between.
func (t *Trust) Changed() <-chan struct{} { return t.cur.Load().replaced }

// Update adopts a signed manifest if it verifies and is newer, and reports whether
// the one in force changed. An older one is refused (ErrStale), and so is one that
// contradicts it: another document of the same version, a lower epoch, or other
// shares in the same epoch. A manifest that cannot be saved, or whose news for an
// own identity cannot (Identity.Follow), is in force all the same, since forgetting
// a revocation is worse than holding it in memory only: then changed is true beside
// the error.
func (t *Trust) Update(signed []byte) (changed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed, err = t.adopt(signed)
	if !changed || t.path == "" {
		return changed, err
	}
	if e := WritePrivate(t.path, t.Signed()); e != nil {
		return true, errors.Join(err, fmt.Errorf("the new manifest is in force but not saved: %w", e))
	}
	if st, err := os.Stat(t.path); err == nil {
		t.seen = st
	}
	return true, err
}

// Refresh reads the file behind OpenTrust again if it changed. An unusable or
// older file is an error and leaves the manifest in force as it is.
func (t *Trust) Refresh() error {
	if t.path == "" {
		return nil
	}
	st, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// A replaced file is another inode; one rewritten in place has another time or size.
	if t.seen != nil && os.SameFile(t.seen, st) && t.seen.ModTime().Equal(st.ModTime()) && t.seen.Size() == st.Size() {
		return nil
	}
	b, err := readPublic(t.path)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	changed, err := t.adopt(b)
	if changed || err == nil {
		t.seen = st
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	return nil
}

func (t *Trust) adopt(signed []byte) (bool, error) {
	m, err := keyshare.Verify(t.root, signed)
	if err != nil {
		return false, err
	}
	cur := t.cur.Load()
	switch old := cur.manifest; {
	case old == nil:
	case m.Version < old.Version:
		return false, fmt.Errorf("manifest version %d, in force is %d: %w", m.Version, old.Version, ErrStale)
	case m.Version == old.Version:
		if !sameDocument(m, old) {
			return false, fmt.Errorf("another manifest of version %d is in force: the operator root signed two", m.Version)
		}
		return false, nil
	case m.Epoch < old.Epoch:
		return false, fmt.Errorf("manifest version %d goes back from epoch %d to %d", m.Version, old.Epoch, m.Epoch)
	case m.Epoch == old.Epoch && !sameShares(m, old):
		return false, fmt.Errorf("manifest version %d has other shares in the same epoch %d", m.Version, m.Epoch)
	}
	t.cur.Store(&verified{manifest: m, signed: bytes.Clone(bytes.TrimSpace(signed)), replaced: make(chan struct{})})
	var errs []error
	for _, id := range t.own {
		errs = append(errs, id.rotate(m))
	}
	close(cur.replaced)
	return true, errors.Join(errs...)
}

func sameDocument(a, b *keyshare.Manifest) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// sameShares compares what an epoch fixes. A keeper's name and identity key may
// change within it (a new machine, the same share), its share may not.
func sameShares(a, b *keyshare.Manifest) bool {
	if a.Set != b.Set || a.Threshold != b.Threshold || a.Shares != b.Shares || !bytes.Equal(a.Check, b.Check) {
		return false
	}
	keys := make(map[int]string, len(b.Keepers))
	for _, k := range b.Keepers {
		keys[k.X] = string(k.ShareKey)
	}
	for _, k := range a.Keepers {
		if keys[k.X] != string(k.ShareKey) {
			return false
		}
	}
	return true
}

// Peer is an enrolled process, or an operator's session, at the other end of a connection.
type Peer struct {
	Role Role
	Name string
	SPKI string
	// Key is the public key that it proved to have.
	Key ed25519.PublicKey
	// Workspaces are those of a bridge, as the manifest lists them.
	Workspaces []string
	// Until is when its enrolment, or session, ends by itself; zero: never.
	Until time.Time
}

// Verify checks a signature that the peer's Identity.Sign made.
func (p Peer) Verify(domain string, msg, sig []byte) bool { return verify(p.Key, domain, msg, sig) }

// ErrNotEnrolled means that a peer's key is not in the manifest in force in any
// role that is accepted.
var ErrNotEnrolled = errors.New("not enrolled in the manifest in force")

// Peer says who calls, from the TLS connection under a gRPC call, as the manifest
// in force at this moment has it: a peer removed since the handshake is refused.
// It may be of any role, RoleOperator included: the caller asks for the one it serves.
func (t *Trust) Peer(ctx context.Context) (Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, errors.New("no peer: not a gRPC call")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Peer{}, errors.New("peer did not come over TLS")
	}
	return t.verify(info.State, "", RoleKeeper, RoleBridge, RoleControl, RoleOperator)
}

// verify finds the peer of a connection in the manifest in force. It refreshes
// first; a file that cannot be used leaves the last good manifest in force, which
// is the safe reading of "newest known".
func (t *Trust) verify(cs tls.ConnectionState, name string, accept ...Role) (Peer, error) {
	if len(cs.PeerCertificates) != 1 {
		return Peer{}, fmt.Errorf("peer sent %d certificates, want 1", len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	key, err := parseSPKI(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return Peer{}, fmt.Errorf("peer: %w", err)
	}
	_ = t.Refresh()
	p, ok := t.lookup(fingerprint(cert.RawSubjectPublicKeyInfo))
	if !ok && claimsOperator(cert) && slices.Contains(accept, RoleOperator) && name == "" {
		return t.operator(cert, key)
	}
	// From here on only enrolment counts, so that no enrolled key is ever an operator's.
	if !ok || !slices.Contains(accept, p.Role) {
		return Peer{}, fmt.Errorf("peer with key %s, accepted roles %v: %w", fingerprint(cert.RawSubjectPublicKeyInfo), accept, ErrNotEnrolled)
	}
	if err := t.ended(p); err != nil {
		return Peer{}, err
	}
	p.Key = key
	// The manifest decides; a certificate that says otherwise is a process that
	// believes to be someone else, and better stopped than mislabelled in logs.
	if len(cert.URIs) != 1 || cert.URIs[0].String() != spiffeID(p.Role, p.Name).String() {
		return Peer{}, fmt.Errorf("peer is enrolled as %s %s but its certificate names %v", p.Role, p.Name, cert.URIs)
	}
	if name != "" && p.Name != name {
		return Peer{}, fmt.Errorf("peer is %s %s, want %s: %w", p.Role, p.Name, name, ErrNotEnrolled)
	}
	return p, nil
}

func (t *Trust) now() time.Time {
	if t.Clock != nil {
		return t.Clock()
	}
	return time.Now()
}

// lookAtClock bounds for how long it goes unnoticed that the wall clock was set: timers
// run by the monotonic clock.
const lookAtClock = time.Minute

// At fires when the wall clock shows until, or a little later; and before that now and
// then, for who waits to look again.
func (t *Trust) At(until time.Time) <-chan time.Time {
	return time.After(min(until.Sub(t.now()), lookAtClock))
}

// Enrolled says until when the manifest in force lists an own identity, zero for ever,
// or ErrNotEnrolled.
func (t *Trust) Enrolled(id *Identity) (until time.Time, err error) {
	t.mu.Lock() // not between a new manifest and what it means for id's key
	defer t.mu.Unlock()
	p, ok := t.lookup(id.Fingerprint())
	if !ok || p.Role != id.role || p.Name != id.name {
		return until, fmt.Errorf("%s %s: %w", id.role, id.name, ErrNotEnrolled)
	}
	return p.Until, t.ended(p)
}

// ended is the error of a peer whose enrolment has ended by itself.
func (t *Trust) ended(p Peer) error {
	if p.Until.IsZero() || t.now().Before(p.Until) {
		return nil
	}
	return fmt.Errorf("%s %s: its enrolment ended at %s: %w", p.Role, p.Name, p.Until.Format(time.RFC3339), ErrNotEnrolled)
}

// lookup finds who a key belongs to, also one whose enrolment has ended.
func (t *Trust) lookup(spki string) (Peer, bool) {
	m := t.Manifest()
	if m == nil {
		return Peer{}, false
	}
	p := Peer{SPKI: spki}
	is := func(role Role, name string, until *time.Time) (Peer, bool) {
		p.Role, p.Name = role, name
		if until != nil {
			p.Until = *until
		}
		return p, true
	}
	for _, b := range m.Bridges {
		if b.Is(spki) {
			p.Workspaces = slices.Clone(b.Workspaces)
			return is(RoleBridge, b.Name, b.NotAfter)
		}
	}
	for _, k := range m.Keepers {
		if k.Is(spki) {
			return is(RoleKeeper, k.Name, k.NotAfter)
		}
	}
	for _, c := range m.ControlPlanes {
		if c.Is(spki) {
			return is(RoleControl, c.Name, c.NotAfter)
		}
	}
	return Peer{}, false
}
