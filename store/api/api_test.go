package api_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
)

// TestLifecycle makes one of everything, looks at it and takes it down again.
func TestLifecycle(t *testing.T) {
	e := newEnv(t)
	bucket, llm := e.bucket(), e.llm()
	repo := e.repo("app", []string{bucket}, []string{llm})
	storageKey := e.ok("POST", "/repo/"+repo+"/apikey", m{"name": "reader", "accessType": "READ"})
	aiKey := e.ok("POST", "/repo/"+repo+"/ai/apikey", m{"name": "chat", "aiType": "OPENAI"})

	b := find(t, e.ok("GET", "/bucket?workspaceId="+e.ws, nil).items(t, "buckets"), bucket)
	delete(b, "createdAt")
	wantBucket := m{
		"id": bucket, "name": "photos", "bucket": "photos-bucket", "storageType": "S3", "key": "AKIAIOSFODNN7EXAMPLE",
		"endpoint": "https://s3.us-east-1.amazonaws.com", "region": "us-east-1", "allowBucketConfiguration": false,
		"workspaceId": e.ws, "repos": []any{m{"id": repo, "name": "app"}}, "version": 1.0, "secretVersion": 1.0,
	}
	if diff := cmp.Diff(wantBucket, b); diff != "" {
		t.Errorf("bucket:\n%s", diff)
	}
	l := find(t, e.ok("GET", "/ai/llm", nil).items(t, "aiLlms"), llm)
	delete(l, "createdAt")
	delete(l, "userId")
	wantLLM := m{
		"id": llm, "orgId": e.ws, "workspaceId": e.ws, "name": "gpt", "aiType": "OPENAI", "endpoint": "https://api.openai.com/v1",
		"key": nil, "repos": []any{m{"id": repo, "name": "app"}}, "version": 1.0, "secretVersion": 1.0,
	}
	if diff := cmp.Diff(wantLLM, l); diff != "" {
		t.Errorf("LLM:\n%s", diff)
	}
	r := find(t, e.ok("GET", "/repo?repoId="+repo, nil).items(t, "repos"), repo)
	if r["storageType"] != "S3" || r["mode"] != "NORMAL" || r["disabled"] != false || r["workspaceId"] != e.ws {
		t.Errorf("repository: %v", r)
	}
	if got := objects(t, r["buckets"]); len(got) != 1 || got[0]["bucketId"] != bucket || got[0]["bucket"].(m)["name"] != "photos" {
		t.Errorf("its buckets: %v", got)
	}
	if got := objects(t, r["aiLlms"]); len(got) != 1 || got[0]["aiLlmId"] != llm || got[0]["aiLlm"].(m)["name"] != "gpt" {
		t.Errorf("its LLMs: %v", got)
	}
	if got := objects(t, r["apiKeys"]); len(got) != 1 || got[0]["key"] != storageKey.m["key"] || got[0]["accessType"] != "READ" {
		t.Errorf("its keys: %v", got)
	}
	if got := objects(t, r["aiApiKeys"]); len(got) != 1 || got[0]["key"] != aiKey.m["key"] || got[0]["aiType"] != "OPENAI" {
		t.Errorf("its AI keys: %v", got)
	}
	for _, path := range []string{"/bucket/available", "/ai/llm/available?workspaceId=" + e.ws} {
		if got := objects(t, e.ok("GET", path, nil).value); len(got) != 1 {
			t.Errorf("%s: %v", path, got)
		}
	}

	// Down again: what is used stays.
	refused(t, "delete a used bucket", e.do("DELETE", "/bucket/"+bucket, nil), 403, "IN_USE", "1 repositories")
	refused(t, "delete a used LLM", e.do("DELETE", "/ai/llm/"+llm, nil), 403, "IN_USE", "")
	refused(t, "delete a workspace in use", e.do("DELETE", "/workspace/"+e.ws, nil), 409, "WORKSPACE_NOT_EMPTY", "")
	e.ok("DELETE", "/repo/"+repo, nil)
	e.ok("DELETE", "/bucket/"+bucket, nil)
	e.ok("DELETE", "/ai/llm/"+llm, nil)
	for _, id := range []string{bucket, llm} {
		if c := record[*store.Credential](e, id); c.M.DeletedAt == nil || c.Sealed != nil {
			t.Errorf("credential %s of a deleted connector: %+v", id, c)
		}
	}
	for _, a := range []answer{storageKey, aiKey} {
		if k := record[*store.Key](e, a.str(t, "id")); k.M.DeletedAt == nil || k.Sealed != nil {
			t.Errorf("key of a deleted repository: %+v", k)
		}
	}
	for _, req := range [][2]string{{"PUT", "/bucket/" + bucket}, {"DELETE", "/bucket/" + bucket}, {"PUT", "/ai/llm/" + llm}, {"PUT", "/repo/" + repo},
		{"GET", "/repo/" + repo + "/apikey"}, {"POST", "/repo/" + repo + "/ai/apikey"}} {
		refused(t, strings.Join(req[:], " ")+" after deletion", e.do(req[0], req[1], m{"name": "x", "aiType": "OPENAI"}), 404, "NOT_FOUND", "no such")
	}
	e.ok("DELETE", "/workspace/"+e.ws, nil)
	refused(t, "create in a deleted workspace", e.do("POST", "/bucket", e.bucketBody()), 404, "NOT_FOUND", "workspace")
	if got := e.ok("GET", "/workspace", nil).items(t, "workspaces"); len(got) != 0 {
		t.Errorf("workspaces left: %v", got)
	}
	e.workspace("home") // the name is free again
}

func TestWorkspaces(t *testing.T) {
	e := newEnv(t)
	a := e.ok("GET", "/workspace/"+e.ws, nil)
	if a.header.Get("ETag") != `"1"` {
		t.Errorf("ETag %q", a.header.Get("ETag"))
	}
	refused(t, "name twice", e.do("POST", "/workspace", m{"name": "home"}), 409, "NAME_ALREADY_USED", "name")
	other := e.workspace("other")
	refused(t, "rename to a used name", e.do("PUT", "/workspace/"+other, m{"name": "home"}), 409, "NAME_ALREADY_USED", "name")
	a = e.ok("PUT", "/workspace/"+other, m{"name": "another"})
	if w := a.m["workspace"].(m); w["name"] != "another" || w["version"] != 2.0 || a.header.Get("ETag") != `"2"` {
		t.Errorf("renamed: %s, ETag %s", a.raw, a.header.Get("ETag"))
	}
	refused(t, "unknown", e.do("GET", "/workspace/"+newID(), nil), 404, "NOT_FOUND", "workspace")
	refused(t, "not an id", e.do("GET", "/workspace/x", nil), 404, "NOT_FOUND", "workspace")
}

// TestSealed looks behind the API: what is stored of a secret, and for what use.
func TestSealed(t *testing.T) {
	e := newEnv(t)
	ca := testCA(t)
	for _, tc := range []struct {
		name, path string
		body       m
		secret     string
		want       seal.Binding
		endpoint   string
	}{
		{"AWS by default", "/bucket", e.bucketBody(), s3Secret,
			seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.us-east-1.amazonaws.com", Port: 443, Scope: "photos-bucket"}, "https://s3.us-east-1.amazonaws.com"},
		{"AWS region", "/bucket", with(e.bucketBody(), "name", "b2", "region", "eu-west-3"), s3Secret,
			seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.eu-west-3.amazonaws.com", Port: 443, Scope: "photos-bucket"}, "https://s3.eu-west-3.amazonaws.com"},
		{"own endpoint and CA", "/bucket", with(e.bucketBody(), "name", "b3", "endpoint", "https://S3.Example.com:9000/", "caCertificate", ca, "region", "RegionOne"), s3Secret,
			seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "https", Host: "s3.example.com", Port: 9000, CA: seal.CADigest([]byte(ca)), Scope: "photos-bucket"}, "https://s3.example.com:9000"},
		{"allowed plain http", "/bucket", with(e.bucketBody(), "name", "b4", "endpoint", "http://127.0.0.1:7070"), s3Secret,
			seal.Binding{Use: "s3", Key: "AKIAIOSFODNN7EXAMPLE", Scheme: "http", Host: "127.0.0.1", Port: 7070, Scope: "photos-bucket"}, "http://127.0.0.1:7070"},
		{"OpenAI by default", "/ai/llm", e.llmBody(), aiSecret,
			seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, "https://api.openai.com/v1"},
		{"secret sent as key", "/ai/llm", with(e.llmBody(), "name", "l2", "secret", nil, "key", aiSecret), aiSecret,
			seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, "https://api.openai.com/v1"},
		{"secret sent as both", "/ai/llm", with(e.llmBody(), "name", "l3", "key", aiSecret), aiSecret,
			seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, "https://api.openai.com/v1"},
		{"other, no path", "/ai/llm", with(e.llmBody(), "name", "l4", "aiType", "OTHER", "endpoint", "https://llm.example.com"), aiSecret,
			seal.Binding{Use: "openai", Scheme: "https", Host: "llm.example.com", Port: 443, Scope: "/v1"}, "https://llm.example.com/v1"},
		{"other, own path", "/ai/llm", with(e.llmBody(), "name", "l5", "aiType", "OTHER", "endpoint", "https://openrouter.ai/api/v1/"), aiSecret,
			seal.Binding{Use: "openai", Scheme: "https", Host: "openrouter.ai", Port: 443, Scope: "/api/v1"}, "https://openrouter.ai/api/v1"},
		{"escaped in JSON", "/ai/llm", fmt.Sprintf(`{"workspaceId":%q,"name":"l6","aiType":"OPENAI","secret":"sk\u002d\"\\\/\u0041"}`, e.ws).object(t), `sk-"\/A`,
			seal.Binding{Use: "openai", Scheme: "https", Host: "api.openai.com", Port: 443, Scope: "/v1"}, "https://api.openai.com/v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := e.ok("POST", tc.path, tc.body)
			id, _ := a.m["bucketId"].(string)
			if id == "" {
				id = a.str(t, "aiLlmId")
			}
			conn, cred := record[*store.Connector](e, id), record[*store.Credential](e, id)
			want := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 1, Binding: tc.want}
			if diff := cmp.Diff(want, cred.Sealed.Header); diff != "" {
				t.Errorf("header:\n%s", diff)
			}
			if got := e.open(cred.Sealed); got != tc.secret {
				t.Errorf("sealed %q, want %q", got, tc.secret)
			}
			if conn.Endpoint != tc.endpoint || conn.CredentialID != id || cred.Key != tc.want.Key {
				t.Errorf("connector %+v, credential key %q", conn, cred.Key)
			}
		})
	}
}
