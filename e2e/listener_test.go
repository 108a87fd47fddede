package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// site is a listener's certificate in files, self-signed and so its own CA.
type site struct{ dir string }

func (s site) files() string { return s.path("tls.crt") + "," + s.path("tls.key") }

func (s site) path(name string) string { return filepath.Join(s.dir, name) }

// renew replaces the files and returns the pool that trusts the new ones alone.
func (s site) renew(t *testing.T) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.write(t, "tls.crt", chain)
	s.write(t, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return pool
}

func (s site) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(s.path("new"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path("new"), s.path(name)); err != nil {
		t.Fatal(err)
	}
}

// trusting is an HTTP client that speaks TLS with new connections of its own.
func trusting(t *testing.T, pool *x509.CertPool, http2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{Protocols: protocols, ExpectContinueTimeout: time.Hour, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	want := "HTTP/1.1"
	if http2 {
		want = "HTTP/2.0"
	}
	return &http.Client{Transport: seen{transport, t, want}}
}

// TestTLSListeners: SDKs over TLS, HTTP/1.1 and HTTP/2; certificate files that
// change are served to new connections, and open ones go on.
func TestTLSListeners(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	certificate := site{t.TempDir()}
	pool := certificate.renew(t)
	w := &world{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.logs())
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.dir, err = os.MkdirTemp("", "kb-")
	fatal(err)
	w.s3, err = provider.StartS3(ctx, provider.S3Config{Recorder: provider.RecorderConfig{Forbidden: &w.behindEnvoy}})
	fatal(err)
	w.ai, err = provider.StartOpenAI(provider.OpenAIConfig{Recorder: provider.RecorderConfig{Forbidden: &w.behindEnvoy}})
	fatal(err)
	w.Stack, err = stack.Start(stack.Config{Binary: binary, Dir: filepath.Join(w.dir, "state"), TLS: certificate.files()})
	fatal(err)
	w.endpoints, err = w.Ready(ctx)
	fatal(err)
	if !strings.HasPrefix(w.endpoints.S3, "https://") || !strings.HasPrefix(w.endpoints.AI, "https://") {
		t.Fatalf("endpoints %+v", w.endpoints)
	}
	fatal(w.s3.MakeBucket(ctx, bucket))
	w.tenant, err = w.Tenant(ctx, w.endpoints, "acme")
	fatal(err)
	b, err := w.tenant.Bucket(ctx, stack.Bucket{Name: "b", Bucket: bucket, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret})
	fatal(err)
	llm, err := w.tenant.LLM(ctx, stack.LLM{Name: "m", Endpoint: w.ai.Endpoint(), Secret: w.ai.Key})
	fatal(err)
	repo, err := w.tenant.Repository(ctx, "app", []string{b}, []string{llm})
	fatal(err)
	w.admin, err = w.tenant.StorageKey(ctx, repo, "admin", "ADMIN")
	fatal(err)
	w.read = w.admin
	ai, err := w.tenant.AIKey(ctx, repo, "ai")
	fatal(err)

	use := func(pool *x509.CertPool, http2 bool) error {
		c := trusting(t, pool, http2)
		_, err := w.s3At(c, w.admin).PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("k"), Body: strings.NewReader("over TLS")})
		_, aiErr := streamed(ctx, w.openaiAt(c, ai.Secret), "one two three")
		return errors.Join(err, aiErr)
	}
	fatal(w.Wait(ctx, func() error { return use(pool, false) }))
	fatal(use(pool, true))
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("expect, HTTP/2 %v", http2), func(t *testing.T) { w.expects(t, trusting(t, pool, http2)) })
	}

	fatal(w.putDirect(ctx, bucket, "large", strings.Repeat("0123456789abcdef", downloadSize/16)))
	get, err := w.s3At(trusting(t, pool, true), w.read).GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String("large")})
	fatal(err)
	open := &download{body: get.Body}
	defer get.Body.Close()
	open.more(t)

	renewed := certificate.renew(t)
	fatal(w.Wait(ctx, func() error { return use(renewed, true) }))
	if use(pool, false) == nil {
		t.Error("the old certificate is still served")
	}
	open.more(t)

	certificate.write(t, "tls.crt", []byte("rubbish"))
	fatal(w.Wait(ctx, func() error {
		if problems := w.problems(ctx); !strings.Contains(problems, "tls.crt") {
			return fmt.Errorf("not reported: %s", problems)
		}
		return nil
	}))
	fatal(use(renewed, false))
	last := certificate.renew(t)
	fatal(w.Wait(ctx, func() error { return use(last, false) }))
	open.end(t)
}

// problems is what the bridge says is wrong.
func (w *world) problems(ctx context.Context) string {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, w.endpoints.Health+"/ready", http.NoBody)
	if err != nil {
		return err.Error()
	}
	res, err := once.Do(q)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	var status struct {
		Problems []string `json:"problems"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&status); err != nil {
		return err.Error()
	}
	return strings.Join(status.Problems, "\n")
}
