package seal

import (
	"fmt"
	"net/netip"
)

// CheckAddress is Check for the address that is about to be connected to for e:
// what its name resolved to. An address that would not be allowed by itself is
// allowed for a name only by a rule for that name; otherwise a name that somebody
// else controls would reach this machine or a private network.
func (p EndpointPolicy) CheckAddress(e Endpoint, addr netip.Addr) error {
	if _, err := netip.ParseAddr(e.Host); err == nil {
		return p.Check(e)
	}
	for _, r := range p.rules {
		if r.name != "" && r.allows(e, netip.Addr{}) {
			return nil
		}
	}
	e.Host = addr.Unmap().WithZone("").String()
	if err := p.Check(e); err != nil {
		return fmt.Errorf("its name resolves to an address that is not allowed: %w", err)
	}
	return nil
}
