package api

import (
	"slices"
	"time"

	"keybridge/store"
)

// tokenItem is an admin token as the API shows it.
type tokenItem struct {
	ID        string                  `json:"id"`
	Name      string                  `json:"name"`
	Roles     map[string]store.Access `json:"roles"`
	CreatedAt time.Time               `json:"createdAt"`
	CreatedBy string                  `json:"createdBy,omitempty"` // the token that made it
	ExpiresAt *time.Time              `json:"expiresAt,omitempty"`
	Version   uint64                  `json:"version"`
}

// tokenAnswer shows a new token, once.
type tokenAnswer struct {
	Success bool   `json:"success"`
	ID      string `json:"id"`
	Token   issued `json:"token"`
}

func (a *tokenAnswer) wipe() { clear(a.Token) }

// maxRoles keeps a token's record, and the audit line of it, small.
const maxRoles = 100

// governs reports whether the caller is ADMIN wherever a token has a role: nobody
// gives, sees or takes what is beyond them.
func (q *call) governs(roles map[string]store.Access) bool {
	for workspace := range roles {
		if !q.may(workspace, store.AccessAdmin) {
			return false
		}
	}
	return true
}

func (s *server) createToken(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	name, expires, roles := b.text("name"), b.time("expiresAt"), map[string]store.Access{}
	for workspace, role := range b.texts("roles") {
		id, ok := parseID(workspace)
		if workspace == "*" {
			id, ok = workspace, true
		}
		if !ok || rank(store.Access(role)) == 0 {
			b.fail("roles", "maps workspace ids, or *, to READ, WRITE or ADMIN")
		}
		roles[id] = store.Access(role)
	}
	switch {
	case *b.err != nil:
		return nil, *b.err
	case len(roles) == 0:
		return nil, badField("roles", "is required: workspace ids, or *, with READ, WRITE or ADMIN")
	case len(roles) > maxRoles:
		return nil, badField("roles", "has more than %d entries", maxRoles)
	}
	creation, err := q.creation(b)
	if err != nil {
		return nil, err
	}
	token, made, err := NewToken(name, roles)
	if err != nil {
		return nil, err
	}
	made.M, made.ExpiresAt = newMeta(q, made.M.ID, "", creation), expires
	answer := &tokenAnswer{Success: true, ID: made.M.ID, Token: issued(token)}
	err = s.commit(q, func() ([]store.Write, error) {
		if !q.governs(roles) {
			return nil, errForbidden
		}
		earlier, found, err := replay[*store.Token](q.Context(), s, creation)
		if err != nil {
			return nil, err
		}
		if found {
			return nil, shownOnce("a token", earlier.M.ID)
		}
		for workspace := range roles {
			if workspace == "*" {
				continue
			}
			if _, err := live[*store.Workspace](q.Context(), s, workspace, "workspace"); err != nil {
				return nil, err
			}
		}
		if expires != nil && !expires.After(s.Clock()) {
			return nil, badField("expiresAt", "has passed")
		}
		rec := *made
		q.version = 1
		return []store.Write{store.Put(&rec)}, nil
	})
	if err != nil {
		answer.wipe()
		return nil, err
	}
	return answer, nil
}

func (s *server) listTokens(q *call) (any, error) {
	list, err := all[*store.Token](q.Context(), s, "")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, oldestFirst[*store.Token])
	items := []tokenItem{}
	for _, t := range list {
		if q.governs(t.Roles) {
			items = append(items, tokenItem{t.M.ID, t.Name, t.Roles, t.M.CreatedAt, t.M.CreatedBy, t.ExpiresAt, t.M.Version})
		}
	}
	return struct {
		Success bool        `json:"success"`
		Tokens  []tokenItem `json:"tokens"`
	}{true, items}, nil
}

// deleteToken revokes a token, which may be the caller's own, but for the last
// that can do everything: nobody could make another.
func (s *server) deleteToken(q *call) (any, error) {
	err := s.commit(q, func() ([]store.Write, error) {
		id, ok := parseID(q.PathValue("id"))
		if !ok {
			return nil, notFound("token")
		}
		t, err := live[*store.Token](q.Context(), s, id, "token")
		if err != nil {
			return nil, err
		}
		if !q.governs(t.Roles) {
			return nil, errForbidden
		}
		if err := q.match(&t.M); err != nil {
			return nil, err
		}
		if omnipotent(t) {
			others, err := all[*store.Token](q.Context(), s, "")
			if err != nil {
				return nil, err
			}
			if !slices.ContainsFunc(others, func(o *store.Token) bool { return o.M.ID != id && omnipotent(o) }) {
				return nil, conflict("LAST_ADMIN", "it is the last token without end that is ADMIN of all workspaces; make another first")
			}
		}
		return []store.Write{s.remove(t)}, nil
	})
	return done{true}, err
}

// omnipotent reports whether a token is ADMIN of everything for ever.
func omnipotent(t *store.Token) bool { return t.Roles["*"] == store.AccessAdmin && t.ExpiresAt == nil }
