package client_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store/api"
	"keybridge/store/api/client"
	"keybridge/store/audit"
)

// bridges stands for the fleet, which is of another room.
type bridges struct {
	mu     sync.Mutex
	asked  int
	result api.ProbeResult
	err    error
}

func (b *bridges) Probe(context.Context, api.Probe) (api.ProbeResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	return b.result, b.err
}

func (b *bridges) Nodes() []api.Node {
	return []api.Node{{Name: "b1", IP: "10.0.0.1", Status: api.StatusOnline, URL: "http://10.0.0.1:9000", Services: 1, Latency: 5 * time.Millisecond,
		Keepers: []api.KeeperStatus{{Name: "keeper-2", State: "bad", Detail: "its share"}}}, {Name: "b2", Services: 2, Status: api.StatusOffline}}
}

func (b *bridges) ConnectorStatus(string) []api.NodeStatus {
	return []api.NodeStatus{{Node: api.Node{Name: "b1", Status: api.StatusOffline}, Message: "AccessDenied"}}
}

func (b *bridges) Sync() []api.SyncStatus {
	return []api.SyncStatus{{Node: "b1", Bridge: "b1", Type: "T", Sent: 2, Acked: 1, Nack: "no", Connected: true}}
}

// TestRotations: each new secret is sealed as the server wants it, and never sent in clear.
func TestRotations(t *testing.T) {
	fleet := &bridges{result: api.ProbeResult{OK: true, Latency: 7 * time.Millisecond}}
	p := newPlane(t, func(c *api.Config) { c.Fleet = fleet })
	c, ctx := p.client(t, client.Options{}), t.Context()
	ws := must(c.CreateWorkspace(ctx, "home"))(t)
	secret := func() client.Secret { return client.Secret("in-clear") }
	bucket := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "AK", Secret: secret()}))(t)
	account := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "a", Bucket: "*", Key: "AK", Secret: secret()}))(t)
	llm := must(c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "l", AIType: "ANTHROPIC", Secret: secret(), Models: []string{"claude-*"}}))(t)
	shared := map[string]string{}
	for name, spec := range map[string]client.CredentialSpec{
		"aws": {Provider: "AWS", Key: "AK"}, "region": {Provider: "AWS", Key: "AK", Region: "eu-west-3"}, "openai": {Provider: "OPENAI"}, "anthropic": {Provider: "ANTHROPIC"},
		"s3": {Provider: "OTHER", Key: "AK", Endpoint: "https://s3.example.com"}, "llm": {Provider: "OTHER", Endpoint: "https://llm.example.com/api"},
	} {
		spec.WorkspaceID, spec.Secret, spec.Description = ws.ID, secret(), name
		shared[name] = must(c.CreateCredential(ctx, spec))(t)
	}

	for name, u := range map[string]client.BucketUpdate{
		"secret": {}, "key": {Key: "AK2"}, "endpoint": {Endpoint: "https://S3.example.com:443/"}, "bucket": {Bucket: "pictures"},
		"back to AWS": {Endpoint: "https://s3.us-east-1.amazonaws.com"}, "region": {Region: "eu-west-1"},
	} {
		u.Secret = secret()
		if v, err := c.UpdateBucket(ctx, bucket, u); err != nil || v.Latency != 7*time.Millisecond || !v.OK {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	// A region that moves the default endpoint.
	must(c.UpdateBucket(ctx, bucket, client.BucketUpdate{Endpoint: "https://s3.us-east-1.amazonaws.com", Region: "us-east-1", Secret: secret()}))(t)
	must(c.UpdateBucket(ctx, bucket, client.BucketUpdate{Region: "eu-west-3", Secret: secret()}))(t)
	if got := find(t, must(c.Buckets(ctx, ""))(t), bucket); got.Endpoint != "https://s3.eu-west-3.amazonaws.com" || got.Region != "eu-west-3" {
		t.Errorf("moved: %+v", got)
	}
	// To a shared credential, and to its own again.
	if v := must(c.UpdateBucket(ctx, account, client.BucketUpdate{APIKeyID: shared["s3"]}))(t); !v.OK {
		t.Errorf("%+v", v)
	}
	if got := find(t, must(c.Buckets(ctx, ""))(t), account); got.APIKeyID != shared["s3"] || got.Endpoint != "https://s3.example.com" || got.SecretVersion != 1 {
		t.Errorf("shared: %+v", got)
	}
	must(c.UpdateBucket(ctx, account, client.BucketUpdate{Key: "AKOWN", Secret: secret()}))(t)
	if got := find(t, must(c.Buckets(ctx, ""))(t), account); got.APIKeyID != "" || got.Key != "AKOWN" || got.SecretVersion != 2 || got.Status != "OFFLINE" {
		t.Errorf("its own: %+v", got)
	}
	must(c.UpdateLLM(ctx, llm, client.LLMUpdate{Secret: secret(), Models: []string{}}))(t)
	must(c.UpdateLLM(ctx, llm, client.LLMUpdate{Secret: secret(), Endpoint: "https://llm.example.com"}))(t)
	if got := must(c.LLMs(ctx, ""))(t)[0]; got.Endpoint != "https://llm.example.com/v1" || len(got.Models) != 0 || got.SecretVersion != 3 {
		t.Errorf("LLM: %+v", got)
	}
	with := must(c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "shared", AIType: "OTHER", APIKeyID: shared["llm"]}))(t)
	must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "shared-b", Bucket: "any-bucket", APIKeyID: shared["region"]}))(t)
	for name, id := range shared {
		if err := c.UpdateCredential(ctx, id, client.CredentialUpdate{Secret: secret(), Description: "rotated"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.UpdateCredential(ctx, shared["aws"], client.CredentialUpdate{Secret: secret(), Key: "AK9", Region: "eu-west-1"}); err != nil {
		t.Error(err)
	}
	for _, got := range must(c.Credentials(ctx, ws.ID))(t) {
		if got.ID == shared["aws"] && (got.Endpoint != "https://s3.eu-west-1.amazonaws.com" || got.Key != "AK9" || got.SecretVersion != 3 || got.Description != "rotated") ||
			got.ID == shared["llm"] && (got.LLMs != 1 || got.Capability != 2) {
			t.Errorf("%+v", got)
		}
	}
	var refused *client.Error
	if err := c.DeleteCredential(ctx, shared["llm"]); !errors.As(err, &refused) || refused.Code != "IN_USE" {
		t.Errorf("delete in use: %v", err)
	}
	if err := errors.Join(c.DeleteLLM(ctx, with), c.DeleteCredential(ctx, shared["llm"])); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.received.String(), "in-clear") {
		t.Error("a secret was sent in clear")
	}

	// What the provider says.
	fleet.result = api.ProbeResult{Message: "AccessDenied"}
	if v := must(c.ValidateBucket(ctx, bucket, client.BucketUpdate{}))(t); v.OK || v.Message != "AccessDenied" {
		t.Errorf("%+v", v)
	}
	if v := must(c.ValidateLLM(ctx, llm, client.LLMUpdate{Secret: secret()}))(t); v.OK || v.Message != "AccessDenied" {
		t.Errorf("%+v", v)
	}
	if _, err := c.UpdateBucket(ctx, bucket, client.BucketUpdate{Secret: secret()}); !errors.As(err, &refused) || refused.Code != "PROVIDER_REFUSED" {
		t.Errorf("%v", err)
	}
	must(c.UpdateBucket(ctx, bucket, client.BucketUpdate{Secret: secret(), SkipValidation: true}))(t)
	fleet.result = api.ProbeResult{OK: true, Models: []api.Model{{ID: "m"}}}
	if v := must(c.ValidateLLM(ctx, llm, client.LLMUpdate{}))(t); !v.OK || len(v.Models) != 1 || v.Models[0].ID != "m" {
		t.Errorf("%+v", v)
	}
	if v := must(c.ValidateBucket(ctx, bucket, client.BucketUpdate{Secret: secret()}))(t); !v.OK {
		t.Errorf("%+v", v)
	}
	repo := must(c.CreateRepo(ctx, client.RepoSpec{WorkspaceID: ws.ID, Name: "r", LLMs: []string{llm}}))(t)
	if got := must(c.Models(ctx, repo, ""))(t); len(got) != 1 || got[0].LLMProvider != "l" || got[0].LLMType != "ANTHROPIC" {
		t.Errorf("models: %+v", got)
	}
	fleet.err = api.ErrNoBridge
	if _, err := c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "x", AIType: "OPENAI", Secret: secret()}); !errors.As(err, &refused) || refused.Code != "NO_BRIDGE" {
		t.Errorf("%v", err)
	}
	must(c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "x", AIType: "OPENAI", Secret: secret(), SkipValidation: true}))(t)
	if _, err := c.UpdateBucket(ctx, "11111111-2222-4333-8444-555555555555", client.BucketUpdate{Secret: secret()}); !errors.As(err, &refused) || refused.Status != 404 {
		t.Errorf("%v", err)
	}
}

func find(t *testing.T, list []client.Bucket, id string) client.Bucket {
	t.Helper()
	for _, b := range list {
		if b.ID == id {
			return b
		}
	}
	t.Fatalf("no %s in %+v", id, list)
	return client.Bucket{}
}

func TestKeysAndRepositories(t *testing.T) {
	p := newPlane(t)
	c, ctx := p.client(t, client.Options{}), t.Context()
	ws := must(c.CreateWorkspace(ctx, "home"))(t)
	if err := c.RenameWorkspace(ctx, ws.ID, "house"); err != nil {
		t.Error(err)
	}
	bucket := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "AK", Secret: client.Secret("x")}))(t)
	if err := c.ValidateNewRepo(ctx, client.RepoSpec{WorkspaceID: ws.ID, Name: "r", Buckets: []client.RepoBucket{{ID: bucket}}}); err != nil {
		t.Error(err)
	}
	repo := must(c.CreateRepo(ctx, client.RepoSpec{WorkspaceID: ws.ID, Name: "r"}))(t)
	var refused *client.Error
	if err := c.ValidateNewRepo(ctx, client.RepoSpec{WorkspaceID: ws.ID, Name: "r"}); !errors.As(err, &refused) || refused.Code != "NAME_ALREADY_USED" {
		t.Errorf("%v", err)
	}
	update := client.RepoUpdate{Name: "renamed", Buckets: []client.RepoBucket{{ID: bucket}}, Version: 1}
	if err := errors.Join(c.ValidateRepo(ctx, repo, update), c.UpdateRepo(ctx, repo, update)); err != nil {
		t.Error(err)
	}
	if err := c.UpdateRepo(ctx, repo, update); !errors.As(err, &refused) || refused.Status != 412 {
		t.Errorf("%v", err)
	}
	if got := must(c.Repos(ctx, ws.ID))(t)[0]; got.Name != "renamed" || len(got.Buckets) != 1 || got.Disabled {
		t.Errorf("%+v", got)
	}
	if got := must(c.Buckets(ctx, ws.ID))(t)[0]; len(got.Repos) != 1 || got.Repos[0].ID != repo {
		t.Errorf("%+v", got)
	}
	key := must(c.CreateStorageKey(ctx, repo, client.KeySpec{Name: "k", AccessType: "READ"}))(t)
	yes, at := true, time.Now().Add(time.Hour)
	if err := c.UpdateStorageKey(ctx, repo, key.ID, client.KeyUpdate{Name: "k2", AccessType: "WRITE", Disabled: &yes, ExpiresAt: &at, Version: 1}); err != nil {
		t.Error(err)
	}
	if got := must(c.StorageKeys(ctx, repo))(t)[0]; got.Name != "k2" || got.AccessType != "WRITE" || !got.Disabled || got.ExpiresAt == nil {
		t.Errorf("%+v", got)
	}
	next := must(c.RotateStorageKey(ctx, repo, key.ID, time.Minute))(t)
	if len(next.Secret) != 40 || len(must(c.StorageKeys(ctx, repo))(t)) != 2 {
		t.Errorf("%+v", next)
	}
	ai := must(c.CreateAIKey(ctx, repo, client.KeySpec{Name: "k", AIType: "ANTHROPIC"}))(t)
	if err := c.UpdateAIKey(ctx, repo, ai.ID, client.KeyUpdate{Name: "k2"}); err != nil {
		t.Error(err)
	}
	must(c.RotateAIKey(ctx, repo, ai.ID, 0))(t)
	if got := must(c.AIKeys(ctx, repo))(t); len(got) != 1 || got[0].ID == ai.ID || got[0].Name != "k2" || got[0].AIType != "ANTHROPIC" {
		t.Errorf("%+v", got)
	}
}

// events is an audit log with one line.
type events struct{ asked audit.Filter }

func (*events) Append(context.Context, audit.Event) error { return nil }

func (e *events) Query(_ context.Context, f audit.Filter) ([]audit.Event, int, error) {
	e.asked = f
	return []audit.Event{{ID: "1", Time: time.Unix(1e9, 0).UTC(), Context: "key", Event: "created", Data: []byte(`{"a":1}`)}}, 7, nil
}

func TestSystem(t *testing.T) {
	log := &events{}
	p := newPlane(t, func(c *api.Config) {
		c.Expiring = func() []api.Expiring {
			return []api.Expiring{{Role: "bridge", Name: "b1", NotAfter: time.Unix(2e9, 0).UTC()}}
		}
		c.Fleet, c.Audit, c.Limits = &bridges{result: api.ProbeResult{OK: true}}, log, api.Limits{Requests: 0.001, Burst: 20, Failures: -1}
	})
	c, ctx := p.client(t, client.Options{}), t.Context()
	ws := must(c.CreateWorkspace(ctx, "home"))(t)
	if got := must(c.Nodes(ctx, 0))(t); len(got) != 2 || got[0].URL == "" || got[0].LatencyMs != 5 {
		t.Errorf("nodes: %+v", got)
	}
	if got := must(c.Nodes(ctx, 2))(t); len(got) != 1 || got[0].Name != "b2" {
		t.Errorf("nodes: %+v", got)
	}
	bucket := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "AK", Secret: client.Secret("x")}))(t)
	if got := must(c.BucketStatus(ctx, bucket))(t); len(got) != 1 || got[0].Message != "AccessDenied" {
		t.Errorf("status: %+v", got)
	}
	llm := must(c.CreateLLM(ctx, client.LLMSpec{WorkspaceID: ws.ID, Name: "l", AIType: "OPENAI", Secret: client.Secret("x")}))(t)
	if got := must(c.LLMStatus(ctx, llm))(t); len(got) != 1 || got[0].Status != "OFFLINE" {
		t.Errorf("status: %+v", got)
	}
	synced := &client.Synced{
		Data:     []client.Sync{{Node: "b1", Bridge: "b1", Type: "T", Sent: 2, Acked: 1, Nack: "no", Connected: true}},
		Keepers:  []client.SeenKeeper{{Bridge: "b1", Keeper: client.Keeper{Name: "keeper-2", State: "bad", Detail: "its share"}}},
		Expiring: []client.Expiring{{Role: "bridge", Name: "b1", NotAfter: time.Unix(2e9, 0).UTC()}},
	}
	if diff := cmp.Diff(synced, must(c.Sync(ctx))(t)); diff != "" {
		t.Errorf("sync: %s", diff)
	}
	from := time.Unix(2e9, 0).UTC()
	got, total, err := c.Events(ctx, client.EventQuery{From: from, To: from.Add(time.Hour), Context: "key", Event: "created", ContextID: "c", UserID: "u", WorkspaceID: ws.ID, Skip: 3, Take: 4})
	if err != nil || total != 7 || len(got) != 1 || string(got[0].Data) != `{"a":1}` {
		t.Errorf("events: %+v, %d, %v", got, total, err)
	}
	want := audit.Filter{From: from, To: from.Add(time.Hour), Context: "key", Event: "created", ContextID: "c", UserID: "u", WorkspaceID: ws.ID, Skip: 3, Take: 4}
	if diff := cmp.Diff(want, log.asked); diff != "" {
		t.Errorf("asked:\n%s", diff)
	}
	at := time.Now().Add(time.Hour)
	id, token, err := c.CreateToken(ctx, "ci", map[string]string{ws.ID: "READ"}, &at)
	if err != nil || !strings.HasPrefix(string(token), "kbt-") {
		t.Fatal(id, err)
	}
	if got := must(c.Tokens(ctx))(t); len(got) != 2 || got[1].ID != id || got[1].Roles[ws.ID] != "READ" || got[1].ExpiresAt == nil {
		t.Errorf("tokens: %+v", got)
	}
	if err := c.DeleteToken(ctx, id); err != nil {
		t.Error(err)
	}
	var refused *client.Error
	for range 30 {
		if _, err = c.Workspaces(ctx); err != nil {
			break
		}
	}
	if !errors.As(err, &refused) || refused.Code != "TOO_MANY_REQUESTS" || refused.RetryAfter < time.Second {
		t.Errorf("too fast: %v, %+v", err, refused)
	}
}
