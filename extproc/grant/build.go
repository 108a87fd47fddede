package grant

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"keybridge/extproc/credential"
)

// Input is everything that an index is built from. Ids and workspaces are those
// that the feed claimed; Build holds them against the headers of the credentials.
type Input struct {
	Keys         []KeyInput
	Repositories []RepositoryInput
	Connectors   []ConnectorInput
}

// KeyInput is a repository key; its key id, use and repository are in its credential's binding.
type KeyInput struct {
	ID         string // record id
	Workspace  string
	AIType     string // of an AI key; empty: AITypeOther
	Access     Access
	Expires    time.Time
	Disabled   bool
	Credential *credential.Credential
}

// RepositoryInput is a repository and the ids of its connectors.
type RepositoryInput struct {
	ID        string
	Workspace string
	Name      string
	Disabled  bool
	Storage   []StorageInput
	AI        []string
}

// StorageInput is one storage connector of a repository; Folder as in [Bucket]. The
// connector is left out if its folder is none that a protocol could hold keys to.
type StorageInput struct {
	Connector string
	Folder    string
}

// ConnectorInput is a connector; where its credential may go is in that one's
// binding, and Cluster names that endpoint.
type ConnectorInput struct {
	ID                       string
	Workspace                string
	Name                     string
	Provider                 Provider
	Bucket                   string
	Region                   string // empty: us-east-1
	Cluster                  string
	AllowBucketConfiguration bool
	Models                   []Model // AI only; kept by the index
	Credential               *credential.Credential
}

// Problem names a part that was left out of an index, and why. Neither it nor its
// reason carries a secret.
type Problem struct {
	Kind      string // "key", "repository" or "connector"
	ID        string
	Workspace string
	Reason    string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s %s of workspace %s: %s", p.Kind, p.ID, p.Workspace, p.Reason)
}

// Build makes an index of everything in in that fits together, and names the rest.
func Build(in Input) (*Index, []Problem) {
	b := NewBuilder()
	b.Resources(in.Repositories, in.Connectors)
	for i := range in.Keys {
		b.Key(nil, &in.Keys[i])
	}
	return b.Index(), b.Problems()
}

func (b *resources) connector(in *ConnectorInput) {
	if reason := in.check(); reason != "" {
		b.problem("connector", in.ID, in.Workspace, reason)
		return
	}
	if b.connectors[in.ID] != nil {
		b.problem("connector", in.ID, in.Workspace, "id is used twice")
		return
	}
	binding := in.Credential.Binding()
	c := &Connector{
		ID: in.ID, Workspace: in.Workspace, Name: in.Name, Provider: in.Provider,
		Bucket: in.Bucket, Region: in.Region, Credential: in.Credential, Cluster: in.Cluster,
		Authority:                authority(binding.Scheme, binding.Host, binding.Port),
		AllowBucketConfiguration: in.AllowBucketConfiguration,
		Models:                   in.Models,
	}
	switch {
	case in.Provider == ProviderS3 && c.Region == "":
		c.Region = defaultRegion
	case in.Provider != ProviderS3:
		c.BasePath = strings.TrimSuffix(binding.Scope, "/")
		// Anthropic's SDKs append "/v1/messages" to their base URL, OpenAI's
		// "/chat/completions"; an endpoint is taken in either habit.
		if in.Provider == ProviderAnthropic && !strings.HasSuffix(c.BasePath, "/v1") {
			c.BasePath += "/v1"
		}
	}
	b.connectors[in.ID] = c
}

// defaultRegion is what S3 clients sign for when nothing else is said.
const defaultRegion = "us-east-1"

func (in *ConnectorInput) check() string {
	switch {
	case in.ID == "" || in.Workspace == "":
		return "no id or workspace"
	case in.Credential == nil:
		return "its credential could not be opened or does not exist"
	case in.Credential.Type() != typeCredential:
		return "its credential is sealed as something else"
	case in.Credential.Workspace() != in.Workspace:
		return "its credential belongs to another workspace"
	case in.Cluster == "":
		return "its endpoint has no cluster"
	}
	binding := in.Credential.Binding()
	switch in.Provider {
	case ProviderS3:
		switch {
		case binding.Use != UseS3:
			return "its credential is not for S3"
		case binding.Key == "":
			return "its credential has no access key id"
		case in.Bucket != AllBuckets && !validBucket(in.Bucket):
			return "its bucket's name is not valid"
		case binding.Scope != AllBuckets && binding.Scope != in.Bucket:
			return "its credential is bound to another bucket"
		}
	case ProviderOpenAI, ProviderOther, ProviderAnthropic:
		use := UseOpenAI
		if in.Provider == ProviderAnthropic {
			use = UseAnthropic
		}
		switch {
		case binding.Use != use:
			return "its credential is not for this AI API"
		case binding.Scope != "" && !strings.HasPrefix(binding.Scope, "/"):
			return "its credential's path does not begin with a slash"
		}
	default:
		return "unknown provider"
	}
	if binding.Host == "" || binding.Port == 0 || (binding.Scheme != "https" && binding.Scheme != "http") {
		return "its credential is bound to no endpoint"
	}
	return ""
}

// validBucket refuses what could not be one path segment. Providers are stricter,
// each in its own way ("Bucket naming rules", Amazon S3 User Guide).
func validBucket(s string) bool {
	return len(s) >= 1 && len(s) <= 255 && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
		})
}

// authority is the host as :authority and Host name it (RFC 9110 §7.2).
func authority(scheme, host string, port uint16) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + host + "]"
	}
	if (scheme == "https" && port == 443) || (scheme == "http" && port == 80) {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}

func (b *resources) repository(in *RepositoryInput) {
	if b.repositories[in.ID] != nil {
		b.problem("repository", in.ID, in.Workspace, "id is used twice")
		return
	}
	r := &Repository{ID: in.ID, Workspace: in.Workspace, Name: in.Name, Disabled: in.Disabled}
	find := func(id string, storage bool) *Connector {
		c := b.connectors[id]
		switch {
		case c == nil:
			b.problem("repository", in.ID, in.Workspace, "connector "+id+" is missing")
		case c.Workspace != in.Workspace:
			b.problem("repository", in.ID, in.Workspace, "connector "+id+" belongs to another workspace")
		case (c.Provider == ProviderS3) != storage:
			b.problem("repository", in.ID, in.Workspace, "connector "+id+" is of the wrong kind")
		default:
			return c
		}
		return nil
	}
	for _, s := range in.Storage {
		c := find(s.Connector, true)
		switch {
		case c == nil:
		case s.Folder != "" && c.Bucket == AllBuckets:
			b.problem("repository", in.ID, in.Workspace, "connector "+s.Connector+": a folder needs one bucket, not an account")
		case s.Folder != "" && !validFolder(s.Folder):
			b.problem("repository", in.ID, in.Workspace, "connector "+s.Connector+": its folder is not valid")
		case c.Bucket == AllBuckets && r.Account != nil:
			b.problem("repository", in.ID, in.Workspace, "connector "+s.Connector+": the repository has an account connector already")
		case c.Bucket == AllBuckets:
			r.Account = c
		case r.Buckets[c.Bucket].Connector != nil:
			b.problem("repository", in.ID, in.Workspace, "connector "+s.Connector+": the repository has its bucket already")
		default:
			if r.Buckets == nil {
				r.Buckets = make(map[string]Bucket, len(in.Storage))
			}
			r.Buckets[c.Bucket] = Bucket{c, s.Folder}
		}
	}
	for _, id := range in.AI {
		if c := find(id, false); c != nil && !slices.Contains(r.AI, c) {
			r.AI = append(r.AI, c)
		}
	}
	b.repositories[in.ID] = r
}

// resources are the connectors and repositories of one round.
type resources struct {
	connectors   map[string]*Connector
	repositories map[string]*Repository
	problems     []Problem
}

func (b *resources) problem(kind, id, workspace, reason string) {
	b.problems = append(b.problems, Problem{kind, id, workspace, reason})
}

// seal.TypeCredential and seal.TypeRepositoryKey; this room does not import seal.
const (
	typeCredential    = "credential"
	typeRepositoryKey = "repository-key"
)
