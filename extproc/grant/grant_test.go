package grant_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/keyshare/seal"
)

const (
	ours   = "0a4f1b2c-0000-4000-8000-000000000001"
	theirs = "0a4f1b2c-0000-4000-8000-000000000002"
)

// newWorld has one repository with two buckets and two models, and a key of each use.
func newWorld(t testing.TB) (w *protocoltest.World, storage, ai protocoltest.Key) {
	w = protocoltest.NewWorld(t)
	w.Bucket(ours, "photos", nil)
	w.Bucket(ours, "papers", func(in *grant.ConnectorInput, h *seal.Header) {
		in.AllowBucketConfiguration, in.Region = true, ""
		h.Binding.Scheme, h.Binding.Host, h.Binding.Port = "http", "127.0.0.1", 9000
	})
	w.LLM(ours, "model", nil)
	w.LLM(ours, "local", func(_ *grant.ConnectorInput, h *seal.Header) {
		h.Binding.Host, h.Binding.Port, h.Binding.Scope = "2001:db8::1", 8443, "/openai/v1/"
	})
	w.Repository(ours, "repository", false, "photos", "papers", "model", "local")
	storage = w.Key(ours, "repository", grant.UseStorageKey, grant.AccessRead, nil)
	ai = w.Key(ours, "repository", grant.UseAIKey, grant.AccessNone, nil)
	return w, storage, ai
}

func TestBuild(t *testing.T) {
	w, storage, ai := newWorld(t)
	w.Publish()
	ix := w.Live.Load()
	if ix.Len() != 2 || ix.Lookup("") != nil || ix.Lookup(storage.ID+"x") != nil {
		t.Errorf("%d keys", ix.Len())
	}
	k := ix.Lookup(storage.ID)
	if k == nil || k.ID != storage.ID || k.Use() != grant.UseStorageKey || k.Access != grant.AccessRead || string(k.Secret.Secret().Bytes()) != storage.Secret {
		t.Fatalf("storage key %+v", k)
	}
	if other := ix.Lookup(ai.ID); other == nil || other.Repository() != k.Repository() || other.Use() != grant.UseAIKey {
		t.Fatalf("AI key %+v", other)
	}
	type view struct {
		Name, Cluster, Authority, BasePath, Region string
		Configure                                  bool
	}
	var got []view
	for _, c := range append([]*grant.Connector{k.Repository().Buckets["photos"].Connector, k.Repository().Buckets["papers"].Connector}, k.Repository().AI...) {
		got = append(got, view{c.Name, c.Cluster, c.Authority, c.BasePath, c.Region, c.AllowBucketConfiguration})
	}
	want := []view{
		{"photos", "cluster-photos", "photos.provider.example", "", "eu-central-1", false},
		{"papers", "cluster-papers", "127.0.0.1:9000", "", "us-east-1", true},
		{"model", "cluster-model", "model.provider.example", "/v1", "", false},
		{"local", "cluster-local", "[2001:db8::1]:8443", "/openai/v1", "", false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestProblems: one part does not fit; it is named and left out, and what does not
// hang on it works.
func TestProblems(t *testing.T) {
	bucket := func(change func(*grant.ConnectorInput, *seal.Header)) func(*protocoltest.World) {
		return func(w *protocoltest.World) {
			w.Bucket(ours, "odd", change)
			w.Repository(ours, "odd", false)
			w.Input.Repositories[len(w.Input.Repositories)-1].Storage = []grant.StorageInput{{Connector: "odd"}}
		}
	}
	model := func(change func(*grant.ConnectorInput, *seal.Header)) func(*protocoltest.World) {
		return func(w *protocoltest.World) { w.LLM(ours, "odd", change) }
	}
	key := func(workspace string, change func(*grant.KeyInput, *seal.Header)) func(*protocoltest.World) {
		return func(w *protocoltest.World) {
			w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessAdmin, change)
		}
	}
	for _, tt := range []struct {
		name string
		add  func(*protocoltest.World)
		want string
	}{
		{"connector, credential of another workspace", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Workspace = theirs }), "connector odd of workspace " + ours + ": its credential belongs to another workspace"},
		{"connector, repository key as credential", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Type = seal.TypeRepositoryKey }), "sealed as something else"},
		{"connector, credential for AI", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Use = grant.UseOpenAI }), "not for S3"},
		{"connector, credential of another bucket", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Scope = "photos" }), "bound to another bucket"},
		{"connector, credential without access key", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Key = "" }), "no access key id"},
		{"connector, credential without host", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Host = "" }), "bound to no endpoint"},
		{"connector, credential without port", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Port = 0 }), "bound to no endpoint"},
		{"connector, credential of another scheme", bucket(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Scheme = "file" }), "bound to no endpoint"},
		{"connector, bucket with a slash", bucket(func(in *grant.ConnectorInput, h *seal.Header) { in.Bucket, h.Binding.Scope = "a/b", "a/b" }), "name is not valid"},
		{"connector, bucket of dots", bucket(func(in *grant.ConnectorInput, h *seal.Header) { in.Bucket, h.Binding.Scope = "..", ".." }), "name is not valid"},
		{"connector without cluster", bucket(func(in *grant.ConnectorInput, _ *seal.Header) { in.Cluster = "" }), "no cluster"},
		{"connector of no provider", bucket(func(in *grant.ConnectorInput, _ *seal.Header) { in.Provider = 0 }), "unknown provider"},
		{"connector twice", func(w *protocoltest.World) { w.Bucket(ours, "photos", nil) }, "connector photos of workspace " + ours + ": id is used twice"},
		{"AI connector, credential for S3", model(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Use = grant.UseS3 }), "not for this AI API"},
		{"AI connector, path without slash", model(func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Scope = "v1" }), "does not begin with a slash"},
		{"connector without credential", func(w *protocoltest.World) {
			w.Bucket(ours, "odd", nil)
			w.Input.Connectors[len(w.Input.Connectors)-1].Credential = nil
		}, "could not be opened"},
		{"repository, missing connector", func(w *protocoltest.World) {
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "gone"})
		}, "connector gone is missing"},
		{"repository, connector of another workspace", func(w *protocoltest.World) {
			w.Bucket(theirs, "foreign", nil)
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "foreign"})
		}, "connector foreign belongs to another workspace"},
		{"repository, AI connector as storage", func(w *protocoltest.World) {
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "model"})
		}, "connector model is of the wrong kind"},
		{"repository, bucket as AI", func(w *protocoltest.World) {
			w.Input.Repositories[0].AI = append(w.Input.Repositories[0].AI, "photos")
		}, "connector photos is of the wrong kind"},
		{"repository, folder of an account", func(w *protocoltest.World) {
			w.Bucket(ours, "account", account)
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "account", Folder: "a/"})
		}, "connector account: a folder needs one bucket"},
		{"repository, folder without a slash at its end", func(w *protocoltest.World) {
			w.Bucket(ours, "folders", nil)
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "folders", Folder: "a"})
		}, "connector folders: its folder is not valid"},
		{"repository, one bucket of two connectors", func(w *protocoltest.World) {
			w.Bucket(ours, "second", func(in *grant.ConnectorInput, h *seal.Header) { in.Bucket, h.Binding.Scope = "photos", "photos" })
			w.Input.Repositories[0].Storage = append(w.Input.Repositories[0].Storage, grant.StorageInput{Connector: "second"})
		}, "has its bucket already"},
		{"repository twice", func(w *protocoltest.World) { w.Repository(ours, "repository", false) }, "id is used twice"},
		{"key of another workspace", key(theirs, nil), "its repository belongs to another workspace"},
		{"key sealed for another workspace", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Workspace = theirs }), "sealed for another workspace"},
		{"key sealed as another record", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Record = "other" }), "sealed as another record"},
		{"key sealed as a credential", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Type = seal.TypeCredential }), "sealed as something else"},
		{"key of a missing repository", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Binding.Repository = "gone" }), "its repository is missing"},
		{"key of another use", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Binding.Use = "s3" }), "unknown use"},
		{"key without id", key(ours, func(_ *grant.KeyInput, h *seal.Header) { h.Binding.Key = "" }), "no key id"},
		{"key of unknown access", key(ours, func(in *grant.KeyInput, _ *seal.Header) { in.Access = 4 }), "unknown access"},
		{"key not opened", func(w *protocoltest.World) {
			w.Input.Keys = append(w.Input.Keys, grant.KeyInput{ID: "closed", Workspace: ours})
		}, "key closed of workspace " + ours + ": it could not be opened"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, storage, ai := newWorld(t)
			tt.add(w)
			ix, problems := grant.Build(w.Input)
			if text := fmt.Sprint(problems); len(problems) == 0 || !strings.Contains(text, tt.want) {
				t.Errorf("problems %s, want %q", text, tt.want)
			}
			k := ix.Lookup(storage.ID)
			if ix.Len() != 2 || k == nil || ix.Lookup(ai.ID) == nil {
				t.Fatalf("%d keys", ix.Len())
			}
			if len(k.Repository().Buckets) != 2 || len(k.Repository().AI) != 2 || k.Repository().Buckets["photos"].ID != "photos" {
				t.Errorf("the repository changed: %+v", k.Repository())
			}
		})
	}
}

// TestKeyIDTwice: neither of two records with one key id works, however many there are.
func TestKeyIDTwice(t *testing.T) {
	w, storage, _ := newWorld(t)
	for range 2 {
		w.Key(ours, "repository", grant.UseStorageKey, grant.AccessAdmin, func(_ *grant.KeyInput, h *seal.Header) { h.Binding.Key = storage.ID })
	}
	ix, problems := grant.Build(w.Input)
	if ix.Lookup(storage.ID) != nil || ix.Len() != 1 || len(problems) != 3 {
		t.Errorf("%d keys, problems %v", ix.Len(), problems)
	}
}

func TestValid(t *testing.T) {
	now := protocoltest.Now
	for _, tt := range []struct {
		name   string
		change func(in *grant.KeyInput)
		closed bool // its repository
		want   bool
	}{
		{"for ever", func(*grant.KeyInput) {}, false, true},
		{"a second left", func(in *grant.KeyInput) { in.Expires = now.Add(time.Second) }, false, true},
		{"expires now", func(in *grant.KeyInput) { in.Expires = now }, false, false},
		{"expires within the second", func(in *grant.KeyInput) { in.Expires = now.Add(time.Second / 2) }, false, false},
		{"expired", func(in *grant.KeyInput) { in.Expires = now.Add(-time.Hour) }, false, false},
		{"expired in 1970", func(in *grant.KeyInput) { in.Expires = time.Unix(0, 0) }, false, false},
		{"disabled", func(in *grant.KeyInput) { in.Disabled = true }, false, false},
		{"repository disabled", func(*grant.KeyInput) {}, true, false},
	} {
		w := protocoltest.NewWorld(t)
		w.Repository(ours, "repository", tt.closed)
		id := w.Key(ours, "repository", grant.UseStorageKey, grant.AccessRead, func(in *grant.KeyInput, _ *seal.Header) { tt.change(in) }).ID
		w.Publish()
		if k := w.Live.Load().Lookup(id); k == nil || k.Valid(now) != tt.want {
			t.Errorf("%s: %+v", tt.name, k)
		}
	}
}

func TestAllows(t *testing.T) {
	all := []grant.Access{grant.AccessNone, grant.AccessRead, grant.AccessWrite, grant.AccessAdmin}
	want := map[grant.Access]string{
		grant.AccessNone: "----", grant.AccessRead: "-+--", grant.AccessWrite: "--+-", grant.AccessAdmin: "-+++",
	}
	for _, has := range all {
		got := ""
		for _, need := range all {
			if has.Allows(need) {
				got += "+"
			} else {
				got += "-"
			}
		}
		if got != want[has] {
			t.Errorf("%d allows %s, want %s", has, got, want[has])
		}
	}
}
