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
	// APIKeyID is the shared credential that it uses, if any.
	APIKeyID string `json:"apiKeyId,omitempty"`
	// Status is ONLINE if a bridge last found it so, OFFLINE if all found otherwise.
	Status  string `json:"status,omitempty"`
	Version uint64 `json:"version"`
	// SecretVersion lets a caller who seals name the next version.
	SecretVersion uint64 `json:"secretVersion"`
}

type bucketAnswer struct {
	Success  bool   `json:"success"`
	BucketID string `json:"bucketId"`
	tried
}

// readBucketForm reads the body of POST and PUT /bucket.
func readBucketForm(q *call, b *body) *connectorForm {
	f := readForm(q, b)
	f.bucket = b.text("bucket")
	f.typ = b.text("storageType")
	f.region = b.text("region")
	f.key = b.text("key")
	f.secret = b.storageSecret(f.secret, f.sealed)
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
		Name: f.name, Type: typ, Bucket: f.bucket, CACertificate: f.ca,
		AllowBucketConfiguration: f.allowBucketConfiguration != nil && *f.allowBucketConfiguration,
	})
	return bucketAnswer{Success: true, BucketID: id}, err
}

func (s *server) updateBucket(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readBucketForm(q, b)
	defer f.wipe()
	if err := f.check(b); err != nil {
		return nil, err
	}
	id, result, err := s.updateConnector(q, f, true)
	return bucketAnswer{true, id, showTried(result)}, err
}

func (s *server) deleteBucket(q *call) (any, error) {
	id, err := s.deleteConnector(q, true)
	return bucketAnswer{Success: true, BucketID: id}, err
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
	fleet       Fleet
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
	return s.newView(list, credentials, repos), nil
}

func (s *server) newView(list []*store.Connector, credentials []*store.Credential, repos []*store.Repository) *connectorView {
	v := &connectorView{list: list, credentials: map[string]*store.Credential{}, users: usersOf(repos), fleet: s.Fleet}
	for _, c := range credentials {
		v.credentials[c.M.ID] = c
	}
	return v
}

// credential returns what is shown of a connector's credential: its key, its id if
// it is shared, and the version of the connector's own secret, 0 if it never had one.
func (v *connectorView) credential(c *store.Connector) (key, shared string, version uint64) {
	cred := v.credentials[c.CredentialID]
	switch {
	case cred == nil || cred.Sealed == nil:
		return "", "", 0
	case cred.Shared != nil:
		return cred.Key, cred.M.ID, c.RetiredSecret
	}
	return cred.Key, "", cred.Sealed.Header.Version
}

// status sums up what the bridges say of a connector; empty if none says anything.
func (v *connectorView) status(c *store.Connector) string {
	if v.fleet == nil {
		return ""
	}
	status := ""
	for _, n := range v.fleet.ConnectorStatus(c.M.ID) {
		if status = n.Status; status == StatusOnline {
			break
		}
	}
	return status
}

func (v *connectorView) bucket(c *store.Connector) bucketItem {
	key, shared, version := v.credential(c)
	return bucketItem{
		ID: c.M.ID, Name: c.Name, Bucket: c.Bucket, StorageType: string(c.Type), Key: key, Endpoint: c.Endpoint, Region: c.Region,
		CACertificate: c.CACertificate, AllowBucketConfiguration: c.AllowBucketConfiguration, CreatedAt: c.M.CreatedAt,
		WorkspaceID: c.M.Workspace, Repos: v.users[c.M.ID], APIKeyID: shared, Status: v.status(c), Version: c.M.Version, SecretVersion: version,
	}
}
