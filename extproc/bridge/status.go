package bridge

import (
	"fmt"
	"maps"
	"slices"

	"keybridge/keyshare/quorum"
)

// Status is what health endpoints show. It holds no secret.
type Status struct {
	State   string                `json:"state"`
	Custody string                `json:"custody,omitempty"` // why unsealing has not finished
	Keepers []quorum.KeeperReport `json:"keepers,omitempty"`
	Keys    int                   `json:"keys"`
	// Problems are records and connectors that are left out, each with its reason.
	Problems []string `json:"problems,omitempty"`
	// Envoy says per type what Envoy was sent, accepted and refused.
	Envoy []string `json:"envoy,omitempty"`
}

// Status is the bridge's state now, with what is wrong.
func (b *Bridge) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{State: b.State().String(), Custody: b.custody, Keys: b.keys, Problems: b.problems}
	for _, name := range slices.Sorted(maps.Keys(b.keepers)) {
		s.Keepers = append(s.Keepers, b.keepers[name])
	}
	for _, e := range b.ads.Status() {
		line := fmt.Sprintf("%s: sent %d, accepted %d", e.TypeURL, e.Sent, e.Acked)
		if e.Nack != "" {
			line += fmt.Sprintf(", refused %d: %s", e.Nacked, e.Nack)
		}
		s.Envoy = append(s.Envoy, line)
	}
	return s
}

// reportProblems keeps what was left out, and logs what was not left out before.
func (b *Bridge) reportProblems(problems []string, keys int) {
	slices.Sort(problems)
	b.mu.Lock()
	old := b.problems
	b.problems, b.keys = problems, keys
	b.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(old, p) {
			b.cfg.Logger.Warn("left out", "reason", p)
		}
	}
}
