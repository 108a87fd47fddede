package api

import (
	"time"

	"keybridge/store"
)

// aiKeyItem is an AI key as the API shows it.
type aiKeyItem struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	RepoID    string     `json:"repoId"`
	Key       string     `json:"key"`
	AIType    string     `json:"aiType"`
	CreatedAt time.Time  `json:"createdAt"`
	DeletedAt *time.Time `json:"deletedAt"` // always null: deleted keys are not listed
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	Disabled  bool       `json:"disabled"`
	Version   uint64     `json:"version"`
}

func (s *server) createAIKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := &keyForm{name: b.text("name"), expires: b.time("expiresAt")}
	typ := b.text("aiType")
	if *b.err != nil {
		return nil, *b.err
	}
	if err := checkName(f.name); err != nil {
		return nil, err
	}
	if f.typ, err = aiType(typ); err != nil {
		return nil, err
	}
	if f.creation, err = q.creation(b); err != nil {
		return nil, err
	}
	return s.createKey(q, f)
}

func (s *server) listAIKeys(q *call) (any, error) {
	keys, err := s.keysOf(q)
	return struct {
		Success bool        `json:"success"`
		APIKeys []aiKeyItem `json:"apiKeys"`
	}{true, showAIKeys(keys)}, err
}

func (s *server) updateAIKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := &keyForm{name: b.text("name"), expires: b.time("expiresAt"), disabled: b.boolean("disabled")}
	if *b.err != nil {
		return nil, *b.err
	}
	return s.changeKey(q, f, true)
}

func (s *server) deleteAIKey(q *call) (any, error) { return s.deleteKey(q, true) }

func showAIKeys(keys []*store.Key) []aiKeyItem {
	items := []aiKeyItem{}
	for _, k := range newestFirst(keys, true) {
		items = append(items, aiKeyItem{ID: k.M.ID, Name: k.Name, RepoID: k.Repository, Key: k.Key, AIType: string(k.Type),
			CreatedAt: k.M.CreatedAt, ExpiresAt: k.ExpiresAt, Disabled: k.Disabled, Version: k.M.Version})
	}
	return items
}
