package api

import (
	"slices"
	"time"

	"keybridge/store"
)

// workspaceItem is a workspace as the API shows it.
type workspaceItem struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
	Version   uint64    `json:"version"`
}

type workspaceAnswer struct {
	Success   bool          `json:"success"`
	Workspace workspaceItem `json:"workspace"`
}

func showWorkspace(w *store.Workspace) workspaceItem {
	return workspaceItem{ID: w.M.ID, Name: w.Name, CreatedAt: w.M.CreatedAt, Version: w.M.Version}
}

func (s *server) createWorkspace(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	name := b.text("name")
	if *b.err != nil {
		return nil, *b.err
	}
	creation, err := q.creation(b)
	if err != nil {
		return nil, err
	}
	var made *store.Workspace
	err = s.commit(q, func() ([]store.Write, error) {
		if err := q.require("*", store.AccessAdmin); err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Workspace](q.Context(), s, creation)
		if err != nil || found {
			made = earlier
			return nil, err
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		made = &store.Workspace{M: newMeta(q, "", "", creation), Name: name}
		return []store.Write{store.Put(made)}, nil
	})
	if err != nil {
		return nil, err
	}
	q.version = made.M.Version
	return workspaceAnswer{true, showWorkspace(made)}, nil
}

func (s *server) listWorkspaces(q *call) (any, error) {
	list, err := all[*store.Workspace](q.Context(), s, "")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, oldestFirst[*store.Workspace])
	items := []workspaceItem{}
	for _, w := range list {
		if q.may(w.M.ID, store.AccessRead) {
			items = append(items, showWorkspace(w))
		}
	}
	return struct {
		Success    bool            `json:"success"`
		Workspaces []workspaceItem `json:"workspaces"`
	}{true, items}, nil
}

func (s *server) getWorkspace(q *call) (any, error) {
	w, err := addressed[*store.Workspace](s, q, "id", "workspace", store.AccessRead)
	if err != nil {
		return nil, err
	}
	q.version = w.M.Version
	return workspaceAnswer{true, showWorkspace(w)}, nil
}

func (s *server) updateWorkspace(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	name := b.text("name")
	if *b.err != nil {
		return nil, *b.err
	}
	var w *store.Workspace
	err = s.commit(q, func() (_ []store.Write, err error) {
		if w, err = addressed[*store.Workspace](s, q, "id", "workspace", store.AccessAdmin); err != nil {
			return nil, err
		}
		if err := q.match(&w.M); err != nil {
			return nil, err
		}
		if name != "" {
			w.Name = name
		}
		if err := checkName(w.Name); err != nil {
			return nil, err
		}
		return []store.Write{store.Put(w)}, nil
	})
	if err != nil {
		return nil, err
	}
	q.version = w.M.Version
	return workspaceAnswer{true, showWorkspace(w)}, nil
}

func (s *server) deleteWorkspace(q *call) (any, error) {
	err := s.commit(q, func() ([]store.Write, error) {
		w, err := addressed[*store.Workspace](s, q, "id", "workspace", store.AccessAdmin)
		if err != nil {
			return nil, err
		}
		if err := q.match(&w.M); err != nil {
			return nil, err
		}
		for _, kind := range []store.Kind{store.KindConnector, store.KindCredential, store.KindRepository, store.KindKey} {
			left, err := s.Store.List(q.Context(), kind, store.Page{Workspace: w.M.ID, Limit: 1})
			if err != nil {
				return nil, err
			}
			if len(left) > 0 {
				return nil, conflict("WORKSPACE_NOT_EMPTY", "the workspace still has a %s", kind)
			}
		}
		return []store.Write{s.remove(w)}, nil
	})
	return done{true}, err
}

// done answers what has nothing else to say.
type done struct {
	Success bool `json:"success"`
}
