package api

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"keybridge/store"
)

// modelName is a model as a provider lists it.
type modelName struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Created *time.Time `json:"created,omitempty"`
}

func showModel(m Model) modelName {
	out := modelName{ID: providerText(m.ID, nil), Name: providerText(cmp.Or(m.Name, m.ID), nil)}
	// Beyond the year 9999 there is no RFC 3339 time.
	if t := time.Unix(m.Created, 0).UTC(); m.Created > 0 && t.Year() <= 9999 {
		out.Created = &t
	}
	return out
}

// modelItem is a model with where it is to be had.
type modelItem struct {
	modelName
	AIType      string `json:"aiType"`      // of the connector
	LLMType     string `json:"llmType"`     // the API it speaks: OPENAI or ANTHROPIC
	LLMProvider string `json:"llmProvider"` // the connector's name
}

// probesAtOnce bounds the provider calls that one request has made at a time.
const probesAtOnce = 4

// listModels asks every AI connector of a repository for its models. One whose
// provider refuses lists what the connector names; if none has anything, the first
// provider's error is the answer.
func (s *server) listModels(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	id, typ := b.id("repoId"), b.text("aiType")
	switch {
	case *b.err != nil:
		return nil, *b.err
	case id == "":
		return nil, badField("repoId", "is required")
	case typ != "":
		if _, err := aiType(typ); err != nil {
			return nil, err
		}
	}
	r, err := live[*store.Repository](q.Context(), s, id, "repository")
	if err != nil {
		return nil, err
	}
	if err := q.require(r.M.Workspace, store.AccessRead); err != nil {
		return nil, err
	}
	var connectors []*store.Connector
	for _, id := range r.AI {
		c, err := live[*store.Connector](q.Context(), s, id, "AI connector")
		if err != nil {
			return nil, err
		}
		if typ == "" || string(c.Type) == typ {
			connectors = append(connectors, c)
		}
	}
	lists, errs := make([][]modelItem, len(connectors)), make([]error, len(connectors))
	var g errgroup.Group
	g.SetLimit(probesAtOnce)
	for i, c := range connectors {
		g.Go(func() error {
			lists[i], errs[i] = s.modelsOf(q, c)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	items := append([]modelItem{}, slices.Concat(lists...)...)
	if len(items) == 0 {
		for _, err := range errs {
			if err != nil {
				return nil, err
			}
		}
	}
	return struct {
		Success bool        `json:"success"`
		Models  []modelItem `json:"models"`
	}{true, items}, nil
}

// modelsOf returns what a connector's provider lists, and what the connector names
// beside it.
func (s *server) modelsOf(q *call, c *store.Connector) ([]modelItem, error) {
	dialect := store.TypeOpenAI
	if c.Type == store.TypeAnthropic {
		dialect = store.TypeAnthropic
	}
	var items []modelItem
	add := func(m Model) {
		if !slices.ContainsFunc(items, func(o modelItem) bool { return o.ID == m.ID }) {
			items = append(items, modelItem{showModel(m), string(c.Type), string(dialect), c.Name})
		}
	}
	result, err := s.probe(q.Context(), &Probe{Connector: c.M.ID, Workspace: c.M.Workspace, Type: c.Type}, nil)
	switch {
	case err != nil:
		var f *failure
		if !errors.As(err, &f) {
			return nil, err
		}
	case !result.OK:
		err = refusal(c.Name + ": " + result.Message)
	default:
		for _, m := range result.Models {
			add(m)
		}
	}
	for _, name := range c.Models {
		if !strings.HasSuffix(name, "*") {
			add(Model{ID: name})
		}
	}
	return items, err
}
