package protocoltest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// Now is the time in the world.
var Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Key is what the holder of a repository key has.
type Key struct{ ID, Secret string }

// World is an index under construction; Live is what a protocol reads.
type World struct {
	Input grant.Input
	Live  grant.Live
	Arena *lockedmem.Arena
	t     testing.TB
	keys  int
}

// NewWorld is empty and sealed. Its arena is purged when the test ends.
func NewWorld(t testing.TB) *World {
	t.Helper()
	arena, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arena.Purge)
	return &World{Arena: arena, t: t}
}

// Credential opens a secret under a header.
func (w *World) Credential(h seal.Header, secret []byte) *credential.Credential {
	w.t.Helper()
	h.Format, h.Version = 1, 1
	c, err := credential.New(w.Arena, h, secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// ProviderSecret is the secret of the credential that a connector of this name has.
func ProviderSecret(connector string) string { return "provider-secret-of-" + connector }

// ProviderKey is the access key id of that credential.
func ProviderKey(connector string) string { return "PROVIDERKEY" + strings.ToUpper(connector) }

// Bucket adds an S3 connector for the bucket of this name; cluster, id and host bear
// the name too. A change may be nil.
func (w *World) Bucket(workspace, name string, change func(*grant.ConnectorInput, *seal.Header)) {
	w.t.Helper()
	w.connector(grant.ConnectorInput{ID: name, Workspace: workspace, Name: name, Provider: grant.ProviderS3, Bucket: name, Region: "eu-central-1"},
		seal.Binding{Use: grant.UseS3, Key: ProviderKey(name), Scope: name}, change)
}

// LLM adds an OpenAI connector of this name.
func (w *World) LLM(workspace, name string, change func(*grant.ConnectorInput, *seal.Header)) {
	w.t.Helper()
	w.connector(grant.ConnectorInput{ID: name, Workspace: workspace, Name: name, Provider: grant.ProviderOpenAI},
		seal.Binding{Use: grant.UseOpenAI, Scope: "/v1"}, change)
}

func (w *World) connector(in grant.ConnectorInput, b seal.Binding, change func(*grant.ConnectorInput, *seal.Header)) {
	w.t.Helper()
	in.Cluster = "cluster-" + in.Name
	b.Scheme, b.Host, b.Port = "https", in.Name+".provider.example", 443
	h := seal.Header{Workspace: in.Workspace, Type: seal.TypeCredential, Record: in.ID, Binding: b}
	if change != nil {
		change(&in, &h)
	}
	if in.Credential == nil {
		in.Credential = w.Credential(h, []byte(ProviderSecret(in.Name)))
	}
	w.Input.Connectors = append(w.Input.Connectors, in)
}

// Repository adds a repository of connectors that were added before.
func (w *World) Repository(workspace, name string, disabled bool, connectors ...string) {
	w.t.Helper()
	r := grant.RepositoryInput{ID: name, Workspace: workspace, Name: name, Disabled: disabled}
	for _, id := range connectors {
		for _, c := range w.Input.Connectors {
			switch {
			case c.ID != id:
			case c.Provider == grant.ProviderS3:
				r.Storage = append(r.Storage, grant.StorageInput{Connector: id})
			default:
				r.AI = append(r.AI, id)
			}
		}
	}
	w.Input.Repositories = append(w.Input.Repositories, r)
}

// Key adds a key of a repository. A change may be nil.
func (w *World) Key(workspace, repository, use string, access grant.Access, change func(*grant.KeyInput, *seal.Header)) Key {
	w.t.Helper()
	w.keys++
	key := Key{ID: fmt.Sprintf("REPOSITORYKEY%07d", w.keys), Secret: fmt.Sprintf("repository-secret-%022d", w.keys)}
	payload := []byte(key.Secret)
	if use == grant.UseAIKey {
		// A bearer key names itself, and what is sealed is its hash.
		key.ID = fmt.Sprintf("aikey%07d", w.keys)
		key.Secret = "kb-" + key.ID + "-" + strings.Repeat("r", 43)
		sum := sha256.Sum256([]byte(key.Secret))
		payload = sum[:]
	}
	in := grant.KeyInput{ID: fmt.Sprintf("key-record-%d", w.keys), Workspace: workspace, Access: access}
	h := seal.Header{
		Workspace: workspace, Type: seal.TypeRepositoryKey, Record: in.ID,
		Binding: seal.Binding{Use: use, Key: key.ID, Repository: repository},
	}
	if change != nil {
		change(&in, &h)
	}
	in.Credential = w.Credential(h, payload)
	w.Input.Keys = append(w.Input.Keys, in)
	return key
}

// Publish builds the index, which must be without problems, and makes it live.
func (w *World) Publish() {
	w.t.Helper()
	index, problems := grant.Build(w.Input)
	if len(problems) != 0 {
		w.t.Fatalf("the world does not fit together: %v", problems)
	}
	w.Live.Store(index)
}
