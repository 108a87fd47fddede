package api

import (
	"time"

	"keybridge/store"
)

// storageKeyItem is a storage key as the API shows it.
type storageKeyItem struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	AccessType string     `json:"accessType"`
	Key        string     `json:"key"`
	CreatedAt  time.Time  `json:"createdAt"`
	ExpiresAt  *time.Time `json:"expiresAt,omitempty"`
	Disabled   bool       `json:"disabled"`
	Version    uint64     `json:"version"`
}

func readStorageKeyForm(b *body) (*keyForm, error) {
	f := &keyForm{typ: store.TypeS3, name: b.text("name"), access: store.Access(b.text("accessType")), expires: b.time("expiresAt"),
		disabled: b.boolean("disabled")}
	if f.access != "" && rank(f.access) == 0 {
		b.fail("accessType", "must be READ, WRITE or ADMIN")
	}
	return f, *b.err
}

func (s *server) createStorageKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f, err := readStorageKeyForm(b)
	if err != nil {
		return nil, err
	}
	if err := checkName(f.name); err != nil {
		return nil, err
	}
	if f.access == "" {
		return nil, badField("accessType", "is required: READ, WRITE or ADMIN")
	}
	if f.creation, err = q.creation(b); err != nil {
		return nil, err
	}
	return s.createKey(q, f)
}

func (s *server) listStorageKeys(q *call) (any, error) {
	keys, err := s.keysOf(q)
	return struct {
		Success bool             `json:"success"`
		Keys    []storageKeyItem `json:"keys"`
	}{true, showStorageKeys(keys)}, err
}

func (s *server) updateStorageKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f, err := readStorageKeyForm(b)
	if err != nil {
		return nil, err
	}
	return s.changeKey(q, f, false)
}

func (s *server) deleteStorageKey(q *call) (any, error) { return s.deleteKey(q, false) }

func showStorageKeys(keys []*store.Key) []storageKeyItem {
	items := []storageKeyItem{}
	for _, k := range newestFirst(keys, false) {
		items = append(items, storageKeyItem{ID: k.M.ID, Name: k.Name, AccessType: string(k.Access), Key: k.Key,
			CreatedAt: k.M.CreatedAt, ExpiresAt: k.ExpiresAt, Disabled: k.Disabled, Version: k.M.Version})
	}
	return items
}
