package api

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// A connector (bucket or AI LLM) and the credential that was made with it are two
// records with one id. What the credential may be used for is the binding inside
// its sealed part, which this file derives from the connector: package client
// derives the same, since the caller who seals has to.

// Endpoints of connectors that name none.
const (
	defaultRegion     = "us-east-1"
	defaultS3Endpoint = "https://s3.%s.amazonaws.com" // AWS: "Amazon S3 endpoints", regional
	defaultOpenAI     = "https://api.openai.com/v1"
	defaultAIPath     = "/v1"
	maxCA             = 128 << 10
)

// connectorForm is what the bodies of POST and PUT /bucket and /ai/llm have in
// common; empty fields are absent.
type connectorForm struct {
	workspace, id            string
	name, typ                string
	bucket, region, endpoint string
	ca, key                  string
	allowBucketConfiguration *bool
	secret                   secretText
	sealed                   *seal.Sealed
	creation                 *store.Creation
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
	if b.text("apiKeyUuid") != "" {
		b.fail("apiKeyUuid", "shared credentials are not supported yet")
	}
	return f
}

// finish ends the reading of a create's form.
func (f *connectorForm) finish(q *call, b *body) error {
	if *b.err != nil {
		return *b.err
	}
	if f.workspace == "" {
		return badField("workspaceId", "is required")
	}
	var err error
	f.creation, err = q.creation(b)
	return err
}

// bind derives a connector's endpoint and its credential's binding, filling in
// what is left to defaults. key is the provider's access key id.
func bind(c *store.Connector, key string) (seal.Endpoint, seal.Binding, error) {
	none := func(err error) (seal.Endpoint, seal.Binding, error) { return seal.Endpoint{}, seal.Binding{}, err }
	if c.Type == store.TypeS3 {
		if c.Region == "" {
			c.Region = defaultRegion
		}
		if err := checkRegion(c.Region); err != nil {
			return none(err)
		}
		if err := checkBucket(c.Bucket); err != nil {
			return none(err)
		}
		if err := checkAccessKey(key); err != nil {
			return none(err)
		}
	}
	switch {
	case c.Endpoint != "":
	case c.Type == store.TypeS3:
		c.Endpoint = fmt.Sprintf(defaultS3Endpoint, c.Region)
	case c.Type == store.TypeOpenAI:
		c.Endpoint = defaultOpenAI
	default:
		return none(badField("endpoint", "is required for aiType %s", c.Type))
	}
	e, err := seal.ParseEndpoint(c.Endpoint)
	if err != nil {
		return none(badField("endpoint", "%v", err))
	}
	b := seal.Binding{Scheme: e.Scheme, Host: e.Host, Port: e.Port, CA: seal.CADigest([]byte(c.CACertificate))}
	if c.Type == store.TypeS3 {
		if e.Path != "" {
			return none(badField("endpoint", "has a path; the bucket is named in bucket"))
		}
		b.Use, b.Key, b.Scope = seal.UseS3, key, c.Bucket
	} else {
		if e.Path == "" {
			e.Path = defaultAIPath
		}
		b.Use, b.Scope = seal.UseOpenAI, e.Path
	}
	if err := checkCA(c.CACertificate, e.Scheme); err != nil {
		return none(err)
	}
	c.Endpoint = e.String()
	return e, b, nil
}

// sealSecret makes a form's secret into the sealed record of a header.
func (s *server) sealSecret(f *connectorForm, h seal.Header, e seal.Endpoint) (*seal.Sealed, error) {
	if err := s.Policy.Check(e); err != nil {
		return nil, badField("endpoint", "%v", err)
	}
	if err := h.Validate(); err != nil {
		return nil, &failure{http.StatusBadRequest, "INVALID_FIELD", err.Error()}
	}
	pub, err := s.currentKey()
	if err != nil {
		return nil, err
	}
	if f.sealed == nil {
		return seal.Seal(pub, h, f.secret)
	}
	if field := headerDifference(f.sealed.Header, h); field != "" {
		return nil, &failure{http.StatusBadRequest, "SEALED_MISMATCH", "sealedSecret: " + field + " is not what this request asks for"}
	}
	if f.sealed.Key.KeyID != pub.ID() {
		return nil, conflict("SEALING_KEY_CHANGED", "sealedSecret: it is sealed to another key than GET /sealing-key names now")
	}
	return f.sealed, nil
}

// headerDifference names the first field in which two headers differ.
func headerDifference(got, want seal.Header) string {
	switch {
	case got.Format != want.Format:
		return "header.format"
	case got.Workspace != want.Workspace:
		return "header.workspace"
	case got.Type != want.Type:
		return "header.type"
	case got.Record != want.Record:
		return "header.record"
	case got.Version != want.Version:
		return fmt.Sprintf("header.version (the next is %d)", want.Version)
	case got.Binding.Use != want.Binding.Use:
		return "header.binding.use"
	case got.Binding.Key != want.Binding.Key:
		return "header.binding.key"
	case got.Binding.Scheme != want.Binding.Scheme:
		return "header.binding.scheme"
	case got.Binding.Host != want.Binding.Host:
		return "header.binding.host"
	case got.Binding.Port != want.Binding.Port:
		return "header.binding.port"
	case got.Binding.CA != want.Binding.CA:
		return "header.binding.ca"
	case got.Binding.Scope != want.Binding.Scope:
		return "header.binding.scope"
	case got != want: // fields that no credential has, or that were added to Header since
		return "header"
	}
	return ""
}

// createConnector stores a new connector with its credential, and returns its id.
func (s *server) createConnector(q *call, f *connectorForm, draft store.Connector) (string, error) {
	var id string
	err := s.commit(q.Context(), func() ([]store.Write, error) {
		ctx := q.Context()
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
		c.M = newMeta(q, f.id, f.workspace, f.creation)
		c.CredentialID = c.M.ID
		if err := checkConnectorName(&c); err != nil {
			return nil, err
		}
		endpoint, binding, err := bind(&c, f.key)
		if err != nil {
			return nil, err
		}
		if !f.hasSecret() {
			return nil, badField("secret", "is required")
		}
		if err := s.checkIDFree(ctx, c.M.ID); err != nil {
			return nil, err
		}
		cred := &store.Credential{M: newMeta(q, c.M.ID, f.workspace, nil), Key: f.key}
		header := seal.Header{Format: seal.Format, Workspace: f.workspace, Type: seal.TypeCredential, Record: cred.M.ID, Version: 1, Binding: binding}
		if cred.Sealed, err = s.sealSecret(f, header, endpoint); err != nil {
			return nil, err
		}
		id, q.version = c.M.ID, 1
		return []store.Write{store.Put(&c), store.Put(cred)}, nil
	})
	return id, err
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
func (s *server) updateConnector(q *call, f *connectorForm, storage bool) (string, error) {
	var id string
	err := s.commit(q.Context(), func() ([]store.Write, error) {
		c, cred, err := s.addressedConnector(q, storage)
		if err != nil {
			return nil, err
		}
		if err := f.checkFixed(c); err != nil {
			return nil, err
		}
		if cred.Sealed == nil {
			return nil, fmt.Errorf("credential %s of a live connector is destroyed", cred.M.ID)
		}
		bucket := c.Bucket
		key := f.merge(c, cred.Key)
		if err := checkConnectorName(c); err != nil {
			return nil, err
		}
		endpoint, binding, err := bind(c, key)
		if err != nil {
			return nil, err
		}
		if c.Bucket != bucket {
			if err := s.checkBucketsOfUsers(q.Context(), c); err != nil {
				return nil, err
			}
		}
		id, q.version = c.M.ID, c.M.Version+1
		old := cred.Sealed.Header
		if !f.hasSecret() {
			if binding != old.Binding {
				return nil, badField("secret", "is required: endpoint, CA, bucket and key are sealed with it, so changing one takes the secret again")
			}
			return []store.Write{store.Put(c)}, nil
		}
		header := old
		header.Format, header.Version, header.Binding = seal.Format, old.Version+1, binding
		if cred.Sealed, err = s.sealSecret(f, header, endpoint); err != nil {
			return nil, err
		}
		cred.Key = key
		return []store.Write{store.Put(c), store.Put(cred)}, nil
	})
	return id, err
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

// merge overwrites a connector's fields with those that the form has, and returns
// the access key id.
func (f *connectorForm) merge(c *store.Connector, key string) string {
	// An endpoint that came from the region goes with it.
	if c.Type == store.TypeS3 && f.region != "" && f.endpoint == "" && c.Endpoint == fmt.Sprintf(defaultS3Endpoint, c.Region) {
		c.Endpoint = ""
	}
	for _, field := range []struct {
		to   *string
		from string
	}{{&c.Name, f.name}, {&c.Bucket, f.bucket}, {&c.Region, f.region}, {&c.Endpoint, f.endpoint}, {&c.CACertificate, f.ca}, {&key, f.key}} {
		if field.from != "" {
			*field.to = field.from
		}
	}
	if f.allowBucketConfiguration != nil {
		c.AllowBucketConfiguration = *f.allowBucketConfiguration
	}
	return key
}

// deleteConnector removes a connector and destroys the credential made with it.
func (s *server) deleteConnector(q *call, storage bool) (string, error) {
	var id string
	err := s.commit(q.Context(), func() ([]store.Write, error) {
		c, cred, err := s.addressedConnector(q, storage)
		if err != nil {
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
		return []store.Write{s.remove(c), s.remove(cred)}, nil
	})
	return id, err
}

// addressedConnector reads the connector that a path names, for a change to it, with its credential.
func (s *server) addressedConnector(q *call, storage bool) (*store.Connector, *store.Credential, error) {
	what := "AI connector"
	if storage {
		what = "bucket"
	}
	c, err := addressed[*store.Connector](s, q, "id", what, store.AccessWrite)
	if err != nil {
		return nil, nil, err
	}
	if (c.Type == store.TypeS3) != storage {
		return nil, nil, notFound(what)
	}
	if err := q.match(&c.M); err != nil {
		return nil, nil, err
	}
	cred, err := live[*store.Credential](q.Context(), s, c.CredentialID, "credential")
	return c, cred, err
}

// checkBucketsOfUsers refuses a bucket that a repository of the connector has from another one.
func (s *server) checkBucketsOfUsers(ctx context.Context, changed *store.Connector) error {
	repos, err := all[*store.Repository](ctx, s, changed.M.Workspace)
	if err != nil {
		return err
	}
	for _, r := range repos {
		uses, clash := false, false
		for _, st := range r.Storage {
			if st.ConnectorID == changed.M.ID {
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

func checkConnectorName(c *store.Connector) error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	// Applications name an AI connector in a path: /connectors/{name}/v1/…
	if c.Type != store.TypeS3 && (strings.ContainsAny(c.Name, `/?#%\`) || c.Name == "." || c.Name == "..") {
		return badField("name", "the name of an AI connector is part of a path and cannot be . or .. nor contain any of /?#%%\\")
	}
	return nil
}

// only reports whether s has no other characters than letters.
func only(s, letters string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(letters, r) })
}

func checkRegion(region string) error {
	if len(region) > 64 || !only(region, base62+"-_") {
		return badField("region", "must be up to 64 letters, digits, - and _")
	}
	return nil
}

// checkBucket is looser than AWS: other services have upper-case and underscores.
func checkBucket(bucket string) error {
	switch {
	case bucket == "":
		return badField("bucket", "is required")
	case bucket == "*":
		return badField("bucket", "a connector for a whole account is not supported yet")
	case len(bucket) < 3 || len(bucket) > 255 || !only(bucket, base62+".-_") || strings.Trim(bucket, ".") == "":
		return badField("bucket", "must be 3 to 255 letters, digits, dots, - and _")
	}
	return nil
}

// checkAccessKey refuses what delimits a credential in SigV4 or needs quoting in
// a header, as package seal does for a binding.
func checkAccessKey(key string) error {
	if key == "" {
		return badField("key", "is required: the provider's access key id")
	}
	if len(key) > 256 || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`/,="\<>`, c) }) {
		return badField("key", `must be up to 256 visible ASCII characters without any of / , = " \ < >`)
	}
	return nil
}

// checkCA accepts a PEM bundle of certificates and nothing between them.
func checkCA(bundle, scheme string) error {
	if bundle == "" {
		return nil
	}
	bad := func(why string) error { return badField("caCertificate", "%s", why) }
	if scheme != "https" {
		return bad("is of use only with an https endpoint")
	}
	if len(bundle) > maxCA {
		return bad("is too large")
	}
	rest := []byte(strings.TrimSpace(bundle))
	// pem.Decode skips a block that it cannot read; OpenSSL and BoringSSL fail on it.
	for blocks := strings.Count(bundle, "-----BEGIN "); len(rest) > 0 || blocks != 0; blocks-- {
		if !strings.HasPrefix(string(rest), "-----BEGIN CERTIFICATE-----") {
			return bad("must hold PEM certificates and nothing else")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || len(block.Headers) != 0 {
			return bad("has a malformed PEM block")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return bad("has a malformed certificate")
		}
		rest = []byte(strings.TrimSpace(string(rest)))
	}
	return nil
}
