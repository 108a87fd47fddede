package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// A connector (bucket or AI LLM) and the credential that was made with it are two
// records with one id; a connector that names a shared credential (apikeys.go) has
// none of its own. What a credential may be used for is the binding inside its
// sealed part, which binding.go derives from the connector: package client derives
// the same, since the caller who seals has to.

// connectorForm is what the bodies of POST and PUT /bucket and /ai/llm have in
// common; empty fields are absent.
type connectorForm struct {
	workspace, id            string
	name, typ                string
	bucket, region, endpoint string
	ca, key                  string
	shared                   string // id of a shared credential
	models                   []string
	setModels                bool
	allowBucketConfiguration *bool
	secret                   secretText
	sealed                   *seal.Sealed
	creation                 *store.Creation
	// probe is what a decision leaves to be tried before it is acted on; nil for nothing.
	probe *Probe
}

func (f *connectorForm) wipe() { f.secret.wipe() }

func (f *connectorForm) hasSecret() bool { return f.secret != nil || f.sealed != nil }

// readForm reads the fields that both sorts of connector share.
func readForm(q *call, b *body) *connectorForm {
	f := &connectorForm{
		workspace: b.id("workspaceId"),
		name:      b.text("name"),
		endpoint:  b.text("endpoint"),
		ca:        b.text("caCertificate"),
		secret:    b.secret("secret"),
		sealed:    b.sealed("sealedSecret"),
	}
	if f.sealed != nil {
		f.id = b.id("id")
		if f.secret != nil {
			b.fail("secret", "comes with sealedSecret; send one of them")
		}
		if f.id == "" && q.Method == http.MethodPost {
			b.fail("id", "is required with sealedSecret: it is part of what is sealed")
		}
	}
	f.shared = b.id("apiKeyUuid")
	return f
}

// check ends the reading of a form.
func (f *connectorForm) check(b *body) error {
	if f.shared != "" && f.hasSecret() {
		b.fail("apiKeyUuid", "comes with a secret; the shared credential has its own")
	}
	return *b.err
}

// finish ends the reading of a create's form.
func (f *connectorForm) finish(q *call, b *body) error {
	if err := f.check(b); err != nil {
		return err
	}
	if f.workspace == "" {
		return badField("workspaceId", "is required")
	}
	var err error
	f.creation, err = q.creation(b)
	return err
}

// createConnector stores a new connector, with its credential unless that is a
// shared one, and returns its id.
func (s *server) createConnector(q *call, f *connectorForm, draft store.Connector) (string, error) {
	var id string
	decide := func() ([]store.Write, error) {
		ctx := q.Context()
		f.probe = nil
		if err := q.require(f.workspace, store.AccessWrite); err != nil {
			return nil, err
		}
		earlier, found, err := replay[*store.Connector](ctx, s, f.creation)
		if err != nil || found {
			if found {
				id, q.version = earlier.M.ID, earlier.M.Version
			}
			return nil, err
		}
		if _, err := live[*store.Workspace](ctx, s, f.workspace, "workspace"); err != nil {
			return nil, err
		}
		c := draft
		c.Region, c.Endpoint = f.region, f.endpoint // a probe may have learned more
		c.M = newMeta(q, f.id, f.workspace, f.creation)
		if err := checkConnector(&c); err != nil {
			return nil, err
		}
		if err := s.checkIDFree(ctx, c.M.ID); err != nil {
			return nil, err
		}
		id, q.version = c.M.ID, 1
		if f.shared != "" {
			if err := s.adopt(ctx, f, &c); err != nil {
				return nil, err
			}
			return []store.Write{store.Put(&c)}, nil
		}
		cred := &store.Credential{M: newMeta(q, c.M.ID, f.workspace, nil)}
		if err := s.own(f, &c, cred, f.key, 1); err != nil {
			return nil, err
		}
		return []store.Write{store.Put(&c), store.Put(cred)}, nil
	}
	if _, err := s.tryOut(q, f, decide); err != nil {
		return "", err
	}
	err := s.commit(q, decide)
	return id, err
}

// own seals a form's secret as the credential that is the connector's own.
func (s *server) own(f *connectorForm, c *store.Connector, cred *store.Credential, key string, version uint64) error {
	endpoint, binding, err := bind(c, key)
	if err != nil {
		return err
	}
	if !f.hasSecret() {
		return badField("secret", "is required, or apiKeyUuid")
	}
	header := seal.Header{Format: seal.Format, Workspace: c.M.Workspace, Type: seal.TypeCredential, Record: c.M.ID, Version: version, Binding: binding}
	if cred.Sealed, err = s.sealSecret(f.secret, f.sealed, header, endpoint); err != nil {
		return err
	}
	cred.Key, cred.Wraps, c.CredentialID = key, store.Wraps{}, c.M.ID
	f.probe = probeOf(c)
	f.probe.Sealed = cred.Sealed
	return nil
}

// adopt gives a connector the shared credential that the form names, or that it
// has already: what the connector leaves open comes from there.
func (s *server) adopt(ctx context.Context, f *connectorForm, c *store.Connector) error {
	id := f.shared
	if id == "" {
		id = c.CredentialID
	}
	cred, err := s.sharedCredential(ctx, id, c.M.Workspace)
	if err != nil {
		return err
	}
	sealed := cred.Sealed.Header.Binding
	if use := useOf(c.Type); use != sealed.Use {
		return badField("apiKeyUuid", "the credential of provider %s is of no use for a connector of type %s", cred.Shared.Provider, c.Type)
	}
	if f.key != "" && f.key != cred.Key {
		return badField("key", "differs from that of the shared credential")
	}
	for _, field := range []struct {
		to   *string
		from string
	}{{&c.Endpoint, cred.Shared.Endpoint}, {&c.CACertificate, cred.Shared.CACertificate}, {&c.Region, cred.Shared.Region}} {
		if *field.to == "" {
			*field.to = field.from
		}
	}
	endpoint, binding, err := bind(c, cred.Key)
	if err != nil {
		return err
	}
	if sealed.Scope == wholeAccount {
		binding.Scope = wholeAccount
	}
	if binding != sealed {
		return badField("endpoint", "the shared credential is sealed for %s and its CA; it works nowhere else", cred.Shared.Endpoint)
	}
	if err := s.Policy.Check(endpoint); err != nil {
		return badField("endpoint", "%v", err)
	}
	c.CredentialID = cred.M.ID
	f.probe = probeOf(c)
	f.probe.Credential = cred.M.ID
	return nil
}

// checkIDFree refuses an id that a connector or credential ever had, in any workspace.
func (s *server) checkIDFree(ctx context.Context, id string) error {
	for _, kind := range []store.Kind{store.KindConnector, store.KindCredential} {
		_, err := s.Store.Get(ctx, kind, id)
		if err == nil {
			return conflict("ID_TAKEN", "id: it belongs to a record already")
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

// updateConnector applies a partial form to the connector that the path names.
// The result is nil if nothing was changed that a bridge could try.
func (s *server) updateConnector(q *call, f *connectorForm, storage bool) (string, *ProbeResult, error) {
	var id string
	decide := func() ([]store.Write, error) {
		c, writes, err := s.changedConnector(q, f, storage)
		if err != nil {
			return nil, err
		}
		id, q.version = c.M.ID, c.M.Version+1
		return writes, nil
	}
	result, err := s.tryOut(q, f, decide)
	if err != nil {
		return "", nil, err
	}
	return id, result, s.commit(q, decide)
}

// changedConnector is the connector that the path names as a form makes it, and the writes that does it.
func (s *server) changedConnector(q *call, f *connectorForm, storage bool) (*store.Connector, []store.Write, error) {
	f.probe = nil
	c, cred, err := s.addressedConnector(q, storage)
	if err != nil {
		return nil, nil, err
	}
	if err := q.match(&c.M); err != nil {
		return nil, nil, err
	}
	if err := f.checkFixed(c); err != nil {
		return nil, nil, err
	}
	if cred.Sealed == nil {
		return nil, nil, fmt.Errorf("credential %s of a live connector is destroyed", cred.M.ID)
	}
	bucket := c.Bucket
	f.merge(c)
	if err := checkConnector(c); err != nil {
		return nil, nil, err
	}
	writes, err := s.recredential(q.Context(), f, c, cred, bucket)
	if err != nil {
		return nil, nil, err
	}
	if c.Bucket != bucket {
		if err := s.checkBucketsOfUsers(q.Context(), c); err != nil {
			return nil, nil, err
		}
	}
	return c, writes, nil
}

// recredential settles which credential a changed connector uses. There are four
// cases: it has a shared one or its own, and the form brings another or not.
func (s *server) recredential(ctx context.Context, f *connectorForm, c *store.Connector, cred *store.Credential, bucket string) ([]store.Write, error) {
	shared := cred.Shared != nil
	switch {
	case f.shared != "" && f.shared != cred.M.ID || shared && !f.hasSecret():
		if f.shared != "" && f.shared != cred.M.ID { // it comes with its endpoint
			c.Endpoint, c.CACertificate = f.endpoint, f.ca
		}
		if err := s.adopt(ctx, f, c); err != nil {
			return nil, err
		}
		if !shared {
			c.RetiredSecret = cred.Sealed.Header.Version
			return []store.Write{store.Put(c), s.remove(cred)}, nil
		}
		if c.CredentialID == cred.M.ID && c.Bucket == bucket {
			f.probe = nil
		}
		return []store.Write{store.Put(c)}, nil
	case shared:
		fresh, err := s.revived(ctx, c)
		if err != nil {
			return nil, err
		}
		if err := s.own(f, c, fresh, f.key, c.RetiredSecret+1); err != nil {
			return nil, err
		}
		return []store.Write{store.Put(c), store.Put(fresh)}, nil
	}
	key := f.key
	if key == "" {
		key = cred.Key
	}
	if f.hasSecret() {
		if err := s.own(f, c, cred, key, cred.Sealed.Header.Version+1); err != nil {
			return nil, err
		}
		return []store.Write{store.Put(c), store.Put(cred)}, nil
	}
	_, binding, err := bind(c, key)
	if err == nil && binding != cred.Sealed.Header.Binding {
		err = badField("secret", "is required: endpoint, CA, bucket and key are sealed with it, so changing one takes the secret again")
	}
	return []store.Write{store.Put(c)}, err
}

// revived is the record for a new credential of a connector's own, which it may have had once before.
func (s *server) revived(ctx context.Context, c *store.Connector) (*store.Credential, error) {
	fresh := &store.Credential{M: store.Meta{ID: c.M.ID, Workspace: c.M.Workspace, CreatedBy: c.M.CreatedBy}}
	old, err := s.Store.Get(ctx, store.KindCredential, c.M.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fresh, nil
	case err != nil:
		return nil, err
	}
	fresh.M.Version = old.Meta().Version
	return fresh, nil
}

// checkFixed refuses what an update cannot change.
func (f *connectorForm) checkFixed(c *store.Connector) error {
	switch {
	case f.workspace != "" && f.workspace != c.M.Workspace:
		return badField("workspaceId", "a connector stays in its workspace")
	case f.id != "" && f.id != c.M.ID:
		return badField("id", "is not the id in the path")
	case f.typ != "" && f.typ != string(c.Type):
		if c.Type == store.TypeS3 {
			return badField("storageType", "a connector keeps its type")
		}
		return badField("aiType", "a connector keeps its type")
	}
	return nil
}

// merge overwrites a connector's fields with those that the form has.
func (f *connectorForm) merge(c *store.Connector) {
	// An endpoint that came from the region goes with it.
	if c.Type == store.TypeS3 && f.region != "" && f.endpoint == "" && c.Endpoint == defaultS3(c.Region) {
		c.Endpoint = ""
	}
	for _, field := range []struct {
		to   *string
		from string
	}{{&c.Name, f.name}, {&c.Bucket, f.bucket}, {&c.Region, f.region}, {&c.Endpoint, f.endpoint}, {&c.CACertificate, f.ca}} {
		if field.from != "" {
			*field.to = field.from
		}
	}
	if f.allowBucketConfiguration != nil {
		c.AllowBucketConfiguration = *f.allowBucketConfiguration
	}
	if f.setModels {
		c.Models = f.models
	}
}

// deleteConnector removes a connector and destroys the credential made with it.
func (s *server) deleteConnector(q *call, storage bool) (string, error) {
	var id string
	err := s.commit(q, func() ([]store.Write, error) {
		c, cred, err := s.addressedConnector(q, storage)
		if err != nil {
			return nil, err
		}
		if err := q.match(&c.M); err != nil {
			return nil, err
		}
		users, err := s.users(q.Context(), c.M.Workspace)
		if err != nil {
			return nil, err
		}
		if n := len(users[c.M.ID]); n > 0 {
			return nil, inUse("%d repositories use it; remove it from them first", n)
		}
		id = c.M.ID
		if cred.Shared != nil {
			return []store.Write{s.remove(c)}, nil
		}
		return []store.Write{s.remove(c), s.remove(cred)}, nil
	})
	return id, err
}

// addressedConnector reads the connector that a path names, for what takes WRITE, with its credential.
func (s *server) addressedConnector(q *call, storage bool) (*store.Connector, *store.Credential, error) {
	c, err := s.connectorInPath(q, storage, store.AccessWrite)
	if err != nil {
		return nil, nil, err
	}
	cred, err := live[*store.Credential](q.Context(), s, c.CredentialID, "credential")
	return c, cred, err
}

func (s *server) connectorInPath(q *call, storage bool, need store.Access) (*store.Connector, error) {
	what := "AI connector"
	if storage {
		what = "bucket"
	}
	c, err := addressed[*store.Connector](s, q, "id", what, need)
	if err == nil && (c.Type == store.TypeS3) != storage {
		return nil, notFound(what)
	}
	return c, err
}

// checkBucketsOfUsers refuses a bucket that a repository of the connector has from
// another one, and the whole account where a repository is limited to a folder.
func (s *server) checkBucketsOfUsers(ctx context.Context, changed *store.Connector) error {
	repos, err := all[*store.Repository](ctx, s, changed.M.Workspace)
	if err != nil {
		return err
	}
	for _, r := range repos {
		uses, clash := false, false
		for _, st := range r.Storage {
			if st.ConnectorID == changed.M.ID {
				if st.Folder != "" && changed.Bucket == wholeAccount {
					return badField("bucket", "repository %s is limited to a folder, which needs one bucket", r.M.ID)
				}
				uses = true
				continue
			}
			other, err := live[*store.Connector](ctx, s, st.ConnectorID, "bucket")
			if err != nil {
				return err
			}
			clash = clash || other.Bucket == changed.Bucket
		}
		if uses && clash {
			return badField("bucket", "repository %s has another connector for a bucket of that name", r.M.ID)
		}
	}
	return nil
}
