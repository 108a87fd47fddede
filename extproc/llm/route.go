package llm

import (
	"strings"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

// forward sends the request to q's connector.
func (q *question) forward(r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	return forward(q, r, q.connector)
}

// routed sends the request to the connector that fits the model best: one that has
// it by its own name before one that has a pattern for it, a longer pattern before a
// shorter one, and of equals the first in the repository.
func (q *question) routed(r *extproc.Request, model string) (*extproc.Decision, *extproc.Error) {
	var best *grant.Connector
	score := 0
	for c := range q.meant() {
		if n := c.Match(model); n > score {
			best, score = c, n
		}
	}
	if best == nil {
		return nil, errUnknownModel(q.form, q.key, model)
	}
	if q.foreign() {
		return nil, q.describe(best, model)
	}
	return forward(q, r, best)
}

// meant are the connectors that may be meant, in the repository's order.
func (q *question) meant() func(func(*grant.Connector) bool) {
	return func(yield func(*grant.Connector) bool) {
		for _, c := range q.key.Repository().AI {
			if q.key.Reaches(c) && (!q.route.named || c.Name == q.route.connector) && !yield(c) {
				return
			}
		}
	}
}

func forward(q *question, r *extproc.Request, c *grant.Connector) (*extproc.Decision, *extproc.Error) {
	secret := c.Credential.Secret().Bytes()
	if !sendable(secret) {
		return nil, errConnector[q.form]
	}
	d := r.Decision()
	d.Cluster, d.Authority, d.Key = c.Cluster, c.Authority, q.key.Record()
	d.Path = d.Bytes([]byte(c.BasePath), []byte(q.route.rest))
	d.Remove = append(d.Remove, removed[:]...) // copied: the decision wipes what it holds
	removeAnthropic(d, r)
	if c.Provider == grant.ProviderAnthropic {
		d.SetBytes("x-api-key", secret)
		d.Remove = append(d.Remove, "authorization")
	} else {
		d.SetBytes("authorization", bearer, secret)
		d.Remove = append(d.Remove, "x-api-key")
	}
	for _, h := range r.Headers() { // CGI and WSGI servers take x_api_key for x-api-key; no API here has such a header
		if strings.IndexByte(h.Name, '_') >= 0 {
			d.Remove = append(d.Remove, h.Name)
		}
	}
	if c.Credential.Secret().Bytes() == nil { // freed while it was copied: its place may hold another's by now
		return nil, errConnector[q.form]
	}
	return d, nil
}

const (
	// Of a page of Anthropic's list of models ("List Models", Claude API reference).
	defaultLimit = 20
	maxLimit     = 1000
)

// page is the part of a list that a client asks for.
type page struct {
	limit         int
	after, before string // ids of models; one of them at most
}

// The forms in which a model is described: "The model object", OpenAI API
// reference, and "Get a Model", Claude API reference.
type (
	openAIModel struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	claudeModel struct {
		Type        string `json:"type"`
		ID          string `json:"id"`
		DisplayName string `json:"display_name"`
		CreatedAt   string `json:"created_at"`
	}
)

// describeOpenAI names the connector as owner: whom a request for the model goes to.
func describeOpenAI(c *grant.Connector, m *grant.Model) openAIModel {
	return openAIModel{ID: m.ID, Object: "model", Created: m.Created, OwnedBy: c.Name}
}

func describeClaude(m *grant.Model) claudeModel {
	d := claudeModel{Type: "model", ID: m.ID, DisplayName: m.Name, CreatedAt: time.Unix(m.Created, 0).UTC().Format(time.RFC3339)}
	if d.DisplayName == "" {
		d.DisplayName = m.ID
	}
	return d
}

// describe answers for one model in the other form than its provider's.
func (q *question) describe(c *grant.Connector, model string) *extproc.Error {
	m := c.Model(model)
	if m == nil { // fits a pattern; that is all that is known of it
		m = &grant.Model{ID: model}
	}
	if q.form == anthropic {
		return answer(200, "model", describeClaude(m))
	}
	return answer(200, "model", describeOpenAI(c, m))
}

// list answers with the models of all connectors, each once: from the connector
// that a request for it goes to, which is the first that has it by its own name.
func (q *question) list() *extproc.Error {
	seen := map[string]bool{}
	ours := []openAIModel{}
	claude := []claudeModel{}
	add := func(c *grant.Connector, listed bool) {
		for i := range c.Models {
			m := &c.Models[i]
			if m.Listed != listed || m.Pattern() || seen[m.ID] {
				continue
			}
			seen[m.ID] = true
			if q.form == anthropic {
				claude = append(claude, describeClaude(m))
			} else {
				ours = append(ours, describeOpenAI(c, m))
			}
		}
	}
	for c := range q.meant() {
		add(c, true) // which says more about a model than the record that names it too
		add(c, false)
	}
	if q.form == anthropic {
		return q.route.page.of(claude)
	}
	return answer(200, "models", struct {
		Object string        `json:"object"`
		Data   []openAIModel `json:"data"`
	}{"list", ours})
}

// of answers with one page of a list. A cursor that is not in the list, because
// the model went away, gives an empty page.
func (p page) of(all []claudeModel) *extproc.Error {
	out := struct {
		Data    []claudeModel `json:"data"`
		HasMore bool          `json:"has_more"`
		FirstID *string       `json:"first_id"`
		LastID  *string       `json:"last_id"`
	}{Data: []claudeModel{}}
	limit := p.limit
	if limit == 0 {
		limit = defaultLimit
	}
	at := func(id string) int {
		for i := range all {
			if all[i].ID == id {
				return i
			}
		}
		return -1
	}
	switch {
	case p.before != "":
		end := max(at(p.before), 0)
		begin := max(end-limit, 0)
		out.Data, out.HasMore = all[begin:end], begin > 0
	default:
		begin := 0
		if p.after != "" {
			if begin = at(p.after) + 1; begin == 0 {
				begin = len(all)
			}
		}
		end := min(begin+limit, len(all))
		out.Data, out.HasMore = all[begin:end], end < len(all)
	}
	if n := len(out.Data); n > 0 {
		out.FirstID, out.LastID = &out.Data[0].ID, &out.Data[n-1].ID
	}
	return answer(200, "models", out)
}
