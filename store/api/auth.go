package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/google/uuid"

	"keybridge/store"
)

// tokenPrefix lets scanners of leaked secrets recognise an admin token.
const tokenPrefix = "kbt-"

const (
	upperDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	lowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	base62      = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	// secret256 is how many base62 characters carry 256 bits.
	secret256 = 43
)

// NewToken makes an admin token and the record that recognises it, to be stored
// with store.Put. Roles maps a workspace id, or "*" for all of them, to a role.
func NewToken(name string, roles map[string]store.Access) (token string, rec *store.Token, err error) {
	if err := checkName(name); err != nil {
		return "", nil, err
	}
	if len(roles) == 0 {
		return "", nil, errors.New("admin token: it has no role")
	}
	for workspace, role := range roles {
		if id, ok := parseID(workspace); workspace != "*" && (!ok || id != workspace) {
			return "", nil, fmt.Errorf("admin token: %q is neither a workspace id nor *", workspace)
		}
		if rank(role) == 0 {
			return "", nil, fmt.Errorf("admin token: unknown role %q", role)
		}
	}
	secret := append([]byte(tokenPrefix), random(base62, secret256)...)
	defer clear(secret)
	hash := sha256.Sum256(secret)
	return string(secret), &store.Token{M: store.Meta{ID: uuid.NewString()}, Name: name, Hash: hash[:], Roles: roles}, nil
}

// admit is authenticate for those who are not too fast. After too many wrong tokens
// from an address, nobody there is heard before a while has passed, so that
// guessing is slow; but for tokens that were right before: behind a proxy all
// callers have one address, and one who guesses must not shut out the others.
func (s *server) admit(q *call) (*store.Token, error) {
	now, client := s.Clock(), clientAddress(q.Request)
	hash, present := bearer(q.Request)
	if wait := s.failures.wait(client, now); wait > 0 && !s.known.has(hash) {
		return nil, q.tooMany(wait, "too many wrong tokens came from this address")
	}
	if !present {
		return nil, errUnauthorized
	}
	token, err := s.authenticate(q.Context(), hash)
	if err != nil {
		if errors.Is(err, errUnauthorized) {
			s.known.remove(hash)
			s.failures.take(client, now)
		}
		return nil, err
	}
	s.known.add(hash)
	if wait := s.requests.take(token.M.ID, now); wait > 0 {
		return nil, q.tooMany(wait, "this token makes too many requests")
	}
	return token, nil
}

type tokenHash [sha256.Size]byte

// tokenSet remembers a bounded number of tokens by their hashes.
type tokenSet struct {
	mu  sync.Mutex
	set map[tokenHash]struct{}
}

const maxKnown = 4096

func (t *tokenSet) has(h tokenHash) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.set[h]
	return ok
}

func (t *tokenSet) add(h tokenHash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old := range t.set {
		if len(t.set) < maxKnown {
			break
		}
		delete(t.set, old)
	}
	t.set[h] = struct{}{}
}

func (t *tokenSet) remove(h tokenHash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.set, h)
}

// bearer is the hash of the one token that a request comes with.
func bearer(r *http.Request) (hash tokenHash, present bool) {
	header := r.Header.Values("Authorization")
	if len(header) != 1 {
		return hash, false
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return hash, false
	}
	return sha256.Sum256([]byte(strings.TrimLeft(token, " "))), true
}

// authenticate finds a token by its hash. All reasons for refusing look the same.
func (s *server) authenticate(ctx context.Context, hash tokenHash) (*store.Token, error) {
	rec, err := s.Store.ByUnique(ctx, store.TokenName(hash[:]))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errUnauthorized
	}
	if err != nil {
		return nil, err
	}
	t, ok := rec.(*store.Token)
	if !ok || subtle.ConstantTimeCompare(t.Hash, hash[:]) != 1 || t.M.DeletedAt != nil ||
		t.ExpiresAt != nil && !s.Clock().Before(*t.ExpiresAt) {
		return nil, errUnauthorized
	}
	return t, nil
}

// random returns n characters of an alphabet, each equally likely.
func random(alphabet string, n int) []byte {
	out := make([]byte, 0, n)
	limit := 256 - 256%len(alphabet) // bytes from here on would favour the alphabet's beginning
	var buf [64]byte
	defer clear(buf[:])
	for {
		_, _ = rand.Read(buf[:]) // never fails: crypto/rand ends the process instead
		for _, b := range buf {
			if int(b) >= limit {
				continue
			}
			if out = append(out, alphabet[int(b)%len(alphabet)]); len(out) == n {
				return out
			}
		}
	}
}
