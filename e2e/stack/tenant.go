package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Bucket is a storage connector to make.
type Bucket struct{ Name, Bucket, Endpoint, Region, Key, Secret, CA string }

// LLM is an AI connector to make.
type LLM struct{ Name, Endpoint, Secret, CA string }

// StorageKey is a repository key as the API shows it once.
type StorageKey struct{ ID, Key, Secret string }

// Tenant is a workspace, and the right to administer it.
type Tenant struct {
	Workspace string
	admin     string
	token     string
}

// NewTenant makes a workspace with an admin token.
func NewTenant(ctx context.Context, e Endpoints, token, name string) (*Tenant, error) {
	t := &Tenant{admin: e.Admin, token: token}
	var out struct {
		Workspace struct {
			ID string `json:"id"`
		} `json:"workspace"`
	}
	err := t.call(ctx, http.MethodPost, "/workspace", map[string]any{"name": name}, &out)
	t.Workspace = out.Workspace.ID
	return t, err
}

// Bucket makes a storage connector and returns its id.
func (t *Tenant) Bucket(ctx context.Context, b Bucket) (string, error) {
	var out struct {
		BucketID string `json:"bucketId"`
	}
	err := t.call(ctx, http.MethodPost, "/bucket?validate=false", map[string]any{
		"workspaceId": t.Workspace, "storageType": "S3", "name": b.Name, "bucket": b.Bucket, "endpoint": b.Endpoint,
		"region": b.Region, "key": b.Key, "secret": b.Secret, "caCertificate": b.CA,
	}, &out)
	return out.BucketID, err
}

// LLM makes an AI connector of an OpenAI-compatible API and returns its id.
func (t *Tenant) LLM(ctx context.Context, l LLM) (string, error) {
	var out struct {
		ID string `json:"aiLlmId"`
	}
	err := t.call(ctx, http.MethodPost, "/ai/llm", map[string]any{
		"workspaceId": t.Workspace, "aiType": "OPENAI", "name": l.Name, "endpoint": l.Endpoint, "secret": l.Secret, "caCertificate": l.CA,
	}, &out)
	return out.ID, err
}

// Repository makes a repository of connectors and returns its id.
func (t *Tenant) Repository(ctx context.Context, name string, buckets, llms []string) (string, error) {
	body := map[string]any{"workspaceId": t.Workspace, "name": name, "mode": "NORMAL"}
	repoBuckets, repoLLMs := []any{}, []any{}
	for i, id := range buckets {
		body["storageType"] = "S3"
		repoBuckets = append(repoBuckets, map[string]any{"bucketId": id, "folder": "", "master": i == 0})
	}
	for _, id := range llms {
		repoLLMs = append(repoLLMs, map[string]any{"aiLlmId": id})
	}
	body["repoBuckets"], body["repoAiLlms"] = repoBuckets, repoLLMs
	var out struct {
		RepoID string `json:"repoId"`
	}
	err := t.call(ctx, http.MethodPost, "/repo", body, &out)
	return out.RepoID, err
}

// StorageKey makes a key of a repository: READ, WRITE or ADMIN.
func (t *Tenant) StorageKey(ctx context.Context, repository, name, access string) (StorageKey, error) {
	var out StorageKey
	err := t.call(ctx, http.MethodPost, "/repo/"+repository+"/apikey", map[string]any{"name": name, "accessType": access}, &out)
	return out, err
}

// AIKey makes an AI key of a repository.
func (t *Tenant) AIKey(ctx context.Context, repository, name, aiType string) (StorageKey, error) {
	var out StorageKey
	err := t.call(ctx, http.MethodPost, "/repo/"+repository+"/ai/apikey", map[string]any{"name": name, "aiType": aiType}, &out)
	return out, err
}

// Revoke deletes a storage key.
func (t *Tenant) Revoke(ctx context.Context, repository, keyID string) error {
	return t.call(ctx, http.MethodDelete, "/repo/"+repository+"/apikey/"+keyID, nil, nil)
}

// call makes one request to the admin API. Errors carry the answer, which holds
// no secret, and never the request.
func (t *Tenant) call(ctx context.Context, method, path string, body, out any) error {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, t.admin+path, payload)
	if err != nil {
		return err
	}
	q.Header.Set("Authorization", "Bearer "+t.token)
	q.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return fmt.Errorf("admin API: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("admin API: %s %s: %w", method, path, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("admin API: %s %s: %s: %s", method, path, res.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}
