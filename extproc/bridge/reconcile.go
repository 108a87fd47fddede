package bridge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
	"keybridge/xds/client"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
	"keybridge/xds/translate"
)

const (
	// settleAfter bounds the wait for Envoy's ACK of new clusters: without one, requests
	// may be sent to a cluster that Envoy lacks, and get its 503. Less than retireAfter,
	// because until then a connector that moved is served with its old credential.
	settleAfter = 5 * time.Second
	// drainAfter is how long a cluster that no connector uses stays: requests that
	// were sent to it may still be running, and Envoy ends them with the cluster.
	drainAfter = 30 * time.Second
	// coalesce lets changes that belong together become one swap of the index.
	coalesce = 5 * time.Millisecond
)

// cluster is one bound endpoint in Envoy.
type cluster struct {
	endpoint translate.Endpoint
	settled  bool      // Envoy ACKed it, or had settleAfter to do so
	unused   time.Time // since when no connector needs it; zero while one does
}

// bound is a connector and the endpoint that its credential is bound to.
type bound struct {
	grant.ConnectorInput
	endpoint translate.Endpoint
}

// plan is what reconcile keeps between rounds; one goroutine owns it.
type plan struct {
	clusters     map[string]*cluster
	connectors   map[string]grant.ConnectorInput // as published, by id
	rendered     *client.State                   // the resources that Envoy's configuration was last made from
	certificates *certificates                   // that it was made with
	index        *grant.Builder
	generation   uint64   // of the records that it is made from
	full         bool     // more than keys has changed since the last index
	problems     []string // of the last index, but for what its builder says
	waiting      bool     // some connector waits for Envoy: what that leaves out is no problem yet
	// renderProblems are the endpoints and listeners that could not be rendered.
	renderProblems []string
	published      bool
	served         bool          // some index was published once
	settled        chan []string // clusters that awaitEnvoy has waited for
	expiries       *expiries
}

// reconcileLoop brings Envoy and the index in line with what has arrived.
func (b *Bridge) reconcileLoop(ctx context.Context) error {
	p := &plan{
		clusters:   map[string]*cluster{},
		connectors: map[string]grant.ConnectorInput{},
		index:      grant.NewBuilder(),
		settled:    make(chan []string),
		expiries:   newExpiries(),
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-p.expiries.timer.C:
			p.expiries.next(now)
			b.endRevoked(nil)
			continue
		case names := <-p.settled:
			for _, n := range names {
				if c := p.clusters[n]; c != nil {
					c.settled = true
				}
			}
			p.full = true
		case <-b.wake:
			if !pause(ctx, coalesce) {
				return ctx.Err()
			}
		}
		if err := b.reconcile(ctx, p); err != nil {
			return err
		}
	}
}

func (b *Bridge) reconcile(ctx context.Context, p *plan) error {
	fresh := b.full.Swap(false)
	p.full = p.full || fresh
	b.mu.Lock()
	res := b.resources
	b.mu.Unlock()
	settled := b.records.settled() // before reading them: what settles later comes with the next round
	changed := b.takeKeys(p)
	if res == nil || !p.published && !fresh && !settled {
		return nil // Envoy keeps what it has
	}
	if p.full || !p.published {
		if done, err := b.reconcileResources(ctx, p, res, settled); err != nil || !done {
			return err
		}
		p.full, changed = false, nil
	}
	if b.stale() {
		if b.publish(nil, Stale) {
			b.endRevoked(nil)
		}
		return nil
	}
	index := p.index.Index()
	if !b.publish(index, Ready) {
		return nil
	}
	p.expiries.next(time.Now())
	b.endRevoked(changed)
	if p.published = true; !p.served {
		p.served = true
		close(b.first)
	}
	problems := slices.Clone(p.problems)
	if !p.waiting {
		for _, q := range p.index.Problems() {
			problems = append(problems, q.String())
		}
	}
	b.reportProblems(problems, index.Len())
	return nil
}

// keysAtOnce bounds for how long the records are locked by takeKeys.
const keysAtOnce = 1024

// takeKeys brings the index under construction in line with the keys that have changed,
// and returns their records.
func (b *Bridge) takeKeys(p *plan) map[string]bool {
	changed, now := map[string]bool{}, time.Now()
	for {
		list, generation := b.records.changes(keysAtOnce)
		if generation != p.generation { // all that the index was made from is gone
			p.generation, p.index, p.published, p.full = generation, grant.NewBuilder(), false, true
		}
		if len(list) == 0 {
			return changed
		}
		for _, c := range list {
			old := c.rec.key
			if c.rec.key = p.index.Key(old, c.in); c.in == nil {
				p.index.Forget(c.id)
			}
			p.expiries.note(old, c.rec.key, now)
			if p.published {
				changed[c.id] = true
			}
		}
	}
}

// reconcileResources brings Envoy, and the index under construction, in line with
// connectors and repositories. It is done when that index may be published.
func (b *Bridge) reconcileResources(ctx context.Context, p *plan, res *client.State, settled bool) (done bool, err error) {
	connectors, problems, catalogued := b.bind(res.Connectors)
	if err := b.pushEnvoy(ctx, p, res, connectors, &problems); err != nil {
		return false, err
	}
	if b.State() < Syncing {
		// Nothing is open yet, or any more (seal): then it starts over.
		b.catalog.set(nil)
		p.published = false
		return false, nil
	}
	if !p.published && !settled {
		return false, nil // never publish half of what is stored: a missing key would be called unknown
	}
	if b.catalog.set(catalogued); !p.published && b.catalog.waiting() {
		time.AfterFunc(firstModels, b.changed)
		return false, nil
	}

	published := map[string]grant.ConnectorInput{}
	waiting := false
	for _, c := range connectors {
		next := c.ConnectorInput
		switch cl := p.clusters[c.Cluster]; {
		case cl == nil: // not renderable: reported by pushEnvoy
			continue
		case cl.settled:
		case !p.published:
			return false, nil // the first index waits for Envoy
		default:
			waiting = true
			old, ok := p.connectors[c.ID]
			if !ok {
				continue // appears with the ACK
			}
			next = old // moved, and Envoy does not know the new endpoint yet
		}
		published[next.ID] = next
	}
	p.index.Resources(repositoryInputs(res.Repositories), slices.Collect(maps.Values(published)))
	p.connectors, p.problems, p.waiting = published, problems, waiting
	return true, nil
}

// bind joins connectors with their opened credentials. The binding decides where
// each may go; what contradicts it, or what the operator does not allow, is left out.
func (b *Bridge) bind(in map[string]*configv1.Connector) (out []bound, problems []string, all []known) {
	for _, c := range byName(in) {
		next, err := b.bindOne(c, b.records.opened(c.CredentialId))
		if err != nil {
			problems = append(problems, fmt.Sprintf("connector %s (%s): %v", c.Name, c.Id, err))
			all = append(all, known{connector: c, problem: err.Error()})
			continue
		}
		if b.cfg.Probers[next.Provider] != nil {
			all = append(all, known{connector: c, cred: next.Credential, cluster: next.Cluster})
		}
		// Envoy connects to whatever the name resolves to: what was seen to be no place
		// to go to is left out until it is one.
		if why := b.catalog.refusal(c.Id); why != "" {
			problems = append(problems, fmt.Sprintf("connector %s (%s): %s", c.Name, c.Id, why))
			continue
		}
		next.Models = b.catalog.modelsOf(c)
		out = append(out, next)
	}
	return out, problems, all
}

func (b *Bridge) bindOne(c *configv1.Connector, cred *credential.Credential) (bound, error) {
	if cred == nil {
		return bound{}, fmt.Errorf("its credential %s is not here or did not open", c.CredentialId)
	}
	to := cred.Binding()
	if err := b.cfg.Endpoints.Check(seal.Endpoint{Scheme: to.Scheme, Host: to.Host, Port: to.Port}); err != nil {
		return bound{}, err
	}
	if seal.CADigest(c.CaCertificates) != to.CA {
		return bound{}, fmt.Errorf("its CA certificates are not those that its credential is bound to")
	}
	endpoint := translate.Endpoint{
		Scheme: to.Scheme, Host: to.Host, Port: to.Port, CAPEM: c.CaCertificates,
		HTTP2: to.Use != seal.UseS3, // S3 servers speak HTTP/1.1
	}
	return bound{
		endpoint: endpoint,
		ConnectorInput: grant.ConnectorInput{
			ID:                       c.Id,
			Workspace:                c.Workspace,
			Name:                     c.Name,
			Provider:                 providers[c.Provider],
			Bucket:                   c.Bucket,
			Region:                   c.Region,
			Cluster:                  endpoint.Cluster(),
			AllowBucketConfiguration: c.AllowBucketConfiguration,
			Credential:               cred,
		},
	}, nil
}

// byName puts resources in an order that does not change from round to round.
func byName[T any](in map[string]T) []T {
	out := make([]T, 0, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		out = append(out, in[name])
	}
	return out
}

var providers = map[configv1.Provider]grant.Provider{
	configv1.Provider_PROVIDER_S3:        grant.ProviderS3,
	configv1.Provider_PROVIDER_OPENAI:    grant.ProviderOpenAI,
	configv1.Provider_PROVIDER_OTHER:     grant.ProviderOther,
	configv1.Provider_PROVIDER_ANTHROPIC: grant.ProviderAnthropic,
}

// pushEnvoy makes Envoy's configuration that of the wanted endpoints and of those that still drain.
func (b *Bridge) pushEnvoy(ctx context.Context, p *plan, res *client.State, wanted []bound, problems *[]string) error {
	now := time.Now()
	certificates := b.cfg.Certificates.current()
	changed := p.rendered != res || p.certificates != certificates
	*problems = append(*problems, certificates.problems...)
	need := map[string]bool{}
	var fresh []string
	for _, w := range wanted {
		name := w.Cluster
		need[name] = true
		if c := p.clusters[name]; c != nil {
			c.unused = time.Time{}
		} else {
			p.clusters[name] = &cluster{endpoint: w.endpoint}
			fresh = append(fresh, name)
			changed = true
		}
	}
	for name, c := range p.clusters {
		switch {
		case need[name]:
		case c.unused.IsZero():
			c.unused = now
			time.AfterFunc(drainAfter, b.changed)
		case now.Sub(c.unused) >= drainAfter:
			delete(p.clusters, name)
			changed = true
		}
	}
	if !changed {
		*problems = append(*problems, p.renderProblems...)
		return nil
	}
	in := translate.Input{
		Listeners: byName(res.Listeners), ExtProcSocket: b.extprocSocket(), SystemRoots: b.cfg.SystemRoots, DNS: b.cfg.DNS,
		Certificates: certificates.usable,
	}
	for _, name := range slices.Sorted(maps.Keys(p.clusters)) {
		in.Endpoints = append(in.Endpoints, p.clusters[name].endpoint)
	}
	out, bad := translate.Render(in)
	p.renderProblems = nil
	for _, q := range bad {
		p.renderProblems = append(p.renderProblems, q.String())
	}
	*problems = append(*problems, p.renderProblems...)
	for name := range p.clusters {
		if out.CDS[name] == nil {
			delete(p.clusters, name)
		}
	}
	// Clusters before the routes and listeners that name them.
	version, err := b.ads.Set(envoyNode, resource.ClusterType, out.CDS)
	if err == nil {
		_, err = b.ads.Set(envoyNode, resource.RouteType, out.RDS)
	}
	if err == nil {
		_, err = b.ads.Set(envoyNode, resource.SecretType, out.SDS)
	}
	if err == nil {
		_, err = b.ads.Set(envoyNode, resource.ListenerType, out.LDS)
	}
	if err != nil {
		return fmt.Errorf("rendering for Envoy: %w", err)
	}
	p.rendered, p.certificates = res, certificates
	if len(fresh) > 0 {
		go b.awaitEnvoy(ctx, p.settled, version, fresh)
	}
	return nil
}

// awaitEnvoy reports clusters as settled once Envoy has accepted them.
func (b *Bridge) awaitEnvoy(ctx context.Context, settled chan<- []string, version uint64, names []string) {
	wait, cancel := context.WithTimeout(ctx, settleAfter)
	defer cancel()
	if err := b.ads.WaitAcked(wait, envoyNode, resource.ClusterType, version); err != nil && ctx.Err() == nil {
		b.cfg.Logger.Warn("Envoy did not accept new clusters", "clusters", names, "error", err)
	}
	select {
	case settled <- names:
		b.tell()
	case <-ctx.Done():
	}
}

var accesses = map[link.Access]grant.Access{
	link.Access_READ:  grant.AccessRead,
	link.Access_WRITE: grant.AccessWrite,
	link.Access_ADMIN: grant.AccessAdmin,
}

func repositoryInputs(in map[string]*configv1.Repository) []grant.RepositoryInput {
	out := make([]grant.RepositoryInput, 0, len(in))
	for _, r := range in {
		next := grant.RepositoryInput{ID: r.Id, Workspace: r.Workspace, Name: r.Name, Disabled: r.Disabled, AI: r.Ai}
		for _, s := range r.Storage {
			next.Storage = append(next.Storage, grant.StorageInput{Connector: s.ConnectorId, Folder: s.Folder})
		}
		out = append(out, next)
	}
	return out
}
