package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Node is a bridge, or how a bridge last found a connector: then Status, LatencyMs
// and LastUpdated are the connector's, and Message is the provider's own error.
type Node struct {
	Name        string     `json:"name"`
	IP          string     `json:"ip"`
	Region      string     `json:"region"`
	Version     string     `json:"version"`
	Status      string     `json:"status"` // ONLINE, OFFLINE or DISCONNECTED
	LatencyMs   int64      `json:"latencyMs"`
	LastUpdated *time.Time `json:"lastUpdated"`
	URL         string     `json:"url"`
	Services    int        `json:"nodeServices"` // 1 storage plus 2 AI
	Message     string     `json:"message"`
	// What a bridge says of itself, to tokens of all workspaces: why it is not ready,
	// the keepers as it found them when it last started, what it leaves out of service.
	Reason   string   `json:"reason,omitempty"`
	Keepers  []Keeper `json:"keepers,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// Keeper is a keeper as a bridge found it.
type Keeper struct {
	Name   string `json:"name"`
	State  string `json:"state"` // good, or what is wrong
	Detail string `json:"detail"`
}

// Nodes lists bridges: all (0), with storage (1) or with AI (2).
func (c *Client) Nodes(ctx context.Context, services int) ([]Node, error) {
	var answer struct {
		Data []Node `json:"data"`
	}
	err := c.do(ctx, http.MethodGet, "/node", url.Values{"nodeServices": {strconv.Itoa(services)}}, nil, &answer)
	return answer.Data, err
}

// BucketStatus is how each bridge last found an S3 connector.
func (c *Client) BucketStatus(ctx context.Context, id string) ([]Node, error) {
	return c.status(ctx, "/bucket/"+url.PathEscape(id))
}

// LLMStatus is how each bridge last found an AI connector.
func (c *Client) LLMStatus(ctx context.Context, id string) ([]Node, error) {
	return c.status(ctx, "/ai/llm/"+url.PathEscape(id))
}

func (c *Client) status(ctx context.Context, path string) ([]Node, error) {
	var answer struct {
		NodeStatus []Node `json:"nodeStatus"`
	}
	err := c.do(ctx, http.MethodGet, path+"/status", nil, nil, &answer)
	return answer.NodeStatus, err
}

// Sync is how far a bridge or its Envoy has one xDS type.
type Sync struct {
	Node      string `json:"node"`
	Bridge    string `json:"bridge"`
	Type      string `json:"type"`
	Sent      uint64 `json:"versionSent"`
	Acked     uint64 `json:"versionAcked"`
	Nack      string `json:"lastNack"`
	Connected bool   `json:"connected"`
}

// Synced is how far all bridges and Envoys are, and what may keep a bridge from starting.
type Synced struct {
	Data    []Sync       `json:"data"`
	Keepers []SeenKeeper `json:"keepers"`
	// Expiring are enrolments that end within 14 days, or have ended.
	Expiring []Expiring `json:"expiring"`
}

// SeenKeeper is a keeper as one bridge found it.
type SeenKeeper struct {
	Bridge string `json:"bridge"`
	Keeper
}

// Expiring is an enrolment that ends by itself.
type Expiring struct {
	Role     string    `json:"role"`
	Name     string    `json:"name"`
	NotAfter time.Time `json:"notAfter"`
}

// Sync says how far all bridges and Envoys are; it needs a role in all workspaces.
func (c *Client) Sync(ctx context.Context) (*Synced, error) {
	var answer Synced
	err := c.do(ctx, http.MethodGet, "/sync", nil, nil, &answer)
	return &answer, err
}

// EventQuery selects lines of the audit log; what is zero matches all.
type EventQuery struct {
	From, To    time.Time // From ≤ time < To
	Context     string    // e.g. "connector"
	Event       string    // e.g. "created"
	ContextID   string
	UserID      string
	WorkspaceID string
	Skip        int
	Take        int // up to 100, which is also what 0 means
}

// Event is a line of the audit log.
type Event struct {
	ID          string          `json:"id"`
	Timestamp   time.Time       `json:"timestamp"`
	Context     string          `json:"context"`
	Event       string          `json:"event"`
	ContextID   string          `json:"contextId"`
	UserID      string          `json:"userId"`
	WorkspaceID string          `json:"workspaceId"`
	Data        json.RawMessage `json:"jsonData"`
}

// Events answers a part of the lines, newest first, and how many there are.
func (c *Client) Events(ctx context.Context, q EventQuery) (events []Event, total int, err error) {
	in := map[string]any{"context": q.Context, "event": q.Event, "contextId": q.ContextID, "userId": q.UserID, "workspaceId": q.WorkspaceID, "skip": q.Skip}
	if q.Take != 0 {
		in["take"] = q.Take
	}
	if !q.From.IsZero() {
		in["from_timestamp"] = q.From
	}
	if !q.To.IsZero() {
		in["to_timestamp"] = q.To
	}
	var answer struct {
		Events []Event `json:"events"`
		Total  int     `json:"total"`
	}
	err = c.do(ctx, http.MethodPost, "/systemevent", nil, in, &answer)
	return answer.Events, answer.Total, err
}

// Token is an admin token without what makes it one.
type Token struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Roles     map[string]string `json:"roles"` // by workspace id, or "*"
	CreatedAt time.Time         `json:"createdAt"`
	CreatedBy string            `json:"createdBy"`
	ExpiresAt *time.Time        `json:"expiresAt"`
	Version   uint64            `json:"version"`
}

// CreateToken makes an admin token, which cannot be had again. Roles are READ,
// WRITE or ADMIN by workspace id, or "*" for all.
func (c *Client) CreateToken(ctx context.Context, name string, roles map[string]string, expiresAt *time.Time) (id string, token Secret, err error) {
	var answer struct {
		ID    string `json:"id"`
		Token Secret `json:"token"`
	}
	err = c.do(ctx, http.MethodPost, "/token", nil, map[string]any{"name": name, "roles": roles, "expiresAt": expiresAt}, &answer)
	return answer.ID, answer.Token, err
}

// Tokens lists those that the caller could revoke.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var answer struct {
		Tokens []Token `json:"tokens"`
	}
	err := c.do(ctx, http.MethodGet, "/token", nil, nil, &answer)
	return answer.Tokens, err
}

// DeleteToken revokes an admin token.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/token/"+url.PathEscape(id), nil, nil, nil)
}
