package client

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
)

// CredentialSpec asks for a shared credential.
type CredentialSpec struct {
	WorkspaceID    string
	Provider       string // AWS, OPENAI, ANTHROPIC or OTHER: S3-compatible with a Key, OpenAI-compatible without
	Key            string // the access key id, of storage
	Secret         Secret // overwritten once sealed
	SessionToken   Secret // of temporary storage credentials: sealed with the Secret
	Endpoint       string // no default for OTHER
	Region         string
	CACertificate  string
	TenantID       string
	SubscriptionID string
	Description    string
}

// Credential is a shared credential.
type Credential struct {
	ID             string    `json:"id"`
	WorkspaceID    string    `json:"workspaceId"`
	Provider       string    `json:"provider"`
	Key            string    `json:"key"`
	Endpoint       string    `json:"endpoint"`
	Region         string    `json:"region"`
	CACertificate  string    `json:"caCertificate"`
	TenantID       string    `json:"tenantId"`
	SubscriptionID string    `json:"subscriptionId"`
	Description    string    `json:"description"`
	Capability     int       `json:"capability"` // 1 storage, 2 AI
	Buckets        int       `json:"bucket_count"`
	LLMs           int       `json:"aillm_count"`
	CreatedAt      time.Time `json:"createdAt"`
	Version        uint64    `json:"version"`
	SecretVersion  uint64    `json:"secretVersion"`
}

// CredentialUpdate changes a shared credential; what is zero stays. Endpoint, CA
// and key change only with the Secret.
type CredentialUpdate struct {
	Key            string
	Secret         Secret // overwritten once sealed
	SessionToken   Secret // with a Secret only; a Secret without one has none
	Endpoint       string
	Region         string
	CACertificate  string
	TenantID       string
	SubscriptionID string
	Description    string
	Version        uint64 // if not 0, the version that it must have
}

// sharedBinding is what a shared credential is sealed for, and its endpoint in full.
func sharedBinding(provider, endpoint, region, ca, key string) (string, seal.Binding, error) {
	switch {
	case provider == "OPENAI" || provider == "ANTHROPIC" || provider == "OTHER" && key == "":
		return aiBinding(provider, endpoint, ca)
	case endpoint == "" && provider == "AWS":
		endpoint = defaultS3(cmp.Or(region, defaultRegion))
	}
	b, err := s3Binding(endpoint, ca, key, "*")
	return endpoint, b, err
}

// CreateCredential seals the secret and makes the credential; it returns its id.
func (c *Client) CreateCredential(ctx context.Context, spec CredentialSpec) (string, error) {
	endpoint, b, err := sharedBinding(spec.Provider, spec.Endpoint, spec.Region, spec.CACertificate, spec.Key)
	if err != nil {
		return "", err
	}
	in := map[string]any{"workspaceId": spec.WorkspaceID, "provider": spec.Provider, "key": spec.Key, "endpoint": endpoint, "region": spec.Region,
		"caCertificate": spec.CACertificate, "tenantId": spec.TenantID, "subscriptionId": spec.SubscriptionID, "description": spec.Description}
	if err := c.sealInto(ctx, in, spec.WorkspaceID, uuid.NewString(), 1, spec.Secret, spec.SessionToken, b); err != nil {
		return "", err
	}
	var answer struct {
		ID string `json:"apiKeyId"`
	}
	err = c.do(ctx, http.MethodPost, "/apikeys", nil, in, &answer)
	return answer.ID, err
}

// Credentials lists shared credentials as Buckets lists S3 connectors.
func (c *Client) Credentials(ctx context.Context, workspaceID string) ([]Credential, error) {
	var answer struct {
		APIKeys []Credential `json:"apiKeys"`
	}
	err := c.do(ctx, http.MethodGet, "/apikeys", inWorkspace(workspaceID), nil, &answer)
	return answer.APIKeys, err
}

// UpdateCredential changes a shared credential. A new secret works at all bridges
// from then on; connectors move with the endpoint.
func (c *Client) UpdateCredential(ctx context.Context, id string, u CredentialUpdate) error {
	in := map[string]any{"key": u.Key, "endpoint": u.Endpoint, "region": u.Region, "caCertificate": u.CACertificate,
		"tenantId": u.TenantID, "subscriptionId": u.SubscriptionID, "description": u.Description}
	if len(u.Secret) > 0 {
		now, err := one(ctx, id, c.Credentials, func(r Credential) string { return r.ID })
		if err != nil {
			return err
		}
		endpoint := cmp.Or(u.Endpoint, now.Endpoint)
		if u.Endpoint == "" && u.Region != "" && now.Endpoint == defaultS3(now.Region) {
			endpoint = defaultS3(u.Region)
		}
		in["endpoint"] = endpoint
		_, b, err := sharedBinding(now.Provider, endpoint, "", cmp.Or(u.CACertificate, now.CACertificate), cmp.Or(u.Key, now.Key))
		if err != nil {
			return err
		}
		if err := c.sealInto(ctx, in, now.WorkspaceID, id, now.SecretVersion+1, u.Secret, u.SessionToken, b); err != nil {
			return err
		}
	} else if err := tokenAlone(u.SessionToken); err != nil {
		return err
	}
	return c.do(ctx, http.MethodPut, "/apikeys/"+url.PathEscape(id), nil, in, nil, ifMatch(u.Version)...)
}

// DeleteCredential destroys a shared credential that no connector uses.
func (c *Client) DeleteCredential(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/apikeys/"+url.PathEscape(id), nil, nil, nil)
}
