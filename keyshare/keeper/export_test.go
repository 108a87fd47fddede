package keeper

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"keybridge/keyshare/identity"
)

// CustodyJSON is what share.age holds, for tests that put something else there.
type CustodyJSON = custody

// VerifyAudit verifies a whole log and counts its lines.
func VerifyAudit(r io.Reader) (lines uint64, torn int, err error) {
	var l auditLog
	rest, err := l.verify(r)
	return l.seq, len(rest), err
}

// SetStep has f called after each durable step of a change, as if the process died there.
func SetStep(c *Config, f func(done string)) { c.step = f }

// AllowAt is Allow at another time.
func (p *Policy) AllowAt(now time.Time, asker identity.Peer, from netip.Addr) error {
	return p.allow(now, asker, from)
}

// ParsePolicy parses a policy and spells it anew from what was understood.
func ParsePolicy(b []byte) (again []byte, err error) {
	r, err := parsePolicy(b)
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	if r.bridges != nil {
		m["bridges"] = r.bridges
	}
	if r.networks != nil {
		m["networks"] = r.networks
	}
	if h := r.hours; h != nil {
		days := []string{}
		for i, on := range h.days {
			if on {
				days = append(days, weekdays[i])
			}
		}
		to := h.to
		if to > day {
			to -= day
		}
		m["hours"] = map[string]any{
			"days": days, "zone": h.zone.String(),
			"from": fmt.Sprintf("%02d:%02d", h.from/60, h.from%60), "to": fmt.Sprintf("%02d:%02d", to/60, to%60),
		}
	}
	if r.count != 0 {
		m["rate"] = map[string]any{"count": r.count, "per": r.per.String()}
	}
	return json.Marshal(m)
}
