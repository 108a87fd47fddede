package seal_test

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"keybridge/keyshare/seal"
)

func TestParseEndpoint(t *testing.T) {
	for _, test := range []struct {
		raw       string
		want      seal.Endpoint
		authority string
		url       string // "": raw
	}{
		{"https://s3.example.com", seal.Endpoint{Scheme: "https", Host: "s3.example.com", Port: 443}, "s3.example.com", ""},
		{"https://s3.example.com/", seal.Endpoint{Scheme: "https", Host: "s3.example.com", Port: 443}, "s3.example.com", "https://s3.example.com"},
		{"https://s3.example.com:443", seal.Endpoint{Scheme: "https", Host: "s3.example.com", Port: 443}, "s3.example.com", "https://s3.example.com"},
		{"https://s3.example.com:80", seal.Endpoint{Scheme: "https", Host: "s3.example.com", Port: 80}, "s3.example.com:80", ""},
		{"http://s3.example.com", seal.Endpoint{Scheme: "http", Host: "s3.example.com", Port: 80}, "s3.example.com", ""},
		{"HTTPS://API.Example.COM:8443/v1/", seal.Endpoint{Scheme: "https", Host: "api.example.com", Port: 8443, Path: "/v1"}, "api.example.com:8443", "https://api.example.com:8443/v1"},
		{"https://example.com/Api/v1beta/openai", seal.Endpoint{Scheme: "https", Host: "example.com", Port: 443, Path: "/Api/v1beta/openai"}, "example.com", ""},
		{"http://127.0.0.1:9000", seal.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: 9000}, "127.0.0.1:9000", ""},
		{"http://[::1]:9000", seal.Endpoint{Scheme: "http", Host: "::1", Port: 9000}, "[::1]:9000", ""},
		{"https://[2001:DB8:0:0::1]", seal.Endpoint{Scheme: "https", Host: "2001:db8::1", Port: 443}, "[2001:db8::1]", "https://[2001:db8::1]"},
		{"https://[::ffff:192.0.2.1]:1", seal.Endpoint{Scheme: "https", Host: "192.0.2.1", Port: 1}, "192.0.2.1:1", "https://192.0.2.1:1"},
		{"https://minio:9000", seal.Endpoint{Scheme: "https", Host: "minio", Port: 9000}, "minio:9000", ""},
		{"https://xn--bcher-kva.example", seal.Endpoint{Scheme: "https", Host: "xn--bcher-kva.example", Port: 443}, "xn--bcher-kva.example", ""},
		{"https://1.2.3.4.example", seal.Endpoint{Scheme: "https", Host: "1.2.3.4.example", Port: 443}, "1.2.3.4.example", ""},
	} {
		got, err := seal.ParseEndpoint(test.raw)
		if err != nil {
			t.Errorf("%s: %v", test.raw, err)
			continue
		}
		if diff := gocmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.raw, diff)
		}
		if got.Authority() != test.authority {
			t.Errorf("%s: authority %s, want %s", test.raw, got.Authority(), test.authority)
		}
		if want := cmp.Or(test.url, test.raw); got.String() != want {
			t.Errorf("%s: writes %s, want %s", test.raw, got, want)
		}
	}
}

func TestParseEndpointRefuses(t *testing.T) {
	for _, raw := range []string{
		"", "https://", "https:///v1", "example.com", "example.com:443", "//example.com", "https:example.com", "https:/example.com",
		"ftp://example.com", "unix:///run/x", " https://example.com", "https://example.com ", "https://exa mple.com",
		"https://user@example.com", "https://user:hunter2@example.com", "https://example.com@evil.example", "https://example.com/@x/%40",
		"https://example.com?x=1", "https://example.com/v1?", "https://example.com#f", "https://example.com/#",
		"https://example.com/%2e%2e/", "https://example.com/a%2fb", "https://ex%61mple.com", "https://example.com\\@evil.example",
		"https://example.com/../v1", "https://example.com/v1/..", "https://example.com/./v1", "https://example.com//", "https://example.com//v1",
		"https://example.com/v1//", "https://example.com/v1;x", "https://example.com/ä", "https://example.com/v1\r\nx",
		"https://example.com:", "https://example.com:0", "https://example.com:00443", "https://example.com:+443", "https://example.com:65536",
		"https://example.com:443:443", "https://example.com:https", "https://:443", "https://[::1", "https://::1", "https://[::1]x", "https://[::1]443",
		"https://[127.0.0.1]", "https://[example.com]", "https://[fe80::1%25eth0]", "https://[fe80::1%eth0]",
		"https://example.com.", "https://.example.com", "https://example..com", "https://-example.com", "https://example-.com", "https://my_host.example",
		"https://bücher.example", "https://*.example.com", "https://" + strings.Repeat("a", 64) + ".example",
		"https://" + strings.Repeat("a.", 126) + "aa", "https://example.com/" + strings.Repeat("a", 1024), "https://example.com/" + strings.Repeat("a", 4096),
		// What inet_aton, and so many resolvers, take for 127.0.0.1.
		"https://127.1", "https://2130706433", "https://0x7f.1", "https://0x7f000001", "https://0177.0.0.1", "https://127.0.0.01", "https://127.0.0.0x1", "https://256.0.0.1",
	} {
		if got, err := seal.ParseEndpoint(raw); !errors.Is(err, seal.ErrEndpoint) {
			t.Errorf("%.80q: accepted as %v, %v", raw, got, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

// What is accepted has one spelling, and the standard library reads it alike.
func FuzzParseEndpoint(f *testing.F) {
	for _, raw := range []string{"https://example.com", "http://[::1]:9000/v1/", "HTTPS://127.0.0.1:1/a/b", "https://[::ffff:1.2.3.4]", "https://0x7f.1/"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		e, err := seal.ParseEndpoint(raw)
		if err != nil {
			return
		}
		if again, err := seal.ParseEndpoint(e.String()); err != nil || again != e {
			t.Fatalf("%q is %+v, which reads back as %+v, %v", raw, e, again, err)
		}
		u, err := url.Parse(e.String())
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
		}
		if u.Scheme != e.Scheme || u.Hostname() != e.Host || port != strconv.Itoa(int(e.Port)) || u.EscapedPath() != e.Path || u.Host != e.Authority() {
			t.Fatalf("%q is %+v here and %+v to net/url", raw, e, u)
		}
		if from, err := url.Parse(raw); err != nil || !strings.EqualFold(from.Scheme, e.Scheme) ||
			!strings.EqualFold(from.Hostname(), e.Host) && net.ParseIP(from.Hostname()) == nil {
			t.Fatalf("%q is %+v here and %+v, %v to net/url", raw, e, from, err)
		}
		h := withBinding(credentialHeader(), func(b *seal.Binding) {
			*b = seal.Binding{Use: seal.UseOpenAI, Scheme: e.Scheme, Host: e.Host, Port: e.Port, Scope: e.Path}
		})
		if err := h.Validate(); err != nil {
			t.Fatalf("%q cannot be bound: %v", raw, err)
		}
	})
}

func TestCADigest(t *testing.T) {
	if got := seal.CADigest(nil); got != "" {
		t.Errorf("empty: %s", got)
	}
	if got := seal.CADigest([]byte("abc")); got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("abc: %s", got) // FIPS 180-4's example
	}
}
