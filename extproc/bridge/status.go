package bridge

import (
	"fmt"
	"maps"
	"slices"
	"time"

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

// lasting is how long a problem must last to be reported: the parts of one change
// come over two feeds, and what waits for its other half is no problem yet.
const lasting = time.Second

// reportProblems keeps what was left out, and logs each part once.
func (b *Bridge) reportProblems(problems []string, keys int) {
	slices.Sort(problems)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.problems
	b.keys, b.problems = keys, nil
	seen := map[string]time.Time{}
	for _, p := range problems {
		since, known := b.problemSince[p]
		switch {
		case !known:
			since = now
			time.AfterFunc(lasting, b.changed)
		case now.Sub(since) >= lasting:
			b.problems = append(b.problems, p)
			if !b.reported[p] {
				b.cfg.Logger.Warn("left out", "reason", p)
			}
		}
		seen[p] = since
	}
	b.problemSince = seen
	b.reported = map[string]bool{}
	for _, p := range b.problems {
		b.reported[p] = true
	}
	if !slices.Equal(old, b.problems) {
		b.tell()
	}
}
