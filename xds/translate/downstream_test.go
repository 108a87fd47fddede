package translate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// certificate issues a pair for a listener.
func (a *authority) certificate(t *testing.T, name string) translate.Certificate {
	t.Helper()
	c := a.issue(t, []string{name}, nil)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return translate.Certificate{
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
}

const siteName = "s3.site.example"

// startTLSBridge serves both protocols with TLS.
func startTLSBridge(t *testing.T, c translate.Certificate, endpoints ...translate.Endpoint) (*bridge, translate.Input) {
	t.Helper()
	b, in := prepareBridge(t, endpoints...)
	for _, l := range in.Listeners {
		l.Certificate = "site"
	}
	in.Certificates = map[string]translate.Certificate{"site": c}
	b.push(in)
	b.start()
	return b, in
}

// tlsClient trusts ca and nothing else.
func tlsClient(t *testing.T, b *bridge, p configv1.Protocol, ca *authority, version uint16, http2 bool) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: siteName, MinVersion: version, MaxVersion: version},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, b.listen[p])
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func TestDownstreamTLS(t *testing.T) {
	ca := newAuthority(t)
	up := startProvider(t, "")
	b, _ := startTLSBridge(t, ca.certificate(t, siteName), up.Endpoint)
	b.onHeaders(forwardTo(up.Endpoint))
	for name, c := range map[string]struct {
		version uint16
		http2   bool
		want    string
	}{
		"TLS 1.2, HTTP/1.1": {tls.VersionTLS12, false, "HTTP/1.1"},
		"TLS 1.3, HTTP/1.1": {tls.VersionTLS13, false, "HTTP/1.1"},
		"TLS 1.2, HTTP/2":   {tls.VersionTLS12, true, "HTTP/2.0"},
		"TLS 1.3, HTTP/2":   {tls.VersionTLS13, true, "HTTP/2.0"},
	} {
		for protocolName, p := range protocols {
			t.Run(name+" "+protocolName, func(t *testing.T) {
				b.t = t
				resp, err := tlsClient(t, b, p.protocol, ca, c.version, c.http2).Get("https://" + siteName + "/bucket/key")
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(body) != "ok" || resp.StatusCode != http.StatusOK {
					t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
				}
				if resp.Proto != c.want || resp.TLS.Version != c.version {
					t.Errorf("spoke %s over %s", resp.Proto, tls.VersionName(resp.TLS.Version))
				}
			})
		}
	}
	t.Run("TLS 1.1", func(t *testing.T) {
		b.t = t
		resp, err := tlsClient(t, b, configv1.Protocol_S3, ca, tls.VersionTLS11, false).Get("https://" + siteName + "/")
		if err == nil {
			_ = resp.Body.Close()
			t.Error("spoke TLS 1.1")
		}
	})
	t.Run("plain HTTP", func(t *testing.T) {
		resp, err := http.Get("http://" + b.listen[configv1.Protocol_S3] + "/")
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("answered %d without TLS", resp.StatusCode)
		}
	})
	t.Run("refusals speak the protocol", func(t *testing.T) {
		b.extproc.Stop()
		resp, err := tlsClient(t, b, configv1.Protocol_S3, ca, tls.VersionTLS13, true).Get("https://" + siteName + "/bucket/key")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		wantError(t, configv1.Protocol_S3, resp, string(body), http.StatusServiceUnavailable, "ServiceUnavailable")
	})
}

// A renewed certificate is for new connections; a download that is under way goes on.
func TestCertificateReload(t *testing.T) {
	old, renewed := newAuthority(t), newAuthority(t)
	rest := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/bucket/slow" {
			return
		}
		w.Header().Set("Content-Length", "8")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-rest
		_, _ = io.WriteString(w, "rest")
	}))
	t.Cleanup(s.Close)
	e := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(s.Listener.Addr().(*net.TCPAddr).Port)}
	before := old.certificate(t, siteName)
	b, in := startTLSBridge(t, before, e)
	b.onHeaders(forwardTo(e))

	for _, http2 := range []bool{false, true} {
		client := tlsClient(t, b, configv1.Protocol_S3, old, tls.VersionTLS13, http2)
		resp, err := client.Get("https://" + siteName + "/bucket/slow")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		half := make([]byte, 4)
		if _, err := io.ReadFull(resp.Body, half); err != nil || string(half) != "half" {
			t.Fatalf("got %q, %v", half, err)
		}
		defer func() {
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "rest" {
				t.Errorf("the open download ended with %q, %v", body, err)
			}
		}()
	}
	defer close(rest) // before what was deferred above

	r, problems := translate.Render(translate.Input{
		Listeners: in.Listeners, Endpoints: in.Endpoints, ExtProcSocket: in.ExtProcSocket, SystemRoots: in.SystemRoots,
		Certificates: map[string]translate.Certificate{"site": renewed.certificate(t, siteName)},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	version, err := b.xds.Set(group, resourcev3.SecretType, r.SDS)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.xds.WaitAcked(deadline(t, 20*time.Second), nodeID, resourcev3.SecretType, version); err != nil {
		t.Fatal(err)
	}
	wait := deadline(t, 20*time.Second)
	for { // the ACK comes before the workers have it
		resp, err := tlsClient(t, b, configv1.Protocol_S3, renewed, tls.VersionTLS13, true).Get("https://" + siteName + "/bucket/quick")
		if err == nil {
			_ = resp.Body.Close()
			break
		}
		if wait.Err() != nil {
			t.Fatalf("the new certificate is not served: %v", err)
		}
	}
	if resp, err := tlsClient(t, b, configv1.Protocol_S3, old, tls.VersionTLS13, true).Get("https://" + siteName + "/bucket/quick"); err == nil {
		_ = resp.Body.Close()
		t.Error("the old certificate is still served")
	}
}

// The private key travels over the bridge's socket and is nowhere else to be seen.
func TestPrivateKeyStaysHidden(t *testing.T) {
	c := newAuthority(t).certificate(t, siteName)
	b, _ := startTLSBridge(t, c)
	block, _ := pem.Decode(c.Key)
	forms := [][]byte{c.Key, block.Bytes, []byte(base64.StdEncoding.EncodeToString(c.Key)), bytes.ReplaceAll(bytes.TrimSpace(c.Key), []byte("\n"), []byte(`\n`)), bytes.Split(c.Key, []byte("\n"))[1]}
	redacted := base64.StdEncoding.EncodeToString([]byte("[redacted]")) // as Envoy writes it
	check := func(where string, text []byte) {
		for _, form := range forms {
			if bytes.Contains(text, form) {
				t.Errorf("the key is in %s", where)
				return
			}
		}
	}
	for _, path := range []string{"/config_dump?include_eds", "/certs", "/listeners"} {
		text, err := b.envoy.Admin(deadline(t, 20*time.Second), path)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/config_dump?include_eds" && !strings.Contains(string(text), redacted) {
			t.Error("the dump holds no redacted secret")
		}
		check("Envoy's "+path, text)
	}
	check("Envoy's log", []byte(b.log.String()))
	err := filepath.WalkDir(b.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		check(path, text)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCertificates(t *testing.T) {
	self := func(pub, priv any) translate.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"x"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, pub, priv)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		return translate.Certificate{
			Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		}
	}
	onCurve := func(c elliptic.Curve) translate.Certificate {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return self(key.Public(), key)
	}
	withRSA := func(bits int) translate.Certificate {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return self(key.Public(), key)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		pair translate.Certificate
		want string // empty: good
	}{
		"P-256":    {pair: onCurve(elliptic.P256())},
		"P-384":    {pair: onCurve(elliptic.P384())},
		"P-521":    {pair: onCurve(elliptic.P521())},
		"P-224":    {pair: onCurve(elliptic.P224()), want: "P-224"},
		"RSA-2048": {pair: withRSA(2048)},
		"RSA-1024": {pair: withRSA(1024), want: "1024 bits"},
		"Ed25519":  {pair: self(pub, priv), want: "Ed25519"},
		"empty":    {want: "failed to find any PEM data"},
		"no key":   {pair: translate.Certificate{Chain: onCurve(elliptic.P256()).Chain}, want: "failed to find any PEM data"},
		"two pairs": {
			pair: translate.Certificate{Chain: onCurve(elliptic.P256()).Chain, Key: onCurve(elliptic.P256()).Key}, want: "does not match",
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, []*configv1.Listener{{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9443, Certificate: "site"}})
			in.Certificates = map[string]translate.Certificate{"site": c.pair}
			r, problems := translate.Render(in)
			if c.want == "" {
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				validateByEnvoy(t, r)
				return
			}
			if got := fmt.Sprint(problems); len(problems) != 1 || !strings.Contains(got, c.want) {
				t.Errorf("problems %s, want one with %q", got, c.want)
			}
			if len(r.LDS)+len(r.SDS)+len(r.RDS) != 0 {
				t.Error("the listener was rendered")
			}
		})
	}
}
