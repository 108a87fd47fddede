package main

import (
	"context"
	"errors"
	"path"
	"time"

	"keybridge/store"
	"keybridge/store/api"
	"keybridge/xds"
	"keybridge/xds/link"
)

// fleet shows the attached bridges to the admin API. It stands here because
// neither room may know the other.
type fleet struct {
	hub *link.Hub
	ads *xds.Server
}

// bridgePatience is how long a probe waits for a bridge that has just been
// started, or lost the control plane for a moment.
const bridgePatience = 3 * time.Second

// probeProviders are the names that link.Probe has for connector types.
var probeProviders = map[store.ConnectorType]string{
	store.TypeS3: "S3", store.TypeOpenAI: "OPENAI", store.TypeOther: "OTHER", store.TypeAnthropic: "ANTHROPIC",
}

func (f fleet) Probe(ctx context.Context, p api.Probe) (api.ProbeResult, error) {
	ask := &link.Probe{
		Connector: p.Connector, Credential: p.Credential, Workspace: p.Workspace, Provider: probeProviders[p.Type],
		Bucket: p.Bucket, Region: p.Region, CaCertificates: []byte(p.CACertificate),
	}
	if p.Sealed != nil {
		raw, err := p.Sealed.MarshalBinary()
		if err != nil {
			return api.ProbeResult{}, err
		}
		ask.Sealed = raw
	}
	r, err := f.hub.Probe(ctx, ask)
	for end := time.Now().Add(bridgePatience); errors.Is(err, link.ErrNoBridge) && ctx.Err() == nil && time.Now().Before(end); {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
			r, err = f.hub.Probe(ctx, ask)
		}
	}
	if errors.Is(err, link.ErrNoBridge) {
		return api.ProbeResult{}, errors.Join(api.ErrNoBridge, err)
	} else if err != nil {
		return api.ProbeResult{}, err
	}
	out := api.ProbeResult{OK: r.Ok, Latency: milliseconds(r.LatencyMs), Message: r.Message, Region: r.Region}
	for _, m := range r.Models {
		out.Models = append(out.Models, api.Model{ID: m.Id, Name: m.Name, Created: m.Created})
	}
	return out, nil
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

func (f fleet) Nodes() (out []api.Node) {
	for _, b := range f.hub.Bridges() {
		out = append(out, node(b))
	}
	return out
}

func node(b link.BridgeState) api.Node {
	n := api.Node{
		Name: b.Name, IP: b.Address, Region: b.Report.GetRegion(), Version: b.Report.GetVersion(),
		Status: api.StatusOnline, Latency: b.RTT, LastUpdated: b.LastReport, Services: 3, // every bridge serves storage and AI
	}
	n.Reason, n.Problems = b.Report.GetReason(), b.Report.GetProblems()
	for _, k := range b.Report.GetKeepers() {
		n.Keepers = append(n.Keepers, api.KeeperStatus{Name: k.Keeper, State: k.State, Detail: k.Detail})
	}
	switch {
	case !b.Connected:
		n.Status = api.StatusDisconnected
	case b.Report.GetState() != "ready":
		n.Status = api.StatusOffline
	}
	if urls := b.Report.GetUrls(); len(urls) > 0 {
		n.URL = urls[0]
	}
	return n
}

func (f fleet) ConnectorStatus(id string) (out []api.NodeStatus) {
	for _, b := range f.hub.Bridges() {
		for _, c := range b.Report.GetConnectors() {
			if c.Connector != id {
				continue
			}
			s := api.NodeStatus{Node: node(b), Message: c.Message}
			s.Latency, s.LastUpdated = milliseconds(c.LatencyMs), time.Unix(c.At, 0)
			switch {
			case !b.Connected:
				s.Status = api.StatusDisconnected
			case c.Online:
				s.Status = api.StatusOnline
			default:
				s.Status = api.StatusOffline
			}
			out = append(out, s)
		}
	}
	return out
}

// Sync is what bridges have of the control plane, and their Envoys of them.
func (f fleet) Sync() (out []api.SyncStatus) {
	for _, s := range f.ads.Status() {
		row := api.SyncStatus{Node: s.Node, Bridge: s.Node, Type: path.Base(s.TypeURL), Sent: s.Sent, Acked: s.Acked, Connected: s.Connected}
		if s.Nacked > s.Acked {
			row.Nack = s.Nack
		}
		out = append(out, row)
	}
	for _, b := range f.hub.Bridges() {
		for _, e := range b.Report.GetEnvoy() {
			out = append(out, api.SyncStatus{
				Node: e.Node, Bridge: b.Name, Type: path.Base(e.TypeUrl),
				Sent: e.Sent, Acked: e.Acked, Nack: e.Nack, Connected: e.Connected && b.Connected,
			})
		}
	}
	return out
}

var _ api.Fleet = fleet{}
