package store

import (
	"context"
	"errors"
	"iter"
	"time"

	"keybridge/keyshare/seal"
)

// Kind names a sort of record; it is part of every record's identity.
type Kind string

const (
	KindWorkspace  Kind = "workspace"
	KindConnector  Kind = "connector"
	KindCredential Kind = "credential"
	KindRepository Kind = "repository"
	KindKey        Kind = "key"     // repository keys
	KindToken      Kind = "token"   // admin tokens, hashed
	KindCustody    Kind = "custody" // signed manifest + wrapped keyring; one record, id CustodyID
)

// Meta is what every record carries. ID, Kind and Workspace never change.
type Meta struct {
	Kind      Kind   `json:"-"`
	ID        string `json:"id"`
	Workspace string `json:"workspace,omitempty"` // empty for workspaces, tokens and custody
	// Version starts at 1 and grows by one with every write of this record.
	Version uint64 `json:"version"`
	// Revision is the store-wide revision of the last write.
	Revision  uint64     `json:"revision"`
	CreatedAt time.Time  `json:"createdAt"`
	UpdatedAt time.Time  `json:"updatedAt"`
	DeletedAt *time.Time `json:"deletedAt,omitempty"` // soft delete: metadata stays, ciphertext is destroyed
	CreatedBy string     `json:"createdBy,omitempty"` // id of the admin token that made it; empty for what `init` made
	Creation  *Creation  `json:"creation,omitempty"`
}

// Creation remembers the request that made a record, when that carried an
// Idempotency-Key, so that a repeated request finds the record instead of making a second.
type Creation struct {
	Key    string `json:"key"`    // hex SHA-256 of token, route and Idempotency-Key
	Digest string `json:"digest"` // hex SHA-256 of the request's fields without its secrets
}

// Record is one of the record structs of this package.
type Record interface{ Meta() *Meta }

// ConnectorType is the API that a connector's endpoint speaks, spelt as in the admin API.
type ConnectorType string

const (
	TypeS3     ConnectorType = "S3"
	TypeOpenAI ConnectorType = "OPENAI"
	TypeOther  ConnectorType = "OTHER" // OpenAI-compatible
	// TypeAnthropic speaks the Anthropic API.
	TypeAnthropic ConnectorType = "ANTHROPIC"
)

// Access is what a repository key may do.
type Access string

const (
	AccessRead  Access = "READ"
	AccessWrite Access = "WRITE"
	AccessAdmin Access = "ADMIN"
)

type Workspace struct {
	M    Meta   `json:"meta"`
	Name string `json:"name"` // unique in the store
}

// Connector is one configured provider resource: a bucket or an AI LLM.
type Connector struct {
	M        Meta          `json:"meta"`
	Name     string        `json:"name"` // unique among connectors of the workspace
	Type     ConnectorType `json:"type"`
	Bucket   string        `json:"bucket,omitempty"`
	Endpoint string        `json:"endpoint"` // as configured or defaulted; for display: the binding decides
	Region   string        `json:"region,omitempty"`
	// CACertificate is PEM, empty for the system roots.
	CACertificate string `json:"caCertificate,omitempty"`
	// CredentialID is the connector's own id, or that of a shared credential.
	CredentialID string `json:"credentialId"`
	// RetiredSecret is the version of the last secret of its own, once the connector
	// uses a shared one: a new secret of its own continues from there.
	RetiredSecret            uint64 `json:"retiredSecret,omitempty"`
	AllowBucketConfiguration bool   `json:"allowBucketConfiguration,omitempty"`
	// Models route requests for them here, beside those that the provider lists (AI only).
	Models []string `json:"models,omitempty"`
}

// Credential is sealed provider key material. A credential made with its
// connector has the connector's id.
type Credential struct {
	M      Meta         `json:"meta"`
	Key    string       `json:"key,omitempty"` // access key id; for display: the binding decides
	Sealed *seal.Sealed `json:"sealed"`        // nil once deleted
	Wraps  Wraps        `json:"wraps,omitzero"`
	// Shared is nil for a credential that was made with its connector.
	Shared *Shared `json:"shared,omitempty"`
}

// Shared is what a credential that several connectors may use has of its own.
type Shared struct {
	Provider       string `json:"provider"` // as in the admin API, e.g. "AWS"
	Endpoint       string `json:"endpoint"` // for display: the binding decides
	Region         string `json:"region,omitempty"`
	CACertificate  string `json:"caCertificate,omitempty"` // PEM, empty for the system roots
	TenantID       string `json:"tenantId,omitempty"`
	SubscriptionID string `json:"subscriptionId,omitempty"`
	Description    string `json:"description,omitempty"`
}

type Repository struct {
	M        Meta                `json:"meta"`
	Name     string              `json:"name"` // unique among repositories of the workspace
	Disabled bool                `json:"disabled,omitempty"`
	Storage  []RepositoryStorage `json:"storage,omitempty"`
	AI       []string            `json:"ai,omitempty"` // connector ids
	// StorageType is the type of all its storage connectors; empty for an AI-only repository.
	StorageType ConnectorType `json:"storageType,omitempty"`
}

type RepositoryStorage struct {
	ConnectorID string `json:"connectorId"`
	// Folder limits the repository to the keys of the bucket that begin with it. It
	// ends in a slash; empty for the whole bucket.
	Folder string `json:"folder,omitempty"`
	Master bool   `json:"master,omitempty"`
}

// Key is a repository key. Its secret is in Sealed: the S3 secret itself, or
// SHA-256 of a bearer secret.
type Key struct {
	M          Meta          `json:"meta"`
	Name       string        `json:"name"`
	Repository string        `json:"repository"`
	Type       ConnectorType `json:"type"` // S3 for storage keys, else the AI type
	Key        string        `json:"key"`  // public key id; unique in the store
	Access     Access        `json:"access,omitempty"`
	Disabled   bool          `json:"disabled,omitempty"`
	ExpiresAt  *time.Time    `json:"expiresAt,omitempty"`
	Sealed     *seal.Sealed  `json:"sealed"` // nil once deleted
	Wraps      Wraps         `json:"wraps,omitzero"`
}

// Wraps are further wraps of the key of a sealed record, made by a bridge that opened
// it. They belong to one version of the secret and go with it.
type Wraps struct {
	// Adopted is under a symmetric record key: bridges open with it in microseconds.
	Adopted *seal.Wrap `json:"adopted,omitempty"`
	// Former is the wrap that Sealed came with, once that was replaced by one under a
	// newer sealing key; kept until the older key is retired.
	Former *seal.Wrap `json:"former,omitempty"`
}

// Token is an admin API token; only its SHA-256 is stored (it carries 256 random bits).
type Token struct {
	M    Meta   `json:"meta"`
	Name string `json:"name"`
	Hash []byte `json:"hash"`
	// Roles maps a workspace id, or "*" for all, to READ, WRITE or ADMIN.
	Roles     map[string]Access `json:"roles"`
	ExpiresAt *time.Time        `json:"expiresAt,omitempty"`
}

// CustodyID is the id of the one Custody record.
const CustodyID = "custody"

// Custody is what bridges need before they can ask keepers: the newest signed
// manifest and the wrapped keyring, both opaque here.
type Custody struct {
	M        Meta   `json:"meta"`
	Manifest []byte `json:"manifest"`
	Keyring  []byte `json:"keyring"` // that Manifest names
	// Staged are wrapped keyrings that a ceremony under way may put in force.
	Staged [][]byte `json:"staged,omitempty"`
}

func (r *Workspace) Meta() *Meta  { return &r.M }
func (r *Connector) Meta() *Meta  { return &r.M }
func (r *Credential) Meta() *Meta { return &r.M }
func (r *Repository) Meta() *Meta { return &r.M }
func (r *Key) Meta() *Meta        { return &r.M }
func (r *Token) Meta() *Meta      { return &r.M }
func (r *Custody) Meta() *Meta    { return &r.M }

var (
	ErrNotFound = errors.New("store: no such record")
	ErrConflict = errors.New("store: version conflict") // compare-and-swap lost
	ErrClosed   = errors.New("store: closed")
	// ErrUnwritable says that what holds the store took nothing of the batch: its disk is
	// full or broken. Reading goes on, and so does writing once that is mended.
	ErrUnwritable = errors.New("store: cannot be written")
	// ErrFuture ends a Watch from a revision that the store has not reached, as
	// after a restore from a backup: start again from 0.
	ErrFuture = errors.New("store: revision lies ahead of the store")
)

// TakenError says that a unique name belongs to another record.
type TakenError struct{ Name string }

func (e *TakenError) Error() string { return "store: name taken: " + e.Name }

// Write is one record of an atomic batch. The store sets Kind, Version,
// Revision, CreatedAt and UpdatedAt of the record.
type Write struct {
	Record Record
	// Expect is the version that the stored record must have; 0 for a create.
	// Otherwise nothing is written: ErrConflict, or ErrNotFound without such a record.
	Expect uint64
	// IfRevision, when not 0, is the revision that the store must still be at,
	// else ErrConflict: for a decision that rests on more than this record, as
	// "no repository uses this connector".
	IfRevision uint64
	// KeepVersion leaves the record's Version and UpdatedAt as they are (the revision rises): for what is
	// no change to whoever edits the record, such as another wrap of its key.
	KeepVersion bool
	// AsIs leaves the record's Version and times as they are: it comes from a backup.
	AsIs bool
	// Unique are the names the record holds after this write, e.g.
	// "connector/<workspace>/<name>"; names it held before and does not list are
	// released. A name that another record holds after the batch: *TakenError.
	Unique []string
}

// Event is one changed record. Records carry their state in Meta.DeletedAt; nothing is ever removed.
type Event struct {
	Revision uint64
	Record   Record
}

// Page asks for part of a List.
type Page struct {
	Workspace string // empty: all
	After     string // id after which to start; empty: from the beginning
	Limit     int    // 0: 1000
	Deleted   bool   // include soft-deleted records
}

// Store holds the records. Implementations: bolt; all pass storetest.
// Returned records belong to the caller.
type Store interface {
	Get(ctx context.Context, kind Kind, id string) (Record, error)
	// List returns records of a kind ordered by id, at most Limit.
	List(ctx context.Context, kind Kind, p Page) ([]Record, error)
	// ByUnique finds the record that holds a unique name.
	ByUnique(ctx context.Context, name string) (Record, error)
	// Apply writes all records or none, and returns the revision they share.
	Apply(ctx context.Context, writes ...Write) (revision uint64, err error)
	// Watch yields the newest state of every record changed after revision
	// `from`, in revision order, then each change as it happens, until ctx ends
	// or the store closes (both yield a last error). One revision's records are
	// yielded together. A slow consumer sees newer states, never a gap, and holds
	// up nobody else.
	Watch(ctx context.Context, from uint64) iter.Seq2[[]Event, error]
	// Revision is that of the last write.
	Revision(ctx context.Context) (uint64, error)
	Close() error
}
