package api_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
)

func withFleet(t *testing.T) (*env, *fleet) {
	f := newFleet(t)
	return newEnv(t, func(c *api.Config) {
		c.Fleet, c.Expiring = f, func() []api.Expiring { return []api.Expiring{{Role: "bridge", Name: "b1", NotAfter: seen}} }
	}), f
}

// TestTriedBeforeCreation: a connector that its provider refuses is not stored, and
// of what the provider says nothing secret comes back.
func TestTriedBeforeCreation(t *testing.T) {
	e, f := withFleet(t)
	revision := func() uint64 {
		t.Helper()
		r, err := e.store.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := revision()
	f.says(api.ProbeResult{Message: "InvalidAccessKeyId: no such key\r\n\x00" + s3Secret + " was sent"}, nil)
	a := e.do("POST", "/bucket", e.bucketBody())
	refused(t, "the provider refuses", a, 400, "PROVIDER_REFUSED", "InvalidAccessKeyId: no such key")
	if bytes.Contains(a.raw, []byte(s3Secret)) || bytes.ContainsAny(a.raw, "\r\n") || strings.Contains(a.str(t, "message"), "\x00") {
		t.Errorf("the provider's words pass unfiltered: %s", a.raw)
	}
	f.says(api.ProbeResult{Message: strings.Repeat("é", 5000)}, nil)
	if a = e.do("POST", "/ai/llm", e.llmBody()); a.status != 400 || len(a.raw) > 700 {
		t.Errorf("a long refusal: %d, %d bytes", a.status, len(a.raw))
	}
	f.says(api.ProbeResult{}, api.ErrNoBridge)
	refused(t, "no bridge", e.do("POST", "/bucket", e.bucketBody()), 503, "NO_BRIDGE", "validate=false")
	refused(t, "no bridge, AI", e.do("POST", "/ai/llm", e.llmBody()), 503, "NO_BRIDGE", "")
	f.says(api.ProbeResult{}, errors.New("stream reset by 10.0.0.7"))
	refused(t, "lost bridge", e.do("POST", "/bucket", e.bucketBody()), 503, "PROBE_FAILED", "")
	if after := revision(); after != before {
		t.Errorf("refused connectors were written: revision %d became %d", before, after)
	}

	// Nothing is tried in vain: what is wrong anyway is said first.
	f.last()
	f.says(api.ProbeResult{OK: true}, nil)
	e.bucket()
	if got := f.last(); len(got) != 1 || got[0].Bucket != "photos-bucket" || got[0].Region != "us-east-1" || e.open(got[0].Sealed) != s3Secret {
		t.Errorf("tried: %+v", got)
	}
	refused(t, "name in use", e.do("POST", "/bucket", e.bucketBody()), 409, "NAME_ALREADY_USED", "")
	refused(t, "forbidden endpoint", e.do("POST", "/bucket", with(e.bucketBody(), "name", "x", "endpoint", "https://10.0.0.1")), 400, "INVALID_FIELD", "endpoint")
	stranger := e.token(map[string]store.Access{newID(): store.AccessAdmin})
	refused(t, "no role", e.as(stranger, "POST", "/bucket", e.bucketBody()), 403, "FORBIDDEN", "")
	e.ok("POST", "/bucket?validate=false", with(e.bucketBody(), "name", "untried"))
	if got := f.last(); len(got) != 0 {
		t.Errorf("tried: %+v", got)
	}
	// A repeated request finds what the first made, without another try.
	for range 2 {
		e.ok("POST", "/ai/llm", e.llmBody(), "Idempotency-Key", "k")
	}
	if got := f.last(); len(got) != 1 || got[0].Type != store.TypeOpenAI {
		t.Errorf("tried: %+v", got)
	}
	e.ok("POST", "/bucket?validate=undefined", with(e.bucketBody(), "name", "tried"))
	if got := f.last(); len(got) != 1 {
		t.Errorf("validate=undefined: %+v", got)
	}
}

// TestSessionToken: it is sealed with the secret, tried and replaced with it, and
// comes back in nobody's words.
func TestSessionToken(t *testing.T) {
	const token = "session/token+0123456789=="
	both := s3Secret + "\x00" + token
	e, f := withFleet(t)
	f.says(api.ProbeResult{OK: true}, nil)
	id := e.bucket("sessionToken", token)
	if got := f.last(); len(got) != 1 || e.open(got[0].Sealed) != both {
		t.Errorf("tried: %+v", got)
	}
	sealed := func(id string) string { return e.open(record[*store.Credential](e, id).Sealed) }
	if got := sealed(id); got != both {
		t.Errorf("sealed %q", got)
	}
	e.ok("PUT", "/bucket/"+id, m{"name": "renamed"})
	if got := sealed(id); got != both {
		t.Errorf("after another change: sealed %q", got)
	}
	e.ok("PUT", "/bucket/"+id, m{"secret": "other", "sessionToken": "next"})
	if got := sealed(id); got != "other\x00next" {
		t.Errorf("replaced: sealed %q", got)
	}
	e.ok("PUT", "/bucket/"+id, m{"secret": s3Secret, "sessionToken": ""})
	if got := sealed(id); got != s3Secret {
		t.Errorf("a secret without a token: sealed %q", got)
	}
	f.last()
	e.ok("POST", "/bucket/"+id+"/validate", m{"secret": s3Secret, "sessionToken": token})
	if got := f.last(); len(got) != 1 || e.open(got[0].Sealed) != both {
		t.Errorf("validated: %+v", got)
	}
	shared := e.shared("sessionToken", token)
	if got := sealed(shared); got != both {
		t.Errorf("shared: sealed %q", got)
	}
	e.ok("PUT", "/apikeys/"+shared, m{"secret": "other", "sessionToken": "next"})
	if got := sealed(shared); got != "other\x00next" {
		t.Errorf("shared, replaced: sealed %q", got)
	}
	f.says(api.ProbeResult{Message: "InvalidTokenId: " + token + " of " + s3Secret}, nil)
	a := e.do("POST", "/bucket", with(e.bucketBody(), "name", "echo", "sessionToken", token))
	refused(t, "echo", a, 400, "PROVIDER_REFUSED", "[redacted] of [redacted]")

	f.says(api.ProbeResult{OK: true}, nil)
	own := newID()
	for name, tc := range map[string]struct {
		method, path string
		body         m
	}{
		"alone":             {"PUT", "/bucket/" + id, m{"sessionToken": token}},
		"shared, alone":     {"PUT", "/apikeys/" + shared, m{"sessionToken": token}},
		"validate, alone":   {"POST", "/bucket/" + id + "/validate", m{"sessionToken": token}},
		"sealed":            {"POST", "/bucket", with(e.bucketBody(), "secret", nil, "sessionToken", token, "id", own, "sealedSecret", e.seal(e.s3Header(own), s3Secret))},
		"with a shared one": {"POST", "/bucket", with(e.bucketBody(), "key", nil, "secret", nil, "apiKeyUuid", shared, "sessionToken", token)},
		"of AI":             {"POST", "/apikeys", m{"workspaceId": e.ws, "provider": "OPENAI", "secret": aiSecret, "sessionToken": token}},
		"a space":           {"POST", "/bucket", with(e.bucketBody(), "sessionToken", "a b")},
		"a line end":        {"POST", "/bucket", with(e.bucketBody(), "sessionToken", "a\r\nx-amz-acl: public-read")},
		"a NUL":             {"POST", "/bucket", with(e.bucketBody(), "sessionToken", "a\x00b")},
		"too long":          {"POST", "/bucket", with(e.bucketBody(), "sessionToken", strings.Repeat("a", 16385))},
		"a number":          {"POST", "/bucket", with(e.bucketBody(), "sessionToken", 1)},
	} {
		refused(t, name, e.do(tc.method, tc.path, tc.body), 400, "INVALID_FIELD", "sessionToken: ")
	}
	refused(t, "a NUL in the secret", e.do("POST", "/bucket", with(e.bucketBody(), "secret", both)), 400, "INVALID_FIELD", "secret: ")
	for _, path := range []string{"/bucket", "/apikeys"} {
		if a := e.ok("GET", path, nil); strings.Contains(string(a.raw), "session") {
			t.Errorf("%s shows %s", path, a.raw)
		}
	}
	for _, s := range []string{token, "other", "next"} {
		if strings.Contains(e.log.String(), s) {
			t.Errorf("the log has %q", s)
		}
	}
}

func TestRegionLearned(t *testing.T) {
	e, f := withFleet(t)
	region := func(r string) func(api.Probe) (api.ProbeResult, error) {
		return func(p api.Probe) (api.ProbeResult, error) {
			if p.Region != r {
				return api.ProbeResult{Message: "PermanentRedirect", Region: r}, nil
			}
			return api.ProbeResult{OK: true, Region: r}, nil
		}
	}
	f.answer = region("eu-west-3")
	id := e.bucket()
	if c := record[*store.Connector](e, id); c.Region != "eu-west-3" || c.Endpoint != "https://s3.eu-west-3.amazonaws.com" {
		t.Errorf("stored: %+v", c)
	}
	if c := record[*store.Credential](e, id); c.Sealed.Header.Binding.Host != "s3.eu-west-3.amazonaws.com" {
		t.Errorf("sealed for %+v", c.Sealed.Header.Binding)
	}
	// Sealed by the caller for another host: it has to be said.
	sealedID := newID()
	refused(t, "sealed", e.do("POST", "/bucket", with(e.bucketBody(), "name", "s", "secret", nil, "id", sealedID, "sealedSecret", e.seal(e.s3Header(sealedID), s3Secret))),
		400, "PROVIDER_REFUSED", "region eu-west-3")
	refused(t, "wrong region given", e.do("POST", "/bucket", with(e.bucketBody(), "name", "g", "region", "us-east-2")), 400, "PROVIDER_REFUSED", "region eu-west-3")
	// The provider accepted it where it is: only the region is taken.
	f.says(api.ProbeResult{OK: true, Region: "garage"}, nil)
	id = e.bucket("name", "own", "endpoint", "https://s3.example.com")
	if c := record[*store.Connector](e, id); c.Region != "garage" || c.Endpoint != "https://s3.example.com" {
		t.Errorf("stored: %+v", c)
	}
	// A provider's region is its own text: it moves no host, and ends no loop.
	f.says(api.ProbeResult{OK: true, Region: "x.evil.example/"}, nil)
	id = e.bucket("name", "evil")
	if c := record[*store.Connector](e, id); c.Region != "us-east-1" {
		t.Errorf("stored: %+v", c)
	}
	n := 0
	f.answer = func(api.Probe) (api.ProbeResult, error) {
		n++
		return api.ProbeResult{Message: "no", Region: strings.Repeat("r", n)}, nil
	}
	refused(t, "regions without end", e.do("POST", "/bucket", with(e.bucketBody(), "name", "loop")), 400, "PROVIDER_REFUSED", "")
	if n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestTriedOnUpdate(t *testing.T) {
	e, f := withFleet(t)
	id := e.bucket()
	f.last()
	a := e.ok("PUT", "/bucket/"+id, m{"name": "renamed"})
	if _, tried := a.m["status"]; tried || len(f.last()) != 0 {
		t.Errorf("a name was tried: %s", a.raw)
	}
	a = e.ok("PUT", "/bucket/"+id, m{"secret": "rotated-secret"})
	if a.m["status"] != "ONLINE" || a.m["latency_ms"] != 12.0 {
		t.Errorf("answer: %s", a.raw)
	}
	f.says(api.ProbeResult{Message: "SignatureDoesNotMatch"}, nil)
	refused(t, "wrong secret", e.do("PUT", "/bucket/"+id, m{"secret": "wrong-secret"}), 400, "PROVIDER_REFUSED", "SignatureDoesNotMatch")
	if c := record[*store.Credential](e, id); e.open(c.Sealed) != "rotated-secret" {
		t.Error("a secret that the provider refuses replaced one that works")
	}
	e.ok("PUT", "/bucket/"+id+"?validate=false", m{"secret": "wrong-secret"})
}

// TestValidate: a stored secret is tried only for what it is sealed for.
func TestValidate(t *testing.T) {
	e, f := withFleet(t)
	bucket, llm := e.bucket(), e.llm()
	shared := e.ok("POST", "/apikeys", e.sharedBody()).str(t, "apiKeyId")
	f.last()
	for _, tc := range []struct {
		name string
		path string
		body m
		want api.Probe // Sealed is compared by what is in it
		text string
	}{
		{"as it is", "/bucket/" + bucket, m{}, api.Probe{Connector: bucket, Workspace: e.ws, Type: "S3"}, ""},
		{"as it is, said again", "/bucket/" + bucket, m{"bucket": "photos-bucket", "endpoint": "https://s3.us-east-1.amazonaws.com"},
			api.Probe{Connector: bucket, Workspace: e.ws, Type: "S3"}, ""},
		{"new secret", "/bucket/" + bucket, m{"bucket": "photos-bucket", "secret": "another"},
			api.Probe{Workspace: e.ws, Type: "S3", Bucket: "photos-bucket", Region: "us-east-1"}, "another"},
		{"new secret elsewhere", "/bucket/" + bucket, m{"bucket": "two-bucket", "secret": "another", "key": "AKOTHER", "endpoint": "https://s3.example.com"},
			api.Probe{Workspace: e.ws, Type: "S3", Bucket: "two-bucket", Region: "us-east-1"}, "another"},
		{"shared", "/bucket/" + bucket, m{"bucket": "any-bucket", "apiKeyUuid": shared},
			api.Probe{Credential: shared, Workspace: e.ws, Type: "S3", Bucket: "any-bucket", Region: "us-east-1"}, ""},
		{"AI as it is", "/ai/llm/" + llm, m{}, api.Probe{Connector: llm, Workspace: e.ws, Type: "OPENAI"}, ""},
		{"AI new secret", "/ai/llm/" + llm, m{"key": "sk-new"}, api.Probe{Workspace: e.ws, Type: "OPENAI"}, "sk-new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := record[*store.Connector](e, strings.TrimPrefix(strings.TrimPrefix(tc.path, "/bucket/"), "/ai/llm/"))
			a := e.ok("POST", tc.path+"/validate", tc.body)
			if a.m["success"] != true || a.m["status"] != "ONLINE" || a.m["latency_ms"] != 12.0 {
				t.Errorf("answer: %s", a.raw)
			}
			got := f.last()
			if len(got) != 1 {
				t.Fatalf("tried: %+v", got)
			}
			if tc.text != "" && e.open(got[0].Sealed) != tc.text {
				t.Errorf("sealed: %+v", got[0].Sealed)
			}
			got[0].Sealed = nil
			if diff := cmp.Diff(tc.want, got[0]); diff != "" {
				t.Errorf("tried (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, record[*store.Connector](e, before.M.ID)); diff != "" {
				t.Errorf("something was stored:\n%s", diff)
			}
		})
	}
	for name, body := range map[string]m{
		"other endpoint": {"endpoint": "https://evil.example.com"}, "other bucket": {"bucket": "other-bucket"}, "other key": {"key": "AKOTHER"},
		"other CA": {"caCertificate": testCA(t)},
	} {
		refused(t, name, e.do("POST", "/bucket/"+bucket+"/validate", body), 400, "INVALID_FIELD", "secret: ")
	}
	refused(t, "shared credential elsewhere", e.do("POST", "/bucket/"+bucket+"/validate", m{"apiKeyUuid": shared, "endpoint": "https://evil.example.com"}), 400, "INVALID_FIELD", "endpoint: ")
	refused(t, "AI elsewhere", e.do("POST", "/ai/llm/"+llm+"/validate", m{"endpoint": "https://evil.example.com/v1"}), 400, "INVALID_FIELD", "secret: ")
	refused(t, "unknown shared credential", e.do("POST", "/bucket/"+bucket+"/validate", m{"apiKeyUuid": newID()}), 404, "NOT_FOUND", "apiKeyUuid")
	refused(t, "a connector's own credential as a shared one", e.do("POST", "/bucket/"+bucket+"/validate", m{"apiKeyUuid": llm}), 404, "NOT_FOUND", "apiKeyUuid")
	if got := f.last(); len(got) != 0 {
		t.Errorf("tried all the same: %+v", got)
	}

	// How a refusal looks differs by route.
	f.says(api.ProbeResult{Message: "AccessDenied"}, nil)
	refused(t, "bucket", e.do("POST", "/bucket/"+bucket+"/validate", nil), 400, "PROVIDER_REFUSED", "AccessDenied")
	if a := e.ok("POST", "/ai/llm/"+llm+"/validate", nil); a.m["success"] != false || a.m["message"] != "AccessDenied" {
		t.Errorf("LLM: %s", a.raw)
	}
	f.says(api.ProbeResult{OK: true, Models: []api.Model{{ID: "gpt-4o", Created: 1700000000}, {ID: "x", Name: "X", Created: -5}, {ID: "y", Created: 1 << 62}}}, nil)
	models := e.ok("POST", "/ai/llm/"+llm+"/validate", nil).items(t, "models")
	want := []m{{"id": "gpt-4o", "name": "gpt-4o", "created": "2023-11-14T22:13:20Z"}, {"id": "x", "name": "X"}, {"id": "y", "name": "y"}}
	if diff := cmp.Diff(want, models); diff != "" {
		t.Errorf("models:\n%s", diff)
	}

	without := newEnv(t)
	refused(t, "no fleet", without.do("POST", "/bucket/"+without.bucket()+"/validate", nil), 503, "NO_BRIDGE", "")
	refused(t, "no fleet, AI", without.do("POST", "/ai/llm/"+without.llm()+"/validate", nil), 503, "NO_BRIDGE", "")
}

func TestModels(t *testing.T) {
	e, f := withFleet(t)
	one := e.llm("models", []string{"gpt-4o", "ft-mine", "o3*"})
	two := e.llm("name", "claude", "aiType", "ANTHROPIC", "secret", "sk-ant")
	repo := e.repo("r", nil, []string{one, two})
	f.answer = func(p api.Probe) (api.ProbeResult, error) {
		if p.Connector == two {
			return api.ProbeResult{OK: true, Models: []api.Model{{ID: "claude-x", Name: "Claude X", Created: 1700000000}}}, nil
		}
		return api.ProbeResult{OK: true, Models: []api.Model{{ID: "gpt-4o"}}}, nil
	}
	item := func(id, name, typ, dialect, connector string) m {
		return m{"id": id, "name": name, "aiType": typ, "llmType": dialect, "llmProvider": connector}
	}
	gpt, mine := item("gpt-4o", "gpt-4o", "OPENAI", "OPENAI", "gpt"), item("ft-mine", "ft-mine", "OPENAI", "OPENAI", "gpt")
	claude := with(item("claude-x", "Claude X", "ANTHROPIC", "ANTHROPIC", "claude"), "created", "2023-11-14T22:13:20Z")
	list := func(body m) []m { t.Helper(); return e.ok("POST", "/ai/models", body).items(t, "models") }
	if diff := cmp.Diff([]m{gpt, mine, claude}, list(m{"repoId": repo})); diff != "" {
		t.Errorf("all:\n%s", diff)
	}
	if diff := cmp.Diff([]m{claude}, list(m{"repoId": repo, "aiType": "ANTHROPIC"})); diff != "" {
		t.Errorf("of one type:\n%s", diff)
	}
	if got := list(m{"repoId": repo, "aiType": "OTHER"}); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
	// One provider that refuses hides nobody else's models, nor what its connector names.
	f.says(api.ProbeResult{Message: "invalid x-api-key"}, nil)
	if diff := cmp.Diff([]m{item("gpt-4o", "gpt-4o", "OPENAI", "OPENAI", "gpt"), mine}, list(m{"repoId": repo})); diff != "" {
		t.Errorf("refused:\n%s", diff)
	}
	refused(t, "all refuse", e.do("POST", "/ai/models", m{"repoId": repo, "aiType": "ANTHROPIC"}), 400, "PROVIDER_REFUSED", "claude: invalid x-api-key")
	f.says(api.ProbeResult{}, api.ErrNoBridge)
	refused(t, "no bridge", e.do("POST", "/ai/models", m{"repoId": repo, "aiType": "ANTHROPIC"}), 503, "NO_BRIDGE", "")
	refused(t, "unknown repository", e.do("POST", "/ai/models", m{"repoId": newID()}), 404, "NOT_FOUND", "repository")
}

func TestAnthropic(t *testing.T) {
	e := newEnv(t)
	id := e.llm("aiType", "ANTHROPIC")
	want := seal.Binding{Use: "anthropic", Scheme: "https", Host: "api.anthropic.com", Port: 443, Scope: "/v1"}
	if c := record[*store.Credential](e, id); c.Sealed.Header.Binding != want {
		t.Errorf("sealed for %+v", c.Sealed.Header.Binding)
	}
	repo := e.repo("r", nil, []string{id})
	key := e.ok("POST", "/repo/"+repo+"/ai/apikey", m{"name": "k", "aiType": "ANTHROPIC"}).str(t, "id")
	if k := record[*store.Key](e, key); k.Type != store.TypeAnthropic {
		t.Errorf("key: %+v", k)
	}
	if got := e.ok("GET", "/sealing-key", nil).m["defaultEndpoints"].(m)["ANTHROPIC"]; got != "https://api.anthropic.com/v1" {
		t.Errorf("default endpoint: %v", got)
	}
}

func TestAccountConnector(t *testing.T) {
	e := newEnv(t)
	id := e.bucket("bucket", "*")
	if c := record[*store.Credential](e, id); c.Sealed.Header.Binding.Scope != "*" {
		t.Errorf("sealed for %+v", c.Sealed.Header.Binding)
	}
	two := e.bucket("bucket", "*", "name", "two")
	named := e.bucket("name", "named")
	e.repo("both", []string{id, named}, nil)
	refused(t, "two accounts", e.do("POST", "/repo", repoBody(e.ws, "x", []string{id, two}, nil)), 409, "NORMAL_UNIT_FOLDER_ALREADY_USED", "repoBuckets: ")
	refused(t, "widen a bucket", e.do("PUT", "/bucket/"+named, m{"bucket": "*"}), 400, "INVALID_FIELD", "secret: ")
}

func TestNodes(t *testing.T) {
	e, _ := withFleet(t)
	bucket, llm := e.bucket(), e.llm()
	b1 := m{"name": "b1", "ip": "10.0.0.1", "region": "eu", "version": "v1", "status": "ONLINE", "latencyMs": 3.0,
		"lastUpdated": "2026-03-01T12:00:00Z", "url": "http://10.0.0.1:9000", "nodeServices": 3.0,
		"keepers": []any{map[string]any{"name": "keeper-1", "state": "good"}, map[string]any{"name": "keeper-2", "state": "bad", "detail": "its share"}}}
	b2 := m{"name": "b2", "ip": "10.0.0.2", "region": "", "version": "", "status": "DISCONNECTED", "latencyMs": 0.0, "lastUpdated": nil, "url": "", "nodeServices": 2.0}
	for query, want := range map[string][]m{"": {b1, b2}, "?nodeServices=0": {b1, b2}, "?nodeServices=undefined": {b1, b2}, "?nodeServices=1": {b1},
		"?nodeServices=2": {b1, b2}, "?nodeServices=3": {b1, b2}, "?nodeServices=4": {}} {
		a := e.ok("GET", "/node"+query, nil)
		if diff := cmp.Diff(want, a.items(t, "data")); diff != "" || a.m["total"] != float64(len(want)) {
			t.Errorf("%s: %s", query, diff)
		}
	}
	refused(t, "nodeServices", e.do("GET", "/node?nodeServices=storage", nil), 400, "INVALID_FIELD", "nodeServices: ")
	status := []m{
		{"name": "b2", "ip": "", "region": "", "version": "", "status": "OFFLINE", "latencyMs": 0.0, "lastUpdated": "2026-03-01T12:00:00Z", "message": "AccessDenied  X: y"},
		{"name": "b1", "ip": "10.0.0.1", "region": "", "version": "", "status": "ONLINE", "latencyMs": 40.0, "lastUpdated": "2026-03-01T12:00:00Z"},
	}
	for path, id := range map[string]string{"/bucket/" + bucket: "bucketId", "/ai/llm/" + llm: "aiLlmId"} {
		a := e.ok("GET", path+"/status", nil)
		if diff := cmp.Diff(status, a.items(t, "nodeStatus")); diff != "" || !strings.HasSuffix(path, a.str(t, id)) {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if got := e.ok("GET", "/bucket", nil).items(t, "buckets")[0]["status"]; got != "ONLINE" {
		t.Errorf("status in the list: %v", got)
	}
	want := []m{{"node": "b1-envoy", "bridge": "b1", "type": "Cluster", "versionSent": 4.0, "versionAcked": 3.0, "lastNack": "no such host", "connected": true}}
	sync := e.ok("GET", "/sync", nil)
	if diff := cmp.Diff(want, sync.items(t, "data")); diff != "" {
		t.Errorf("sync: %s", diff)
	}
	// A lying keeper is named, and so is an enrolment that ends.
	want = []m{{"bridge": "b1", "name": "keeper-1", "state": "good"}, {"bridge": "b1", "name": "keeper-2", "state": "bad", "detail": "its share"}}
	if diff := cmp.Diff(want, sync.items(t, "keepers")); diff != "" {
		t.Errorf("keepers: %s", diff)
	}
	want = []m{{"role": "bridge", "name": "b1", "notAfter": "2026-03-01T12:00:00Z"}}
	if diff := cmp.Diff(want, sync.items(t, "expiring")); diff != "" {
		t.Errorf("expiring: %s", diff)
	}

	without := newEnv(t)
	for _, path := range []string{"/node", "/sync"} {
		if got := without.ok("GET", path, nil).items(t, "data"); len(got) != 0 {
			t.Errorf("%s: %v", path, got)
		}
	}
	if got := without.ok("GET", "/bucket/"+without.bucket()+"/status", nil).items(t, "nodeStatus"); len(got) != 0 {
		t.Errorf("status: %v", got)
	}
}

func TestRepoValidate(t *testing.T) {
	e := newEnv(t)
	one := e.bucket()
	same := e.bucket("name", "same", "endpoint", "https://other.example.com")
	repo := e.repo("app", nil, nil)
	before, err := e.store.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body := repoBody(e.ws, "new", []string{one}, nil)
	e.ok("POST", "/repo/validate", body)
	refused(t, "name in use", e.do("POST", "/repo/validate", with(body, "name", "app")), 409, "NAME_ALREADY_USED", "name")
	refused(t, "unknown bucket", e.do("POST", "/repo/validate", repoBody(e.ws, "x", []string{newID()}, nil)), 404, "NOT_FOUND", "bucket")
	refused(t, "two of one name", e.do("POST", "/repo/validate", repoBody(e.ws, "x", []string{one, same}, nil)), 409, "NORMAL_UNIT_FOLDER_ALREADY_USED", "repoBuckets")
	if got := e.ok("POST", "/repo/"+repo+"/validate", m{"repoBuckets": []m{{"bucketId": one}}}); got.m["repoId"] != repo || got.header.Get("ETag") != "" {
		t.Errorf("%s", got.raw)
	}
	refused(t, "change into nothing", e.do("POST", "/repo/"+repo+"/validate", m{"repoAiLlms": []m{{"aiLlmId": newID()}}}), 404, "NOT_FOUND", "AI connector")
	refused(t, "no such repository", e.do("POST", "/repo/"+newID()+"/validate", m{}), 404, "NOT_FOUND", "repository")
	if after, err := e.store.Revision(t.Context()); err != nil || after != before {
		t.Errorf("something was stored: revision %d became %d, %v", before, after, err)
	}
}

func TestRotateKeys(t *testing.T) {
	now := &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)}
	e := newEnv(t, func(c *api.Config) { c.Clock = now.Now })
	repo, other := e.repo("r", nil, nil), e.repo("other", nil, nil)
	for _, tc := range []struct {
		path string
		body m
	}{{"/apikey", m{"name": "k", "accessType": "WRITE"}}, {"/ai/apikey", m{"name": "k", "aiType": "ANTHROPIC"}}} {
		path := "/repo/" + repo + tc.path
		issue := func(pairs ...any) string { return e.ok("POST", path, with(tc.body, pairs...)).str(t, "id") }
		rotate := func(id string, body any) *store.Key {
			t.Helper()
			a := e.ok("POST", path+"/"+id+"/rotate", body)
			k := record[*store.Key](e, a.str(t, "id"))
			old := record[*store.Key](e, id)
			if k.M.ID == id || k.Key == old.Key || k.Key != a.str(t, "key") || k.Name != old.Name || k.Access != old.Access || k.Type != old.Type || k.Repository != repo {
				t.Errorf("%s: the new key is %+v, the old was %+v", path, k, old)
			}
			return k
		}
		// At once.
		id := issue()
		rotate(id, nil)
		if old := record[*store.Key](e, id); old.M.DeletedAt == nil || old.Sealed != nil {
			t.Errorf("%s: the old key lives: %+v", path, old)
		}
		refused(t, "rotate a deleted key", e.do("POST", path+"/"+id+"/rotate", nil), 404, "NOT_FOUND", "key")
		// Side by side for an hour.
		id = issue()
		if k := rotate(id, m{"overlapSeconds": 3600}); k.ExpiresAt != nil {
			t.Errorf("%s: the new key ends: %+v", path, k)
		}
		if old := record[*store.Key](e, id); old.M.DeletedAt != nil || !old.ExpiresAt.Equal(time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: the old key: %+v", path, old)
		}
		// Rotation gives no key a longer life, unless it is asked for.
		id = issue("expiresAt", "2026-03-01T12:30:00Z")
		if k := rotate(id, m{"overlapSeconds": 3600}); k.ExpiresAt.Minute() != 30 || !record[*store.Key](e, id).ExpiresAt.Equal(*k.ExpiresAt) {
			t.Errorf("%s: %+v", path, k)
		}
		if k := rotate(id, m{"expiresAt": "2027-01-01T00:00:00Z"}); k.ExpiresAt.Year() != 2027 {
			t.Errorf("%s: %+v", path, k)
		}
		id = issue("expiresAt", "2026-03-01T12:30:00Z")
		now.Add(time.Hour)
		refused(t, "an expired key", e.do("POST", path+"/"+id+"/rotate", nil), 400, "INVALID_FIELD", "expiresAt: ")
		now.Add(-time.Hour)
		// A disabled key does not come to life.
		id = issue()
		e.ok("PUT", path+"/"+id, m{"disabled": true})
		if k := rotate(id, nil); !k.Disabled {
			t.Errorf("%s: %+v", path, k)
		}

		id = issue()
		for _, bad := range []any{-1, 2592001, 1.5, "1h"} {
			refused(t, "overlap", e.do("POST", path+"/"+id+"/rotate", m{"overlapSeconds": bad}), 400, "INVALID_FIELD", "overlapSeconds: ")
		}
		refused(t, "through another repository", e.do("POST", "/repo/"+other+tc.path+"/"+id+"/rotate", nil), 404, "NOT_FOUND", "key")
		refused(t, "another version", e.do("POST", path+"/"+id+"/rotate", nil, "If-Match", `"9"`), 412, "VERSION_MISMATCH", "")
		// Repeated, it neither shows the secret again nor rotates again.
		first := e.ok("POST", path+"/"+id+"/rotate", m{"overlapSeconds": 60}, "Idempotency-Key", "r"+tc.path)
		refused(t, "again", e.do("POST", path+"/"+id+"/rotate", m{"overlapSeconds": 60}, "Idempotency-Key", "r"+tc.path), 409, "SECRET_SHOWN_ONCE", first.str(t, "id"))
	}
	refused(t, "an AI key as a storage key", e.do("POST", "/repo/"+repo+"/apikey/"+e.ok("GET", "/repo/"+repo+"/ai/apikey", nil).items(t, "apiKeys")[0]["id"].(string)+"/rotate", nil), 404, "NOT_FOUND", "key")
}
