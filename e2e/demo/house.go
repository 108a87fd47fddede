package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

const (
	bucket = "photos"
	name   = "demo" // of the workspace and the repository
)

// house is everything that the demo runs.
type house struct {
	options
	s3        *provider.S3
	ai        *provider.OpenAI
	stack     *stack.Stack
	output    bytes.Buffer // of keybridge dev; read once it has ended
	endpoints stack.Endpoints
	storage   stack.Key
	model     stack.Key

	behindEnvoy, beforeEnvoy leak.Set
}

// providers is what a later run with the same state needs to start the same
// providers again: credentials are bound to host and port. It plays the part of the
// provider's own memory, outside of Keybridge's state.
type providers struct {
	S3     string `json:"s3"`
	AI     string `json:"ai"`
	Access string `json:"access"`
	Secret string `json:"secret"`
	AIKey  string `json:"aiKey"`
}

func (o *options) providersFile() string {
	return filepath.Join(o.state, "providers", "providers.json")
}

// build starts everything. It returns a house to close in any case.
func build(ctx context.Context, o options) (*house, error) {
	h := &house{options: o}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()

	heading("On this machine")
	if err := h.startProviders(ctx); err != nil {
		return h, err
	}
	begin := time.Now()
	var err error
	h.stack, err = stack.Start(stack.Config{
		Binary: o.binary, Dir: filepath.Join(o.state, "keybridge"), S3: o.s3, AI: o.ai, Admin: o.admin, Output: &h.output,
	})
	if err != nil {
		return h, err
	}
	if h.endpoints, err = h.stack.Ready(ctx); err != nil {
		return h, err
	}
	tick("Keybridge: 3 keepers, control plane, bridge, Envoy; unsealed with 2 of 3 shares (%.1f s)", time.Since(begin).Seconds())
	if err := h.furnish(ctx); err != nil {
		return h, err
	}
	tick("a repository with one bucket and one model, and a key for each; provider secrets were sealed here, before the API saw them")
	return h, nil
}

func (h *house) startProviders(ctx context.Context) error {
	var known providers
	b, err := os.ReadFile(h.providersFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(b, &known); err != nil {
			return fmt.Errorf("%s: %w", h.providersFile(), err)
		}
	}
	if h.s3, err = provider.StartS3(ctx, provider.S3Config{
		Dir: filepath.Dir(h.providersFile()), Access: known.Access, Secret: known.Secret,
		Recorder: provider.RecorderConfig{Listen: known.S3, Forbidden: &h.behindEnvoy},
	}); err != nil {
		return err
	}
	if err := h.s3.MakeBucket(ctx, bucket); err != nil {
		return err
	}
	tick("versitygw, the S3 provider            %s", h.s3.URL())
	if h.ai, err = provider.StartOpenAI(provider.OpenAIConfig{
		Key: known.AIKey, Recorder: provider.RecorderConfig{Listen: known.AI, Forbidden: &h.behindEnvoy},
	}); err != nil {
		return err
	}
	tick("an OpenAI-compatible LLM provider     %s", h.ai.Endpoint())
	b, err = json.Marshal(providers{h.s3.Addr(), h.ai.Addr(), h.s3.Access, h.s3.Secret, h.ai.Key})
	if err != nil {
		return err
	}
	return os.WriteFile(h.providersFile(), b, 0o600)
}

// furnish makes the tenant's things, or finds them, and makes keys for this run.
func (h *house) furnish(ctx context.Context) error {
	t, err := h.stack.Tenant(ctx, h.endpoints, name)
	if err != nil {
		return err
	}
	repos, err := t.Repos(ctx, t.Workspace)
	if err != nil {
		return err
	}
	repo := ""
	for _, r := range repos {
		if r.Name == name {
			repo = r.ID
		}
	}
	if repo == "" {
		if repo, err = h.makeRepository(ctx, t); err != nil {
			return err
		}
	}
	// Nobody has the secrets of an earlier run's keys any more.
	old, err := t.StorageKeys(ctx, repo)
	for _, k := range old {
		err = errors.Join(err, t.DeleteStorageKey(ctx, repo, k.ID))
	}
	if err != nil {
		return err
	}
	old, err = t.AIKeys(ctx, repo)
	for _, k := range old {
		err = errors.Join(err, t.DeleteAIKey(ctx, repo, k.ID))
	}
	if err != nil {
		return err
	}
	if h.storage, err = t.StorageKey(ctx, repo, "run", "ADMIN"); err != nil {
		return err
	}
	if h.model, err = t.AIKey(ctx, repo, "run"); err != nil {
		return err
	}
	h.behindEnvoy.Add("the repository's S3 secret", h.storage.Secret)
	h.behindEnvoy.Add("the repository's S3 key id", h.storage.Key)
	h.behindEnvoy.Add("the repository's AI key", h.model.Secret)
	h.beforeEnvoy.Add("the provider's S3 secret", h.s3.Secret)
	h.beforeEnvoy.Add("the provider's S3 key id", h.s3.Access)
	h.beforeEnvoy.Add("the provider's AI key", h.ai.Key)
	return nil
}

func (h *house) makeRepository(ctx context.Context, t *stack.Tenant) (string, error) {
	// An earlier run may have ended in between.
	ids := map[string]string{}
	buckets, err := t.Buckets(ctx, t.Workspace)
	if err != nil {
		return "", err
	}
	for _, b := range buckets {
		ids[b.Name] = b.ID
	}
	llms, err := t.LLMs(ctx, t.Workspace)
	if err != nil {
		return "", err
	}
	for _, l := range llms {
		ids[l.Name] = l.ID
	}
	if ids["photos"] == "" {
		if ids["photos"], err = t.Bucket(ctx, stack.Bucket{
			Name: "photos", Bucket: bucket, Endpoint: h.s3.URL(), Region: provider.Region, Key: h.s3.Access, Secret: h.s3.Secret,
		}); err != nil {
			return "", err
		}
	}
	if ids["models"] == "" {
		if ids["models"], err = t.LLM(ctx, stack.LLM{Name: "models", Endpoint: h.ai.Endpoint(), Secret: h.ai.Key}); err != nil {
			return "", err
		}
	}
	return t.Repository(ctx, name, []string{ids["photos"]}, []string{ids["models"]})
}

// front is a recorder between the demo's own SDKs and Envoy.
func (h *house) front(address string) (*provider.Recorder, error) {
	return provider.Record(provider.RecorderConfig{Forbidden: &h.beforeEnvoy, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}})
}

// explain adds to an error what the processes have last said, unless it was Ctrl-C.
func (h *house) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	logs, _ := filepath.Glob(filepath.Join(h.state, "keybridge", "logs", "*.log"))
	var b strings.Builder
	for _, f := range logs {
		text, _ := os.ReadFile(f)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "\n%s\n    %s", f, strings.Join(lines[max(0, len(lines)-10):], "\n    "))
	}
	return fmt.Errorf("%w\n%s", err, b.String())
}

func (h *house) close() error {
	var errs []error
	if h.stack != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := h.stack.Stop(ctx)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, h.output.String())
		}
		errs = append(errs, err)
	}
	if h.s3 != nil {
		errs = append(errs, h.s3.Close())
	}
	if h.ai != nil {
		errs = append(errs, h.ai.Close())
	}
	return errors.Join(errs...)
}
