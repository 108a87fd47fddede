package snapshot

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"keybridge/store"
	configv1 "keybridge/xds/config/v1"
)

var (
	listenerType   = typeURL(&configv1.Listener{})
	connectorType  = typeURL(&configv1.Connector{})
	repositoryType = typeURL(&configv1.Repository{})
)

func typeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

var providers = map[store.ConnectorType]configv1.Provider{
	store.TypeS3:        configv1.Provider_PROVIDER_S3,
	store.TypeOpenAI:    configv1.Provider_PROVIDER_OPENAI,
	store.TypeAnthropic: configv1.Provider_PROVIDER_ANTHROPIC,
	store.TypeOther:     configv1.Provider_PROVIDER_OTHER,
}

// name is the resource name of a record.
func name(m *store.Meta) string { return m.Workspace + "/" + m.ID }

// render returns the resource of a connector or repository.
func render(r store.Record) (typeURL string, m proto.Message, err error) {
	switch r := r.(type) {
	case *store.Connector:
		m, err := connector(r)
		return connectorType, m, err
	case *store.Repository:
		return repositoryType, repository(r), nil
	}
	return "", nil, fmt.Errorf("a %s has no resource", r.Meta().Kind)
}

func connector(c *store.Connector) (*configv1.Connector, error) {
	provider, ok := providers[c.Type]
	if !ok {
		return nil, fmt.Errorf("connector type %q is not supported", c.Type)
	}
	return &configv1.Connector{
		Id:                       c.M.ID,
		Workspace:                c.M.Workspace,
		Name:                     c.Name,
		Provider:                 provider,
		Bucket:                   c.Bucket,
		Region:                   c.Region,
		CredentialId:             c.CredentialID,
		CaCertificates:           []byte(c.CACertificate),
		AllowBucketConfiguration: c.AllowBucketConfiguration,
		Models:                   c.Models,
	}, nil
}

func repository(r *store.Repository) *configv1.Repository {
	m := &configv1.Repository{
		Id:        r.M.ID,
		Workspace: r.M.Workspace,
		Name:      r.Name,
		Disabled:  r.Disabled,
		Ai:        r.AI,
	}
	for _, s := range r.Storage {
		m.Storage = append(m.Storage, &configv1.Repository_Storage{
			ConnectorId: s.ConnectorID,
			Folder:      s.Folder,
			Master:      s.Master,
		})
	}
	return m
}
