package snapshot

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"keybridge/store"
)

// changes are the resources to be pushed: by type, workspaces by name.
type changes map[string]map[string]string

func newChanges() changes {
	return changes{connectorType: make(map[string]string), repositoryType: make(map[string]string)}
}

func (c changes) empty() bool {
	for _, names := range c {
		if len(names) > 0 {
			return false
		}
	}
	return true
}

// take brings the resources up to date with events and notes what changed.
func (f *Feed) take(events []store.Event, changed changes) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		switch e.Record.(type) {
		case *store.Connector, *store.Repository:
			f.takeRecord(e.Record, changed)
		}
	}
}

func (f *Feed) takeRecord(r store.Record, changed changes) {
	meta := r.Meta()
	t, m, err := render(r)
	if err == nil && meta.Workspace == "" {
		err = errors.New("it belongs to no workspace")
	}
	if err != nil {
		f.cfg.Log.Warn("snapshot: a record cannot be served", "kind", meta.Kind, "id", meta.ID, "error", err)
	}
	n := name(meta)
	if err != nil || meta.DeletedAt != nil {
		delete(f.resources[t], n)
	} else {
		f.resources[t][n] = entry{workspace: meta.Workspace, message: m}
	}
	changed[t][n] = meta.Workspace
}

// push hands changes to the groups that see them.
func (f *Feed) push(changed changes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for group, workspaces := range f.groups {
		for t, names := range changed {
			set := make(map[string]proto.Message)
			var remove []string
			for n, workspace := range names {
				if !sees(workspaces, workspace) {
					continue
				}
				if e, ok := f.resources[t][n]; ok {
					set[n] = e.message
				} else {
					remove = append(remove, n)
				}
			}
			if len(set)+len(remove) == 0 {
				continue
			}
			if _, err := f.cfg.Sink.Update(group, t, set, remove); err != nil {
				return fmt.Errorf("group %s: %w", group, err)
			}
		}
	}
	return nil
}
