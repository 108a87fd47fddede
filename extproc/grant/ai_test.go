package grant_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/keyshare/seal"
)

// anthropic makes an AI connector one of Anthropic's API.
func anthropic(scope string, models ...grant.Model) func(*grant.ConnectorInput, *seal.Header) {
	return func(in *grant.ConnectorInput, h *seal.Header) {
		in.Provider, in.Models = grant.ProviderAnthropic, models
		h.Binding.Use, h.Binding.Scope = grant.UseAnthropic, scope
	}
}

// TestAnthropicBasePath: an endpoint may or may not name the version.
func TestAnthropicBasePath(t *testing.T) {
	w := protocoltest.NewWorld(t)
	want := map[string]string{"": "/v1", "/": "/v1", "/v1": "/v1", "/v1/": "/v1", "/proxy": "/proxy/v1", "/proxy/v1": "/proxy/v1", "/v2": "/v2/v1"}
	var names []string
	for scope := range want {
		w.LLM(ours, "at "+scope, anthropic(scope))
		names = append(names, "at "+scope)
	}
	w.Repository(ours, "all", false, names...)
	key := w.Key(ours, "all", grant.UseAIKey, grant.AccessNone, nil)
	w.Publish()
	got := map[string]string{}
	for _, c := range w.Live.Load().Lookup(key.ID).Repository().AI {
		got[strings.TrimPrefix(c.Name, "at ")] = c.BasePath
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAITypes(t *testing.T) {
	w := protocoltest.NewWorld(t)
	w.LLM(ours, "open", nil)
	w.LLM(ours, "claude", anthropic(""))
	w.Repository(ours, "both", false, "open", "claude")
	reaches := map[string]string{
		"": "open", grant.AITypeOpenAI: "open", grant.AITypeOther: "open", grant.AITypeAnthropic: "claude",
	}
	keys := map[string]protocoltest.Key{}
	for aiType := range reaches {
		keys[aiType] = w.Key(ours, "both", grant.UseAIKey, grant.AccessNone, func(in *grant.KeyInput, _ *seal.Header) { in.AIType = aiType })
	}
	storage := w.Key(ours, "both", grant.UseStorageKey, grant.AccessRead, func(in *grant.KeyInput, _ *seal.Header) { in.AIType = "ignored" })
	w.Publish()
	for aiType, want := range reaches {
		k := w.Live.Load().Lookup(keys[aiType].ID)
		var got []string
		for _, c := range k.Repository().AI {
			if k.Reaches(c) {
				got = append(got, c.Name)
			}
		}
		if diff := cmp.Diff([]string{want}, got); diff != "" {
			t.Errorf("%q reaches %s", aiType, diff)
		}
	}
	if k := w.Live.Load().Lookup(storage.ID); k == nil || k.AIType() != "" {
		t.Errorf("storage key %+v", k)
	}
	w.Key(ours, "both", grant.UseAIKey, grant.AccessNone, func(in *grant.KeyInput, _ *seal.Header) { in.AIType = "GOOGLE" })
	w.LLM(ours, "odd", func(in *grant.ConnectorInput, _ *seal.Header) { in.Provider = grant.ProviderAnthropic })
	w.LLM(ours, "odder", func(_ *grant.ConnectorInput, h *seal.Header) { h.Binding.Use = grant.UseAnthropic })
	_, problems := grant.Build(w.Input)
	var reasons []string
	for _, p := range problems {
		reasons = append(reasons, p.Reason)
	}
	if diff := cmp.Diff([]string{"its credential is not for this AI API", "its credential is not for this AI API", "unknown AI type"}, reasons); diff != "" {
		t.Error(diff)
	}
}

func TestMatch(t *testing.T) {
	c := &grant.Connector{Models: []grant.Model{
		{ID: "gpt-*"}, {ID: "named"}, {ID: "gpt-4*"}, {ID: "listed", Name: "Listed!", Listed: true}, {ID: "star*", Listed: true},
		{ID: "named", Name: "Named!", Listed: true}, {ID: ""},
	}}
	for model, want := range map[string]int{
		"listed": math.MaxInt, "named": math.MaxInt, "gpt-4o": len("gpt-4*"), "gpt-4": len("gpt-4*"), "gpt-": len("gpt-*"), "gpt": 0,
		"xgpt-4": 0, "GPT-4": 0, "list": 0, "listed ": 0,
		"star": 0, "stars": 0, "star*": math.MaxInt, // what a provider lists is no pattern
		"gpt-*": len("gpt-*"),
	} {
		if got := c.Match(model); got != want {
			t.Errorf("%q: %d, want %d", model, got, want)
		}
	}
	for id, want := range map[string]string{"listed": "Listed!", "named": "Named!"} {
		if m := c.Model(id); m == nil || m.Name != want {
			t.Errorf("%s: %+v", id, m)
		}
	}
	for _, id := range []string{"gpt-4", "gpt-*", "nothing"} {
		if m := c.Model(id); m != nil {
			t.Errorf("%s: %+v", id, m)
		}
	}
	if all := (&grant.Connector{Models: []grant.Model{{ID: "*"}}}); all.Match("anything") != 1 || all.Match("") != 1 {
		t.Error("* does not fit everything")
	}
}
