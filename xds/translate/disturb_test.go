package translate_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// oddCA is a certificate that Go reads, and a TLS library may not like.
func oddCA(t *testing.T, pub, priv any, notAfter time.Time) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "odd CA"},
		NotBefore: notAfter.Add(-time.Hour), NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// badEndpoints are all the ways in which a tenant's endpoint can be wrong and yet
// be rendered. Each is to be answered in the protocol's words and disturb nobody.
func badEndpoints(t *testing.T) map[string]translate.Endpoint {
	t.Helper()
	ca, other := newAuthority(t), newAuthority(t)
	stranger := startTLSProvider(t, ca.issue(t, []string{"localhost"}, nil))
	renamed := startTLSProvider(t, ca.issue(t, []string{"elsewhere.example"}, nil))
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never says anything
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secure := func(p *tlsProvider, ca []byte) translate.Endpoint {
		return translate.Endpoint{Scheme: "https", Host: "localhost", Port: p.port, CAPEM: ca}
	}
	later := time.Now().Add(time.Hour)
	return map[string]translate.Endpoint{
		"name that does not exist": {Scheme: "https", Host: "does-not-exist.invalid", Port: 443},
		"name of 253 bytes":        {Scheme: "http", Host: longName, Port: 80},
		"nobody listens":           {Scheme: "http", Host: "127.0.0.1", Port: uint16(freePort(t))},
		"broadcast address":        {Scheme: "http", Host: "255.255.255.255", Port: 80},
		"unspecified address":      {Scheme: "http", Host: "0.0.0.0", Port: uint16(freePort(t))},
		"TLS where none is spoken": {Scheme: "https", Host: "127.0.0.1", Port: startProvider(t, "").Port},
		endless:                    {Scheme: "https", Host: "127.0.0.1", Port: uint16(silent.Addr().(*net.TCPAddr).Port)},
		"other CA":                 secure(stranger, other.pem),
		"other name":               secure(renamed, ca.pem),
		"expired CA":               secure(stranger, oddCA(t, p224.Public(), p224, time.Now().Add(-time.Minute))),
		"CA with a P-224 key":      secure(stranger, oddCA(t, p224.Public(), p224, later)),
		"CA with an Ed25519 key":   secure(stranger, oddCA(t, pub, priv, later)),
		"CA twice":                 secure(stranger, slices.Concat(other.pem, other.pem)),
		"leaf for a CA":            secure(renamed, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.issue(t, []string{"x"}, nil).Certificate[0]})),
	}
}

// endless is a bad endpoint that keeps Envoy trying.
const endless = "never finishes a handshake"

const longName = "a123456789012345678901234567890123456789012345678901234567890." +
	"b123456789012345678901234567890123456789012345678901234567890." +
	"c123456789012345678901234567890123456789012345678901234567890." +
	"d123456789012345678901234567890123456789012345678901234.example"

func TestBadEndpointsDisturbNobody(t *testing.T) {
	rest := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "ok")
		if r.URL.Path == "/bucket/slow" {
			_ = http.NewResponseController(w).Flush()
			<-rest
			_, _ = io.WriteString(w, ", all of it")
		}
	}))
	t.Cleanup(s.Close)
	finish := sync.OnceFunc(func() { close(rest) })
	t.Cleanup(finish)
	good := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(s.Listener.Addr().(*net.TCPAddr).Port)}
	b, in := prepareBridge(t, good)
	b.push(in)
	b.start()
	b.onHeaders(forwardTo(good))
	slow, err := http.Get("http://" + b.listen[configv1.Protocol_S3] + "/bucket/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	serves := func(t *testing.T, when string) {
		t.Helper()
		b.t = t
		b.onHeaders(forwardTo(good))
		if resp, body := b.send(configv1.Protocol_S3, get); resp.StatusCode != 200 || body != "ok" {
			t.Errorf("%s: the good endpoint got %d %q", when, resp.StatusCode, body)
		}
	}
	push := func(t *testing.T, endpoints ...translate.Endpoint) {
		t.Helper()
		in.Endpoints = endpoints
		r, problems := translate.Render(in)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		version, err := b.xds.Set(group, resourcev3.ClusterType, r.CDS)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.xds.WaitAcked(deadline(t, 20*time.Second), nodeID, resourcev3.ClusterType, version); err != nil {
			t.Errorf("not taken by Envoy: %v", err)
		}
	}
	bad := badEndpoints(t)
	for name, e := range bad {
		t.Run(name, func(t *testing.T) {
			push(t, good, e)
			serves(t, "made")
			asked := make(chan struct{})
			b.onHeaders(func(a string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
				defer close(asked)
				return forwardTo(e)(a, h)
			})
			var using sync.WaitGroup
			var over atomic.Bool
			using.Go(func() {
				defer over.Store(true)
				resp, body := b.send(configv1.Protocol_S3, get)
				wantError(t, configv1.Protocol_S3, resp, body, 503, "ServiceUnavailable")
			})
			<-asked
			serves(t, "used")
			// Envoy gives up after the cluster's connect_timeout, 5 s.
			if name == endless && over.Load() {
				t.Error("the good endpoint was served only after the bad one was given up")
			}
			push(t, good) // while the provider is still being tried
			serves(t, "gone")
			using.Wait()
		})
	}
	finish()
	if body, err := io.ReadAll(slow.Body); err != nil || string(body) != "ok, all of it" {
		t.Errorf("the open download ended with %q, %v", body, err)
	}
	t.Run("all at once", func(t *testing.T) {
		all := []translate.Endpoint{good}
		for _, e := range bad {
			all = append(all, e)
		}
		push(t, all...)
		serves(t, "made")
		// A new Envoy starts with all of them.
		b.t = t
		if err := b.envoy.Stop(deadline(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		b.start()
		serves(t, "started")
	})
}
