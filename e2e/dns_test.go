package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// TestDNS: names that stop resolving go on with the last addresses, in whatever way the
// name server fails; a name that moves is followed; one that never resolved is refused in
// the protocol's words, and works once it resolves, with nothing done.
func TestDNS(t *testing.T) {
	const storage, nowhere = "storage.keybridge.example", "nowhere.keybridge.example"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	names, err := provider.StartDNS()
	must(err)
	t.Cleanup(func() { must(names.Close()) })
	names.Set(storage, "127.0.0.1")
	w := start(t, config{dns: names.Addr()})
	l := w.startLoad(t)

	secure, ca, err := provider.Certificate(storage, nowhere)
	must(err)
	store, err := provider.StartS3(ctx, provider.S3Config{Recorder: provider.RecorderConfig{Forbidden: &w.behindEnvoy, TLS: secure}})
	must(err)
	t.Cleanup(func() { must(store.Close()) })
	w.beforeEnvoy.Add("secret of the named provider", store.Secret)
	w.secrets.Add("secret of the named provider", store.Secret)
	_, port, err := net.SplitHostPort(store.Addr())
	must(err)
	// The same server at another address.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	moved, err := provider.Record(provider.RecorderConfig{Listen: "127.0.0.2:" + port, TLS: secure, Dial: func(ctx context.Context) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: storage, NextProtos: []string{"http/1.1"}}}
		return d.DialContext(ctx, "tcp", store.Addr())
	}})
	must(err)
	t.Cleanup(func() { must(moved.Close()) })

	connect := func(bucket, host string, untried bool) (connector string, get s3Request) {
		t.Helper()
		must(store.MakeBucket(ctx, bucket))
		id, err := w.tenant.CreateBucket(ctx, client.BucketSpec{
			WorkspaceID: w.tenant.Workspace, Name: bucket, Bucket: bucket, Endpoint: "https://" + host + ":" + port, Region: provider.Region,
			Key: store.Access, Secret: client.Secret(store.Secret), CACertificate: string(ca), SkipValidation: untried,
		})
		must(err)
		repo, err := w.tenant.Repository(ctx, bucket, []string{id}, nil)
		must(err)
		key, err := w.tenant.StorageKey(ctx, repo, bucket, "READ")
		must(err)
		return id, s3Request{method: http.MethodGet, path: "/" + bucket, key: key}
	}
	becomes := func(q s3Request, status int) answer {
		t.Helper()
		var a answer
		must(w.Wait(ctx, func() (err error) {
			if a, err = w.askS3(ctx, q); err != nil || a.status != status {
				return fmt.Errorf("%v %w", a, errors.Join(err, errNotYet))
			}
			return nil
		}))
		return a
	}
	// anew has the connections to the provider end, so that the next request needs one.
	anew := func(q s3Request) {
		t.Helper()
		for _, r := range []*provider.Recorder{store.Recorder, moved} {
			r.Fail(&provider.Fault{Upload: 1, Do: func(_ context.Context, c *net.TCPConn, _ *bufio.Reader) bool {
				provider.Reset(c)
				return false
			}})
		}
		if a, err := w.askS3(ctx, q); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("the connection ended: %v, %v", a, err)
		}
		for _, r := range []*provider.Recorder{store.Recorder, moved} {
			r.Fail(nil)
		}
	}

	_, known := connect("named", storage, false)
	becomes(known, http.StatusOK)
	for name, mode := range map[string]provider.Resolution{"NXDOMAIN": provider.Unknown, "SERVFAIL": provider.Failing, "no address": provider.Empty, "silence": provider.Silent} {
		t.Run(name, func(t *testing.T) {
			names.Answer(mode)
			defer names.Answer(provider.Resolves)
			asked := names.Asked(storage)
			must(w.Wait(ctx, func() error {
				if n := names.Asked(storage) - asked; n < 2 {
					return fmt.Errorf("asked %d times %w", n, errNotYet)
				}
				return nil
			}))
			anew(known)
			if a, err := w.askS3(ctx, known); err != nil || a.status != http.StatusOK {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
	t.Run("moves", func(t *testing.T) {
		names.Set(storage, "127.0.0.2")
		moved.Reset()
		must(w.Wait(ctx, func() error {
			anew(known)
			if a, err := w.askS3(ctx, known); err != nil || a.status != http.StatusOK {
				return fmt.Errorf("%v, %w", a, errors.Join(err, errNotYet))
			}
			if len(moved.Requests()) == 0 {
				return fmt.Errorf("nothing at the new address: %w", errNotYet)
			}
			return nil
		}))
	})
	t.Run("never resolved", func(t *testing.T) {
		id, get := connect("nowhere", nowhere, true)
		wantS3Error(t, becomes(get, http.StatusServiceUnavailable), 503, "ServiceUnavailable")
		llm, err := w.tenant.LLM(ctx, stack.LLM{Name: "models of nowhere", Endpoint: "https://" + nowhere + ":" + port + "/v1", Secret: "sk-nowhere-0123456789", CA: string(ca), Untried: true})
		must(err)
		repo, err := w.tenant.Repository(ctx, "nowhere too", nil, []string{llm})
		must(err)
		key, err := w.tenant.AIKey(ctx, repo, "nowhere")
		must(err)
		must(w.Wait(ctx, func() error {
			a, err := w.askAI(ctx, http.MethodPost, "/v1/chat/completions", `{"model":"m"}`, key.Secret)
			if err != nil || !strings.Contains(a.body, "provider_unavailable") {
				return fmt.Errorf("%v %w", a, errors.Join(err, errNotYet))
			}
			wantAIError(t, a, http.StatusServiceUnavailable, "server_error", "provider_unavailable")
			return nil
		}))
		w.awaitStatus(ctx, t, w.tenant.BucketStatus, id, "OFFLINE", "lookup "+nowhere)
		names.Set(nowhere, "127.0.0.1")
		becomes(get, http.StatusOK)
		if v, err := w.tenant.ValidateBucket(ctx, id, client.BucketUpdate{}); err != nil || !v.OK {
			t.Errorf("%+v, %v", v, err)
		}
		w.awaitStatus(ctx, t, w.tenant.BucketStatus, id, "ONLINE", "")
	})
	l.end(t, "names did not resolve")
	w.scan(t)
}
