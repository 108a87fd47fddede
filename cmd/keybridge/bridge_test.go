package main

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDNSServers(t *testing.T) {
	got, err := dnsServers([]string{"10.0.0.2", "10.0.0.2:5353", "fd00::2", "[fd00::2]:5353"})
	want := []netip.AddrPort{
		netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("10.0.0.2:5353"),
		netip.MustParseAddrPort("[fd00::2]:53"), netip.MustParseAddrPort("[fd00::2]:5353"),
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, v := range []string{"", "dns.example", "dns.example:53", "10.0.0.2:", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.256", "fe80::1%eth0", "0.0.0.0", "10.0.0.2,10.0.0.3"} {
		if got, err := dnsServers([]string{v}); err == nil {
			t.Errorf("%q is %v", v, got)
		}
	}
}
