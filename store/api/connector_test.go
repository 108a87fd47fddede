package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// TestSealed looks behind the API: what is stored of a secret, and for what use.
func TestSealed(t *testing.T) {
	e := newEnv(t)
	ca := testCA(t)
	for _, tc := range []struct {
		name, path string
		body       any
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
		{"escaped in JSON", "/ai/llm", fmt.Sprintf(`{"workspaceId":%q,"name":"l6","aiType":"OPENAI","secret":"sk\u002d\"\\\/\u0041"}`, e.ws), `sk-"\/A`,
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

func TestUpdateConnector(t *testing.T) {
	e := newEnv(t)
	bucket, llm := "/bucket/"+e.bucket(), "/ai/llm/"+e.llm()
	const needsSecret = "secret: is required"
	for _, tc := range []struct {
		name, path string
		body       m
		field      string // empty: accepted
	}{
		{"name", bucket, m{"name": "pictures"}, ""},
		{"flag", bucket, m{"allowBucketConfiguration": true}, ""},
		{"same endpoint", bucket, m{"endpoint": "https://s3.us-east-1.amazonaws.com"}, ""},
		{"endpoint", bucket, m{"endpoint": "https://evil.example.com"}, needsSecret},
		{"port", bucket, m{"endpoint": "https://s3.us-east-1.amazonaws.com:8443"}, needsSecret},
		{"scheme", bucket, m{"endpoint": "http://minio.test"}, needsSecret},
		{"bucket", bucket, m{"bucket": "another-bucket"}, needsSecret},
		{"key", bucket, m{"key": "AKIAOTHER"}, needsSecret},
		{"CA", bucket, m{"caCertificate": testCA(t)}, needsSecret},
		{"region that moves the default endpoint", bucket, m{"region": "eu-west-1"}, needsSecret},
		{"region of a given endpoint", bucket, m{"region": "eu-west-1", "endpoint": "https://s3.us-east-1.amazonaws.com"}, ""},
		{"forbidden endpoint with a secret", bucket, m{"endpoint": "https://127.0.0.2", "secret": "x"}, "endpoint: "},
		{"type", bucket, m{"storageType": "GCS"}, "storageType: "},
		{"workspace", bucket, m{"workspaceId": newID()}, "workspaceId: "},
		{"llm name", llm, m{"name": "gpt-2"}, ""},
		{"llm host", llm, m{"endpoint": "https://evil.example.com/v1"}, needsSecret},
		{"llm path", llm, m{"endpoint": "https://api.openai.com/v2"}, needsSecret},
		{"llm same", llm, m{"endpoint": "https://api.openai.com"}, ""},
		{"llm type", llm, m{"aiType": "OTHER"}, "aiType: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := e.do("PUT", tc.path, tc.body)
			if tc.field != "" {
				refused(t, "PUT", a, 400, "INVALID_FIELD", tc.field)
			} else if a.status != 200 {
				t.Errorf("PUT: %d %s", a.status, a.raw)
			}
		})
	}
	id := strings.TrimPrefix(bucket, "/bucket/")
	if c := record[*store.Connector](e, id); c.Name != "pictures" || !c.AllowBucketConfiguration || c.Region != "eu-west-1" || c.Bucket != "photos-bucket" {
		t.Errorf("after the updates: %+v", c)
	}
	if c := record[*store.Credential](e, id); c.M.Version != 1 {
		t.Errorf("a credential was written without a new secret: %+v", c.M)
	}

	// With the secret, everything may move, and the new version says so.
	e.ok("PUT", bucket, m{"endpoint": "https://s3.example.com", "bucket": "another-bucket", "key": "AKIAOTHER", "secret": "new-secret"})
	c := record[*store.Credential](e, id)
	want := seal.Header{Format: 1, Workspace: e.ws, Type: seal.TypeCredential, Record: id, Version: 2, Binding: seal.Binding{
		Use: "s3", Key: "AKIAOTHER", Scheme: "https", Host: "s3.example.com", Port: 443, Scope: "another-bucket"}}
	if diff := cmp.Diff(want, c.Sealed.Header); diff != "" || e.open(c.Sealed) != "new-secret" || c.Key != "AKIAOTHER" {
		t.Errorf("new version: %s\n%+v", diff, c)
	}
	e.ok("PUT", llm, m{"key": "sk-rotated"})
	lc := record[*store.Credential](e, strings.TrimPrefix(llm, "/ai/llm/"))
	if lc.Sealed.Header.Version != 2 || e.open(lc.Sealed) != "sk-rotated" {
		t.Errorf("rotated: %+v", lc.Sealed.Header)
	}

	// A connector is found under its own sort only.
	refused(t, "LLM as bucket", e.do("PUT", "/bucket/"+strings.TrimPrefix(llm, "/ai/llm/"), m{"name": "x"}), 404, "NOT_FOUND", "bucket")
	refused(t, "bucket as LLM", e.do("DELETE", "/ai/llm/"+id, nil), 404, "NOT_FOUND", "AI connector")

	// Deleting one more kept a name; it is free after that.
	refused(t, "name in use", e.do("POST", "/ai/llm", with(e.llmBody(), "name", "pictures")), 409, "NAME_ALREADY_USED", "name")
	e.ok("DELETE", bucket, nil)
	e.llm("name", "pictures")
}

func TestRepositories(t *testing.T) {
	e := newEnv(t)
	one := e.bucket()
	two := e.bucket("name", "two", "bucket", "second-bucket")
	same := e.bucket("name", "same", "endpoint", "https://other.example.com")
	llm := e.llm()
	body := func(buckets, llms []string) m { return repoBody(e.ws, "r", buckets, llms) }

	refused(t, "two buckets of one name", e.do("POST", "/repo", body([]string{one, same}, nil)), 409, "NORMAL_UNIT_FOLDER_ALREADY_USED", "repoBuckets: ")
	refused(t, "unknown bucket", e.do("POST", "/repo", body([]string{newID()}, nil)), 404, "NOT_FOUND", "bucket")
	refused(t, "unknown LLM", e.do("POST", "/repo", body(nil, []string{newID()})), 404, "NOT_FOUND", "AI connector")
	refused(t, "LLM as bucket", e.do("POST", "/repo", body([]string{llm}, nil)), 404, "NOT_FOUND", "bucket")
	refused(t, "bucket as LLM", e.do("POST", "/repo", body(nil, []string{one})), 404, "NOT_FOUND", "AI connector")

	id := e.ok("POST", "/repo", body([]string{one, two}, []string{llm})).str(t, "repoId")
	refused(t, "name in use", e.do("POST", "/repo", body(nil, nil)), 409, "NAME_ALREADY_USED", "name")
	refused(t, "bucket renamed into a clash", e.do("PUT", "/bucket/"+two, m{"bucket": "photos-bucket", "secret": "x"}), 400, "INVALID_FIELD", "bucket: ")

	e.ok("PUT", "/repo/"+id, m{"disabled": true, "name": "renamed"})
	if r := record[*store.Repository](e, id); !r.Disabled || r.Name != "renamed" || len(r.Storage) != 2 || len(r.AI) != 1 || r.StorageType != store.TypeS3 {
		t.Errorf("after a partial update: %+v", r)
	}
	e.ok("PUT", "/repo/"+id, m{"disabled": false, "repoBuckets": []m{{"bucketId": two, "master": true}}, "repoAiLlms": []m{}})
	if r := record[*store.Repository](e, id); r.Disabled || len(r.Storage) != 1 || !r.Storage[0].Master || len(r.AI) != 0 {
		t.Errorf("after replacing the lists: %+v", r)
	}
	e.ok("DELETE", "/bucket/"+one, nil) // no longer used
	e.ok("DELETE", "/ai/llm/"+llm, nil)
	refused(t, "put a deleted bucket back", e.do("PUT", "/repo/"+id, m{"repoBuckets": []m{{"bucketId": one}}}), 404, "NOT_FOUND", "bucket")

	only := e.ok("POST", "/repo", with(body(nil, nil), "name", "AI only", "storageType", nil)).str(t, "repoId")
	if got := find(t, e.ok("GET", "/repo?workspaceId="+e.ws, nil).items(t, "repos"), only); got["storageType"] != "" {
		t.Errorf("AI-only repository: %v", got)
	}
}

// TestFolders: what a repository may be limited to, and how that changes.
func TestFolders(t *testing.T) {
	e := newEnv(t)
	one, two := e.bucket(), e.bucket("name", "two", "bucket", "second-bucket")
	same := e.bucket("name", "same", "endpoint", "https://other.example.com")
	account := e.bucket("name", "account", "bucket", "*")
	body := func(buckets ...m) m { return with(repoBody(e.ws, "r", nil, nil), "repoBuckets", buckets) }
	in := func(id, folder string) m { return m{"bucketId": id, "folder": folder} }

	longest := strings.Repeat("a", 511) + "/"
	for folder, why := range map[string]string{
		"team": "must end in /", "/": "must not begin", "/team/": "must not begin", "team//": "empty segment", "a//b/": "empty segment",
		"./": ". or ..", "../": ". or ..", "a/../": ". or ..", "a/./b/": ". or ..", `a\b/`: "backslashes", "a\x00/": "control characters",
		"a\nb/": "control characters", "a\u0085/": "control characters", "a\ufffd/": "UTF-8", "a" + longest: "512 bytes",
	} {
		for _, path := range []string{"/repo", "/repo/validate"} {
			refused(t, folder, e.do("POST", path, body(in(one, folder))), 400, "INVALID_FIELD", "repoBuckets[0].folder: ")
		}
		if a := e.do("POST", "/repo", body(in(one, folder))); !strings.Contains(string(a.raw), why) {
			t.Errorf("%q: %s, want %q", folder, a.raw, why)
		}
	}
	refused(t, "an account", e.do("POST", "/repo", body(in(account, "team/"))), 400, "INVALID_FIELD", "repoBuckets: ")
	refused(t, "two folders of one bucket", e.do("POST", "/repo", body(in(one, "a/"), in(same, "b/"))), 409, "NORMAL_UNIT_FOLDER_ALREADY_USED", "repoBuckets: ")

	for _, folder := range []string{"team/", "a b/ü/.c/..d/", longest} {
		e.ok("POST", "/repo/validate", body(in(one, folder)))
	}
	id := e.ok("POST", "/repo", body(in(one, "team/"), in(two, ""))).str(t, "repoId")
	folders := func() (got []any) {
		for _, b := range find(t, e.ok("GET", "/repo", nil).items(t, "repos"), id)["buckets"].([]any) {
			got = append(got, b.(m)["folder"])
		}
		return got
	}
	if diff := cmp.Diff([]any{"team/", ""}, folders()); diff != "" {
		t.Error(diff)
	}
	e.ok("PUT", "/repo/"+id, m{"name": "renamed"})
	if r := record[*store.Repository](e, id); r.Storage[0].Folder != "team/" || r.Storage[1].Folder != "" {
		t.Errorf("after another change: %+v", r.Storage)
	}
	refused(t, "no folder", e.do("PUT", "/repo/"+id, m{"repoBuckets": []m{in(one, "team")}}), 400, "INVALID_FIELD", "repoBuckets[0].folder: ")
	refused(t, "made an account", e.do("PUT", "/bucket/"+one, m{"bucket": "*", "secret": "x"}), 400, "INVALID_FIELD", "bucket: ")
	e.ok("PUT", "/bucket/"+two, m{"bucket": "*", "secret": "x"})
	e.ok("PUT", "/repo/"+id, m{"repoBuckets": []m{in(one, "team/sub/")}})
	if diff := cmp.Diff([]any{"team/sub/"}, folders()); diff != "" {
		t.Error(diff)
	}
	e.ok("PUT", "/repo/"+id, m{"repoBuckets": []m{{"bucketId": one}}}) // the list is replaced
	if diff := cmp.Diff([]any{""}, folders()); diff != "" {
		t.Error(diff)
	}
}
