package grant

import (
	"math"
	"strings"
	"sync/atomic"
	"time"

	"keybridge/extproc/credential"
)

// Uses of secrets, as in seal.Binding.Use.
const (
	UseStorageKey = "s3-key"    // repository key for storage
	UseAIKey      = "ai-key"    // repository key for AI
	UseS3         = "s3"        // provider credential of an S3 endpoint
	UseOpenAI     = "openai"    // provider credential of an OpenAI-compatible endpoint
	UseAnthropic  = "anthropic" // provider credential of an Anthropic endpoint
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
	ProviderAnthropic
)

// Key is a repository key. There may be a million, so it keeps nothing that its secret
// or its repository says.
type Key struct {
	ID         string // public key id, unique in the index
	Secret     *credential.Credential
	repository *place
	expires    int64 // unix seconds; 0: never
	Access     Access
	Disabled   bool
	ai         aiType
}

// place is where the keys of a repository find it as it is now.
type place struct {
	now  atomic.Pointer[Repository] // never nil
	keys int                        // of the Builder: how many stand in it
}

// gone stands in the place of a repository that does not exist.
func gone(id, workspace string) *Repository {
	return &Repository{ID: id, Workspace: workspace, Disabled: true, gone: true}
}

// aiType is the type of an AI key; 0 is a storage key.
type aiType uint8

var aiTypes = [...]string{"", AITypeOther, AITypeOpenAI, AITypeAnthropic}

// Record is the id of the key's record.
func (k *Key) Record() string { return k.Secret.Record() }

// Workspace is the key's, its repository's and its connectors'.
func (k *Key) Workspace() string { return k.Secret.Workspace() }

// Use is UseStorageKey or UseAIKey.
func (k *Key) Use() string {
	if k.ai == 0 {
		return UseStorageKey
	}
	return UseAIKey
}

// AIType of an AI key: AITypeOpenAI, AITypeAnthropic or AITypeOther.
func (k *Key) AIType() string { return aiTypes[k.ai] }

// Expires is when the key ends; zero: never.
func (k *Key) Expires() time.Time {
	if k.expires == 0 {
		return time.Time{}
	}
	return time.Unix(k.expires, 0)
}

// Repository is the key's repository as it is now, and stays as it is returned: a
// request asks once, or may see two.
func (k *Key) Repository() *Repository { return k.repository.now.Load() }

// Valid says whether the key may be used now: neither it nor its repository is
// disabled, and it has not expired.
func (k *Key) Valid(now time.Time) bool {
	return !k.Disabled && !k.Repository().Disabled && (k.expires == 0 || now.Unix() < k.expires)
}

// Repository is a group of connectors.
type Repository struct {
	ID        string
	Workspace string
	Name      string
	Disabled  bool
	Buckets   map[string]Bucket // by the provider's bucket name
	Account   *Connector        // the one connector of AllBuckets, nil if there is none
	AI        []*Connector      // in the repository's order

	gone bool
}

// Bucket is a bucket of a repository: its connector, and the folder that limits the
// repository to the keys that begin with it. It ends in a slash; empty: no limit.
type Bucket struct {
	*Connector
	Folder string
}

// AllBuckets is the bucket of an account connector: any bucket that its credential
// reaches.
const AllBuckets = "*"

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
	// Models are what an AI connector offers: those of its record and those that the
	// provider lists, in any order, one perhaps in both ways; see [Connector.Match].
	Models []Model
}

// Model is one model, or one pattern of models, of an AI connector.
type Model struct {
	// ID is what requests name as their model. One that the record configures may
	// end in "*", which stands for the rest of a name.
	ID      string
	Name    string // as the provider displays it; may be empty
	Created int64  // seconds since 1970; 0 if unknown
	Listed  bool   // by the provider, else configured in the connector's record
}

// Pattern says whether m stands for more than one model.
func (m *Model) Pattern() bool { return !m.Listed && strings.HasSuffix(m.ID, "*") }

// Match says how well a model fits a connector: 0 not at all; more the longer the
// prefix that a pattern gives; most when the model is among Models by its own name.
func (c *Connector) Match(model string) int {
	best := 0
	for i := range c.Models {
		m := &c.Models[i]
		if !m.Pattern() {
			if m.ID == model {
				return math.MaxInt
			}
			continue
		}
		if n := len(m.ID); n > best && strings.HasPrefix(model, m.ID[:n-1]) {
			best = n
		}
	}
	return best
}

// Model is the model of that very name, as the provider lists it if it does; nil if
// it is none of the connector's, or only by a pattern.
func (c *Connector) Model(id string) *Model {
	var found *Model
	for i := range c.Models {
		if m := &c.Models[i]; m.ID == id && !m.Pattern() {
			if found = m; m.Listed {
				break
			}
		}
	}
	return found
}

// Types of AI keys, as in the admin API.
const (
	AITypeOpenAI    = "OPENAI"
	AITypeAnthropic = "ANTHROPIC"
	AITypeOther     = "OTHER" // OpenAI-compatible, any vendor
)

// Reaches says whether a key may use an AI connector: keys of type ANTHROPIC use
// Anthropic connectors, all others OpenAI-compatible ones.
func (k *Key) Reaches(c *Connector) bool {
	return (k.AIType() == AITypeAnthropic) == (c.Provider == ProviderAnthropic)
}

// Live is the index that requests use. Load answers nil while the bridge is sealed.
type Live struct{ p atomic.Pointer[Index] }

// Load returns the current index, nil while the bridge is sealed or purged.
func (l *Live) Load() *Index { return l.p.Load() }

// Store publishes ix; nil seals.
func (l *Live) Store(ix *Index) { l.p.Store(ix) }
