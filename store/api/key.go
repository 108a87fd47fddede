package api

import (
	"crypto/sha256"
	"slices"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// This file is what storage keys (storagekey.go) and AI keys (aikey.go) share.

// keyAnswer is the only answer that ever holds a secret.
type keyAnswer struct {
	Success bool   `json:"success"`
	ID      string `json:"id"`
	Key     string `json:"key"`
	Secret  issued `json:"secret"`
}

func (a *keyAnswer) wipe() { clear(a.Secret) }

// keyForm is the body of a request that makes or changes a repository key.
type keyForm struct {
	name     string
	access   store.Access
	typ      store.ConnectorType
	expires  *time.Time
	disabled *bool
	creation *store.Creation
}

// newSecret makes the public id and the secret of a key, and what is sealed of it:
// of an AI key only the SHA-256, since a bearer secret need only be recognised.
func newSecret(ai bool) (use, id string, secret issued, sealed []byte) {
	if !ai {
		secret = random(base62, 40)
		return seal.UseS3Key, string(random(upperDigits, 20)), secret, secret
	}
	id = string(random(lowerDigits, 20))
	secret = slices.Concat([]byte("kb-"+id+"-"), random(base62, secret256))
	sum := sha256.Sum256(secret)
	return seal.UseAIKey, id, secret, sum[:]
}

// issueKey makes the key that decide describes, and seals it. The secret is
// returned and not kept. Of the Key only name, type, access, expiry and state are
// decide's to say; the writes are made together with the key's.
func (s *server) issueKey(q *call, ai bool, creation *store.Creation, decide func(r *store.Repository) (*store.Key, []store.Write, error)) (any, error) {
	use, id, secret, sealed := newSecret(ai)
	answer := &keyAnswer{Success: true, Key: id, Secret: secret}
	err := s.commit(q, func() ([]store.Write, error) {
		r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessWrite)
		if err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Key](q.Context(), s, creation)
		if err != nil {
			return nil, err
		}
		if found {
			return nil, shownOnce("key "+earlier.Key, earlier.M.ID)
		}
		k, writes, err := decide(r)
		if err != nil {
			return nil, err
		}
		if k.ExpiresAt != nil && !k.ExpiresAt.After(s.Clock()) {
			return nil, badField("expiresAt", "has passed")
		}
		pub, err := s.currentKey()
		if err != nil {
			return nil, err
		}
		k.M, k.Repository, k.Key = newMeta(q, "", r.M.Workspace, creation), r.M.ID, id
		k.Sealed, err = seal.Seal(pub, seal.Header{
			Format: seal.Format, Workspace: r.M.Workspace, Type: seal.TypeRepositoryKey, Record: k.M.ID, Version: 1,
			Binding: seal.Binding{Use: use, Key: id, Repository: r.M.ID},
		}, sealed)
		if err != nil {
			return nil, err
		}
		answer.ID, q.version = k.M.ID, 1
		return append([]store.Write{store.Put(k)}, writes...), nil
	})
	if err != nil {
		clear(secret)
		return nil, err
	}
	return answer, nil
}

// shownOnce answers a repeated creation of something with a secret.
func shownOnce(what, id string) error {
	return conflict("SECRET_SHOWN_ONCE", "this request was answered before and made %s (id %s); its secret was shown then and is "+
		"not kept: if it is lost, delete it and make another", what, id)
}

// createKey makes a key as a form describes it.
func (s *server) createKey(q *call, f *keyForm) (any, error) {
	return s.issueKey(q, f.typ != store.TypeS3, f.creation, func(*store.Repository) (*store.Key, []store.Write, error) {
		return &store.Key{Name: f.name, Type: f.typ, Access: f.access, ExpiresAt: f.expires}, nil, nil
	})
}

// maxOverlap is how long a rotated key can stay valid beside the new one.
const maxOverlap = 30 * 24 * time.Hour

// rotateKey makes a key like the one that the path names, which ends now or after
// an overlap. The new one inherits an expiry, unless the request names another.
func (s *server) rotateKey(q *call, ai bool) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	overlap := time.Duration(b.integer("overlapSeconds", 0, 0, int(maxOverlap/time.Second))) * time.Second
	expires := b.time("expiresAt")
	if *b.err != nil {
		return nil, *b.err
	}
	creation, err := q.creation(b)
	if err != nil {
		return nil, err
	}
	q.did = "rotated"
	return s.issueKey(q, ai, creation, func(*store.Repository) (*store.Key, []store.Write, error) {
		old, err := s.addressedKey(q, ai)
		if err != nil {
			return nil, nil, err
		}
		k := &store.Key{Name: old.Name, Type: old.Type, Access: old.Access, Disabled: old.Disabled, ExpiresAt: old.ExpiresAt}
		if expires != nil {
			k.ExpiresAt = expires
		}
		if overlap == 0 {
			return k, []store.Write{s.remove(old)}, nil
		}
		if end := s.Clock().UTC().Add(overlap).Truncate(time.Second); old.ExpiresAt == nil || end.Before(*old.ExpiresAt) {
			old.ExpiresAt = &end
		}
		return k, []store.Write{store.Put(old)}, nil
	})
}

func (s *server) rotateStorageKey(q *call) (any, error) { return s.rotateKey(q, false) }

func (s *server) rotateAIKey(q *call) (any, error) { return s.rotateKey(q, true) }

// addressedKey reads the key that a path names, through its repository.
func (s *server) addressedKey(q *call, ai bool) (*store.Key, error) {
	r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessWrite)
	if err != nil {
		return nil, err
	}
	k, err := addressed[*store.Key](s, q, "keyId", "key", store.AccessWrite)
	if err != nil {
		return nil, err
	}
	if k.Repository != r.M.ID || (k.Type != store.TypeS3) != ai {
		return nil, notFound("key")
	}
	return k, q.match(&k.M)
}

// changeKey applies a change of a key's metadata.
func (s *server) changeKey(q *call, f *keyForm, ai bool) (any, error) {
	err := s.commit(q, func() ([]store.Write, error) {
		k, err := s.addressedKey(q, ai)
		if err != nil {
			return nil, err
		}
		if f.name != "" {
			k.Name = f.name
		}
		if f.access != "" {
			k.Access = f.access
		}
		if f.disabled != nil {
			k.Disabled = *f.disabled
		}
		if f.expires != nil {
			k.ExpiresAt = f.expires
		}
		if err := checkName(k.Name); err != nil {
			return nil, err
		}
		q.version = k.M.Version + 1
		return []store.Write{store.Put(k)}, nil
	})
	return done{true}, err
}

// deleteKey revokes a key and destroys what is sealed of it.
func (s *server) deleteKey(q *call, ai bool) (any, error) {
	err := s.commit(q, func() ([]store.Write, error) {
		k, err := s.addressedKey(q, ai)
		if err != nil {
			return nil, err
		}
		return []store.Write{s.remove(k)}, nil
	})
	return done{true}, err
}

// keysOf reads the keys of the repository in the path.
func (s *server) keysOf(q *call) ([]*store.Key, error) {
	r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessRead)
	if err != nil {
		return nil, err
	}
	keys, err := all[*store.Key](q.Context(), s, r.M.Workspace)
	return slices.DeleteFunc(keys, func(k *store.Key) bool { return k.Repository != r.M.ID }), err
}

// newestFirst returns the storage keys or the AI keys among keys.
func newestFirst(keys []*store.Key, ai bool) []*store.Key {
	var out []*store.Key
	for _, k := range keys {
		if (k.Type != store.TypeS3) == ai {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *store.Key) int { return oldestFirst(b, a) })
	return out
}
