package api

import (
	"slices"
	"time"

	"keybridge/store"
)

// bucketItem is a storage connector as the API shows it.
type bucketItem struct {
	ID                       string     `json:"id"`
	Name                     string     `json:"name"`
	Bucket                   string     `json:"bucket"`
	StorageType              string     `json:"storageType"`
	Key                      string     `json:"key,omitempty"`
	Endpoint                 string     `json:"endpoint"`
	Region                   string     `json:"region"`
	CACertificate            string     `json:"caCertificate,omitempty"`
	AllowBucketConfiguration bool       `json:"allowBucketConfiguration"`
	CreatedAt                time.Time  `json:"createdAt"`
	WorkspaceID              string     `json:"workspaceId"`
	Repos                    []repoName `json:"repos,omitempty"`
	Version                  uint64     `json:"version"`
	// SecretVersion lets a caller who seals name the next version.
	SecretVersion uint64 `json:"secretVersion"`
}

type bucketAnswer struct {
	Success  bool   `json:"success"`
	BucketID string `json:"bucketId"`
}

// readBucketForm reads the body of POST and PUT /bucket.
func readBucketForm(q *call, b *body) *connectorForm {
	f := readForm(q, b)
	f.bucket = b.text("bucket")
	f.typ = b.text("storageType")
	f.region = b.text("region")
	f.key = b.text("key")
	f.allowBucketConfiguration = b.boolean("allowBucketConfiguration")
	return f
}

func (s *server) createBucket(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readBucketForm(q, b)
	defer f.wipe()
	if err := f.finish(q, b); err != nil {
		return nil, err
	}
	typ, err := storageType(f.typ)
	if err != nil {
		return nil, err
	}
	id, err := s.createConnector(q, f, store.Connector{
		Name: f.name, Type: typ, Bucket: f.bucket, Endpoint: f.endpoint, Region: f.region, CACertificate: f.ca,
		AllowBucketConfiguration: f.allowBucketConfiguration != nil && *f.allowBucketConfiguration,
	})
	return bucketAnswer{true, id}, err
}

func (s *server) updateBucket(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readBucketForm(q, b)
	defer f.wipe()
	if *b.err != nil {
		return nil, *b.err
	}
	id, err := s.updateConnector(q, f, true)
	return bucketAnswer{true, id}, err
}

func (s *server) deleteBucket(q *call) (any, error) {
	id, err := s.deleteConnector(q, true)
	return bucketAnswer{true, id}, err
}

func (s *server) listBuckets(q *call) (any, error) {
	items, err := s.buckets(q)
	return struct {
		Success bool         `json:"success"`
		Buckets []bucketItem `json:"buckets"`
	}{true, items}, err
}

// availableBuckets answers a bare array: every bucket may be added to a repository.
func (s *server) availableBuckets(q *call) (any, error) { return s.buckets(q) }

func (s *server) buckets(q *call) ([]bucketItem, error) {
	view, err := s.connectors(q, true)
	if err != nil {
		return nil, err
	}
	items := make([]bucketItem, 0, len(view.list))
	for _, c := range view.list {
		items = append(items, view.bucket(c))
	}
	return items, nil
}

// storageType accepts those that are implemented.
func storageType(s string) (store.ConnectorType, error) {
	switch s {
	case "":
		return "", badField("storageType", "is required")
	case string(store.TypeS3):
		return store.TypeS3, nil
	case "GCS", "BLOB":
		return "", badField("storageType", "%s is not supported yet", s)
	}
	return "", badField("storageType", "must be S3, GCS or BLOB")
}

// connectorView is a list of connectors with what an answer says beside them.
type connectorView struct {
	list        []*store.Connector
	credentials map[string]*store.Credential
	users       map[string][]repoName
}

// connectors reads what a list request may see, of storage or of AI connectors.
func (s *server) connectors(q *call, storage bool) (*connectorView, error) {
	workspace, err := q.queryID("workspaceId")
	if err != nil {
		return nil, err
	}
	list, err := visible[*store.Connector](s, q, workspace)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(c *store.Connector) bool { return (c.Type == store.TypeS3) != storage })
	slices.SortFunc(list, oldestFirst[*store.Connector])
	credentials, err := visible[*store.Credential](s, q, workspace)
	if err != nil {
		return nil, err
	}
	repos, err := visible[*store.Repository](s, q, workspace)
	if err != nil {
		return nil, err
	}
	return newView(list, credentials, repos), nil
}

func newView(list []*store.Connector, credentials []*store.Credential, repos []*store.Repository) *connectorView {
	v := &connectorView{list: list, credentials: map[string]*store.Credential{}, users: usersOf(repos)}
	for _, c := range credentials {
		v.credentials[c.M.ID] = c
	}
	return v
}

// secretVersion is 0 when the credential is gone.
func (v *connectorView) secretVersion(c *store.Connector) (key string, version uint64) {
	cred := v.credentials[c.CredentialID]
	if cred == nil || cred.Sealed == nil {
		return "", 0
	}
	return cred.Key, cred.Sealed.Header.Version
}

func (v *connectorView) bucket(c *store.Connector) bucketItem {
	key, version := v.secretVersion(c)
	return bucketItem{
		ID: c.M.ID, Name: c.Name, Bucket: c.Bucket, StorageType: string(c.Type), Key: key, Endpoint: c.Endpoint, Region: c.Region,
		CACertificate: c.CACertificate, AllowBucketConfiguration: c.AllowBucketConfiguration, CreatedAt: c.M.CreatedAt,
		WorkspaceID: c.M.Workspace, Repos: v.users[c.M.ID], Version: c.M.Version, SecretVersion: version,
	}
}
