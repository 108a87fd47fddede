package bridge

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

const (
	// healthEvery is how often a connector's provider is asked, a fifth more or less.
	// For an AI provider that is its list of models: one call serves both.
	healthEvery = time.Minute
	// healthAgain is the pause after a first failure; it doubles up to healthEvery.
	healthAgain = 5 * time.Second
	// maxAsking bounds how many providers are asked at once.
	maxAsking = 16
	// firstModels is how long the first index waits for AI providers to say what
	// they offer: without that, requests that name no connector find no model.
	firstModels = 2 * time.Second
)

// catalog is what this bridge knows of its connectors' providers, by asking them.
type catalog struct {
	call   func(context.Context, *configv1.Connector, *credential.Credential) *probed
	models func() // tells the owner that some connector has other models now, or is refused or not any more
	status func() // tells the owner that some connector's status is another now
	wake   chan struct{}
	limit  chan struct{} // how many are asked at once

	mu      sync.Mutex
	entries map[string]*entry // by connector id
	started time.Time         // when the first connectors were set
}

// entry is one connector; it is replaced when the connector or its credential is.
type entry struct {
	connector *configv1.Connector
	cred      *credential.Credential // nil: it is left out of service, for what status says
	status    *link.ConnectorStatus  // nil until it was asked
	models    []grant.Model
	refused   bool // see probed
	failures  int
	due       time.Time
	asking    bool
	trouble
}

func newCatalog(call func(context.Context, *configv1.Connector, *credential.Credential) *probed, models, status func()) *catalog {
	return &catalog{
		call: call, models: models, status: status, wake: make(chan struct{}, 1),
		limit: make(chan struct{}, maxAsking), entries: map[string]*entry{},
	}
}

// known is a connector as reconcile sees it.
type known struct {
	connector *configv1.Connector
	cred      *credential.Credential
	cluster   string
	problem   string // why it is left out of service
}

// set tells the catalog which connectors there are. New and changed ones are asked at once.
func (c *catalog) set(connectors []known) {
	now := time.Now()
	changed := false
	c.mu.Lock()
	if c.started.IsZero() {
		c.started = now
	}
	next := make(map[string]*entry, len(connectors))
	for _, k := range connectors {
		id := k.connector.Id
		old := c.entries[id]
		switch {
		case k.problem != "":
			e := &entry{connector: k.connector, status: &link.ConnectorStatus{
				Connector: id, Workspace: k.connector.Workspace, Message: publish(k.problem), At: now.Unix(),
			}}
			if old != nil && old.cred == nil && old.status.Message == e.status.Message {
				e = old
			}
			changed = changed || e != old
			next[id] = e
		case old != nil && old.cred == k.cred && proto.Equal(old.connector, k.connector):
			next[id] = old
		default:
			e := &entry{connector: k.connector, cred: k.cred, due: now, trouble: trouble{cluster: k.cluster}}
			if old != nil && old.cred != nil { // until it has been asked again
				e.models, e.status, e.refused = old.models, old.status, old.refused
			}
			changed = true
			next[id] = e
		}
	}
	changed = changed || len(next) != len(c.entries)
	c.entries = next
	c.mu.Unlock()
	if changed {
		c.status()
		c.rouse()
	}
}

// run asks each connector's provider when it is due, until ctx ends.
func (c *catalog) run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	timer := time.NewTimer(healthEvery)
	defer timer.Stop()
	for {
		for _, e := range c.takeDue(timer) {
			select {
			case c.limit <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			asking.Go(func() {
				defer func() { <-c.limit }()
				out := c.call(ctx, e.connector, e.cred)
				if ctx.Err() == nil {
					c.learn(e.connector, e.cred, out)
				}
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// takeDue returns the entries to ask now, and sets the timer to when the next one is due.
func (c *catalog) takeDue(timer *time.Timer) (due []*entry) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	next := now.Add(healthEvery)
	for _, e := range c.entries {
		switch {
		case e.cred == nil || e.asking:
		case !e.due.After(now):
			e.asking = true
			due = append(due, e)
		case e.due.Before(next):
			next = e.due
		}
	}
	timer.Reset(next.Sub(now))
	return due
}

// learn takes the outcome of a call for a connector that still is as it was asked.
func (c *catalog) learn(connector *configv1.Connector, cred *credential.Credential, out *probed) {
	now := time.Now()
	status := &link.ConnectorStatus{
		Connector: connector.Id, Workspace: connector.Workspace, Online: out.problem == "",
		LatencyMs: uint32(out.took.Milliseconds()), Message: out.problem, At: now.Unix(),
	}
	c.mu.Lock()
	e := c.entries[connector.Id]
	if e == nil || e.cred != cred || !proto.Equal(e.connector, connector) {
		c.mu.Unlock()
		return
	}
	e.asking = false
	models := status.Online && !slices.Equal(e.models, out.models)
	refused := e.refused != out.refused
	first := e.status == nil && len(e.models) == 0 // who waits for it, need not any more
	news := e.status == nil || e.status.Online != status.Online || e.status.Message != status.Message
	e.status, e.refused = status, out.refused
	e.denied = out.denied
	if status.Online {
		e.models, e.failures = out.models, 0
		e.due = now.Add(healthEvery*4/5 + rand.N(healthEvery*2/5)) //nolint:gosec // spreads load; nothing to guess
	} else {
		e.due = now.Add(min(healthAgain<<min(e.failures, 8), healthEvery))
		e.failures++
	}
	if e.again { // what it was asked about happened while it was asked
		e.again, e.due = false, now
	}
	c.mu.Unlock()
	if models || first || refused {
		c.models()
	}
	if news {
		c.status()
	}
	c.rouse() // the next one due may be this one
}

// rouse has run look at what is due.
func (c *catalog) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// modelsOf are the models of a connector: those of its record, then those that the provider lists.
func (c *catalog) modelsOf(connector *configv1.Connector) (out []grant.Model) {
	for _, id := range connector.Models {
		out = append(out, grant.Model{ID: id})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[connector.Id]; e != nil {
		out = append(out, e.models...)
	}
	return out
}

// refusal is why a connector's endpoint must not be used, as seen when it was last
// asked; empty if there was nothing against it.
func (c *catalog) refusal(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[id]; e != nil && e.refused {
		return e.status.Message
	}
	return ""
}

// waiting says that the first index should wait for an AI provider's models still.
func (c *catalog) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.started) >= firstModels {
		return false
	}
	for _, e := range c.entries {
		if e.connector.Provider != configv1.Provider_PROVIDER_S3 && e.cred != nil && e.status == nil {
			return true
		}
	}
	return false
}

// statuses are the outcomes so far, in no order.
func (c *catalog) statuses() []*link.ConnectorStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*link.ConnectorStatus, 0, len(c.entries))
	for _, e := range c.entries {
		if e.status != nil {
			out = append(out, e.status)
		}
	}
	return out
}
