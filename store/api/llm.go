package api

import (
	"time"

	"keybridge/store"
)

// llmItem is an AI connector as the API shows it.
type llmItem struct {
	ID string `json:"id"`
	// OrgID is the tenant, which is the workspace.
	OrgID         string     `json:"orgId"`
	WorkspaceID   string     `json:"workspaceId"`
	UserID        string     `json:"userId"` // id of the admin token that made it
	Name          string     `json:"name"`
	AIType        string     `json:"aiType"`
	Endpoint      string     `json:"endpoint"`
	Key           *string    `json:"key"` // always null: it is the secret
	APIKeyID      string     `json:"apiKeyId,omitempty"`
	CACertificate string     `json:"caCertificate,omitempty"`
	Models        []string   `json:"models,omitempty"`
	CreatedAt     time.Time  `json:"createdAt"`
	Repos         []repoName `json:"repos,omitempty"`
	Status        string     `json:"status,omitempty"`
	Version       uint64     `json:"version"`
	SecretVersion uint64     `json:"secretVersion"`
}

type llmAnswer struct {
	Success bool   `json:"success"`
	ID      string `json:"aiLlmId"`
	tried
}

// readLLMForm reads the body of POST and PUT /ai/llm. Clients send the provider's
// API key as secret or as key: it is the secret either way.
func readLLMForm(q *call, b *body) *connectorForm {
	f := readForm(q, b)
	f.typ = b.text("aiType")
	f.models, f.setModels = b.strings("models")
	if dedicated := b.boolean("dedicated"); dedicated != nil && *dedicated {
		b.fail("dedicated", "is not supported yet")
	}
	key := b.secret("key")
	switch {
	case key == nil:
	case f.sealed != nil:
		key.wipe()
		b.fail("key", "holds a secret in clear beside sealedSecret")
	case f.secret == nil:
		f.secret = key
	default:
		if string(key) != string(f.secret) {
			b.fail("key", "differs from secret; an AI connector has one secret")
		}
		key.wipe()
	}
	return f
}

func (s *server) createLLM(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readLLMForm(q, b)
	defer f.wipe()
	if err := f.finish(q, b); err != nil {
		return nil, err
	}
	typ, err := aiType(f.typ)
	if err != nil {
		return nil, err
	}
	id, err := s.createConnector(q, f, store.Connector{Name: f.name, Type: typ, CACertificate: f.ca, Models: f.models})
	return llmAnswer{Success: true, ID: id}, err
}

func (s *server) updateLLM(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readLLMForm(q, b)
	defer f.wipe()
	if err := f.check(b); err != nil {
		return nil, err
	}
	id, result, err := s.updateConnector(q, f, false)
	return llmAnswer{true, id, showTried(result)}, err
}

func (s *server) deleteLLM(q *call) (any, error) {
	id, err := s.deleteConnector(q, false)
	return llmAnswer{Success: true, ID: id}, err
}

func (s *server) listLLMs(q *call) (any, error) {
	items, err := s.llms(q)
	return struct {
		Success bool      `json:"success"`
		LLMs    []llmItem `json:"aiLlms"`
	}{true, items}, err
}

// availableLLMs answers a bare array, as availableBuckets does.
func (s *server) availableLLMs(q *call) (any, error) { return s.llms(q) }

func (s *server) llms(q *call) ([]llmItem, error) {
	view, err := s.connectors(q, false)
	if err != nil {
		return nil, err
	}
	items := make([]llmItem, 0, len(view.list))
	for _, c := range view.list {
		items = append(items, view.llm(c))
	}
	return items, nil
}

func (v *connectorView) llm(c *store.Connector) llmItem {
	_, shared, version := v.credential(c)
	return llmItem{
		ID: c.M.ID, OrgID: c.M.Workspace, WorkspaceID: c.M.Workspace, UserID: c.M.CreatedBy, Name: c.Name, AIType: string(c.Type),
		Endpoint: c.Endpoint, APIKeyID: shared, CACertificate: c.CACertificate, Models: c.Models, CreatedAt: c.M.CreatedAt,
		Repos: v.users[c.M.ID], Status: v.status(c), Version: c.M.Version, SecretVersion: version,
	}
}

// aiType accepts those that are implemented.
func aiType(s string) (store.ConnectorType, error) {
	switch s {
	case "":
		return "", badField("aiType", "is required")
	case string(store.TypeOpenAI), string(store.TypeOther), string(store.TypeAnthropic):
		return store.ConnectorType(s), nil
	case "GOOGLE", "AWS":
		return "", badField("aiType", "%s is not supported yet", s)
	}
	return "", badField("aiType", "must be OPENAI, GOOGLE, ANTHROPIC, AWS or OTHER")
}
