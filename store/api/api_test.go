package api_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

// TestRefusals sends what cannot be, and wants the field named and nothing stored.
func TestRefusals(t *testing.T) {
	e := newEnv(t)
	bucket, llm := e.bucketBody(), e.llmBody()
	repo := repoBody(e.ws, "r", nil, nil)
	shared := m{"workspaceId": e.ws, "provider": "AWS", "key": "AKIAIOSFODNN7EXAMPLE", "secret": s3Secret}
	before, err := e.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, path string
		body       any
		field      string // of an INVALID_FIELD
	}{
		{"no name", "/workspace", m{}, "name"},
		{"name undefined", "/workspace", m{"name": "undefined"}, "name"},
		{"name of another type", "/workspace", m{"name": 5}, "name"},
		{"name of an object", "/workspace", m{"name": m{}}, "name"},
		{"name too long", "/workspace", m{"name": strings.Repeat("x", 129)}, "name"},
		{"name with a line end", "/workspace", m{"name": "a\nb"}, "name"},
		{"name with spaces around", "/workspace", m{"name": " a"}, "name"},

		{"bucket: no workspace", "/bucket", with(bucket, "workspaceId", nil), "workspaceId"},
		{"bucket: workspace not an id", "/bucket", with(bucket, "workspaceId", "home"), "workspaceId"},
		{"bucket: braces around an id", "/bucket", with(bucket, "workspaceId", "{"+e.ws+"}"), "workspaceId"},
		{"bucket: no name", "/bucket", with(bucket, "name", nil), "name"},
		{"bucket: no type", "/bucket", with(bucket, "storageType", nil), "storageType"},
		{"bucket: GCS", "/bucket", with(bucket, "storageType", "GCS"), "storageType"},
		{"bucket: unknown type", "/bucket", with(bucket, "storageType", "s3"), "storageType"},
		{"bucket: no bucket", "/bucket", with(bucket, "bucket", ""), "bucket"},
		{"bucket: star and more", "/bucket", with(bucket, "bucket", "*.photos"), "bucket"},
		{"bucket: path", "/bucket", with(bucket, "bucket", "a/b/c"), "bucket"},
		{"bucket: dots", "/bucket", with(bucket, "bucket", "..."), "bucket"},
		{"bucket: no key", "/bucket", with(bucket, "key", nil), "key"},
		{"bucket: key that breaks SigV4", "/bucket", with(bucket, "key", "AK/20260101"), "key"},
		{"bucket: no secret", "/bucket", with(bucket, "secret", "null"), "secret"},
		{"bucket: secret with a line end", "/bucket", with(bucket, "secret", "abc\n"), "secret"},
		{"bucket: secret with a space", "/bucket", with(bucket, "secret", "a b"), "secret"},
		{"bucket: secret not ASCII", "/bucket", with(bucket, "secret", "sécret"), "secret"},
		{"bucket: secret escaped NUL", "/bucket", `{"secret":"a\u0000"}`, "secret"},
		{"bucket: secret a number", "/bucket", with(bucket, "secret", 1), "secret"},
		{"bucket: secret too long", "/bucket", with(bucket, "secret", strings.Repeat("x", 16<<10+1)), "secret"},
		{"bucket: region", "/bucket", with(bucket, "region", "us east"), "region"},
		{"bucket: region that moves the host", "/bucket", with(bucket, "region", "x.evil.example/"), "region"},
		{"bucket: plain http", "/bucket", with(bucket, "endpoint", "http://s3.example.com"), "endpoint"},
		{"bucket: metadata service", "/bucket", with(bucket, "endpoint", "https://169.254.169.254"), "endpoint"},
		{"bucket: private address", "/bucket", with(bucket, "endpoint", "https://10.1.2.3"), "endpoint"},
		{"bucket: loopback spelt otherwise", "/bucket", with(bucket, "endpoint", "https://[::ffff:127.0.0.2]"), "endpoint"},
		{"bucket: user info", "/bucket", with(bucket, "endpoint", "https://u:hunter2@s3.example.com"), "endpoint"},
		{"bucket: path in endpoint", "/bucket", with(bucket, "endpoint", "https://s3.example.com/x"), "endpoint"},
		{"bucket: no scheme", "/bucket", with(bucket, "endpoint", "s3.example.com"), "endpoint"},
		{"bucket: CA not PEM", "/bucket", with(bucket, "caCertificate", "hello"), "caCertificate"},
		{"bucket: CA is a key", "/bucket", with(bucket, "caCertificate", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"), "caCertificate"},
		{"bucket: CA malformed", "/bucket", with(bucket, "caCertificate", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"), "caCertificate"},
		{"bucket: CA with a broken block", "/bucket", with(bucket, "caCertificate", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"+testCA(t)), "caCertificate"},
		{"bucket: CA with text behind", "/bucket", with(bucket, "caCertificate", testCA(t)+"x"), "caCertificate"},
		{"bucket: CA over http", "/bucket", with(bucket, "caCertificate", testCA(t), "endpoint", "http://127.0.0.1"), "caCertificate"},
		{"bucket: shared credential", "/bucket", with(bucket, "apiKeyUuid", newID()), "apiKeyUuid"},
		{"bucket: flag is a string", "/bucket", with(bucket, "allowBucketConfiguration", "yes"), "allowBucketConfiguration"},
		{"bucket: sealed is a string", "/bucket", with(bucket, "secret", nil, "sealedSecret", "x"), "sealedSecret"},
		{"bucket: sealed is empty", "/bucket", with(bucket, "secret", nil, "sealedSecret", m{}), "sealedSecret"},

		{"llm: no type", "/ai/llm", with(llm, "aiType", nil), "aiType"},
		{"llm: GOOGLE", "/ai/llm", with(llm, "aiType", "GOOGLE"), "aiType"},
		{"llm: models not a list", "/ai/llm", with(llm, "models", "gpt-4o"), "models"},
		{"llm: star inside a model", "/ai/llm", with(llm, "models", []string{"gpt-*-mini"}), "models"},
		{"llm: model with a line end", "/ai/llm", with(llm, "models", []string{"gpt\n"}), "models"},
		{"llm: empty model", "/ai/llm", with(llm, "models", []string{""}), "models"},
		{"llm: too many models", "/ai/llm", with(llm, "models", slices.Repeat([]string{"m"}, 201)), "models"},
		{"llm: dedicated", "/ai/llm", with(llm, "dedicated", true), "dedicated"},
		{"llm: shared credential and key", "/ai/llm", with(llm, "secret", nil, "key", "sk", "apiKeyUuid", newID()), "apiKeyUuid"},
		{"llm: unknown type", "/ai/llm", with(llm, "aiType", "openai"), "aiType"},
		{"llm: other without endpoint", "/ai/llm", with(llm, "aiType", "OTHER"), "endpoint"},
		{"llm: dot segment", "/ai/llm", with(llm, "endpoint", "https://api.openai.com/v1/../admin"), "endpoint"},
		{"llm: name that is a path", "/ai/llm", with(llm, "name", "a/b"), "name"},
		{"llm: name that is a dot segment", "/ai/llm", with(llm, "name", ".."), "name"},
		{"llm: two secrets", "/ai/llm", with(llm, "key", "sk-other"), "key"},
		{"llm: no secret", "/ai/llm", with(llm, "secret", nil), "secret"},

		{"apikeys: no workspace", "/apikeys", with(shared, "workspaceId", nil), "workspaceId"},
		{"apikeys: no provider", "/apikeys", with(shared, "provider", nil), "provider"},
		{"apikeys: provider to come", "/apikeys", with(shared, "provider", "AZURE"), "provider"},
		{"apikeys: unknown provider", "/apikeys", with(shared, "provider", "aws"), "provider"},
		{"apikeys: no key", "/apikeys", with(shared, "key", nil), "key"},
		{"apikeys: no secret", "/apikeys", with(shared, "secret", nil), "secret"},
		{"apikeys: role ARN", "/apikeys", with(shared, "key", "arn:aws:iam::123456789012:role/x"), "key"},
		{"apikeys: metadata service", "/apikeys", with(shared, "endpoint", "https://169.254.169.254"), "endpoint"},
		{"apikeys: other without endpoint", "/apikeys", with(shared, "provider", "OTHER"), "endpoint"},
		{"apikeys: other AI without endpoint", "/apikeys", with(shared, "provider", "OTHER", "key", nil), "endpoint"},
		{"apikeys: description with a line end", "/apikeys", with(shared, "description", "a\nb"), "description"},
		{"apikeys: AI with two secrets", "/apikeys", with(shared, "provider", "OPENAI"), "key"},

		{"token: no name", "/token", m{"roles": m{"*": "READ"}}, "name"},
		{"token: no roles", "/token", m{"name": "t"}, "roles"},
		{"token: roles empty", "/token", m{"name": "t", "roles": m{}}, "roles"},
		{"token: unknown role", "/token", m{"name": "t", "roles": m{"*": "OWNER"}}, "roles"},
		{"token: role of no workspace", "/token", m{"name": "t", "roles": m{"home": "READ"}}, "roles"},
		{"token: roles a list", "/token", m{"name": "t", "roles": []string{"READ"}}, "roles"},
		{"token: expired", "/token", m{"name": "t", "roles": m{"*": "READ"}, "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"},

		{"events: take", "/systemevent", m{"take": 101}, "take"},
		{"events: skip", "/systemevent", m{"skip": -1}, "skip"},
		{"events: time", "/systemevent", m{"from_timestamp": "yesterday"}, "from_timestamp"},
		{"models: no repository", "/ai/models", m{}, "repoId"},
		{"models: type", "/ai/models", m{"repoId": newID(), "aiType": "openai"}, "aiType"},

		{"repo: no workspace", "/repo", with(repo, "workspaceId", "undefined"), "workspaceId"},
		{"repo: no name", "/repo", with(repo, "name", nil), "name"},
		{"repo: mode", "/repo", with(repo, "mode", "MIRROR"), "mode"},
		{"repo: storage type", "/repo", with(repo, "storageType", "BLOB"), "storageType"},
		{"repo: folder", "/repo", with(repo, "repoBuckets", []m{{"bucketId": newID(), "folder": "team"}}), "repoBuckets[0].folder"},
		{"repo: folder is no string", "/repo", with(repo, "repoBuckets", []m{{"bucketId": newID(), "folder": true}}), "repoBuckets[0].folder"},
		{"repo: bucket without id", "/repo", with(repo, "repoBuckets", []m{{"folder": ""}}), "repoBuckets[0].bucketId"},
		{"repo: same bucket twice", "/repo", with(repo, "repoBuckets", []m{{"bucketId": e.ws}, {"bucketId": e.ws}}), "repoBuckets[1].bucketId"},
		{"repo: same LLM twice", "/repo", with(repo, "repoAiLlms", []m{{"aiLlmId": e.ws}, {"aiLlmId": strings.ToUpper(e.ws)}}), "repoAiLlms[1].aiLlmId"},
		{"repo: not a list", "/repo", with(repo, "repoBuckets", m{}), "repoBuckets"},
		{"repo: list of strings", "/repo", with(repo, "repoAiLlms", []string{newID()}), "repoAiLlms"},
		{"repo: list too long", "/repo", with(repo, "repoAiLlms", make([]m, 1001)), "repoAiLlms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := e.do("POST", tc.path, tc.body)
			refused(t, "POST "+tc.path, a, 400, "INVALID_FIELD", tc.field+": ")
			if bytes.Contains(a.raw, []byte("hunter2")) {
				t.Errorf("a password came back: %s", a.raw)
			}
		})
	}
	for name, body := range map[string]string{"array": `[1]`, "string": `"x"`, "two values": `{} {}`, "cut off": `{"name":"x`, "not JSON": `name=x`,
		"deep": strings.Repeat(`{"a":`, 20000)} {
		refused(t, name, e.do("POST", "/workspace", body), 400, "INVALID_BODY", "")
	}
	if after, err := e.store.Revision(t.Context()); err != nil || after != before {
		t.Errorf("refused requests wrote: revision %d became %d, %v", before, after, err)
	}
}

// TestAbsent: what clients of this kind send for "no value", and more than we know.
func TestAbsent(t *testing.T) {
	e := newEnv(t)
	body := `{"workspaceId":"` + e.ws + `","name":"photos","bucket":"photos-bucket","storageType":"S3","key":"AK","secret":"s",
		"endpoint":"undefined","region":null,"caCertificate":"","apiKeyUuid":"null","id":"ignored without sealedSecret","sealedSecret":null,
		"whatever":{"x":[1,2]},"Name":"case matters","SECRET":"not a secret"}`
	id := e.ok("POST", "/bucket?validate=false&nonsense=1", body).str(t, "bucketId")
	c := record[*store.Connector](e, id)
	if c.Name != "photos" || c.Endpoint != "https://s3.us-east-1.amazonaws.com" || c.Region != "us-east-1" || c.CACertificate != "" {
		t.Errorf("%+v", c)
	}
	for _, query := range []string{"", "?workspaceId=undefined", "?workspaceId=null", "?workspaceId=", "?workspaceId=" + strings.ToUpper(e.ws)} {
		if got := e.ok("GET", "/bucket"+query, nil).items(t, "buckets"); len(got) != 1 {
			t.Errorf("GET /bucket%s: %v", query, got)
		}
	}
	refused(t, "query that is no id", e.do("GET", "/bucket?workspaceId=x", nil), 400, "INVALID_FIELD", "workspaceId")
	if got := e.ok("GET", "/repo?repoId="+newID(), nil).items(t, "repos"); len(got) != 0 {
		t.Errorf("unknown repoId: %v", got)
	}
	e.ok("PUT", "/bucket/"+id, nil) // no body changes nothing
	e.ok("PUT", "/bucket/"+id, "null")
	if c = record[*store.Connector](e, id); c.Name != "photos" {
		t.Errorf("%+v", c)
	}
}

func TestRepositoryKeys(t *testing.T) {
	now := &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	e := newEnv(t, func(c *api.Config) { c.Clock = now.Now })
	repo := e.repo("app", nil, nil)
	other := e.repo("other", nil, nil)
	storage, ai := "/repo/"+repo+"/apikey", "/repo/"+repo+"/ai/apikey"

	a := e.ok("POST", storage, m{"name": "up", "accessType": "WRITE"})
	key, secret := a.str(t, "key"), a.str(t, "secret")
	k := record[*store.Key](e, a.str(t, "id"))
	if !regexp.MustCompile(`^[A-Z0-9]{20}$`).MatchString(key) || !regexp.MustCompile(`^[A-Za-z0-9]{40}$`).MatchString(secret) {
		t.Errorf("key %q, secret of %d characters", key, len(secret))
	}
	want := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeRepositoryKey, Record: k.M.ID, Version: 1,
		Binding: seal.Binding{Use: "s3-key", Key: key, Repository: repo}}
	if diff := cmp.Diff(want, k.Sealed.Header); diff != "" || e.open(k.Sealed) != secret || k.Key != key || k.Access != store.AccessWrite || k.Type != store.TypeS3 {
		t.Errorf("storage key: %s\n%+v", diff, k)
	}

	b := e.ok("POST", ai, m{"name": "chat", "aiType": "OTHER", "expiresAt": "2026-03-02T00:00:00+01:00"})
	key, secret = b.str(t, "key"), b.str(t, "secret")
	k = record[*store.Key](e, b.str(t, "id"))
	sum := sha256.Sum256([]byte(secret))
	want = seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeRepositoryKey, Record: k.M.ID, Version: 1,
		Binding: seal.Binding{Use: "ai-key", Key: key, Repository: repo}}
	if diff := cmp.Diff(want, k.Sealed.Header); diff != "" || e.open(k.Sealed) != string(sum[:]) || k.Type != store.TypeOther {
		t.Errorf("AI key: %s\n%+v", diff, k)
	}
	if !strings.HasPrefix(secret, "kb-"+key+"-") || k.ExpiresAt == nil || !k.ExpiresAt.Equal(time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("AI key: %+v", k)
	}

	for _, tc := range []struct {
		path  string
		body  m
		field string
	}{
		{storage, m{"name": "x"}, "accessType"},
		{storage, m{"name": "x", "accessType": "admin"}, "accessType"},
		{storage, m{"accessType": "READ"}, "name"},
		{storage, m{"name": "x", "accessType": "READ", "expiresAt": "tomorrow"}, "expiresAt"},
		{storage, m{"name": "x", "accessType": "READ", "expiresAt": "2026-03-01T12:00:00Z"}, "expiresAt"},
		{ai, m{"name": "x"}, "aiType"},
		{ai, m{"name": "x", "aiType": "S3"}, "aiType"},
		{ai, m{"name": "x", "aiType": "AWS"}, "aiType"},
		{ai, m{"aiType": "OPENAI"}, "name"},
	} {
		refused(t, fmt.Sprint(tc.path, tc.body), e.do("POST", tc.path, tc.body), 400, "INVALID_FIELD", tc.field+": ")
	}

	// The second storage key comes first in the list; neither list shows the other sort.
	c := e.ok("POST", storage, m{"name": "down", "accessType": "READ"})
	list := e.ok("GET", storage, nil).items(t, "keys")
	if len(list) != 2 || list[0]["id"] != c.m["id"] || list[1]["id"] != a.m["id"] {
		t.Errorf("storage keys: %v", list)
	}
	if list = e.ok("GET", ai, nil).items(t, "apiKeys"); len(list) != 1 || list[0]["id"] != b.m["id"] || list[0]["deletedAt"] != nil || list[0]["repoId"] != repo {
		t.Errorf("AI keys: %v", list)
	}

	e.ok("PUT", storage+"/"+a.str(t, "id"), m{"name": "both", "accessType": "ADMIN", "expiresAt": "2020-01-01T00:00:00Z", "disabled": true})
	if k := record[*store.Key](e, a.str(t, "id")); k.Name != "both" || k.Access != store.AccessAdmin || k.ExpiresAt.Year() != 2020 || !k.Disabled || k.Sealed == nil {
		t.Errorf("after PUT: %+v", k)
	}
	e.ok("PUT", ai+"/"+b.str(t, "id"), m{"name": "talk", "aiType": "OPENAI", "accessType": "ADMIN"})
	if k := record[*store.Key](e, b.str(t, "id")); k.Name != "talk" || k.Type != store.TypeOther || k.Access != "" {
		t.Errorf("PUT of an AI key changed more than its name: %+v", k)
	}

	// A key is reached through its own repository and sort only.
	id := a.str(t, "id")
	for _, path := range []string{ai + "/" + id, "/repo/" + other + "/apikey/" + id, storage + "/" + newID(), storage + "/x"} {
		for _, method := range []string{"PUT", "DELETE"} {
			refused(t, method+" "+path, e.do(method, path, m{"name": "x"}), 404, "NOT_FOUND", "key")
		}
	}
	e.ok("DELETE", storage+"/"+id, nil)
	refused(t, "delete twice", e.do("DELETE", storage+"/"+id, nil), 404, "NOT_FOUND", "key")
	if k := record[*store.Key](e, id); k.Sealed != nil || k.M.DeletedAt == nil || k.Key == "" {
		t.Errorf("deleted key: %+v", k)
	}
	if list = e.ok("GET", storage, nil).items(t, "keys"); len(list) != 1 {
		t.Errorf("after deletion: %v", list)
	}
}

func TestSealingKey(t *testing.T) {
	e := newEnv(t)
	a := e.ok("GET", "/sealing-key", nil)
	if a.m["keyId"] != e.pub.ID() || a.m["publicKey"] != string(e.pub.PEM()) || !bytes.Contains(a.raw, []byte(`"manifest":`+manifest)) {
		t.Errorf("%s", a.raw)
	}
	e = newEnv(t, func(c *api.Config) { c.Manifest = nil })
	if a = e.ok("GET", "/sealing-key", nil); a.m["manifest"] != nil {
		t.Errorf("manifest that is not there: %v", a.m["manifest"])
	}
	e = newEnv(t, func(c *api.Config) {
		c.Seal = func() (*seal.PublicKey, error) { return nil, errors.New("no custody yet") }
	})
	refused(t, "without a key", e.do("GET", "/sealing-key", nil), 503, "NO_SEALING_KEY", "")
	refused(t, "secret in clear without a key", e.do("POST", "/bucket", e.bucketBody()), 503, "NO_SEALING_KEY", "")
	repo := e.repo("r", nil, nil)
	refused(t, "repository key without a key", e.do("POST", "/repo/"+repo+"/apikey", m{"name": "k", "accessType": "READ"}), 503, "NO_SEALING_KEY", "")
}

func TestHealth(t *testing.T) {
	e := newEnv(t)
	if a := e.as("", "GET", "/health", nil); a.status != 200 || string(a.raw) != `{"status":"ok"}` {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if err := e.store.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, "health without a store", e.as("", "GET", "/health", nil), 503, "UNAVAILABLE", "store")
	refused(t, "list without a store", e.do("GET", "/bucket", nil), 503, "UNAVAILABLE", "store")
}

// TestNoRoute: even what ServeMux would answer by itself has the envelope.
func TestNoRoute(t *testing.T) {
	e := newEnv(t)
	for path, status := range map[string]int{"/": 404, "/nope": 404, "/bucket/": 404, "//bucket": 404, "/repo/../bucket": 404, "/Bucket": 404} {
		refused(t, path, e.do("GET", path, nil), status, "NOT_FOUND", "")
	}
	a := e.do("PATCH", "/bucket", nil)
	refused(t, "PATCH", a, 405, "METHOD_NOT_ALLOWED", "")
	if allow := a.header.Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", allow)
	}
	for path, allow := range map[string]string{"/bucket/available": "GET", "/ai/llm/available": "GET", "/repo/validate": "POST"} {
		for _, method := range []string{"PUT", "DELETE"} {
			a := e.do(method, path, nil)
			refused(t, method+" "+path, a, 405, "METHOD_NOT_ALLOWED", "")
			if got := a.header.Get("Allow"); got != allow {
				t.Errorf("%s: Allow %q", path, got)
			}
		}
	}
	resp, err := http.Head(e.srv.URL + "/health")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("HEAD: %v, %v", resp, err)
	}
}

// TestFileAndLogHoldNoSecret reads the whole database file after everything has passed through the API.
func TestFileAndLogHoldNoSecret(t *testing.T) {
	e := newEnv(t)
	b, l := e.bucket(), e.llm()
	repo := e.repo("app", []string{b}, []string{l})
	k := e.ok("POST", "/repo/"+repo+"/apikey", m{"name": "k", "accessType": "READ"}).str(t, "secret")
	ai := e.ok("POST", "/repo/"+repo+"/ai/apikey", m{"name": "k", "aiType": "OPENAI"}).str(t, "secret")
	e.do("PUT", "/bucket/"+b+"?secret="+s3Secret, m{"secret": s3Secret, "name": 5}, "X-Secret", s3Secret)
	e.do("POST", "/nope/"+s3Secret, s3Secret)
	e.do("POST", "/bucket/"+s3Secret, s3Secret)
	e.as(aiSecret, "GET", "/repo/"+aiSecret+"/apikey", nil)
	e.ok("PUT", "/ai/llm/"+l, m{"secret": aiSecret})
	lists := bytes.Join([][]byte{e.ok("GET", "/bucket", nil).raw, e.ok("GET", "/ai/llm", nil).raw, e.ok("GET", "/repo", nil).raw}, nil)
	for _, s := range []string{"ciphertext", "authTag", "sealed"} {
		if bytes.Contains(lists, []byte(s)) {
			t.Errorf("a list has %q", s)
		}
	}
	e.srv.Close() // all log lines are written
	file, err := os.ReadFile(e.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{"S3 secret": s3Secret, "AI secret": aiSecret, "storage key": k, "AI key": ai, "admin token": e.admin} {
		for where, text := range map[string][]byte{"the file": file, "the log": e.log.Bytes(), "a list": lists} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s is in %s", name, where)
			}
		}
	}
	if !bytes.Contains(e.log.Bytes(), []byte(`"route":"POST /bucket"`)) || !bytes.Contains(e.log.Bytes(), []byte(b)) {
		t.Errorf("the log does not say what happened:\n%s", e.log)
	}
}
