package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"keybridge/store"
	configv1 "keybridge/xds/config/v1"
)

// Sink takes the resources; *xds.Server is one.
type Sink interface {
	// Set makes the resources of one type in a group exactly those given.
	Set(group, typeURL string, all map[string]proto.Message) (version uint64, err error)
	// Update sets and removes some.
	Update(group, typeURL string, set map[string]proto.Message, remove []string) (version uint64, err error)
}

// Config is what a Feed needs.
type Config struct {
	Store store.Store
	Sink  Sink
	// Listeners are those of every bridge.
	Listeners []*configv1.Listener
	// Debounce is how long a change waits for others to go with it; 0: 20 ms.
	Debounce time.Duration
	// Log gets records that cannot be served; nil discards.
	Log *slog.Logger
}

// everything is the workspace that stands for all of them, and its group.
const everything = "*"

const (
	defaultDebounce = 20 * time.Millisecond
	pageSize        = 1000
)

// Feed follows the store. Use New, then Run.
type Feed struct {
	cfg    Config
	loaded chan struct{} // closed once the store has been read

	mu        sync.Mutex
	resources map[string]map[string]entry // by type, by name
	groups    map[string][]string         // workspaces by group
}

// entry is one resource and the workspace that may see it.
type entry struct {
	workspace string
	message   proto.Message
}

// New makes a feed.
func New(cfg Config) *Feed {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Debounce <= 0 {
		cfg.Debounce = defaultDebounce
	}
	return &Feed{
		cfg:    cfg,
		loaded: make(chan struct{}),
		resources: map[string]map[string]entry{
			connectorType:  make(map[string]entry),
			repositoryType: make(map[string]entry),
		},
		groups: make(map[string][]string),
	}
}

// Group returns the group of bridges enrolled for exactly these workspaces (ids,
// or "*" for all), and fills it if it is new. It waits until the store has been
// read: a bridge that was shown an empty group would drop all it serves.
func (f *Feed) Group(ctx context.Context, workspaces []string) (string, error) {
	select {
	case <-f.loaded:
	case <-ctx.Done():
		return "", fmt.Errorf("snapshot: the store has not been read yet: %w", ctx.Err())
	}
	ids := slices.Compact(slices.Sorted(slices.Values(workspaces)))
	if slices.Contains(ids, everything) {
		ids = []string{everything}
	}
	group := strings.Join(ids, ",")

	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.groups[group]; ok {
		return group, nil
	}
	listeners := make(map[string]proto.Message, len(f.cfg.Listeners))
	for _, l := range f.cfg.Listeners {
		listeners[l.GetName()] = l
	}
	if _, err := f.cfg.Sink.Set(group, listenerType, listeners); err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	for t, all := range f.resources {
		visible := make(map[string]proto.Message)
		for name, e := range all {
			if sees(ids, e.workspace) {
				visible[name] = e.message
			}
		}
		if _, err := f.cfg.Sink.Set(group, t, visible); err != nil {
			return "", fmt.Errorf("snapshot: %w", err)
		}
	}
	f.groups[group] = ids
	return group, nil
}

func sees(workspaces []string, workspace string) bool {
	return slices.Contains(workspaces, workspace) || slices.Contains(workspaces, everything)
}

// Run reads the store, then follows it until ctx ends (nil) or the store fails.
func (f *Feed) Run(ctx context.Context) error {
	from, err := f.cfg.Store.Revision(ctx)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := f.load(ctx); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	close(f.loaded)

	ctx, cancel := context.WithCancel(ctx)
	events := make(chan []store.Event)
	watched := make(chan error, 1)
	go func() {
		defer close(events)
		for batch, err := range f.cfg.Store.Watch(ctx, from) {
			if err != nil {
				watched <- err
				return
			}
			select {
			case events <- batch:
			case <-ctx.Done():
				watched <- ctx.Err()
				return
			}
		}
		watched <- errors.New("the watch ended")
	}()
	defer func() {
		cancel()
		for range events { // the watcher is gone when this ends
		}
	}()

	changed := newChanges()
	timer := time.NewTimer(f.cfg.Debounce)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case batch, ok := <-events:
			if !ok {
				err := <-watched
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("snapshot: %w", err)
			}
			if changed.empty() {
				timer.Reset(f.cfg.Debounce) // counted from the first change: a steady flow must not starve
			}
			f.take(batch, changed)
		case <-timer.C:
			if err := f.push(changed); err != nil {
				return fmt.Errorf("snapshot: %w", err)
			}
			changed = newChanges()
		}
	}
}

// load reads what is there now. Nobody watches yet, so nothing is pushed.
func (f *Feed) load(ctx context.Context) error {
	for _, kind := range []store.Kind{store.KindConnector, store.KindRepository} {
		page := store.Page{Limit: pageSize}
		for {
			records, err := f.cfg.Store.List(ctx, kind, page)
			if err != nil {
				return err
			}
			events := make([]store.Event, len(records))
			for i, r := range records {
				events[i] = store.Event{Revision: r.Meta().Revision, Record: r}
			}
			f.take(events, newChanges())
			if len(records) < pageSize {
				break
			}
			page.After = records[len(records)-1].Meta().ID
		}
	}
	return nil
}
