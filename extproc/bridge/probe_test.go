package bridge_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keybridge/e2e/provider"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
	"keybridge/xds/link"
)

// probing lets the bridge of w make real calls to the providers of this machine.
func probing(w *world) {
	w.allow = []string{"http://127.0.0.1"}
	w.adjust = func(cfg *bridge.Config) {
		cfg.Probers = map[grant.Provider]bridge.Prober{
			grant.ProviderS3: s3.Probe, grant.ProviderOpenAI: llm.Probe, grant.ProviderOther: llm.Probe, grant.ProviderAnthropic: llm.Probe,
		}
		cfg.Version, cfg.Region, cfg.URLs = "v-test", "eu-test", []string{"http://bridge.test:9000"}
	}
}

// fresh is a connector that does not exist yet.
type fresh struct {
	workspace string
	binding   seal.Binding
	secret    string
	region    string
	ca        []byte
	provider  string // "": S3
	// edit changes the probe after it was made.
	edit func(*link.Probe)
}

func (w *world) probe(t *testing.T, f fresh) *link.ProbeResult {
	t.Helper()
	r, err := w.hub.Probe(t.Context(), w.message(t, f))
	must(t, err)
	if strings.Contains(r.Message, f.secret) {
		t.Errorf("the message carries the secret: %q", r.Message)
	}
	return r
}

func (w *world) message(t *testing.T, f fresh) *link.Probe {
	t.Helper()
	if f.workspace == "" {
		f.workspace = uuid.NewString()
	}
	if f.provider == "" {
		f.provider = "S3"
	}
	f.binding.CA = seal.CADigest(f.ca)
	sealed, err := seal.Seal(w.sealing, seal.Header{
		Format: seal.Format, Workspace: f.workspace, Type: seal.TypeCredential, Record: uuid.NewString(), Version: 1, Binding: f.binding,
	}, []byte(f.secret))
	must(t, err)
	raw, err := sealed.MarshalBinary()
	must(t, err)
	p := &link.Probe{
		Sealed: raw, Workspace: f.workspace, Provider: f.provider, Region: f.region, CaCertificates: f.ca,
	}
	if f.provider == "S3" {
		p.Bucket = f.binding.Scope
	}
	if f.edit != nil {
		f.edit(p)
	}
	return p
}

// awaitProber waits until the bridge has said that it can open what it is sent.
func (w *world) awaitProber(t *testing.T) {
	t.Helper()
	w.await(t, func() bool {
		b := w.hub.Bridges()
		return len(b) == 1 && b[0].Connected && slices.Contains([]string{"syncing", "ready"}, b[0].Report.GetState())
	})
}

func at(use, url string) seal.Binding {
	e, err := seal.ParseEndpoint(url)
	if err != nil {
		panic(err) // a URL of this file
	}
	return seal.Binding{Use: use, Scheme: e.Scheme, Host: e.Host, Port: e.Port, Scope: e.Path}
}

// startS3 is a server with a bucket.
func startS3(t *testing.T, bucket string) *provider.S3 {
	server, err := provider.StartS3(t.Context(), provider.S3Config{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	must(t, server.MakeBucket(t.Context(), bucket))
	return server
}

func TestProbeS3(t *testing.T) {
	server := startS3(t, "photos")
	w := newWorld(t)
	probing(w)
	w.start(t)
	w.awaitProber(t)

	binding := func(key, bucket string) seal.Binding {
		b := at(seal.UseS3, server.URL())
		b.Key, b.Scope = key, bucket
		return b
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	nobody := binding(server.Access, "photos")
	nobody.Port = netip.MustParseAddrPort(free.Addr().String()).Port()
	must(t, free.Close())

	for _, test := range []struct {
		name   string
		f      fresh
		ok     bool
		says   string
		region string
	}{
		{"a bucket", fresh{binding: binding(server.Access, "photos"), secret: server.Secret, region: provider.Region}, true, "", provider.Region},
		{"no region said", fresh{binding: binding(server.Access, "photos"), secret: server.Secret}, true, "", provider.Region},
		{"the account", fresh{binding: binding(server.Access, "*"), secret: server.Secret, region: provider.Region}, true, "", ""},
		{"no such bucket", fresh{binding: binding(server.Access, "absent"), secret: server.Secret, region: provider.Region}, false, "NoSuchBucket", ""},
		{"wrong secret", fresh{binding: binding(server.Access, "photos"), secret: "not-" + server.Secret, region: provider.Region}, false, "SignatureDoesNotMatch", ""},
		{"wrong secret for the account", fresh{binding: binding(server.Access, "*"), secret: "not-" + server.Secret, region: provider.Region}, false, "SignatureDoesNotMatch", ""},
		{"unknown key", fresh{binding: binding("AKNOBODY", "photos"), secret: server.Secret, region: provider.Region}, false, "InvalidAccessKeyId", ""},
		{"wrong region", fresh{binding: binding(server.Access, "photos"), secret: server.Secret, region: "eu-north-7"}, false, provider.Region, provider.Region},
		{"nobody listens", fresh{binding: nobody, secret: server.Secret, region: provider.Region}, false, "the provider was not reached: dial tcp", ""},
		{"no such name", fresh{binding: at(seal.UseOpenAI, "https://does-not-exist.invalid/v1"), secret: "sk-0123456789", provider: "OTHER"}, false, "the provider was not reached: lookup does-not-exist.invalid: ", ""},
		{"another bucket than bound", fresh{binding: binding(server.Access, "photos"), secret: server.Secret, edit: func(p *link.Probe) { p.Bucket = "other" }}, false, "another bucket", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := w.probe(t, test.f)
			if r.Ok != test.ok || !strings.Contains(r.Message, test.says) || r.Ok != (r.Message == "") || r.Region != test.region {
				t.Errorf("got %v", r)
			}
		})
	}
	if len(server.Requests()) != 0 || len(server.Probes()) < 10 {
		t.Error("probes do not say that they are")
	}
}

// A name that leads to this machine is left out of service as soon as it is seen.
func TestNameThatResolvesToLoopbackIsLeftOut(t *testing.T) {
	resolve(t, netip.MustParseAddr("127.0.0.1"))
	w := newWorld(t)
	probing(w)
	w.allow = nil
	o := w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector == nil })
	w.await(t, func() bool {
		s := w.status(o.connector)
		return s != nil && !s.Online && strings.Contains(s.Message, "resolves to an address that is not allowed") &&
			strings.Contains(strings.Join(w.bridge.Status().Problems, "\n"), "a loopback address")
	})
}

func TestRegionIsLearned(t *testing.T) {
	// A provider whose region is not the default, as AWS answers ("HeadBucket", Amazon S3 API Reference).
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-amz-bucket-region", "eu-central-1")
		if !strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/s3/") {
			w.WriteHeader(http.StatusMovedPermanently)
		}
	}))
	t.Cleanup(server.Close)
	w := newWorld(t)
	probing(w)
	w.start(t)
	w.awaitProber(t)
	b := at(seal.UseS3, server.URL)
	b.Key, b.Scope = "AKPROVIDER", "photos"
	if r := w.probe(t, fresh{binding: b, secret: "provider-secret"}); !r.Ok || r.Region != "eu-central-1" {
		t.Errorf("region not said: %v", r)
	}
	if r := w.probe(t, fresh{binding: b, secret: "provider-secret", region: "us-west-1"}); r.Ok || r.Region != "eu-central-1" || r.Message != "the bucket is in region eu-central-1" {
		t.Errorf("wrong region said: %v", r)
	}
}

func TestProbeAI(t *testing.T) {
	server, err := provider.StartOpenAI(provider.AIConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	w := newWorld(t)
	probing(w)
	w.start(t)
	w.awaitProber(t)
	b := at(seal.UseOpenAI, server.Endpoint())
	r := w.probe(t, fresh{binding: b, secret: server.Key, provider: "OPENAI"})
	var ids []string
	for _, m := range r.Models {
		ids = append(ids, m.Id)
	}
	if !r.Ok || !slices.Equal(ids, provider.Models) || r.Models[0].Created == 0 {
		t.Errorf("models: %v", r)
	}
	if r := w.probe(t, fresh{binding: b, secret: "sk-wrong-key-of-some-length", provider: "OTHER"}); r.Ok || r.Message != "HTTP 401 Unauthorized: incorrect API key provided" {
		t.Errorf("wrong key: %v", r)
	}
	if r := w.probe(t, fresh{binding: b, secret: "two\r\nlines", provider: "OTHER"}); r.Ok || !strings.Contains(r.Message, "cannot be sent") {
		t.Errorf("a key that is no header: %v", r)
	}
	if r := w.probe(t, fresh{binding: b, secret: server.Key, provider: "ANTHROPIC"}); r.Ok || !strings.Contains(r.Message, "not for") {
		t.Errorf("a key of another API: %v", r)
	}
}

func TestProbeAnthropic(t *testing.T) {
	server, err := provider.StartAnthropic(provider.AIConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	w := newWorld(t)
	probing(w)
	w.start(t)
	w.awaitProber(t)
	b := at(seal.UseAnthropic, server.URL())
	r := w.probe(t, fresh{binding: b, secret: server.Key, provider: "ANTHROPIC"})
	if !r.Ok || len(r.Models) != len(provider.ClaudeModels) || r.Models[0].Created == 0 || r.Models[0].Name == "" {
		t.Errorf("models: %v", r)
	}
	if r := w.probe(t, fresh{binding: b, secret: "sk-ant-wrong-key-of-a-length", provider: "ANTHROPIC"}); r.Ok || !strings.HasPrefix(r.Message, "HTTP 401 Unauthorized: ") {
		t.Errorf("wrong key: %v", r)
	}
}

func TestProbeTLS(t *testing.T) {
	served, ca, err := provider.Certificate("127.0.0.1")
	must(t, err)
	elsewhere, elsewhereCA, err := provider.Certificate("elsewhere.example.com")
	must(t, err)
	start := func(c *tls.Config) *provider.OpenAI {
		p, err := provider.StartOpenAI(provider.AIConfig{Recorder: provider.RecorderConfig{TLS: c}})
		must(t, err)
		t.Cleanup(func() { must(t, p.Close()) })
		return p
	}
	right, wrong := start(served), start(elsewhere)
	w := newWorld(t)
	probing(w)
	w.start(t)
	w.awaitProber(t)
	for _, test := range []struct {
		name   string
		server *provider.OpenAI
		ca     []byte
		says   string
	}{
		{"bound CA", right, ca, ""},
		{"system roots", right, nil, "unknown authority"},
		{"another CA", right, elsewhereCA, "unknown authority"},
		{"another host's certificate", wrong, elsewhereCA, "certificate"},
		{"no certificates", right, []byte("none"), "no certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := w.probe(t, fresh{binding: at(seal.UseOpenAI, test.server.Endpoint()), secret: test.server.Key, ca: test.ca, provider: "OTHER"})
			if r.Ok != (test.says == "") || !strings.Contains(r.Message, test.says) {
				t.Errorf("got %v", r)
			}
		})
	}
	if n := len(wrong.Probes()); n != 0 {
		t.Errorf("%d requests at a server that is not the bound one", n)
	}
}

// What a provider may do to a bridge that asks it.
func TestHostileProviders(t *testing.T) {
	const key = "sk-Zq8-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcd"
	reached := make(chan string, 1)
	trap := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.String() }))
	t.Cleanup(trap.Close)
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		how, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch how {
		case "redirect":
			http.Redirect(w, r, trap.URL+"/?stolen", http.StatusTemporaryRedirect)
		case "slow":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case "trickle":
			for range 100 {
				_, err := io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(100 * time.Millisecond):
				case <-r.Context().Done():
				}
				if err != nil {
					return
				}
			}
		case "echo":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"bad key %s,\u001b[31m or %s\r\nLog: forged %s %s"}}`,
				r.Header.Get("Authorization"), key[:8]+"****"+key[40:], strings.Repeat("fedcba98", 8), strings.Repeat("x", 5000))
		case "huge":
			fmt.Fprint(w, `{"data":[{"id":"`)
			_, _ = io.Copy(w, io.LimitReader(endless{}, 64<<20)) // cut off
		case "models":
			fmt.Fprintf(w, `{"data":[{"id":"good","created":1700000000},{"id":"%s"},{"id":"a\u0000b"},{"id":""},{"id":"named","created":"soon","display_name":"N\nN"}]}`, key)
		case "bare":
			fmt.Fprint(w, `[{"id":"m1"}]`)
		case "html":
			fmt.Fprint(w, `<html>login</html>`)
		}
	}))
	t.Cleanup(func() { close(stop); server.Close() })
	type hostile struct {
		how, says string
		models    []string
	}
	tries := func(name string, within time.Duration, providers []hostile) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			probing(w)
			adjust := w.adjust
			w.adjust = func(cfg *bridge.Config) {
				adjust(cfg)
				cfg.ProbeTimeout = within
			}
			w.start(t)
			w.awaitProber(t)
			for _, test := range providers {
				t.Run(test.how, func(t *testing.T) {
					t.Parallel()
					r := w.probe(t, fresh{binding: at(seal.UseOpenAI, server.URL+"/"+test.how+"/v1"), secret: key, provider: "OTHER"})
					var models []string
					for _, m := range r.Models {
						models = append(models, fmt.Sprint(m.Id, " ", m.Created))
					}
					if r.Ok != (test.says == "") || !strings.Contains(r.Message, test.says) || len(r.Message) > 300 || !slices.Equal(models, test.models) {
						t.Errorf("got %v", r)
					}
				})
			}
		})
	}
	tries("in vain", time.Second, []hostile{
		{"slow", "no answer within 1s", nil},
		{"trickle", "no answer within 1s", nil},
	})
	// With the time that there is at most: this machine may be busy.
	tries("answered", 0, []hostile{
		{"redirect", "the provider redirects (HTTP 307), and redirects are not followed", nil},
		{"huge", "longer than", nil},
		{"html", "not a list of models", nil},
		{"echo", "HTTP 401 Unauthorized: bad key Bearer [withheld],[31m or [withheld]****[withheld] Log: forged [withheld] xxx", nil},
		{"models", "", []string{"good 1700000000", "named 0"}},
		{"bare", "", []string{"m1 0"}},
	})
	t.Cleanup(func() {
		select {
		case u := <-reached:
			t.Errorf("the redirect was followed to %s", u)
		default:
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// Nobody who holds the control plane can have a credential tried where it is not
// bound to, or where the operator lets nothing go.
func TestProbeGuards(t *testing.T) {
	server, err := provider.StartOpenAI(provider.AIConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	resolve(t, netip.MustParseAddr("127.0.0.1"))
	port := netip.MustParseAddrPort(server.Addr()).Port()
	named := func(host string) seal.Binding {
		return at(seal.UseOpenAI, fmt.Sprintf("http://%s:%d/v1", host, port))
	}
	w := newWorld(t)
	probing(w)
	w.allow = []string{"http://allowed.example.com"}
	w.start(t)
	w.awaitProber(t)
	for _, test := range []struct {
		name string
		f    fresh
		says string
	}{
		{"loopback by address", fresh{binding: at(seal.UseOpenAI, "https://127.0.0.2/v1")}, "--allow-endpoint"},
		{"metadata service", fresh{binding: at(seal.UseOpenAI, "http://169.254.169.254/v1")}, "--allow-endpoint"},
		{"http to a public host", fresh{binding: at(seal.UseOpenAI, "http://public.example.com/v1")}, "not encrypted"},
		{"public name that resolves to loopback", fresh{binding: at(seal.UseOpenAI, fmt.Sprintf("https://public.example.com:%d/v1", port))}, "a loopback address"},
		{"allowed name that resolves to loopback", fresh{binding: named("allowed.example.com")}, "this is"}, // reached, and the server minds the Host
		{"sealed for another workspace", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.Workspace = uuid.NewString() }}, "of workspace"},
		{"tampered", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.Sealed[len(p.Sealed)-1] ^= 1 }}, "does not open"},
		{"no record at all", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.Sealed = []byte("garbage") }}, "record"},
		{"another CA than bound", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.CaCertificates = []byte("x") }}, "CA certificates"},
		{"unknown connector", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.Sealed, p.Connector = nil, uuid.NewString() }}, "no connector"},
		{"unknown credential", fresh{binding: named("allowed.example.com"), edit: func(p *link.Probe) { p.Sealed, p.Credential = nil, uuid.NewString() }}, "not here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.f.secret, test.f.provider = server.Key, "OTHER"
			if r := w.probe(t, test.f); r.Ok || !strings.Contains(r.Message, test.says) {
				t.Errorf("got %v", r)
			}
		})
	}
}

// resolve makes every name of this process resolve to one address, over real DNS.
func resolve(t *testing.T, to netip.Addr) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(answerDNS(buf[:n], to), from) // a lost answer is asked for again
		}
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = before; _ = server.Close(); <-done })
}

// answerDNS is the answer to a query for one name (RFC 1035 §4).
func answerDNS(query []byte, to netip.Addr) []byte {
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	out := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end]...)
	if query[end-3] == 1 { // A; there is no other record
		out[7] = 1
		ip := to.As4()
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, ip[0], ip[1], ip[2], ip[3])
	}
	return out
}
