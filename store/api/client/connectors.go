package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
)

// BucketSpec asks for an S3 connector.
type BucketSpec struct {
	WorkspaceID string
	Name        string
	Bucket      string
	Endpoint    string // https://host[:port]; default: AWS in Region
	Region      string // default: us-east-1
	// CACertificate is PEM, for endpoints that the system roots do not vouch for.
	CACertificate            string
	Key                      string // the provider's access key id
	Secret                   Secret // overwritten once sealed
	AllowBucketConfiguration bool
}

// LLMSpec asks for an AI connector.
type LLMSpec struct {
	WorkspaceID   string
	Name          string
	AIType        string // OPENAI or OTHER (OpenAI-compatible)
	Endpoint      string // https://host[:port][/path]; default for OPENAI only; path /v1 if it has none
	CACertificate string
	Secret        Secret // the provider's API key; overwritten once sealed
}

// Bucket is an S3 connector.
type Bucket struct {
	ID            string    `json:"id"`
	WorkspaceID   string    `json:"workspaceId"`
	Name          string    `json:"name"`
	Bucket        string    `json:"bucket"`
	StorageType   string    `json:"storageType"`
	Key           string    `json:"key"`
	Endpoint      string    `json:"endpoint"`
	Region        string    `json:"region"`
	CreatedAt     time.Time `json:"createdAt"`
	Version       uint64    `json:"version"`
	SecretVersion uint64    `json:"secretVersion"`
}

// LLM is an AI connector.
type LLM struct {
	ID            string    `json:"id"`
	WorkspaceID   string    `json:"workspaceId"`
	Name          string    `json:"name"`
	AIType        string    `json:"aiType"`
	Endpoint      string    `json:"endpoint"`
	CreatedAt     time.Time `json:"createdAt"`
	Version       uint64    `json:"version"`
	SecretVersion uint64    `json:"secretVersion"`
}

// CreateBucket seals the secret and makes the connector; it returns its id.
func (c *Client) CreateBucket(ctx context.Context, spec BucketSpec) (string, error) {
	if spec.Region == "" {
		spec.Region = "us-east-1"
	}
	if spec.Endpoint == "" {
		spec.Endpoint = "https://s3." + spec.Region + ".amazonaws.com"
	}
	e, err := seal.ParseEndpoint(spec.Endpoint)
	if err != nil {
		return "", err
	}
	id := uuid.NewString()
	sealed, err := c.seal(ctx, spec.WorkspaceID, id, spec.Secret, seal.Binding{
		Use: seal.UseS3, Key: spec.Key, Scheme: e.Scheme, Host: e.Host, Port: e.Port,
		CA: seal.CADigest([]byte(spec.CACertificate)), Scope: spec.Bucket,
	})
	if err != nil {
		return "", err
	}
	var answer struct {
		ID string `json:"bucketId"`
	}
	err = c.do(ctx, http.MethodPost, "/bucket", nil, map[string]any{
		"id": id, "workspaceId": spec.WorkspaceID, "name": spec.Name, "bucket": spec.Bucket, "storageType": "S3",
		"endpoint": spec.Endpoint, "region": spec.Region, "caCertificate": spec.CACertificate, "key": spec.Key,
		"sealedSecret": sealed, "allowBucketConfiguration": spec.AllowBucketConfiguration,
	}, &answer)
	return answer.ID, err
}

// CreateLLM seals the secret and makes the connector; it returns its id.
func (c *Client) CreateLLM(ctx context.Context, spec LLMSpec) (string, error) {
	if spec.Endpoint == "" && spec.AIType == "OPENAI" {
		spec.Endpoint = "https://api.openai.com/v1"
	}
	e, err := seal.ParseEndpoint(spec.Endpoint)
	if err != nil {
		return "", err
	}
	if e.Path == "" {
		e.Path = "/v1"
	}
	id := uuid.NewString()
	sealed, err := c.seal(ctx, spec.WorkspaceID, id, spec.Secret, seal.Binding{
		Use: seal.UseOpenAI, Scheme: e.Scheme, Host: e.Host, Port: e.Port,
		CA: seal.CADigest([]byte(spec.CACertificate)), Scope: e.Path,
	})
	if err != nil {
		return "", err
	}
	var answer struct {
		ID string `json:"aiLlmId"`
	}
	err = c.do(ctx, http.MethodPost, "/ai/llm", nil, map[string]any{
		"id": id, "workspaceId": spec.WorkspaceID, "name": spec.Name, "aiType": spec.AIType,
		"endpoint": spec.Endpoint, "caCertificate": spec.CACertificate, "sealedSecret": sealed,
	}, &answer)
	return answer.ID, err
}

// seal seals the first version of a credential and overwrites the secret.
func (c *Client) seal(ctx context.Context, workspace, id string, secret Secret, b seal.Binding) (*seal.Sealed, error) {
	defer clear(secret)
	if len(secret) == 0 {
		return nil, errors.New("the connector needs its provider's secret")
	}
	for _, ch := range secret {
		if ch <= ' ' || ch > '~' { // the API cannot look into a sealed secret, so here is where a stray newline is found
			return nil, errors.New("the provider's secret has spaces, line ends or other characters that no such secret has")
		}
	}
	pub, err := c.SealingKey(ctx)
	if err != nil {
		return nil, err
	}
	return seal.Seal(pub, seal.Header{
		Format: seal.Format, Workspace: workspace, Type: seal.TypeCredential, Record: id, Version: 1, Binding: b,
	}, secret)
}

// Buckets lists the S3 connectors of a workspace, or (empty) of all that the token sees.
func (c *Client) Buckets(ctx context.Context, workspaceID string) ([]Bucket, error) {
	var answer struct {
		Buckets []Bucket `json:"buckets"`
	}
	err := c.do(ctx, http.MethodGet, "/bucket", inWorkspace(workspaceID), nil, &answer)
	return answer.Buckets, err
}

// LLMs lists AI connectors as Buckets lists S3 connectors.
func (c *Client) LLMs(ctx context.Context, workspaceID string) ([]LLM, error) {
	var answer struct {
		LLMs []LLM `json:"aiLlms"`
	}
	err := c.do(ctx, http.MethodGet, "/ai/llm", inWorkspace(workspaceID), nil, &answer)
	return answer.LLMs, err
}

// DeleteBucket deletes an S3 connector that no repository uses.
func (c *Client) DeleteBucket(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/bucket/"+url.PathEscape(id), nil, nil, nil)
}

// DeleteLLM deletes an AI connector that no repository uses.
func (c *Client) DeleteLLM(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/ai/llm/"+url.PathEscape(id), nil, nil, nil)
}

func inWorkspace(id string) url.Values {
	if id == "" {
		return nil
	}
	return url.Values{"workspaceId": {id}}
}
