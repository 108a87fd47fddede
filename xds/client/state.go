package client

import (
	"fmt"
	"maps"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	configv1 "keybridge/xds/config/v1"
)

var (
	listenerType   = typeURL(&configv1.Listener{})
	connectorType  = typeURL(&configv1.Connector{})
	repositoryType = typeURL(&configv1.Repository{})
	typeURLs       = []string{listenerType, connectorType, repositoryType}
)

func typeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// kept is what the client has of one type, and the versions that it tells the
// server at the next connection.
type kept struct {
	messages map[string]proto.Message
	versions map[string]string
}

type state struct{ types map[string]*kept }

func newState() *state {
	s := &state{types: make(map[string]*kept)}
	for _, t := range typeURLs {
		s.types[t] = &kept{messages: make(map[string]proto.Message), versions: make(map[string]string)}
	}
	return s
}

func (s *state) versions(t string) map[string]string { return maps.Clone(s.types[t].versions) }

// apply takes a response in and says what it did not take, and why.
func (s *state) apply(resp *discoveryv3.DeltaDiscoveryResponse) (bad []string) {
	k := s.types[resp.GetTypeUrl()]
	if k == nil {
		return []string{fmt.Sprintf("type %q was not asked for", resp.GetTypeUrl())}
	}
	for _, r := range resp.GetResources() {
		m, err := decode(resp.GetTypeUrl(), r)
		if err != nil {
			bad = append(bad, fmt.Sprintf("resource %q: %v", r.GetName(), err))
			delete(k.versions, r.GetName())
			continue
		}
		k.messages[r.GetName()] = m
		k.versions[r.GetName()] = r.GetVersion()
	}
	for _, name := range resp.GetRemovedResources() {
		delete(k.messages, name)
		delete(k.versions, name)
	}
	return bad
}

// forget makes the server send a response's resources again at the next
// connection, and takes removals for what they are.
func (s *state) forget(resp *discoveryv3.DeltaDiscoveryResponse) {
	k := s.types[resp.GetTypeUrl()]
	if k == nil {
		return
	}
	for _, r := range resp.GetResources() {
		delete(k.versions, r.GetName())
	}
}

func decode(t string, r *discoveryv3.Resource) (proto.Message, error) {
	if got := r.GetResource().GetTypeUrl(); got != t {
		return nil, fmt.Errorf("is a %q", got)
	}
	var m proto.Message
	switch t {
	case listenerType:
		m = new(configv1.Listener)
	case connectorType:
		m = new(configv1.Connector)
	default:
		m = new(configv1.Repository)
	}
	if err := proto.Unmarshal(r.GetResource().GetValue(), m); err != nil {
		return nil, fmt.Errorf("does not decode: %w", err)
	}
	name := ""
	switch m := m.(type) {
	case *configv1.Listener:
		name = m.GetName()
	case *configv1.Connector:
		name = m.GetWorkspace() + "/" + m.GetId()
	case *configv1.Repository:
		name = m.GetWorkspace() + "/" + m.GetId()
	}
	if name == "" || name == "/" || name != r.GetName() {
		return nil, fmt.Errorf("calls itself %q", name)
	}
	return m, nil
}

func (s *state) snapshot() State {
	return State{
		Listeners:    typed[*configv1.Listener](s.types[listenerType]),
		Connectors:   typed[*configv1.Connector](s.types[connectorType]),
		Repositories: typed[*configv1.Repository](s.types[repositoryType]),
	}
}

func typed[M proto.Message](k *kept) map[string]M {
	out := make(map[string]M, len(k.messages))
	for name, m := range k.messages {
		if m, ok := m.(M); ok {
			out[name] = m
		}
	}
	return out
}
