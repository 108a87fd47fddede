package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
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

// RenameWorkspace needs an ADMIN token of the workspace.
func (c *Client) RenameWorkspace(ctx context.Context, id, name string) error {
	return c.do(ctx, http.MethodPut, "/workspace/"+url.PathEscape(id), nil, map[string]string{"name": name}, nil)
}

// DeleteWorkspace deletes an empty workspace.
func (c *Client) DeleteWorkspace(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/workspace/"+url.PathEscape(id), nil, nil, nil)
}

// RepoSpec asks for a repository over connectors of its workspace.
type RepoSpec struct {
	WorkspaceID string
	Name        string
	Buckets     []RepoBucket
	LLMs        []string // ids of AI connectors
}

// RepoBucket is an S3 connector in a repository.
type RepoBucket struct {
	ID string `json:"bucketId"`
	// Folder limits the repository to the keys that begin with it; it ends in a slash.
	// Empty: the whole bucket.
	Folder string `json:"folder"`
	Master bool   `json:"master"`
}

// Repo is a repository.
type Repo struct {
	ID          string `json:"id"`
	WorkspaceID string `json:"workspaceId"`
	Name        string `json:"name"`
	Disabled    bool   `json:"disabled"`
	Buckets     []struct {
		RepoBucket
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

func (spec RepoSpec) body() map[string]any {
	in := map[string]any{"workspaceId": spec.WorkspaceID, "name": spec.Name, "mode": "NORMAL",
		"repoBuckets": buckets(spec.Buckets), "repoAiLlms": llms(spec.LLMs)}
	if len(spec.Buckets) > 0 {
		in["storageType"] = "S3"
	}
	return in
}

// buckets is a list also where it is nil.
func buckets(of []RepoBucket) []RepoBucket { return append([]RepoBucket{}, of...) }

func llms(ids []string) []map[string]string {
	out := []map[string]string{}
	for _, id := range ids {
		out = append(out, map[string]string{"aiLlmId": id})
	}
	return out
}

// CreateRepo makes a repository; it returns its id.
func (c *Client) CreateRepo(ctx context.Context, spec RepoSpec) (string, error) {
	var answer struct {
		ID string `json:"repoId"`
	}
	err := c.do(ctx, http.MethodPost, "/repo", nil, spec.body(), &answer)
	return answer.ID, err
}

// ValidateNewRepo returns the error that CreateRepo would, and makes nothing.
func (c *Client) ValidateNewRepo(ctx context.Context, spec RepoSpec) error {
	return c.do(ctx, http.MethodPost, "/repo/validate", nil, spec.body(), nil)
}

// RepoUpdate changes a repository; what is zero stays. A list that is not nil
// replaces the old one.
type RepoUpdate struct {
	Name     string
	Disabled *bool
	Buckets  []RepoBucket
	LLMs     []string
	Version  uint64 // if not 0, the version that it must have
}

func (u RepoUpdate) body() map[string]any {
	in := map[string]any{"name": u.Name, "disabled": u.Disabled}
	if u.Buckets != nil {
		in["repoBuckets"] = buckets(u.Buckets)
	}
	if u.LLMs != nil {
		in["repoAiLlms"] = llms(u.LLMs)
	}
	return in
}

// UpdateRepo changes a repository.
func (c *Client) UpdateRepo(ctx context.Context, id string, u RepoUpdate) error {
	return c.do(ctx, http.MethodPut, "/repo/"+url.PathEscape(id), nil, u.body(), nil, ifMatch(u.Version)...)
}

// ValidateRepo returns the error that UpdateRepo would, and changes nothing.
func (c *Client) ValidateRepo(ctx context.Context, id string, u RepoUpdate) error {
	return c.do(ctx, http.MethodPost, "/repo/"+url.PathEscape(id)+"/validate", nil, u.body(), nil, ifMatch(u.Version)...)
}

func ifMatch(version uint64) []string {
	if version == 0 {
		return nil
	}
	return []string{"If-Match", `"` + strconv.FormatUint(version, 10) + `"`}
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
	return c.UpdateRepo(ctx, id, RepoUpdate{Disabled: &disabled})
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
	Disabled   bool       `json:"disabled"`
	Version    uint64     `json:"version"`
}

// KeySpec asks for a repository key.
type KeySpec struct {
	Name       string
	AccessType string     // storage keys: READ, WRITE or ADMIN
	AIType     string     // AI keys: OPENAI, ANTHROPIC or OTHER
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

// KeyUpdate changes a key; what is zero stays.
type KeyUpdate struct {
	Name       string
	AccessType string // storage keys only
	Disabled   *bool
	ExpiresAt  *time.Time // a time that has passed ends the key
	Version    uint64     // if not 0, the version that it must have
}

// UpdateStorageKey changes an S3 key.
func (c *Client) UpdateStorageKey(ctx context.Context, repoID, id string, u KeyUpdate) error {
	return c.updateKey(ctx, storageKeys(repoID), id, u)
}

// UpdateAIKey changes an AI key.
func (c *Client) UpdateAIKey(ctx context.Context, repoID, id string, u KeyUpdate) error {
	return c.updateKey(ctx, aiKeys(repoID), id, u)
}

func (c *Client) updateKey(ctx context.Context, path, id string, u KeyUpdate) error {
	in := map[string]any{"name": u.Name, "accessType": u.AccessType, "disabled": u.Disabled, "expiresAt": u.ExpiresAt}
	return c.do(ctx, http.MethodPut, path+"/"+url.PathEscape(id), nil, in, nil, ifMatch(u.Version)...)
}

// RotateStorageKey makes a key like the given one, which ends after the overlap.
func (c *Client) RotateStorageKey(ctx context.Context, repoID, id string, overlap time.Duration) (IssuedKey, error) {
	return c.rotateKey(ctx, storageKeys(repoID), id, overlap)
}

// RotateAIKey is RotateStorageKey for an AI key.
func (c *Client) RotateAIKey(ctx context.Context, repoID, id string, overlap time.Duration) (IssuedKey, error) {
	return c.rotateKey(ctx, aiKeys(repoID), id, overlap)
}

func (c *Client) rotateKey(ctx context.Context, path, id string, overlap time.Duration) (IssuedKey, error) {
	return c.createKey(ctx, path+"/"+url.PathEscape(id)+"/rotate", map[string]any{"overlapSeconds": int64(overlap / time.Second)})
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
