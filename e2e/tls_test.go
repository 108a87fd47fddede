package e2e_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// Providers with TLS: verified against the CA and for the host that the credential
// is bound to, whoever else has a certificate.
func TestTLSProviders(t *testing.T) {
	w := shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	good, ca, err := provider.Certificate("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, caOfElsewhere, err := provider.Certificate("127.0.0.2", "elsewhere.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, ca string
		serve    provider.RecorderConfig
		works    bool
	}{
		{"bound CA", string(ca), provider.RecorderConfig{TLS: good}, true},
		{"another CA", string(caOfElsewhere), provider.RecorderConfig{TLS: good}, false},
		{"certificate of another host", string(caOfElsewhere), provider.RecorderConfig{TLS: elsewhere}, false},
		{"system roots", "", provider.RecorderConfig{TLS: good}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := c.name + " " + rand.Text() // the world may have seen this test before (-count)
			c.serve.Forbidden = &w.behindEnvoy
			p, err := provider.StartOpenAI(provider.OpenAIConfig{Recorder: c.serve})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}()
			spec := stack.LLM{Name: name, Endpoint: p.Endpoint(), Secret: p.Key, CA: c.ca}
			llm, err := w.tenant.LLM(ctx, spec)
			if !c.works {
				if err == nil || !strings.Contains(err.Error(), "certificate") {
					t.Errorf("made a connector that cannot work: %v", err)
				}
				spec.Untried = true // what Envoy makes of it, then
				llm, err = w.tenant.LLM(ctx, spec)
			}
			if err != nil {
				t.Fatal(err)
			}
			repo, err := w.tenant.Repository(ctx, name, nil, []string{llm})
			if err != nil {
				t.Fatal(err)
			}
			key, err := w.tenant.AIKey(ctx, repo, "tls")
			if err != nil {
				t.Fatal(err)
			}
			w.behindEnvoy.Add("AI key", key.Secret)
			// The key works before the connector can be tried: until then 401.
			var a answer
			if err := w.Wait(ctx, func() (err error) {
				a, err = w.askAI(ctx, http.MethodGet, "/v1/models", "", key.Secret)
				if err == nil && (a.status == http.StatusUnauthorized || a.status == http.StatusBadRequest) {
					err = errNotYet
				}
				return err
			}); err != nil {
				t.Fatal(err, a)
			}
			if c.works {
				if a.status != http.StatusOK {
					t.Errorf("%d %s", a.status, a.body)
				}
			} else {
				wantAIError(t, a, http.StatusServiceUnavailable, "server_error", "provider_unavailable")
				if n := len(p.Requests()); n != 0 {
					t.Errorf("%d requests at a provider that is not the bound one", n)
				}
			}
			if l := p.Leaks(); len(l) != 0 {
				t.Error("at the provider: ", l)
			}
		})
	}
}
