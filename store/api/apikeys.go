package api

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// A shared credential is one that connectors of its workspace name by apiKeyUuid
// instead of having their own. It is sealed for an endpoint; a storage credential
// for any bucket there (scope "*"), an AI credential for the base path.

// capabilities of providers, as a filter adds them up.
const (
	capabilityStorage = 1
	capabilityAI      = 2
	capabilityAll     = 255
)

// apiKeyItem is a shared credential as the API shows it.
type apiKeyItem struct {
	ID             string    `json:"id"`
	Key            *string   `json:"key"` // of storage only; of AI it is the secret
	Endpoint       string    `json:"endpoint,omitempty"`
	Region         string    `json:"region,omitempty"`
	TenantID       string    `json:"tenantId,omitempty"`
	SubscriptionID string    `json:"subscriptionId,omitempty"`
	Provider       string    `json:"provider"`
	Description    string    `json:"description,omitempty"`
	CreatedAt      time.Time `json:"createdAt"`
	BucketCount    int       `json:"bucket_count"`
	LLMCount       int       `json:"aillm_count"`
	WorkspaceID    string    `json:"workspaceId"`
	Capability     int       `json:"capability"`
	CACertificate  string    `json:"caCertificate,omitempty"`
	Version        uint64    `json:"version"`
	SecretVersion  uint64    `json:"secretVersion"`
}

// apiKeyForm is the body of POST and PUT /apikeys; empty fields are absent.
type apiKeyForm struct {
	workspace, id, provider, key string
	shared                       store.Shared
	secret                       secretText
	sealed                       *seal.Sealed
}

func (f *apiKeyForm) wipe() { f.secret.wipe() }

func (f *apiKeyForm) hasSecret() bool { return f.secret != nil || f.sealed != nil }

// readAPIKeyForm reads a body. What key means depends on the provider: for AI it
// is the secret, as for an AI connector. OTHER is storage if it has both a key and
// a secret; an update knows already, and says so in storage.
func readAPIKeyForm(b *body, storage *bool) *apiKeyForm {
	f := &apiKeyForm{
		workspace: b.id("workspaceId"),
		id:        b.id("id"),
		provider:  b.text("provider"),
		secret:    b.secret("secret"),
		sealed:    b.sealed("sealedSecret"),
		shared: store.Shared{Endpoint: b.text("endpoint"), Region: b.text("region"), CACertificate: b.text("caCertificate"),
			TenantID: b.text("tenantId"), SubscriptionID: b.text("subscriptionId"), Description: b.text("description")},
	}
	if f.sealed != nil && f.secret != nil {
		b.fail("secret", "comes with sealedSecret; send one of them")
	}
	if storage == nil {
		if _, err := providerType(f.provider, true); err != nil && *b.err == nil {
			*b.err = err
		}
		is := f.provider == "AWS" || f.provider == "OTHER" && f.hasSecret() && b.value("key") != nil
		storage = &is
	}
	if *storage {
		f.key = b.text("key")
		f.secret = b.storageSecret(f.secret, f.sealed)
		return f
	}
	if b.value("sessionToken") != nil {
		b.fail("sessionToken", "is for storage credentials alone")
	}
	switch key := b.secret("key"); {
	case key == nil:
	case f.hasSecret():
		if string(key) != string(f.secret) {
			b.fail("key", "comes with a secret that differs; an AI provider has one secret")
		}
		key.wipe()
	default:
		f.secret = key
	}
	return f
}

// checkShared holds what is only for display to what can be shown.
func checkShared(sh *store.Shared) error {
	for _, field := range []struct{ name, value string }{{"tenantId", sh.TenantID}, {"subscriptionId", sh.SubscriptionID}, {"description", sh.Description}} {
		if len(field.value) > 512 || strings.ContainsFunc(field.value, unicode.IsControl) {
			return badField(field.name, "must be up to 512 bytes without control characters")
		}
	}
	return nil
}

// providerType is what kind of connector a provider's credential serves.
func providerType(provider string, storage bool) (store.ConnectorType, error) {
	switch provider {
	case "":
		return "", badField("provider", "is required")
	case "AWS":
		return store.TypeS3, nil
	case "OTHER":
		if storage {
			return store.TypeS3, nil
		}
		return store.TypeOther, nil
	case string(store.TypeOpenAI), string(store.TypeAnthropic):
		return store.ConnectorType(provider), nil
	case "GCP", "AZURE", "GOOGLE":
		return "", badField("provider", "%s is not supported yet", provider)
	}
	return "", badField("provider", "must be AWS, GCP, AZURE, OPENAI, ANTHROPIC, GOOGLE or OTHER")
}

// bindShared is bind for a shared credential; it fills in what is left to defaults.
func bindShared(sh *store.Shared, typ store.ConnectorType, key string) (seal.Endpoint, seal.Binding, error) {
	if typ == store.TypeS3 && sh.Provider == "OTHER" && sh.Endpoint == "" {
		return seal.Endpoint{}, seal.Binding{}, badField("endpoint", "is required for provider OTHER")
	}
	c := &store.Connector{Type: typ, Bucket: wholeAccount, Endpoint: sh.Endpoint, Region: sh.Region, CACertificate: sh.CACertificate}
	e, binding, err := bind(c, key)
	sh.Endpoint, sh.Region = c.Endpoint, c.Region
	return e, binding, err
}

// sharedCredential reads a shared credential of a workspace; one of another is not there.
func (s *server) sharedCredential(ctx context.Context, id, workspace string) (*store.Credential, error) {
	const what = "shared credential (apiKeyUuid)"
	cred, err := live[*store.Credential](ctx, s, id, what)
	if err == nil && (cred.Shared == nil || cred.M.Workspace != workspace) {
		return nil, notFound(what)
	}
	return cred, err
}

func (s *server) createAPIKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readAPIKeyForm(b, nil)
	defer f.wipe()
	if f.sealed != nil && f.id == "" {
		b.fail("id", "is required with sealedSecret: it is part of what is sealed")
	}
	if f.sealed == nil {
		f.id = ""
	}
	switch {
	case *b.err != nil:
		return nil, *b.err
	case f.workspace == "":
		return nil, badField("workspaceId", "is required")
	}
	typ, err := providerType(f.provider, f.key != "")
	if err != nil {
		return nil, err
	}
	creation, err := q.creation(b)
	if err != nil {
		return nil, err
	}
	var id string
	err = s.commit(q, func() ([]store.Write, error) {
		if err := q.require(f.workspace, store.AccessWrite); err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Credential](q.Context(), s, creation)
		if err != nil || found {
			if found {
				id, q.version = earlier.M.ID, earlier.M.Version
			}
			return nil, err
		}
		if _, err := live[*store.Workspace](q.Context(), s, f.workspace, "workspace"); err != nil {
			return nil, err
		}
		shared := f.shared
		shared.Provider = f.provider
		cred := &store.Credential{M: newMeta(q, f.id, f.workspace, creation), Key: f.key, Shared: &shared}
		if err := checkShared(&shared); err != nil {
			return nil, err
		}
		endpoint, binding, err := bindShared(&shared, typ, f.key)
		if err != nil {
			return nil, err
		}
		if !f.hasSecret() {
			return nil, badField("secret", "is required")
		}
		if err := s.checkIDFree(q.Context(), cred.M.ID); err != nil {
			return nil, err
		}
		header := seal.Header{Format: seal.Format, Workspace: f.workspace, Type: seal.TypeCredential, Record: cred.M.ID, Version: 1, Binding: binding}
		if cred.Sealed, err = s.sealSecret(f.secret, f.sealed, header, endpoint); err != nil {
			return nil, err
		}
		id, q.version = cred.M.ID, 1
		return []store.Write{store.Put(cred)}, nil
	})
	return struct {
		Success bool   `json:"success"`
		ID      string `json:"apiKeyId"`
	}{true, id}, err
}

// addressedAPIKey reads the shared credential that a path names, for a change to
// it, with the connectors that use it.
func (s *server) addressedAPIKey(q *call) (*store.Credential, []*store.Connector, error) {
	cred, err := addressed[*store.Credential](s, q, "id", "shared credential", store.AccessWrite)
	if err != nil {
		return nil, nil, err
	}
	if cred.Shared == nil {
		return nil, nil, notFound("shared credential")
	}
	if err := q.match(&cred.M); err != nil {
		return nil, nil, err
	}
	users, err := all[*store.Connector](q.Context(), s, cred.M.Workspace)
	return cred, slices.DeleteFunc(users, func(c *store.Connector) bool { return c.CredentialID != cred.M.ID }), err
}

// sharedType is the kind of connector that a stored shared credential serves.
func sharedType(cred *store.Credential) store.ConnectorType {
	switch cred.Sealed.Header.Binding.Use {
	case seal.UseS3:
		return store.TypeS3
	case seal.UseAnthropic:
		return store.TypeAnthropic
	}
	return store.TypeOpenAI
}

// updateAPIKey changes a shared credential. One with a new secret works from there
// on at all bridges; if its endpoint moves, its connectors move with it.
func (s *server) updateAPIKey(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	cred, _, err := s.addressedAPIKey(q) // to know how to read the body; decided again below
	if err != nil {
		return nil, err
	}
	storage := sharedType(cred) == store.TypeS3
	f := readAPIKeyForm(b, &storage)
	defer f.wipe()
	if *b.err != nil {
		return nil, *b.err
	}
	err = s.commit(q, func() ([]store.Write, error) {
		cred, users, err := s.addressedAPIKey(q)
		if err != nil {
			return nil, err
		}
		switch {
		case f.workspace != "" && f.workspace != cred.M.Workspace:
			return nil, badField("workspaceId", "a credential stays in its workspace")
		case f.id != "" && f.id != cred.M.ID:
			return nil, badField("id", "is not the id in the path")
		case f.provider != "" && f.provider != cred.Shared.Provider:
			return nil, badField("provider", "a credential keeps its provider")
		}
		typ, key, before := sharedType(cred), f.key, *cred.Shared
		if key == "" {
			key = cred.Key
		}
		f.merge(cred.Shared, typ)
		if err := checkShared(cred.Shared); err != nil {
			return nil, err
		}
		endpoint, binding, err := bindShared(cred.Shared, typ, key)
		if err != nil {
			return nil, err
		}
		q.version = cred.M.Version + 1
		old := cred.Sealed.Header
		if !f.hasSecret() {
			if binding != old.Binding {
				return nil, badField("secret", "is required: endpoint, CA and key are sealed with it, so changing one takes the secret again")
			}
			return []store.Write{store.Put(cred)}, nil
		}
		header := old
		header.Format, header.Version, header.Binding = seal.Format, old.Version+1, binding
		if cred.Sealed, err = s.sealSecret(f.secret, f.sealed, header, endpoint); err != nil {
			return nil, err
		}
		cred.Key, cred.Wraps = key, store.Wraps{}
		writes := []store.Write{store.Put(cred)}
		for _, c := range users {
			if before.Endpoint == cred.Shared.Endpoint && before.CACertificate == cred.Shared.CACertificate {
				break
			}
			c.Endpoint, c.CACertificate = cred.Shared.Endpoint, cred.Shared.CACertificate
			if c.Region == before.Region {
				c.Region = cred.Shared.Region
			}
			writes = append(writes, store.Put(c))
		}
		return writes, nil
	})
	return done{true}, err
}

// merge overwrites fields with those that the form has.
func (f *apiKeyForm) merge(sh *store.Shared, typ store.ConnectorType) {
	if typ == store.TypeS3 && f.shared.Region != "" && f.shared.Endpoint == "" && sh.Endpoint == defaultS3(sh.Region) {
		sh.Endpoint = ""
	}
	for _, field := range []struct {
		to   *string
		from string
	}{{&sh.Endpoint, f.shared.Endpoint}, {&sh.Region, f.shared.Region}, {&sh.CACertificate, f.shared.CACertificate},
		{&sh.TenantID, f.shared.TenantID}, {&sh.SubscriptionID, f.shared.SubscriptionID}, {&sh.Description, f.shared.Description}} {
		if field.from != "" {
			*field.to = field.from
		}
	}
}

func (s *server) deleteAPIKey(q *call) (any, error) {
	err := s.commit(q, func() ([]store.Write, error) {
		cred, users, err := s.addressedAPIKey(q)
		if err != nil {
			return nil, err
		}
		if n := len(users); n > 0 {
			return nil, inUse("%d connectors use it; give them another credential first", n)
		}
		return []store.Write{s.remove(cred)}, nil
	})
	return done{true}, err
}

func (s *server) listAPIKeys(q *call) (any, error) {
	workspace, err := q.queryID("workspaceId")
	if err != nil {
		return nil, err
	}
	capability := capabilityAll
	if v := q.query("capability"); v != "" {
		if capability, err = strconv.Atoi(v); err != nil || capability < 1 || capability > capabilityAll {
			return nil, badField("capability", "must be 1 for storage, 2 for AI, 255 for all")
		}
	}
	provider := q.query("provider")
	list, err := visible[*store.Credential](s, q, workspace)
	if err != nil {
		return nil, err
	}
	connectors, err := visible[*store.Connector](s, q, workspace)
	if err != nil {
		return nil, err
	}
	users := map[string]int{}
	for _, c := range connectors {
		users[c.CredentialID]++
	}
	slices.SortFunc(list, oldestFirst[*store.Credential])
	items := []apiKeyItem{}
	for _, cred := range list {
		if cred.Shared == nil || cred.Sealed == nil || provider != "" && provider != cred.Shared.Provider {
			continue
		}
		if item := showAPIKey(cred, users[cred.M.ID]); item.Capability&capability != 0 {
			items = append(items, item)
		}
	}
	return struct {
		Success bool         `json:"success"`
		APIKeys []apiKeyItem `json:"apiKeys"`
	}{true, items}, nil
}

func showAPIKey(cred *store.Credential, users int) apiKeyItem {
	sh := cred.Shared
	item := apiKeyItem{
		ID: cred.M.ID, Endpoint: sh.Endpoint, Region: sh.Region, TenantID: sh.TenantID, SubscriptionID: sh.SubscriptionID,
		Provider: sh.Provider, Description: sh.Description, CreatedAt: cred.M.CreatedAt, WorkspaceID: cred.M.Workspace,
		CACertificate: sh.CACertificate, Version: cred.M.Version, SecretVersion: cred.Sealed.Header.Version,
	}
	if sharedType(cred) == store.TypeS3 {
		item.Key, item.Capability, item.BucketCount = &cred.Key, capabilityStorage, users
	} else {
		item.Capability, item.LLMCount = capabilityAI, users
	}
	return item
}
