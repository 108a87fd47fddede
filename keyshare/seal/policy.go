package seal

import (
	"fmt"
	"net/netip"
	"strings"
)

// EndpointPolicy says which endpoints may be used beyond https to public hosts.
// The zero policy allows nothing beyond. It judges the host that is written in
// an endpoint, not what a name resolves to.
type EndpointPolicy struct {
	rules []endpointRule
}

// endpointRule allows one host (name) or prefix of addresses.
type endpointRule struct {
	plaintext bool // http as well
	name      string
	prefix    netip.Prefix
	port      uint16 // 0: any
}

// ParseEndpointPolicy reads the values of --allow-endpoint. Each is a CIDR prefix,
// an IP address or a host name, the latter two with an optional :port. Prefixed
// with "http://" it allows http as well as https.
func ParseEndpointPolicy(allow []string) (EndpointPolicy, error) {
	var p EndpointPolicy
	for _, entry := range allow {
		r, err := parseRule(entry)
		if err != nil {
			return EndpointPolicy{}, fmt.Errorf("%w: --allow-endpoint %.128q: %w", ErrEndpoint, entry, err)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

func parseRule(entry string) (endpointRule, error) {
	var r endpointRule
	entry, r.plaintext = strings.CutPrefix(entry, "http://")
	if strings.Contains(entry, "/") {
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return r, fmt.Errorf("not a CIDR prefix: %w", err)
		}
		if prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return r, fmt.Errorf("not a CIDR prefix: bits set beyond its length, or IPv4 written as IPv6")
		}
		r.prefix = prefix
		return r, nil
	}
	host := entry
	if _, err := netip.ParseAddr(entry); err != nil { // else a bare IPv6 address, whose colons are no port
		var err error
		if host, r.port, err = splitAuthority(entry); err != nil {
			return r, err
		}
	}
	host, err := canonicalHost(host)
	if err != nil {
		return r, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		r.prefix = netip.PrefixFrom(addr, addr.BitLen())
	} else {
		r.name = host
	}
	return r, nil
}

// Check fails if e is not allowed; the error says why and which --allow-endpoint
// would allow it.
func (p EndpointPolicy) Check(e Endpoint) error {
	addr, _ := netip.ParseAddr(e.Host) // invalid for names
	for _, r := range p.rules {
		if r.allows(e, addr) {
			return nil
		}
	}
	if why := special(e.Host, addr); why != "" {
		return fmt.Errorf("%w: %s is %s; --allow-endpoint %s would allow it", ErrEndpoint, e.Host, why, e.rule())
	}
	if e.Scheme != "https" {
		return fmt.Errorf("%w: %s is not encrypted; --allow-endpoint %s would allow it", ErrEndpoint, e, e.rule())
	}
	return nil
}

func (r endpointRule) allows(e Endpoint, addr netip.Addr) bool {
	switch {
	case e.Scheme != "https" && (e.Scheme != "http" || !r.plaintext):
		return false
	case r.port != 0 && r.port != e.Port:
		return false
	case r.name != "":
		return r.name == e.Host
	default:
		return r.prefix.Contains(addr) // false for the invalid address of a name
	}
}

// rule is the narrowest --allow-endpoint value that allows e.
func (e Endpoint) rule() string {
	authority := Endpoint{Host: e.Host, Port: e.Port}.Authority()
	if e.Scheme == "https" {
		return authority
	}
	return "http://" + authority
}

// special names the reason why a host is not a public one; "" if it is.
func special(host string, addr netip.Addr) string {
	if addr.IsValid() {
		for _, s := range specialPrefixes {
			if s.prefix.Contains(addr) {
				return s.what
			}
		}
		return ""
	}
	if host == "localhost" {
		return "a name of this machine"
	}
	// Search domains make these: "metadata" is a cloud's metadata service.
	if !strings.Contains(host, ".") {
		return "a name without a domain"
	}
	for _, suffix := range []string{".localhost", ".local", ".internal"} { // RFC 6761, RFC 6762, ICANN's .internal
		if strings.HasSuffix(host, suffix) {
			return "a name of a private network"
		}
	}
	return ""
}

// specialPrefixes are the blocks of the IANA special-purpose address registries
// that lead to this machine, a private network, cloud metadata services, or,
// through translation and tunnels, to any IPv4 address.
var specialPrefixes = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a shared (carrier-grade NAT) address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a special-purpose address"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmarking address"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("::/128"), "an unspecified address"},
	{netip.MustParsePrefix("::1/128"), "a loopback address"},
	{netip.MustParsePrefix("::/96"), "a reserved address"}, // IPv4-compatible
	{netip.MustParsePrefix("64:ff9b::/96"), "a translated IPv4 address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translated IPv4 address"},
	{netip.MustParsePrefix("100::/64"), "a discard-only address"},
	{netip.MustParsePrefix("2001::/32"), "a tunnelled (Teredo) address"},
	{netip.MustParsePrefix("2002::/16"), "a tunnelled (6to4) address"},
	{netip.MustParsePrefix("fc00::/7"), "a private address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a private address"}, // site-local
	{netip.MustParsePrefix("ff00::/8"), "a multicast address"},
}
