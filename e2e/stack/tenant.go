package stack

import (
	"context"
	"errors"
	"fmt"
	"os"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/store/api/client"
)

// Bucket is a storage connector to make.
type Bucket struct {
	Name, Bucket, Endpoint, Region, Key, Secret, CA string
	Untried                                         bool // no bridge asks the provider first
}

// LLM is an AI connector to make.
type LLM struct {
	Name, Endpoint, Secret, CA string
	Untried                    bool // no bridge asks the provider first
}

// Key is a repository key as the API shows it once. Secret alone is an AI key.
type Key struct{ ID, Key, Secret string }

// Tenant is a workspace, and the right to administer it. Provider secrets are
// sealed before they leave this process.
type Tenant struct {
	*client.Client
	Workspace string // id
}

// Tenant is the workspace of a name, made if there is none. The sealing key is
// checked against the operator root.
func (s *Stack) Tenant(ctx context.Context, e Endpoints, name string) (*Tenant, error) {
	token, err := s.AdminToken()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(e.OperatorRoot)
	if err != nil {
		return nil, fmt.Errorf("operator root: %w", err)
	}
	root, err := identity.ParseRoot(b)
	if err != nil {
		return nil, err
	}
	c, err := client.New(e.Admin, token, client.Options{VerifySealingKey: func(manifest []byte, keyID string) error {
		m, err := keyshare.Verify(root, manifest)
		if err != nil {
			return err
		}
		if m.CurrentSealingKey().ID != keyID {
			return errors.New("the operator's manifest does not name this sealing key")
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	all, err := c.Workspaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range all {
		if w.Name == name {
			return &Tenant{c, w.ID}, nil
		}
	}
	w, err := c.CreateWorkspace(ctx, name)
	return &Tenant{c, w.ID}, err
}

// Bucket makes a storage connector and returns its id.
func (t *Tenant) Bucket(ctx context.Context, b Bucket) (string, error) {
	return t.CreateBucket(ctx, client.BucketSpec{
		WorkspaceID: t.Workspace, Name: b.Name, Bucket: b.Bucket, Endpoint: b.Endpoint, Region: b.Region,
		Key: b.Key, Secret: client.Secret(b.Secret), CACertificate: b.CA, SkipValidation: b.Untried,
	})
}

// LLM makes an AI connector of an OpenAI-compatible API and returns its id.
func (t *Tenant) LLM(ctx context.Context, l LLM) (string, error) {
	return t.CreateLLM(ctx, client.LLMSpec{
		WorkspaceID: t.Workspace, Name: l.Name, AIType: "OTHER", Endpoint: l.Endpoint, Secret: client.Secret(l.Secret), CACertificate: l.CA,
		SkipValidation: l.Untried,
	})
}

// Repository makes a repository of connectors and returns its id.
func (t *Tenant) Repository(ctx context.Context, name string, buckets, llms []string) (string, error) {
	spec := client.RepoSpec{WorkspaceID: t.Workspace, Name: name, LLMs: llms}
	for _, id := range buckets {
		spec.Buckets = append(spec.Buckets, client.RepoBucket{ID: id})
	}
	return t.CreateRepo(ctx, spec)
}

// StorageKey makes a key of a repository: READ, WRITE or ADMIN.
func (t *Tenant) StorageKey(ctx context.Context, repository, name, access string) (Key, error) {
	k, err := t.CreateStorageKey(ctx, repository, client.KeySpec{Name: name, AccessType: access})
	return Key{k.ID, k.Key, string(k.Secret)}, err
}

// AIKey makes an AI key of a repository.
func (t *Tenant) AIKey(ctx context.Context, repository, name string) (Key, error) {
	k, err := t.CreateAIKey(ctx, repository, client.KeySpec{Name: name, AIType: "OTHER"})
	return Key{k.ID, k.Key, string(k.Secret)}, err
}
