package seal_test

import (
	"errors"
	"net/netip"
	"testing"

	"keybridge/keyshare/seal"
)

func TestCheckAddress(t *testing.T) {
	for _, test := range []struct {
		name           string
		allow          []string
		endpoint, addr string
		ok             bool
	}{
		{"public", nil, "https://s3.example.com", "203.0.113.7", true},
		{"loopback", nil, "https://s3.example.com", "127.0.0.1", false},
		{"IPv4 in IPv6", nil, "https://s3.example.com", "::ffff:127.0.0.1", false},
		{"metadata service", nil, "https://s3.example.com", "169.254.169.254", false},
		{"link-local with a zone", nil, "https://s3.example.com", "fe80::1%eth0", false},
		{"the name is allowed", []string{"minio.internal"}, "https://minio.internal", "10.0.0.7", true},
		{"the name at another port", []string{"minio.internal:9000"}, "https://minio.internal", "10.0.0.7", false},
		{"another name is allowed", []string{"minio.internal"}, "https://s3.example.com", "10.0.0.7", false},
		{"its addresses are allowed", []string{"10.0.0.0/8"}, "https://s3.example.com", "10.0.0.7", true},
		{"http wants its rule", []string{"10.0.0.0/8", "http://s3.example.com"}, "http://s3.example.com", "10.0.0.7", true},
		{"http by address", []string{"10.0.0.0/8"}, "http://s3.example.com", "10.0.0.7", false},
		{"an address is no name", nil, "https://127.0.0.1", "127.0.0.1", false},
		{"an allowed address", []string{"127.0.0.1"}, "https://127.0.0.1", "127.0.0.1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy, err := seal.ParseEndpointPolicy(test.allow)
			if err != nil {
				t.Fatal(err)
			}
			e, err := seal.ParseEndpoint(test.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			err = policy.CheckAddress(e, netip.MustParseAddr(test.addr))
			if (err == nil) != test.ok || err != nil && !errors.Is(err, seal.ErrEndpoint) {
				t.Errorf("%s at %s: %v", test.endpoint, test.addr, err)
			}
		})
	}
}
