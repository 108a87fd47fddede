package llm_test

import (
	"encoding/json"
	"strings"
	"testing"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
)

func TestReview(t *testing.T) {
	p := llm.New(&grant.Live{})
	bearer, plain := map[string]string{"authorization": "Bearer " + providerKey}, map[string]string{"x-api-key": providerKey}
	for name, c := range map[string]struct {
		status            int
		path              string
		sent              map[string]string
		openAI, anthropic bool // whose clients understand the answer; neither: it passes
	}{
		"chat":               {401, "/v1/chat/completions", bearer, true, false},
		"embeddings":         {401, "/api/v3/embeddings?x=/messages", bearer, true, false},
		"messages":           {401, "/v1/messages?beta=true", plain, false, true},
		"tokens":             {401, "/v1/messages/count_tokens", plain, false, true},
		"models":             {401, "/v1/models/a", bearer, true, true},
		"a client's mistake": {400, "/v1/chat/completions", bearer, false, false},
		"not permitted":      {403, "/v1/messages", plain, false, false},
		"too many":           {429, "/v1/messages", plain, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := p.Review(extproc.NewAnswer(extproc.Answer{Status: c.status, Method: "POST", Path: c.path}, nil, c.sent))
			if !c.openAI && !c.anthropic {
				if r != nil {
					t.Errorf("got %+v", r)
				}
				return
			}
			if r == nil || !r.Certain || r.Pass || r.Secret != providerKey || r.KeyID != "" || r.Code != p.RefusalCodes()[0] {
				t.Fatalf("got %+v", r)
			}
			var e struct {
				Type  string
				Error struct{ Type, Code, Message string }
			}
			if err := json.Unmarshal(r.Instead.Body, &e); err != nil || r.Instead.Status != 503 {
				t.Fatalf("%d %s: %v", r.Instead.Status, r.Instead.Body, err)
			}
			if c.openAI && e.Error.Code != "provider_refused" || c.anthropic && (e.Type != "error" || e.Error.Type != "api_error") || !strings.Contains(e.Error.Message, "Your repository key is fine") {
				t.Errorf("got %s", r.Instead.Body)
			}
		})
	}
}
