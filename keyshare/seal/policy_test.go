package seal_test

import (
	"errors"
	"strings"
	"testing"

	"keybridge/keyshare/seal"
)

func TestEndpointPolicy(t *testing.T) {
	private := []string{
		"https://localhost", "https://x.localhost", "https://minio.local", "https://metadata.google.internal", "https://metadata", "https://minio:9000",
		"https://127.0.0.1", "https://127.255.255.254", "https://0.0.0.0", "https://10.1.2.3", "https://172.16.0.1", "https://172.31.255.255",
		"https://192.168.1.1", "https://169.254.169.254", "https://100.64.0.1", "https://192.0.0.8", "https://198.18.0.1", "https://224.0.0.1",
		"https://255.255.255.255", "https://[::]", "https://[::1]", "https://[::7f00:1]", "https://[fe80::1]", "https://[fd00:ec2::254]", "https://[ff02::1]",
		"https://[::ffff:127.0.0.1]", "https://[::ffff:a9fe:a9fe]", "https://[64:ff9b::7f00:1]", "https://[64:ff9b:1::1]", "https://[2002:7f00:1::]", "https://[2001::1]",
		"https://[fec0::1]", "https://[100::1]",
	}
	public := []string{
		"https://s3.amazonaws.com", "https://api.openai.com/v1", "https://8.8.8.8", "https://172.32.0.1", "https://100.128.0.1", "https://[2606:4700::1111]",
		"https://notlocal.example", "https://internal.example", "https://local.example:9000",
	}
	for _, test := range []struct {
		name   string
		allow  []string
		good   []string
		refuse []string
	}{
		{"default", nil, public, append([]string{"http://s3.amazonaws.com", "http://8.8.8.8"}, private...)},
		{"loopback, https only", []string{"127.0.0.0/8"}, append([]string{"https://127.0.0.1:9000", "https://127.9.9.9"}, public...),
			[]string{"http://127.0.0.1:9000", "https://localhost", "https://10.0.0.1", "https://[::1]"}},
		{"loopback with http", []string{"http://127.0.0.0/8"}, []string{"http://127.0.0.1:9000", "https://127.0.0.1"}, []string{"http://10.0.0.1", "http://s3.amazonaws.com"}},
		{"one address", []string{"10.0.0.5"}, []string{"https://10.0.0.5", "https://10.0.0.5:9000", "https://[::ffff:10.0.0.5]"}, []string{"https://10.0.0.6", "http://10.0.0.5"}},
		{"one address and port", []string{"http://10.0.0.5:9000"}, []string{"http://10.0.0.5:9000", "https://10.0.0.5:9000"}, []string{"http://10.0.0.5", "https://10.0.0.5"}},
		{"IPv6", []string{"::1", "http://[fd00::1]:9000", "fe80::/10"}, []string{"https://[::1]:1", "http://[fd00::1]:9000", "https://[fe80::2]"},
			[]string{"http://[::1]", "https://[fd00::1]", "https://[fd00::2]:9000"}},
		{"name", []string{"MinIO.internal", "http://minio:9000"}, []string{"https://minio.internal:9000", "http://minio:9000"},
			[]string{"http://minio.internal", "https://x.minio.internal", "http://minio", "https://minio"}},
		{"http to a public host", []string{"http://s3.example.com"}, []string{"http://s3.example.com", "http://s3.example.com:8080"}, []string{"http://example.com"}},
		{"everything", []string{"http://0.0.0.0/0", "http://::/0"}, []string{"http://127.0.0.1", "https://[::1]", "http://8.8.8.8"}, []string{"http://s3.example.com", "https://localhost"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := seal.ParseEndpointPolicy(test.allow)
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range test.good {
				if err := p.Check(mustEndpoint(t, raw)); err != nil {
					t.Errorf("refused: %v", err)
				}
			}
			for _, raw := range test.refuse {
				e := mustEndpoint(t, raw)
				err := p.Check(e)
				if !errors.Is(err, seal.ErrEndpoint) {
					t.Errorf("%s: allowed, or %v", raw, err)
					continue
				}
				// The flag that the error suggests works.
				_, hint, _ := strings.Cut(err.Error(), "--allow-endpoint ")
				hint, _, ok := strings.Cut(hint, " ")
				q, err := seal.ParseEndpointPolicy([]string{hint})
				if !ok || err != nil || q.Check(e) != nil {
					t.Errorf("%s: suggests %q, which does not allow it: %v", raw, hint, err)
				}
			}
		})
	}
}

func mustEndpoint(t *testing.T, raw string) seal.Endpoint {
	t.Helper()
	e, err := seal.ParseEndpoint(raw)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestZeroEndpointIsRefused(t *testing.T) {
	for _, p := range []seal.EndpointPolicy{{}, mustPolicy(t, "http://0.0.0.0/0", "http://::/0")} {
		if p.Check(seal.Endpoint{}) == nil {
			t.Error("allowed the zero endpoint")
		}
	}
}

func mustPolicy(t *testing.T, allow ...string) seal.EndpointPolicy {
	t.Helper()
	p, err := seal.ParseEndpointPolicy(allow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseEndpointPolicyRefuses(t *testing.T) {
	for _, entry := range []string{
		"", "http://", "https://example.com", "example.com/path", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.0/104", "10.0.0.0/8:9000",
		"*.example.com", "exa mple", "example.com:", "example.com:0", "127.1", "[::1", "user@example.com", "http://http://example.com", "fe80::1%eth0",
	} {
		if _, err := seal.ParseEndpointPolicy([]string{"example.com", entry}); !errors.Is(err, seal.ErrEndpoint) || !strings.Contains(err.Error(), "--allow-endpoint") {
			t.Errorf("%q: %v", entry, err)
		}
	}
}
