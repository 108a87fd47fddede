package grant

import (
	"sync/atomic"
	"time"

	"keybridge/extproc/credential"
)

// Uses of secrets, as in seal.Binding.Use.
const (
	UseStorageKey = "s3-key" // repository key for storage
	UseAIKey      = "ai-key" // repository key for AI
	UseS3         = "s3"     // provider credential of an S3 endpoint
	UseOpenAI     = "openai" // provider credential of an OpenAI-compatible endpoint
)

// Access is what a repository key may do, or what an operation needs.
type Access uint8

const (
	AccessNone  Access = 0
	AccessRead  Access = 1
	AccessWrite Access = 2                        // writes only
	AccessAdmin Access = AccessRead | AccessWrite // both
)

// Allows says whether a key with access a may do what needs need. What READ keys
// and WRITE keys may both do is asked for once with each.
func (a Access) Allows(need Access) bool { return need != AccessNone && a&need == need }

// Provider is the API that a connector's endpoint speaks.
type Provider uint8

const (
	ProviderS3 Provider = iota + 1
	ProviderOpenAI
	ProviderOther // OpenAI-compatible, any vendor
)

// Key is a repository key.
type Key struct {
	ID         string // public key id, unique in the index
	Record     string
	Workspace  string
	Use        string // UseStorageKey or UseAIKey
	Access     Access
	Expires    time.Time // zero: never
	Disabled   bool
	Secret     *credential.Credential
	Repository *Repository
}

// Valid says whether the key may be used now: neither it nor its repository is
// disabled, and it has not expired.
func (k *Key) Valid(now time.Time) bool {
	return !k.Disabled && !k.Repository.Disabled && (k.Expires.IsZero() || now.Before(k.Expires))
}

// Repository is a group of connectors.
type Repository struct {
	ID        string
	Workspace string
	Name      string
	Disabled  bool
	Buckets   map[string]*Connector // by the provider's bucket name
	AI        []*Connector          // in the repository's order
}

// Connector is one provider resource and the credential for it.
type Connector struct {
	ID         string
	Workspace  string
	Name       string
	Provider   Provider
	Bucket     string // storage only
	Region     string // storage only
	Credential *credential.Credential
	Cluster    string // the Envoy cluster of the bound endpoint
	// Authority is the bound host as a request names it: host, or host:port where
	// the port is not the scheme's own.
	Authority string
	// BasePath is the bound path prefix of an AI API ("/v1"), without a slash at its end.
	BasePath                 string
	AllowBucketConfiguration bool
}

// Index is immutable: Build makes it, Live publishes it.
type Index struct{ keys map[string]*Key }

// Lookup finds a key by its public id; nil if there is none.
func (ix *Index) Lookup(keyID string) *Key { return ix.keys[keyID] }

// Len is the number of keys.
func (ix *Index) Len() int { return len(ix.keys) }

// Live is the index that requests use. Load answers nil while the bridge is sealed.
type Live struct{ p atomic.Pointer[Index] }

// Load returns the current index, nil while the bridge is sealed or purged.
func (l *Live) Load() *Index { return l.p.Load() }

// Store publishes ix; nil seals.
func (l *Live) Store(ix *Index) { l.p.Store(ix) }
