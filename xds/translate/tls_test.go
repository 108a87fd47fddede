package translate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// authority is a CA that lives as long as its test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, names []string, ips []net.IP) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tlsProvider answers "<protocol> <server name>" over TLS.
type tlsProvider struct {
	port  uint16
	calls atomic.Int32
}

func startTLSProvider(t *testing.T, cert tls.Certificate) *tlsProvider {
	t.Helper()
	p := &tlsProvider{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		_, _ = io.WriteString(w, r.Proto+" "+r.TLS.ServerName)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	p.port = uint16(s.Listener.Addr().(*net.TCPAddr).Port)
	return p
}

func TestUpstreamTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	right := startTLSProvider(t, ca.issue(t, []string{"localhost"}, loopback))
	wrongName := startTLSProvider(t, ca.issue(t, []string{"elsewhere.example"}, []net.IP{net.IPv4(127, 0, 0, 2)}))
	wildcard := startTLSProvider(t, ca.issue(t, []string{"*.localhost"}, nil))

	for name, c := range map[string]struct {
		to   *tlsProvider
		host string
		ca   *authority
		h2   bool
		want string // body; empty: refused
	}{
		"name":             {to: right, host: "localhost", ca: ca, want: "HTTP/1.1 localhost"},
		"name, HTTP/2":     {to: right, host: "localhost", ca: ca, h2: true, want: "HTTP/2.0 localhost"},
		"IP, no SNI":       {to: right, host: "127.0.0.1", ca: ca, want: "HTTP/1.1 "},
		"wildcard":         {to: wildcard, host: "s3.localhost", ca: ca, want: "HTTP/1.1 s3.localhost"},
		"wrong CA":         {to: right, host: "localhost", ca: other},
		"wrong CA, IP":     {to: right, host: "127.0.0.1", ca: other},
		"system roots":     {to: right, host: "localhost"},
		"wrong name":       {to: wrongName, host: "localhost", ca: ca},
		"wrong IP":         {to: wrongName, host: "127.0.0.1", ca: ca},
		"parent of a wild": {to: wildcard, host: "localhost", ca: ca},
	} {
		t.Run(name, func(t *testing.T) {
			e := translate.Endpoint{Scheme: "https", Host: c.host, Port: c.to.port, HTTP2: c.h2}
			if c.ca != nil {
				e.CAPEM = c.ca.pem
			}
			b := startBridge(t, e)
			b.onHeaders(forwardTo(e))
			before := c.to.calls.Load()
			resp, body := b.send(configv1.Protocol_S3, get)
			if c.want == "" {
				wantError(t, configv1.Protocol_S3, resp, body, 503, "ServiceUnavailable")
				if c.to.calls.Load() != before {
					t.Error("the provider got the request")
				}
				return
			}
			if resp.StatusCode != 200 || body != c.want {
				t.Errorf("got %d %q, want %q", resp.StatusCode, body, c.want)
			}
		})
	}
}

// One name that does not resolve must not keep others from being served.
func TestUnresolvableName(t *testing.T) {
	up := startProvider(t, "")
	lost := translate.Endpoint{Scheme: "http", Host: "does-not-exist.invalid", Port: 80}
	b := startBridge(t, lost, up.Endpoint)
	b.onHeaders(forwardTo(up.Endpoint))
	if resp, body := b.send(configv1.Protocol_S3, get); resp.StatusCode != 200 {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	b.onHeaders(forwardTo(lost))
	resp, body := b.send(configv1.Protocol_S3, get)
	wantError(t, configv1.Protocol_S3, resp, body, 503, "ServiceUnavailable")
}

func TestUpstreamDown(t *testing.T) {
	down := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(freePort(t))}
	b := startBridge(t, down)
	b.onHeaders(forwardTo(down))
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			b.t = t
			resp, body := b.send(p.protocol, get)
			wantError(t, p.protocol, resp, body, 503, p.provider)
		})
	}
}

// Envoy may be started again at any time: the bridge's resources have not
// changed, and it gets all of them.
func TestEnvoyRestart(t *testing.T) {
	up := startProvider(t, "")
	b := startBridge(t, up.Endpoint)
	b.onHeaders(forwardTo(up.Endpoint))
	if resp, body := b.send(configv1.Protocol_S3, get); resp.StatusCode != 200 {
		t.Fatalf("got %d %q", resp.StatusCode, body)
	}
	if err := b.envoy.Stop(deadline(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	b.start()
	for _, p := range protocols {
		if resp, body := b.send(p.protocol, get); resp.StatusCode != 200 {
			t.Errorf("%s: got %d %q", p.protocol, resp.StatusCode, body)
		}
	}
}

// Uploads arrive whole, with their length, over HTTP/1.1 and HTTP/2.
func TestUpload(t *testing.T) {
	const size = 20 << 20
	var length, got atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		length.Store(r.ContentLength)
		n, _ := io.Copy(io.Discard, r.Body)
		got.Store(n)
	}))
	t.Cleanup(s.Close)
	e := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(s.Listener.Addr().(*net.TCPAddr).Port)}
	b := startBridge(t, e)
	b.onHeaders(forwardTo(e))
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2 with prior knowledge": true} {
		t.Run(name, func(t *testing.T) {
			protocols := new(http.Protocols)
			protocols.SetHTTP1(!http2)
			protocols.SetUnencryptedHTTP2(http2)
			transport := &http.Transport{Protocols: protocols}
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(deadline(t, time.Minute), http.MethodPut,
				"http://"+b.listen[configv1.Protocol_S3]+"/b/k", io.LimitReader(zeros{}, size))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = size
			length.Store(0)
			got.Store(0)
			resp, err := (&http.Client{Transport: transport}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != 200 || length.Load() != size || got.Load() != size {
				t.Errorf("status %d, content-length %d, %d bytes; want 200 and %d", resp.StatusCode, length.Load(), got.Load(), size)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// systemRoots is a CA file that trusts nobody whom the tests know.
func systemRoots(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, newAuthority(t).pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
