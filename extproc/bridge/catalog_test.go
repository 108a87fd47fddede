package bridge_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"keybridge/e2e/provider"
	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

// addAI makes a chain with one AI connector at an endpoint.
func (w *world) addAI(t *testing.T, endpoint, secret string) one {
	t.Helper()
	o := one{uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()}
	w.put(t, o.aiCredential(endpoint, secret, 1))
	key := w.sealedKey(o, 1)
	key.header.Binding.Use = seal.UseAIKey
	key.record.AiType = "OPENAI"
	w.put(t, key)
	w.resources.set(o.workspace+"/"+o.connector, &configv1.Connector{
		Id: o.connector, Workspace: o.workspace, Name: "chat", Provider: configv1.Provider_PROVIDER_OTHER,
		CredentialId: o.connector, Models: []string{"kb-*"},
	})
	w.resources.set(o.workspace+"/"+o.repository, &configv1.Repository{
		Id: o.repository, Workspace: o.workspace, Name: "web", Ai: []string{o.connector},
	})
	return o
}

func (o one) aiCredential(endpoint, secret string, version uint64) sealRequest {
	return sealRequest{
		record: &link.Record{Type: seal.TypeCredential, Id: o.connector, Workspace: o.workspace},
		header: seal.Header{
			Format: seal.Format, Workspace: o.workspace, Type: seal.TypeCredential, Record: o.connector, Version: version,
			Binding: at(seal.UseOpenAI, endpoint),
		},
		secret: secret,
	}
}

// status is what the control plane last heard of a connector; nil before.
func (w *world) status(id string) *link.ConnectorStatus {
	for _, b := range w.hub.Bridges() {
		for _, s := range b.Report.GetConnectors() {
			if s.Connector == id {
				return s
			}
		}
	}
	return nil
}

func TestCatalog(t *testing.T) {
	server, err := provider.StartOpenAI(provider.AIConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	w := newWorld(t)
	probing(w)
	o := w.addAI(t, server.Endpoint(), server.Key)
	w.start(t)

	// The first index has the models already.
	key := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	if key.AIType() != grant.AITypeOpenAI || len(key.Repository().AI) != 1 {
		t.Fatalf("key %+v", key)
	}
	var ids []string
	for _, m := range key.Repository().AI[0].Models {
		ids = append(ids, m.ID)
	}
	if want := append([]string{"kb-*"}, provider.Models...); !slices.Equal(ids, want) {
		t.Errorf("models %v, want %v", ids, want)
	}
	w.await(t, func() bool { s := w.status(o.connector); return s != nil && s.Online && s.Message == "" })
	if s := w.status(o.connector); s.Workspace != o.workspace || s.At == 0 {
		t.Errorf("status %v", s)
	}
	if r, err := w.hub.Probe(t.Context(), &link.Probe{Connector: o.connector, Workspace: o.workspace}); err != nil || !r.Ok || len(r.Models) != len(provider.Models) {
		t.Errorf("probe of the connector: %v, %v", r, err)
	}
	if r, err := w.hub.Probe(t.Context(), &link.Probe{Credential: o.connector, Workspace: o.workspace, Provider: "OTHER"}); err != nil || !r.Ok {
		t.Errorf("probe of the credential: %v, %v", r, err)
	}
	if r, err := w.hub.Probe(t.Context(), &link.Probe{Credential: o.connector, Workspace: uuid.NewString(), Provider: "OTHER"}); err != nil || r.Ok {
		t.Errorf("probe of another workspace's credential: %v, %v", r, err)
	}

	b := w.hub.Bridges()[0]
	if r := b.Report; r.Version != "v-test" || r.Region != "eu-test" || r.Urls[0] != "http://bridge.test:9000" || len(r.Keepers) < 2 || len(r.Envoy) == 0 {
		t.Errorf("report %v", r)
	}

	// A new secret is tried at once; one that is wrong shows, and the models stay for when it is put right.
	w.put(t, o.aiCredential(server.Endpoint(), "sk-wrong-key-of-some-length", 2))
	w.await(t, func() bool {
		s := w.status(o.connector)
		return !s.Online && strings.Contains(s.Message, "incorrect API key")
	})
	w.awaitKey(t, func(k *grant.Key) bool {
		return k != nil && len(k.Repository().AI) == 1 && k.Repository().AI[0].Model(provider.Models[0]) != nil
	})
	w.put(t, o.aiCredential(server.Endpoint(), server.Key, 3))
	w.await(t, func() bool { return w.status(o.connector).Online })

	// One that may not be used is named, with the reason.
	w.put(t, o.aiCredential("http://169.254.169.254/v1", server.Key, 4))
	w.await(t, func() bool {
		s := w.status(o.connector)
		return !s.Online && strings.Contains(s.Message, "--allow-endpoint")
	})
}

func TestDeadProviderDelaysNobodyElse(t *testing.T) {
	w := newWorld(t)
	probing(w)
	w.addAI(t, "http://127.0.0.1:1/v1", "sk-some-key-of-a-length") // tcpmux: nobody listens
	w.start(t)
	key := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	if m := key.Repository().AI[0].Models; len(m) != 1 || m[0].ID != "kb-*" {
		t.Errorf("models %v", m)
	}
}
