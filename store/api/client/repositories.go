package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Workspace is a tenant.
type Workspace struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
	Version   uint64    `json:"version"`
}

// CreateWorkspace needs an ADMIN token of all workspaces.
func (c *Client) CreateWorkspace(ctx context.Context, name string) (Workspace, error) {
	var answer struct {
		Workspace Workspace `json:"workspace"`
	}
	err := c.do(ctx, http.MethodPost, "/workspace", nil, map[string]string{"name": name}, &answer)
	return answer.Workspace, err
}

// Workspaces lists those that the token has a role in.
func (c *Client) Workspaces(ctx context.Context) ([]Workspace, error) {
	var answer struct {
		Workspaces []Workspace `json:"workspaces"`
	}
	err := c.do(ctx, http.MethodGet, "/workspace", nil, nil, &answer)
	return answer.Workspaces, err
}

// DeleteWorkspace deletes an empty workspace.
func (c *Client) DeleteWorkspace(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/workspace/"+url.PathEscape(id), nil, nil, nil)
}

// RepoSpec asks for a repository over connectors of its workspace.
type RepoSpec struct {
	WorkspaceID string
	Name        string
	Buckets     []string // ids of S3 connectors
	LLMs        []string // ids of AI connectors
}

// Repo is a repository.
type Repo struct {
	ID          string `json:"id"`
	WorkspaceID string `json:"workspaceId"`
	Name        string `json:"name"`
	Disabled    bool   `json:"disabled"`
	Buckets     []struct {
		ID     string `json:"bucketId"`
		Bucket Bucket `json:"bucket"`
	} `json:"buckets"`
	LLMs []struct {
		ID  string `json:"aiLlmId"`
		LLM LLM    `json:"aiLlm"`
	} `json:"aiLlms"`
	StorageKeys []Key     `json:"apiKeys"`
	AIKeys      []Key     `json:"aiApiKeys"`
	CreatedAt   time.Time `json:"createdAt"`
	Version     uint64    `json:"version"`
}

// CreateRepo makes a repository; it returns its id.
func (c *Client) CreateRepo(ctx context.Context, spec RepoSpec) (string, error) {
	buckets, llms := []map[string]string{}, []map[string]string{}
	for _, id := range spec.Buckets {
		buckets = append(buckets, map[string]string{"bucketId": id})
	}
	for _, id := range spec.LLMs {
		llms = append(llms, map[string]string{"aiLlmId": id})
	}
	in := map[string]any{"workspaceId": spec.WorkspaceID, "name": spec.Name, "mode": "NORMAL", "repoBuckets": buckets, "repoAiLlms": llms}
	if len(buckets) > 0 {
		in["storageType"] = "S3"
	}
	var answer struct {
		ID string `json:"repoId"`
	}
	err := c.do(ctx, http.MethodPost, "/repo", nil, in, &answer)
	return answer.ID, err
}

// Repos lists repositories with their connectors and keys, as Buckets lists S3 connectors.
func (c *Client) Repos(ctx context.Context, workspaceID string) ([]Repo, error) {
	var answer struct {
		Repos []Repo `json:"repos"`
	}
	err := c.do(ctx, http.MethodGet, "/repo", inWorkspace(workspaceID), nil, &answer)
	return answer.Repos, err
}

// SetRepoDisabled stops the keys of a repository from working, or lets them again.
func (c *Client) SetRepoDisabled(ctx context.Context, id string, disabled bool) error {
	return c.do(ctx, http.MethodPut, "/repo/"+url.PathEscape(id), nil, map[string]bool{"disabled": disabled}, nil)
}

// DeleteRepo deletes a repository with its keys.
func (c *Client) DeleteRepo(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/repo/"+url.PathEscape(id), nil, nil, nil)
}

// Key is a repository key; AccessType is of storage keys, AIType of AI keys.
type Key struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Key        string     `json:"key"`
	AccessType string     `json:"accessType"`
	AIType     string     `json:"aiType"`
	CreatedAt  time.Time  `json:"createdAt"`
	ExpiresAt  *time.Time `json:"expiresAt"`
	Version    uint64     `json:"version"`
}

// KeySpec asks for a repository key.
type KeySpec struct {
	Name       string
	AccessType string     // storage keys: READ, WRITE or ADMIN
	AIType     string     // AI keys: OPENAI or OTHER
	ExpiresAt  *time.Time // nil: never
}

// IssuedKey is a new repository key with its secret, which cannot be had again.
type IssuedKey struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Secret Secret `json:"secret"`
}

// CreateStorageKey makes an S3 key of a repository.
func (c *Client) CreateStorageKey(ctx context.Context, repoID string, spec KeySpec) (IssuedKey, error) {
	return c.createKey(ctx, storageKeys(repoID), map[string]any{"name": spec.Name, "accessType": spec.AccessType, "expiresAt": spec.ExpiresAt})
}

// CreateAIKey makes an AI key of a repository.
func (c *Client) CreateAIKey(ctx context.Context, repoID string, spec KeySpec) (IssuedKey, error) {
	return c.createKey(ctx, aiKeys(repoID), map[string]any{"name": spec.Name, "aiType": spec.AIType, "expiresAt": spec.ExpiresAt})
}

func (c *Client) createKey(ctx context.Context, path string, in map[string]any) (IssuedKey, error) {
	var answer IssuedKey
	err := c.do(ctx, http.MethodPost, path, nil, in, &answer)
	return answer, err
}

// StorageKeys lists the S3 keys of a repository, newest first.
func (c *Client) StorageKeys(ctx context.Context, repoID string) ([]Key, error) {
	var answer struct {
		Keys []Key `json:"keys"`
	}
	err := c.do(ctx, http.MethodGet, storageKeys(repoID), nil, nil, &answer)
	return answer.Keys, err
}

// AIKeys lists the AI keys of a repository, newest first.
func (c *Client) AIKeys(ctx context.Context, repoID string) ([]Key, error) {
	var answer struct {
		Keys []Key `json:"apiKeys"`
	}
	err := c.do(ctx, http.MethodGet, aiKeys(repoID), nil, nil, &answer)
	return answer.Keys, err
}

// DeleteStorageKey revokes an S3 key.
func (c *Client) DeleteStorageKey(ctx context.Context, repoID, id string) error {
	return c.do(ctx, http.MethodDelete, storageKeys(repoID)+"/"+url.PathEscape(id), nil, nil, nil)
}

// DeleteAIKey revokes an AI key.
func (c *Client) DeleteAIKey(ctx context.Context, repoID, id string) error {
	return c.do(ctx, http.MethodDelete, aiKeys(repoID)+"/"+url.PathEscape(id), nil, nil, nil)
}

func storageKeys(repoID string) string { return "/repo/" + url.PathEscape(repoID) + "/apikey" }
func aiKeys(repoID string) string      { return "/repo/" + url.PathEscape(repoID) + "/ai/apikey" }
