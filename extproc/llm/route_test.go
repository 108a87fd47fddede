package llm_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/keyshare/seal"
)

// by asks with a body that arrives at once.
func by(p *llm.Protocol, r *extproc.Request, body string) (*extproc.Decision, *extproc.Error) {
	d, e := p.Decide(now, r)
	if e == extproc.NeedBody {
		return p.DecideBody(now, r, []byte(body), true)
	}
	return d, e
}

func TestRouting(t *testing.T) {
	w := newWorld(t)
	w.connector("a", "/v1", "sk-a", "gpt-1", "shared", "ft:*")
	w.connector("b", "/v1", "sk-b", "gpt-2", "shared", "gpt-*", "ft:gpt-*")
	w.connector("c", "/v1", "sk-c", "gpt-1", "gpt-1-turbo", "gpt-*", "*")
	w.claude("x", "", "sk-x", "claude-1", "shared")
	w.claude("y", "", "sk-y", "claude-*", "gpt-1")
	w.repository("all", "a", "b", "c", "x", "y")
	w.repository("few", "b", "a", "x", "y")
	w.repository("mixed", "a", "x")
	openai := map[string]string{}
	claude := map[string]string{}
	for i, r := range []string{"all", "few", "mixed"} {
		openai[r] = w.key(fmt.Sprint("A", i), r, typed(grant.AITypeOpenAI))
		claude[r] = w.key(fmt.Sprint("B", i), r, typed(grant.AITypeAnthropic))
	}
	p := w.protocol()
	for _, c := range []struct {
		repository, model  string
		toOpenAI, toClaude string // connectors; empty: none
	}{
		{"all", "gpt-1", "a", "y"},      // by name, the first that has it
		{"all", "gpt-2", "b", ""},       // by name before any pattern
		{"all", "gpt-1-turbo", "c", ""}, // by name before the patterns of those before it
		{"all", "gpt-3", "b", ""},       // of equal patterns the first
		{"all", "ft:gpt-1", "b", ""},    // the longest pattern
		{"all", "ft:o1", "a", ""},       // not the one that fits everything
		{"all", "gpt-", "b", ""},        // a pattern's rest may be empty
		{"all", "GPT-1", "c", ""},       // names have a case
		{"all", "gpt-*", "b", ""},       // what a client sends is no pattern
		{"all", "claude-1", "c", "x"},   // each key in its own kind
		{"all", "claude-2", "c", "y"},
		{"all", "shared", "a", "x"},
		{"few", "shared", "b", "x"}, // the repository's order, not the connectors'
		{"few", "unheard-of", "", ""},
		{"mixed", "unheard-of", "a", "x"}, // one of each kind: the provider knows its models
	} {
		t.Run(c.repository+" "+c.model, func(t *testing.T) {
			body := `{"model":` + string(must(json.Marshal(c.model))) + `}`
			for _, f := range []struct {
				r  *extproc.Request
				to string
			}{
				{request("POST", "/v1/chat/completions", openai[c.repository]), c.toOpenAI},
				{request("GET", "/v1/models/"+url.PathEscape(c.model), openai[c.repository]), c.toOpenAI},
				{ask("POST", "/v1/messages", claude[c.repository]), c.toClaude},
				{ask("POST", "/v1/messages/count_tokens", claude[c.repository]), c.toClaude},
			} {
				d, e := by(p, f.r, body)
				switch {
				case f.to == "" && (e == nil || e.Status != 404 || e.Reason != "model_not_found"):
					t.Errorf("%s: %v %v", f.r.Path, d, e)
				case f.to != "" && (e != nil || d.Cluster != "cluster-"+f.to):
					t.Errorf("%s: to %v %v, want %s", f.r.Path, d, e, f.to)
				case f.to == "" && f.r.Values("x-api-key") > 0:
					if got := parseClaude(t, e); got.Error.Type != "not_found_error" {
						t.Errorf("%s", e.Body)
					}
				}
			}
		})
	}
}

// A repository with one connector for the key, and a named connector, need no body.
func TestHeaderOnly(t *testing.T) {
	w := newWorld(t)
	w.connector("a", "/v1", "sk-a")
	w.connector("b", "/v1", "sk-b")
	w.claude("x", "", "sk-x")
	w.repository("all", "a", "b", "x")
	openai, claude := w.key("A1", "all", nil), w.key("B1", "all", typed(grant.AITypeAnthropic))
	p := w.protocol()
	for path, r := range map[string]*extproc.Request{
		"cluster-b": request("POST", "/connectors/b/v1/chat/completions", openai),
		"cluster-x": ask("POST", "/v1/messages", claude),
	} {
		if d, e := p.Decide(now, r); e != nil || d.Cluster != path {
			t.Errorf("%s: %v %v", path, d, e)
		}
	}
	if _, e := p.Decide(now, request("POST", "/v1/chat/completions", openai)); e != extproc.NeedBody {
		t.Errorf("got %v", e)
	}
	for name, r := range map[string]*extproc.Request{
		"no body": extproc.NewRequest(true, append(request("POST", "/v1/embeddings", openai).Headers(), pseudo("POST", "/v1/embeddings")...)...),
		"gzip":    request("POST", "/v1/embeddings", openai, "content-encoding", "gzip"),
		"twice":   request("POST", "/v1/embeddings", openai, "content-encoding", "identity", "content-encoding", "gzip"),
		"unasked": request("POST", "/v1/embeddings", openai),
	} {
		var e *extproc.Error
		if name == "unasked" {
			if _, e = p.DecideBody(now, r, []byte(`{"model":"m"}`), true); e == nil || e.Status != 503 {
				t.Errorf("%s: %v", name, e)
			}
			continue
		}
		if _, e = p.Decide(now, r); e == nil || e.Status != 400 {
			t.Errorf("%s: %v", name, e)
		}
	}
	if _, e := p.Decide(now, request("POST", "/v1/embeddings", openai, "content-encoding", "identity")); e != extproc.NeedBody {
		t.Errorf("identity: %v", e)
	}
}

func pseudo(method, path string) []extproc.Header {
	return []extproc.Header{{Name: ":method", Value: method}, {Name: ":path", Value: path}, {Name: ":authority", Value: "g"}}
}

// While a body arrives the world may change.
func TestChangesUnderway(t *testing.T) {
	w := newWorld(t)
	w.connector("a", "/v1", "sk-a", "m")
	w.connector("b", "/v1", "sk-b")
	w.repository("both", "a", "b")
	w.repository("one", "b")
	key := w.key("A1", "both", nil)
	index := func() *grant.Index {
		ix, problems := grant.Build(w.in)
		if len(problems) != 0 {
			t.Fatal(problems)
		}
		return ix
	}
	first := index()
	for name, c := range map[string]struct {
		change func()
		status int
		to     string
	}{
		"nothing":       {func() {}, 0, "cluster-a"},
		"sealed":        {nil, 503, ""},
		"disabled":      {func() { w.in.Keys[0].Disabled = true }, 401, ""},
		"expired":       {func() { w.in.Keys[0].Expires = now }, 401, ""},
		"deleted":       {func() { w.in.Keys = nil }, 401, ""},
		"model is gone": {func() { w.in.Connectors[0].Models = nil }, 404, ""},
		"one connector": {func() { w.in.Repositories[0].AI = []string{"b"} }, 0, "cluster-b"},
		"new secret": {func() {
			b := seal.Binding{Use: grant.UseAIKey, Key: "A1", Repository: "both"}
			w.in.Keys[0].Credential = w.credential(seal.Header{Type: seal.TypeRepositoryKey, Record: "record-A1", Binding: b}, make([]byte, 32))
		}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.in
			w.in.Keys, w.in.Connectors, w.in.Repositories = append([]grant.KeyInput(nil), before.Keys...), append([]grant.ConnectorInput(nil), before.Connectors...), append([]grant.RepositoryInput(nil), before.Repositories...)
			defer func() { w.in = before }()
			var live grant.Live
			live.Store(first)
			p := llm.New(&live)
			r := request("POST", "/v1/chat/completions", key)
			if _, e := p.Decide(now, r); e != extproc.NeedBody {
				t.Fatal(e)
			}
			if c.change == nil {
				live.Store(nil)
			} else {
				c.change()
				live.Store(index())
			}
			d, e := p.DecideBody(now, r, []byte(`{"model":"m"}`), true)
			switch {
			case c.status != 0 && (e == nil || e.Status != c.status):
				t.Errorf("%v %v", d, e)
			case c.status == 0 && (e != nil || d.Cluster != c.to):
				t.Errorf("%v %v", d, e)
			}
		})
	}
}

// listed are models of the world of TestLists, in both forms of an answer.
type listed struct {
	Object string
	Data   []struct {
		ID, Object, Type string
		Created          int64
		OwnedBy          string `json:"owned_by"`
		DisplayName      string `json:"display_name"`
		CreatedAt        string `json:"created_at"`
	}
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

func (l listed) String() string {
	var b strings.Builder
	for _, m := range l.Data {
		fmt.Fprintf(&b, "%s%s:%s%s%s@%d%s ", m.Object, m.Type, m.ID, m.OwnedBy, m.DisplayName, m.Created, m.CreatedAt)
	}
	fmt.Fprintf(&b, "%s %v", l.Object, l.HasMore)
	if l.FirstID != nil {
		fmt.Fprintf(&b, " %s..%s", *l.FirstID, *l.LastID)
	}
	return b.String()
}

func TestLists(t *testing.T) {
	w := newWorld(t)
	w.connector("a", "/v1", "sk-a")
	w.connector("b", "/v1", "sk-b", "shared", "m2", "m*")
	w.claude("x", "", "sk-x", "c1", "c2", "c3")
	w.claude("y", "", "sk-y", "c2", "c4", "c5")
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	w.in.Connectors[0].Models = []grant.Model{{ID: "shared"}, {ID: "m1"}, {ID: "shared", Name: "Shared!", Created: created, Listed: true}}
	w.in.Connectors[2].Models[0].Name, w.in.Connectors[2].Models[0].Created = "Claude One", created
	w.repository("all", "a", "b", "x", "y")
	w.repository("single", "b", "x")
	key, claude, single := w.key("A1", "all", nil), w.key("B1", "all", typed(grant.AITypeAnthropic)), w.key("C1", "single", nil)
	p := w.protocol()
	const epoch = "@01970-01-01T00:00:00Z "
	for _, c := range []struct {
		name string
		r    *extproc.Request
		want string
	}{
		{"all", request("GET", "/v1/models", key),
			"model:shareda@1767225600 model:m1a@0 model:m2b@0 list false"},
		{"in the other form", request("GET", "/v1/models", key, "anthropic-version", "2023-06-01"),
			"model:sharedShared!@02026-01-01T00:00:00Z model:m1m1" + epoch + "model:m2m2" + epoch + " false shared..m2"},
		{"of one connector in the other form", request("GET", "/v1/models", single, "anthropic-version", "2023-06-01"),
			"model:sharedshared" + epoch + "model:m2m2" + epoch + " false shared..m2"},
		{"of a named connector in the other form", request("GET", "/connectors/a/v1/models", key, "anthropic-version", "2023-06-01"),
			"model:sharedShared!@02026-01-01T00:00:00Z model:m1m1" + epoch + " false shared..m1"},
		{"Anthropic", ask("GET", "/v1/models", claude),
			"model:c1Claude One@02026-01-01T00:00:00Z model:c2c2" + epoch + "model:c3c3" + epoch + "model:c4c4" + epoch + "model:c5c5" + epoch + " false c1..c5"},
		{"Anthropic in OpenAI's form", request("GET", "/v1/models", claude),
			"model:c1x@1767225600 model:c2x@0 model:c3x@0 model:c4y@0 model:c5y@0 list false"},
		{"first page", ask("GET", "/v1/models?limit=1", claude), "model:c1Claude One@02026-01-01T00:00:00Z  true c1..c1"},
		{"next page", ask("GET", "/v1/models?limit=2&after_id=c2", claude), "model:c3c3" + epoch + "model:c4c4" + epoch + " true c3..c4"},
		{"last page", ask("GET", "/v1/models?limit=2&after_id=c3", claude), "model:c4c4" + epoch + "model:c5c5" + epoch + " false c4..c5"},
		{"behind the last", ask("GET", "/v1/models?after_id=c5", claude), " false"},
		{"behind none", ask("GET", "/v1/models?after_id=gone", claude), " false"},
		{"page before", ask("GET", "/v1/models?limit=2&before_id=c4", claude), "model:c2c2" + epoch + "model:c3c3" + epoch + " true c2..c3"},
		{"first pages before", ask("GET", "/v1/models?limit=9&before_id=c3", claude), "model:c1Claude One@02026-01-01T00:00:00Z model:c2c2" + epoch + " false c1..c2"},
		{"before none", ask("GET", "/v1/models?before_id=gone", claude), " false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, e := p.Decide(now, c.r)
			if e == nil || e.Status != 200 || e.Reason != "models" || e.ContentType != "application/json" {
				t.Fatalf("got %+v", e)
			}
			var got listed
			if err := json.Unmarshal(e.Body, &got); err != nil || got.Data == nil {
				t.Fatalf("%v: %s", err, e.Body)
			}
			if diff := cmp.Diff(c.want, got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
	// One model in the other form.
	for path, want := range map[string]string{
		"/v1/models/shared": `{"type":"model","id":"shared","display_name":"Shared!","created_at":"2026-01-01T00:00:00Z"}`,
		"/v1/models/m7":     `{"type":"model","id":"m7","display_name":"m7","created_at":"1970-01-01T00:00:00Z"}`,
	} {
		_, e := p.Decide(now, request("GET", path, key, "anthropic-version", "2023-06-01"))
		if e == nil || e.Status != 200 || string(e.Body) != want {
			t.Errorf("%s: %+v", path, e)
		}
	}
	_, e := p.Decide(now, request("GET", "/v1/models/c3", claude))
	if e == nil || string(e.Body) != `{"id":"c3","object":"model","created":0,"owned_by":"x"}` {
		t.Errorf("%s", e.Body)
	}
	if _, e := p.Decide(now, ask("GET", "/v1/models/nope", claude)); e == nil || e.Status != 404 {
		t.Errorf("got %v", e)
	}
}
