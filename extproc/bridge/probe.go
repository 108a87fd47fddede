package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

// Prober makes one cheap call at a connector's provider with its credential. The
// error is for people; what came with it may still say something. Time, size and
// whom it reaches are the client's.
type Prober func(ctx context.Context, client *http.Client, c *grant.Connector) (grant.Probed, error)

const (
	// arriveWithin is how long a probe waits for a connector or credential that the
	// control plane has and the feeds have not brought yet.
	arriveWithin = 2 * time.Second
	arrivePoll   = 20 * time.Millisecond
)

var (
	errNotUnsealed = errors.New("the bridge is not unsealed")
	errElsewhere   = errors.New("the bridge is not enrolled for this workspace")
)

// probed is the outcome of a call, free of secrets.
type probed struct {
	took    time.Duration
	region  string
	models  []grant.Model
	problem string // empty: it worked
	refused bool   // the operator does not allow the address that the endpoint's name resolves to
	denied  bool   // the provider refuses the credential itself
}

// answer makes the call that the control plane asks for. It obeys the sealed
// binding as requests do: whoever holds the control plane cannot have a
// credential sent elsewhere.
func (b *Bridge) answer(ctx context.Context, p *link.Probe) *link.ProbeResult {
	out, err := b.asked(ctx, p)
	if err != nil {
		out = &probed{problem: publish(err.Error())}
	}
	r := &link.ProbeResult{Ok: out.problem == "", LatencyMs: uint32(out.took.Milliseconds()), Message: out.problem, Region: out.region}
	for _, m := range out.models {
		r.Models = append(r.Models, &link.Model{Id: m.ID, Name: m.Name, Created: m.Created})
	}
	return r
}

func (b *Bridge) asked(ctx context.Context, p *link.Probe) (*probed, error) {
	if !b.serves(p.Workspace) {
		return nil, errElsewhere
	}
	keyring := b.keyring.Load()
	if keyring == nil {
		return nil, errNotUnsealed
	}
	c := &configv1.Connector{
		Id: cmp.Or(p.Connector, "new"), Workspace: p.Workspace, Name: "new", CredentialId: p.Credential,
		Provider: configv1.Provider(configv1.Provider_value["PROVIDER_"+p.Provider]),
		Bucket:   p.Bucket, Region: p.Region, CaCertificates: p.CaCertificates,
	}
	switch {
	case len(p.Sealed) > 0:
		cred, err := b.openForProbe(ctx, keyring, p)
		if err != nil {
			return nil, err
		}
		defer cred.Free() // the call has ended by then
		return b.call(ctx, c, cred, p.Region == "")
	case p.Credential != "":
		cred, err := arrived(ctx, func() (*credential.Credential, error) { return b.credentialOf(p.Workspace, p.Credential) })
		if err != nil {
			return nil, err
		}
		return b.call(ctx, c, cred, p.Region == "")
	}
	c, err := arrived(ctx, func() (*configv1.Connector, error) { return b.connectorOf(p.Workspace, p.Connector) })
	if err != nil {
		return nil, err
	}
	cred, err := arrived(ctx, func() (*credential.Credential, error) { return b.credentialOf(p.Workspace, c.CredentialId) })
	if err != nil {
		return nil, err
	}
	out, err := b.call(ctx, c, cred, false)
	if err == nil {
		b.catalog.learn(c, cred, out)
	}
	return out, err
}

// serves says whether this bridge is enrolled for a workspace: the control plane's word is not taken for it.
func (b *Bridge) serves(workspace string) bool {
	m := b.cfg.Trust.Manifest()
	if m == nil || workspace == "" {
		return false
	}
	for _, enrolled := range m.Bridges {
		if enrolled.Name == b.cfg.Identity.Name() {
			return link.Enrolled(enrolled.Workspaces, workspace)
		}
	}
	return false
}

// openForProbe opens a record that is not stored yet; the caller frees it.
func (b *Bridge) openForProbe(ctx context.Context, keyring *unseal.Keyring, p *link.Probe) (cred *credential.Credential, err error) {
	var s seal.Sealed
	if err := s.UnmarshalBinary(p.Sealed); err != nil {
		return nil, err
	}
	if h := s.Header; h.Type != seal.TypeCredential || h.Workspace != p.Workspace {
		return nil, fmt.Errorf("sealed as a %s of workspace %s", h.Type, h.Workspace)
	}
	err = keyring.Window(ctx, func(w *unseal.Window) error {
		return w.Open(&s, func(plaintext []byte) (err error) {
			cred, err = credential.New(b.arena, s.Header, plaintext)
			return err
		})
	})
	return cred, err
}

func (b *Bridge) connectorOf(workspace, id string) (*configv1.Connector, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resources != nil {
		if c := b.resources.Connectors[workspace+"/"+id]; c != nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("the bridge has no connector %.36q in this workspace", id)
}

func (b *Bridge) credentialOf(workspace, id string) (*credential.Credential, error) {
	if cred := b.records.credential(id); cred != nil && cred.Workspace() == workspace {
		return cred, nil
	}
	return nil, fmt.Errorf("its credential %.36q is not here or did not open", id)
}

// arrived tries get until it works or has had its time.
func arrived[T any](ctx context.Context, get func() (T, error)) (T, error) {
	give := time.Now().Add(arriveWithin)
	for {
		v, err := get()
		if err == nil || time.Now().After(give) || !pause(ctx, arrivePoll) {
			return v, err
		}
	}
}

// ask is the prober's call. It reads what strangers send: a panic there must not end the bridge.
func ask(ctx context.Context, p Prober, client *http.Client, c *grant.Connector) (found grant.Probed, err error) {
	defer func() {
		if recover() != nil {
			found, err = grant.Probed{}, errors.New("the provider's answer could not be read")
		}
	}()
	return p(ctx, client, c)
}

// call asks the provider of c with cred. With learn, a provider that names another
// region than the default is asked again there. Errors are those of what was asked for;
// what the provider or the way there says is in the outcome.
func (b *Bridge) call(ctx context.Context, c *configv1.Connector, cred *credential.Credential, learn bool) (*probed, error) {
	in, err := b.bindOne(c, cred)
	if err != nil {
		return nil, err
	}
	connector, err := grant.NewConnector(in.ConnectorInput)
	if err != nil {
		return nil, err
	}
	prober := b.cfg.Probers[connector.Provider]
	if prober == nil {
		return nil, errors.New("the bridge cannot probe connectors of this type")
	}
	to := in.endpoint
	client, err := guarded(seal.Endpoint{Scheme: to.Scheme, Host: to.Host, Port: to.Port}, to.CAPEM, b.cfg.SystemRoots, b.cfg.Endpoints, resolver(b.cfg.DNS))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ProbeTimeout)
	defer cancel()
	start := time.Now()
	found, err := ask(ctx, prober, client, connector)
	if region := found.Region; err != nil && learn && isRegion(region) && region != connector.Region {
		again := *connector
		again.Region, start = region, time.Now()
		if found, err = ask(ctx, prober, client, &again); err == nil {
			found.Region = region
		}
	}
	b.counters.probe(err)
	out := &probed{took: time.Since(start), denied: err != nil && found.Denied}
	if isRegion(found.Region) {
		out.region = found.Region
	}
	secrets := []lockedmem.Secret{cred.Secret(), cred.Token()}
	if err != nil {
		out.refused = errors.Is(err, seal.ErrEndpoint)
		message := err.Error()
		if ctx.Err() != nil {
			message = fmt.Sprintf("no answer within %v", b.cfg.ProbeTimeout)
		}
		out.problem = cmp.Or(publish(message, secrets...), "the provider refused without a word")
		return out, nil
	}
	out.models = slices.DeleteFunc(found.Models, func(m grant.Model) bool { return publish(m.ID, secrets...) != m.ID })
	for i := range out.models {
		out.models[i].Name = publish(out.models[i].Name, secrets...)
	}
	return out, nil
}

// health is call for the catalog, which wants an outcome whatever happens.
func (b *Bridge) health(ctx context.Context, c *configv1.Connector, cred *credential.Credential) *probed {
	out, err := b.call(ctx, c, cred, false)
	if err != nil {
		return &probed{problem: publish(err.Error())}
	}
	return out
}

// isRegion accepts what may stand in a credential scope and in a record.
func isRegion(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
