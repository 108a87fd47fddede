package bridge

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"keybridge/xds/link"
)

const (
	// maxProblems and maxStatuses bound a report, which must stay below gRPC's 4 MiB.
	maxProblems = 200
	maxStatuses = 8000
)

// attach keeps the way back to the control plane open.
func (b *Bridge) attach(ctx context.Context) error {
	a := link.Attachment{Control: b.cfg.Control, Report: b.report, Changed: b.news, Probe: b.answer, Manifest: b.learn, Log: b.cfg.Logger}
	return a.Run(ctx)
}

// tell has the control plane informed of what is new, soon.
func (b *Bridge) tell() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// report is what the control plane shows of this bridge. Everything in it is free of secrets.
func (b *Bridge) report() *link.Report {
	connectors := b.catalog.statuses()
	slices.SortFunc(connectors, func(x, y *link.ConnectorStatus) int {
		if x.Online != y.Online { // what is wrong comes first, and stays when there is too much
			if y.Online {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.Connector, y.Connector)
	})
	b.mu.Lock()
	r := &link.Report{
		State: b.State().String(), Version: b.cfg.Version, Region: b.cfg.Region, Urls: b.cfg.URLs,
		Reason: b.custody, Connectors: connectors[:min(len(connectors), maxStatuses)],
	}
	for _, name := range slices.Sorted(maps.Keys(b.keepers)) {
		k := b.keepers[name]
		r.Keepers = append(r.Keepers, &link.KeeperReport{Keeper: k.Keeper, State: string(k.State), Detail: k.Detail})
	}
	r.Problems = slices.Clone(b.problems[:min(len(b.problems), maxProblems)])
	b.mu.Unlock()
	if m := b.cfg.Trust.Manifest(); m != nil {
		r.ManifestVersion = m.Version
	}
	if k := b.keyring.Load(); k != nil {
		r.SealingKeys = k.SealingKeys()
	}
	if r.Reason == "" && b.State() == Stale {
		r.Reason = "the control plane was away for too long"
	}
	for _, e := range b.ads.Status() {
		t := &link.TypeStatus{Node: e.Node, TypeUrl: e.TypeURL, Sent: e.Sent, Acked: e.Acked, Connected: e.Connected}
		if e.Nacked > e.Acked {
			t.Nack = e.Nack
		}
		r.Envoy = append(r.Envoy, t)
	}
	return r
}
