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
	creation *store.Creation
}

// issueKey makes a key of the repository in the path. The secret is returned and
// not kept: what is sealed of an AI key is only its SHA-256, since a bearer secret
// need only be recognised.
func (s *server) issueKey(q *call, f *keyForm) (*keyAnswer, error) {
	ai := f.typ != store.TypeS3
	use, id, secret := seal.UseS3Key, string(random(upperDigits, 20)), random(base62, 40)
	sealed := secret
	if ai {
		use, id = seal.UseAIKey, string(random(lowerDigits, 20))
		clear(secret)
		secret = slices.Concat([]byte("kb-"+id+"-"), random(base62, secret256))
		sum := sha256.Sum256(secret)
		sealed = sum[:]
	}
	answer := &keyAnswer{Success: true, Key: id, Secret: secret}
	err := s.commit(q.Context(), func() ([]store.Write, error) {
		r, err := addressed[*store.Repository](s, q, "id", "repository", store.AccessWrite)
		if err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Key](q.Context(), s, f.creation)
		if err != nil {
			return nil, err
		}
		if found {
			return nil, conflict("SECRET_SHOWN_ONCE", "this request was answered before and made key %s (id %s); its secret was shown then and is "+
				"not kept: if it is lost, delete the key and make another", earlier.Key, earlier.M.ID)
		}
		if f.expires != nil && !f.expires.After(s.Clock()) {
			return nil, badField("expiresAt", "has passed")
		}
		pub, err := s.currentKey()
		if err != nil {
			return nil, err
		}
		k := &store.Key{
			M: newMeta(q, "", r.M.Workspace, f.creation), Name: f.name, Repository: r.M.ID, Type: f.typ, Key: id, Access: f.access, ExpiresAt: f.expires,
		}
		k.Sealed, err = seal.Seal(pub, seal.Header{
			Format: seal.Format, Workspace: r.M.Workspace, Type: seal.TypeRepositoryKey, Record: k.M.ID, Version: 1,
			Binding: seal.Binding{Use: use, Key: id, Repository: r.M.ID},
		}, sealed)
		if err != nil {
			return nil, err
		}
		answer.ID, q.version = k.M.ID, 1
		return []store.Write{store.Put(k)}, nil
	})
	if err != nil {
		clear(secret)
		return nil, err
	}
	return answer, nil
}

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
	err := s.commit(q.Context(), func() ([]store.Write, error) {
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
	err := s.commit(q.Context(), func() ([]store.Write, error) {
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
