package client

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"keybridge/keyshare/seal"
)

// BucketSpec asks for an S3 connector. Its provider secret is in Secret, or in the
// shared credential APIKeyID, which also knows the endpoint.
type BucketSpec struct {
	WorkspaceID string
	Name        string
	Bucket      string // "*": the whole account
	Endpoint    string // https://host[:port]; default: AWS in Region
	Region      string // default: us-east-1, or as the bridge that tries it learns
	// CACertificate is PEM, for endpoints that the system roots do not vouch for.
	CACertificate            string
	Key                      string // the provider's access key id
	Secret                   Secret // overwritten once sealed
	SessionToken             Secret // of temporary credentials: sealed with the Secret
	APIKeyID                 string
	AllowBucketConfiguration bool
	// SkipValidation stores it without a bridge having tried it.
	SkipValidation bool
}

// LLMSpec asks for an AI connector, as BucketSpec for an S3 one.
type LLMSpec struct {
	WorkspaceID   string
	Name          string
	AIType        string // OPENAI, ANTHROPIC or OTHER (OpenAI-compatible)
	Endpoint      string // https://host[:port][/path]; no default for OTHER; path /v1 if it has none
	CACertificate string
	Secret        Secret // the provider's API key; overwritten once sealed
	APIKeyID      string
	// Models are served here beside those that the provider lists; * at the end of
	// one stands for any rest.
	Models         []string
	SkipValidation bool
}

// Bucket is an S3 connector.
type Bucket struct {
	ID            string `json:"id"`
	WorkspaceID   string `json:"workspaceId"`
	Name          string `json:"name"`
	Bucket        string `json:"bucket"`
	StorageType   string `json:"storageType"`
	Key           string `json:"key"`
	Endpoint      string `json:"endpoint"`
	Region        string `json:"region"`
	CACertificate string `json:"caCertificate"`
	APIKeyID      string `json:"apiKeyId"` // the shared credential, if it uses one
	// Status is ONLINE, OFFLINE or DISCONNECTED, as bridges last found it; empty if none did.
	Status                   string    `json:"status"`
	AllowBucketConfiguration bool      `json:"allowBucketConfiguration"`
	Repos                    []Ref     `json:"repos"`
	CreatedAt                time.Time `json:"createdAt"`
	Version                  uint64    `json:"version"`
	SecretVersion            uint64    `json:"secretVersion"`
}

// LLM is an AI connector.
type LLM struct {
	ID            string    `json:"id"`
	WorkspaceID   string    `json:"workspaceId"`
	Name          string    `json:"name"`
	AIType        string    `json:"aiType"`
	Endpoint      string    `json:"endpoint"`
	CACertificate string    `json:"caCertificate"`
	APIKeyID      string    `json:"apiKeyId"`
	Models        []string  `json:"models"`
	Status        string    `json:"status"`
	Repos         []Ref     `json:"repos"`
	CreatedAt     time.Time `json:"createdAt"`
	Version       uint64    `json:"version"`
	SecretVersion uint64    `json:"secretVersion"`
}

// Ref names a repository that uses a connector.
type Ref struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Endpoints of connectors that name none. The server has the same, but what a
// secret is sealed for is not its to say.
const (
	defaultRegion    = "us-east-1"
	defaultOpenAI    = "https://api.openai.com/v1"
	defaultAnthropic = "https://api.anthropic.com/v1"
	defaultAIPath    = "/v1"
)

func defaultS3(region string) string { return "https://s3." + region + ".amazonaws.com" }

// s3Binding is what an S3 credential is sealed for.
func s3Binding(endpoint, ca, key, scope string) (seal.Binding, error) {
	e, err := seal.ParseEndpoint(endpoint)
	return seal.Binding{Use: seal.UseS3, Key: key, Scheme: e.Scheme, Host: e.Host, Port: e.Port, CA: seal.CADigest([]byte(ca)), Scope: scope}, err
}

// aiBinding is what an AI credential is sealed for, and the endpoint in full.
func aiBinding(aiType, endpoint, ca string) (string, seal.Binding, error) {
	use := seal.UseOpenAI
	if aiType == "ANTHROPIC" {
		use = seal.UseAnthropic
	}
	switch {
	case endpoint != "":
	case aiType == "OPENAI":
		endpoint = defaultOpenAI
	case aiType == "ANTHROPIC":
		endpoint = defaultAnthropic
	}
	e, err := seal.ParseEndpoint(endpoint)
	if e.Path == "" {
		e.Path = defaultAIPath
	}
	return endpoint, seal.Binding{Use: use, Scheme: e.Scheme, Host: e.Host, Port: e.Port, CA: seal.CADigest([]byte(ca)), Scope: e.Path}, err
}

// CreateBucket seals the secret and makes the connector; it returns its id.
func (c *Client) CreateBucket(ctx context.Context, spec BucketSpec) (string, error) {
	in := map[string]any{
		"workspaceId": spec.WorkspaceID, "name": spec.Name, "bucket": spec.Bucket, "storageType": "S3", "endpoint": spec.Endpoint,
		"region": spec.Region, "caCertificate": spec.CACertificate, "apiKeyUuid": spec.APIKeyID, "key": spec.Key,
		"allowBucketConfiguration": spec.AllowBucketConfiguration,
	}
	if spec.APIKeyID == "" {
		endpoint := spec.Endpoint
		if endpoint == "" {
			endpoint = defaultS3(cmp.Or(spec.Region, defaultRegion))
		}
		b, err := s3Binding(endpoint, spec.CACertificate, spec.Key, spec.Bucket)
		if err != nil {
			return "", err
		}
		in["endpoint"] = endpoint
		if err := c.sealInto(ctx, in, spec.WorkspaceID, uuid.NewString(), 1, spec.Secret, spec.SessionToken, b); err != nil {
			return "", err
		}
	}
	var answer struct {
		ID string `json:"bucketId"`
	}
	err := c.do(ctx, http.MethodPost, "/bucket", validation(spec.SkipValidation), in, &answer)
	return answer.ID, err
}

// CreateLLM seals the secret and makes the connector; it returns its id.
func (c *Client) CreateLLM(ctx context.Context, spec LLMSpec) (string, error) {
	in := map[string]any{
		"workspaceId": spec.WorkspaceID, "name": spec.Name, "aiType": spec.AIType, "endpoint": spec.Endpoint,
		"caCertificate": spec.CACertificate, "apiKeyUuid": spec.APIKeyID, "models": spec.Models,
	}
	if spec.APIKeyID == "" {
		endpoint, b, err := aiBinding(spec.AIType, spec.Endpoint, spec.CACertificate)
		if err != nil {
			return "", err
		}
		in["endpoint"] = endpoint
		if err := c.sealInto(ctx, in, spec.WorkspaceID, uuid.NewString(), 1, spec.Secret, nil, b); err != nil {
			return "", err
		}
	}
	var answer struct {
		ID string `json:"aiLlmId"`
	}
	err := c.do(ctx, http.MethodPost, "/ai/llm", validation(spec.SkipValidation), in, &answer)
	return answer.ID, err
}

// stray is what no provider's secret has: anything but visible ASCII.
func stray(b byte) bool { return b <= ' ' || b > '~' }

// sealInto seals a version of a credential into a request's body, and overwrites the
// secret and the session token, which may be empty.
func (c *Client) sealInto(ctx context.Context, in map[string]any, workspace, id string, version uint64, secret, token Secret, b seal.Binding) error {
	defer clear(secret)
	defer clear(token)
	if len(secret) == 0 {
		return errors.New("the provider's secret is missing")
	}
	// The API cannot look into a sealed secret, so here is where a stray newline is found.
	if slices.ContainsFunc(secret, stray) {
		return errors.New("the provider's secret has spaces, line ends or other characters that no such secret has")
	}
	if slices.ContainsFunc(token, stray) {
		return errors.New("the session token has spaces, line ends or other characters that no such token has")
	}
	if len(token) > 0 {
		if b.Use != seal.UseS3 {
			return errors.New("a session token is of S3 alone")
		}
		secret = seal.WithToken(secret, token)
		defer clear(secret)
	}
	pub, err := c.SealingKey(ctx)
	if err != nil {
		return err
	}
	sealed, err := seal.Seal(pub, seal.Header{
		Format: seal.Format, Workspace: workspace, Type: seal.TypeCredential, Record: id, Version: version, Binding: b,
	}, secret)
	in["id"], in["sealedSecret"] = id, sealed
	return err
}

func validation(skip bool) url.Values {
	if !skip {
		return nil
	}
	return url.Values{"validate": {"false"}}
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
