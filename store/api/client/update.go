package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// BucketUpdate changes an S3 connector; what is zero stays. With a Secret (sealed
// before it is sent) it has a credential of its own from then on, with APIKeyID
// that shared one. Endpoint, CA, bucket and key of a credential of its own change
// only with the Secret.
type BucketUpdate struct {
	Name                     string
	Bucket                   string
	Endpoint                 string
	Region                   string
	CACertificate            string
	Key                      string
	Secret                   Secret // overwritten once sealed
	SessionToken             Secret // with a Secret only; a Secret without one has none
	APIKeyID                 string
	AllowBucketConfiguration *bool
	SkipValidation           bool
	Version                  uint64 // if not 0, the version that it must have
}

// LLMUpdate changes an AI connector, as BucketUpdate an S3 one. Models, if not nil,
// replace the old ones.
type LLMUpdate struct {
	Name           string
	Endpoint       string
	CACertificate  string
	Secret         Secret
	APIKeyID       string
	Models         []string
	SkipValidation bool
	Version        uint64
}

// Validation is what a provider said to a bridge.
type Validation struct {
	OK      bool
	Message string        // the provider's own error, if not OK
	Latency time.Duration // of the provider
	Models  []Model       // of an AI provider
}

// Model is a model of an AI provider; the last three fields say where it is to be
// had, if that was asked for.
type Model struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Created     *time.Time `json:"created"`
	AIType      string     `json:"aiType"`
	LLMType     string     `json:"llmType"`
	LLMProvider string     `json:"llmProvider"`
}

// tried is what an answer says of a provider call; Status is empty if there was none.
type tried struct {
	Success bool    `json:"success"`
	Status  string  `json:"status"`
	Latency int64   `json:"latency_ms"`
	Message string  `json:"message"`
	Models  []Model `json:"models"`
}

func (t tried) validation() Validation {
	return Validation{OK: t.Success, Message: t.Message, Latency: time.Duration(t.Latency) * time.Millisecond, Models: t.Models}
}

// UpdateBucket changes an S3 connector; Latency is 0 if there was nothing to try.
func (c *Client) UpdateBucket(ctx context.Context, id string, u BucketUpdate) (Validation, error) {
	in, err := c.bucketBody(ctx, id, u)
	if err != nil {
		return Validation{}, err
	}
	var answer tried
	err = c.do(ctx, http.MethodPut, "/bucket/"+url.PathEscape(id), validation(u.SkipValidation), in, &answer, ifMatch(u.Version)...)
	return answer.validation(), err
}

// ValidateBucket has a bridge try an S3 connector, as it is or as an update would
// make it. A provider that refuses is no error.
func (c *Client) ValidateBucket(ctx context.Context, id string, u BucketUpdate) (Validation, error) {
	in, err := c.bucketBody(ctx, id, u)
	if err != nil {
		return Validation{}, err
	}
	var answer tried
	err = c.do(ctx, http.MethodPost, "/bucket/"+url.PathEscape(id)+"/validate", nil, in, &answer)
	var refused *Error
	if errors.As(err, &refused) && refused.Code == "PROVIDER_REFUSED" {
		return Validation{Message: refused.Message}, nil
	}
	return answer.validation(), err
}

// bucketBody is an update as it is sent. To seal a secret takes what the connector is now.
func (c *Client) bucketBody(ctx context.Context, id string, u BucketUpdate) (map[string]any, error) {
	in := map[string]any{"name": u.Name, "bucket": u.Bucket, "endpoint": u.Endpoint, "region": u.Region, "caCertificate": u.CACertificate,
		"key": u.Key, "apiKeyUuid": u.APIKeyID, "allowBucketConfiguration": u.AllowBucketConfiguration}
	if len(u.Secret) == 0 {
		return in, tokenAlone(u.SessionToken)
	}
	now, err := one(ctx, id, c.Buckets, func(b Bucket) string { return b.ID })
	if err != nil {
		return nil, err
	}
	endpoint := cmp.Or(u.Endpoint, now.Endpoint)
	if u.Endpoint == "" && u.Region != "" && now.Endpoint == defaultS3(now.Region) {
		endpoint = defaultS3(u.Region)
	}
	b, err := s3Binding(endpoint, cmp.Or(u.CACertificate, now.CACertificate), cmp.Or(u.Key, now.Key), cmp.Or(u.Bucket, now.Bucket))
	if err != nil {
		return nil, err
	}
	in["endpoint"], in["key"] = endpoint, b.Key
	return in, c.sealInto(ctx, in, now.WorkspaceID, id, now.SecretVersion+1, u.Secret, u.SessionToken, b)
}

// tokenAlone refuses a session token that comes without its secret, and overwrites it.
func tokenAlone(token Secret) error {
	if len(token) == 0 {
		return nil
	}
	clear(token)
	return errors.New("a session token comes with its secret only")
}

// UpdateLLM changes an AI connector, as UpdateBucket an S3 one.
func (c *Client) UpdateLLM(ctx context.Context, id string, u LLMUpdate) (Validation, error) {
	in, err := c.llmBody(ctx, id, u)
	if err != nil {
		return Validation{}, err
	}
	var answer tried
	err = c.do(ctx, http.MethodPut, "/ai/llm/"+url.PathEscape(id), validation(u.SkipValidation), in, &answer, ifMatch(u.Version)...)
	return answer.validation(), err
}

// ValidateLLM is ValidateBucket for an AI connector.
func (c *Client) ValidateLLM(ctx context.Context, id string, u LLMUpdate) (Validation, error) {
	in, err := c.llmBody(ctx, id, u)
	if err != nil {
		return Validation{}, err
	}
	var answer tried
	err = c.do(ctx, http.MethodPost, "/ai/llm/"+url.PathEscape(id)+"/validate", nil, in, &answer)
	return answer.validation(), err
}

func (c *Client) llmBody(ctx context.Context, id string, u LLMUpdate) (map[string]any, error) {
	in := map[string]any{"name": u.Name, "endpoint": u.Endpoint, "caCertificate": u.CACertificate, "apiKeyUuid": u.APIKeyID, "models": u.Models}
	if len(u.Secret) == 0 {
		return in, nil
	}
	now, err := one(ctx, id, c.LLMs, func(l LLM) string { return l.ID })
	if err != nil {
		return nil, err
	}
	_, b, err := aiBinding(now.AIType, cmp.Or(u.Endpoint, now.Endpoint), cmp.Or(u.CACertificate, now.CACertificate))
	if err != nil {
		return nil, err
	}
	return in, c.sealInto(ctx, in, now.WorkspaceID, id, now.SecretVersion+1, u.Secret, nil, b)
}

// Models asks the providers of a repository's AI connectors, of one type or
// (empty) of all, for their models.
func (c *Client) Models(ctx context.Context, repoID, aiType string) ([]Model, error) {
	var answer tried
	err := c.do(ctx, http.MethodPost, "/ai/models", nil, map[string]string{"repoId": repoID, "aiType": aiType}, &answer)
	return answer.Models, err
}

// one finds a record by its id in the list of all that the token sees.
func one[T any](ctx context.Context, id string, list func(context.Context, string) ([]T, error), idOf func(T) string) (T, error) {
	var none T
	all, err := list(ctx, "")
	if err != nil {
		return none, err
	}
	for _, r := range all {
		if idOf(r) == id {
			return r, nil
		}
	}
	return none, &Error{Status: http.StatusNotFound, Code: "NOT_FOUND", Message: fmt.Sprintf("no such record: %.64q", id)}
}
