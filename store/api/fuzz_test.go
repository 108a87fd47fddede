package api_test

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"

	"keybridge/store/api"
)

func hashOf(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// FuzzCreate posts any bytes to every route that creates: no server error, always
// the documented envelope (env.as checks), and nothing of a refused body is stored.
func FuzzCreate(f *testing.F) {
	const ws = "11111111-2222-3333-4444-555555555555"
	for _, seed := range []string{
		``, `{}`, `[]`, `null`, `{"name":"x"}`, `{"name":null,"workspaceId":"undefined"}`,
		`{"workspaceId":"` + ws + `","name":"b","bucket":"photos","storageType":"S3","key":"AK","secret":"s\u0041\/","endpoint":"https://h:1"}`,
		`{"workspaceId":"` + ws + `","name":"l","aiType":"OTHER","key":"k","endpoint":"https://h/v1","caCertificate":"-----BEGIN CERTIFICATE-----"}`,
		`{"workspaceId":"` + ws + `","name":"r","storageType":"S3","mode":"NORMAL","repoBuckets":[{"bucketId":"` + ws + `","folder":null}],"repoAiLlms":[]}`,
		`{"name":"k","accessType":"READ","aiType":"OPENAI","expiresAt":"2030-01-01T00:00:00Z"}`,
		`{"workspaceId":"` + ws + `","id":"` + ws + `","sealedSecret":{"header":{"format":1,"binding":{}},"key":{"suite":1},"iv":"AA=="}}`,
		`{"secret":"\ud800","name":"\u0000"}`,
		`{"workspaceId":"` + ws + `","provider":"OTHER","key":"AK","secret":"s","endpoint":"https://h"}`,
		`{"name":"t","roles":{"*":"READ","` + ws + `":"ADMIN"},"expiresAt":"2030-01-01T00:00:00Z"}`,
		`{"overlapSeconds":60,"models":["m*"],"skip":1,"take":100,"from_timestamp":"2030-01-01T00:00:00Z","workspaceId":"null"}`,
		`{"repoId":"` + ws + `","aiType":"OTHER","roles":{},"take":-1e400,"overlapSeconds":1e99}`,
	} {
		f.Add(seed)
	}
	e := newEnv(f, func(c *api.Config) { c.Fleet, c.Audit = newFleet(f), newAuditor() })
	bucket, llm := e.bucket(), e.llm()
	repo := e.repo("fuzz", nil, nil)
	f.Fuzz(func(t *testing.T, body string) {
		body = strings.ReplaceAll(body, ws, e.ws)
		inner := *e
		inner.t = t
		for _, path := range []string{"/workspace", "/apikeys", "/bucket", "/ai/llm", "/repo", "/token", "/systemevent", "/ai/models", "/repo/validate", "/repo/" + repo + "/validate",
			"/bucket/" + bucket + "/validate", "/ai/llm/" + llm + "/validate", "/repo/" + repo + "/apikey", "/repo/" + repo + "/ai/apikey"} {
			before, err := e.store.Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a := inner.do("POST", path, body)
			if a.status >= http.StatusInternalServerError {
				t.Errorf("POST %s %q: %d %s", path, body, a.status, a.raw)
			}
			if after, err := e.store.Revision(t.Context()); a.status != http.StatusOK && (err != nil || after != before) {
				t.Errorf("POST %s %q: refused, but revision %d became %d, %v", path, body, before, after, err)
			}
		}
	})
}
