package translate_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"keybridge/envoy"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	s3Listener = &configv1.Listener{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9000}
	aiListener = &configv1.Listener{Name: "ai", Protocol: configv1.Protocol_AI, Address: "::", Port: 9001}
)

func input(t *testing.T, listeners []*configv1.Listener, endpoints ...translate.Endpoint) translate.Input {
	t.Helper()
	return translate.Input{
		Listeners: listeners, Endpoints: endpoints,
		ExtProcSocket: "/run/keybridge/extproc.sock", SystemRoots: "testdata/ca.pem",
	}
}

func TestGolden(t *testing.T) {
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	withTLS := input(t, []*configv1.Listener{
		{Name: "s3", Protocol: configv1.Protocol_S3, Address: "127.0.0.1", Port: 9443, Certificate: "site"},
		{Name: "ai", Protocol: configv1.Protocol_AI, Address: "127.0.0.1", Port: 9444, Certificate: "site"},
	})
	withTLS.Certificates = map[string]translate.Certificate{"site": siteCertificate(t), "unused": siteCertificate(t)}
	// Of the servers names are asked, and no address.
	asking := input(t, nil, translate.Endpoint{Scheme: "http", Host: "storage.example", Port: 80}, translate.Endpoint{Scheme: "http", Host: "10.0.0.9", Port: 80})
	asking.DNS = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("[fd00::2]:5353")}
	for name, in := range map[string]translate.Input{
		"tls":   withTLS,
		"dns":   asking,
		"empty": input(t, nil),
		"s3": input(t, []*configv1.Listener{s3Listener},
			translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: 7070},
			translate.Endpoint{Scheme: "https", Host: "s3.eu-west-1.amazonaws.com", Port: 443}),
		"ai": input(t, []*configv1.Listener{aiListener},
			translate.Endpoint{Scheme: "https", Host: "api.openai.com", Port: 443, HTTP2: true},
			translate.Endpoint{Scheme: "https", Host: "2001:db8::1", Port: 8443, CAPEM: ca}),
		// The same listeners and endpoints, each once too often.
		"both": input(t, []*configv1.Listener{s3Listener, aiListener},
			translate.Endpoint{Scheme: "https", Host: "shared.example", Port: 443, HTTP2: true},
			translate.Endpoint{Scheme: "https", Host: "shared.example", Port: 443}),
	} {
		t.Run(name, func(t *testing.T) {
			r, problems := translate.Render(in)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			for _, m := range all(r) {
				validateDeep(t, m.ProtoReflect())
			}
			validateByEnvoy(t, r)

			got := marshal(t, r)
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s differs (-want +got); run with -update if that is right:\n%s", path, diff)
			}
		})
	}
}

// siteCertificate is a pair that lives for ever and proves nothing to anybody.
func siteCertificate(t *testing.T) translate.Certificate {
	t.Helper()
	chain, err := os.ReadFile("testdata/server.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile("testdata/server.key")
	if err != nil {
		t.Fatal(err)
	}
	return translate.Certificate{Chain: chain, Key: key}
}

func all(r translate.Resources) []proto.Message {
	var out []proto.Message
	for _, group := range []map[string]proto.Message{r.CDS, r.RDS, r.SDS, r.LDS} {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			out = append(out, group[name])
		}
	}
	return out
}

func marshal(t *testing.T, r translate.Resources) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, m := range all(r) {
		raw, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "// %s\n", m.ProtoReflect().Descriptor().FullName())
		// protojson's spaces are random on purpose.
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			t.Fatal(err)
		}
		if err := json.Indent(&out, compact.Bytes(), "", "  "); err != nil {
			t.Fatal(err)
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// validateDeep applies protoc-gen-validate's rules to a message and to every
// extension packed inside it.
func validateDeep(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if v, ok := m.Interface().(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("%s: %v", m.Descriptor().FullName(), err)
		}
	}
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		validateDeep(t, inner.ProtoReflect())
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				validateDeep(t, v.Message())
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				validateDeep(t, v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			validateDeep(t, v.Message())
		}
		return true
	})
}

// validateByEnvoy has Envoy load the resources as static ones, with the route
// configurations in place of the references to them.
func validateByEnvoy(t *testing.T, r translate.Resources) {
	t.Helper()
	binary, err := envoy.Find("")
	if err != nil {
		t.Fatal(err)
	}
	static := &bootstrapv3.Bootstrap_StaticResources{}
	for _, m := range all(r) {
		switch m := m.(type) {
		case *clusterv3.Cluster:
			static.Clusters = append(static.Clusters, m)
		case *listenerv3.Listener:
			static.Listeners = append(static.Listeners, withCertificate(t, withRoutes(t, m, r), r))
		}
	}
	config, err := protojson.Marshal(&bootstrapv3.Bootstrap{StaticResources: static})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", path,
		"--log-level", "warning", "--disable-hot-restart").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, word := range []string{"deprecated", "work-in-progress"} {
		if strings.Contains(string(out), word) {
			t.Errorf("Envoy complains: %s", out)
		}
	}
}

func withRoutes(t *testing.T, l *listenerv3.Listener, r translate.Resources) *listenerv3.Listener {
	t.Helper()
	l = proto.CloneOf(l)
	filter := l.GetFilterChains()[0].GetFilters()[0]
	var manager hcmv3.HttpConnectionManager
	if err := filter.GetTypedConfig().UnmarshalTo(&manager); err != nil {
		t.Fatal(err)
	}
	routes, ok := r.RDS[manager.GetRds().GetRouteConfigName()].(*routev3.RouteConfiguration)
	if !ok {
		t.Fatalf("listener %s names routes that do not exist", l.GetName())
	}
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
	packed, err := anypb.New(&manager)
	if err != nil {
		t.Fatal(err)
	}
	filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	return l
}

// withCertificate puts the certificate in place of the reference to it.
func withCertificate(t *testing.T, l *listenerv3.Listener, r translate.Resources) *listenerv3.Listener {
	t.Helper()
	socket := l.GetFilterChains()[0].GetTransportSocket()
	if socket == nil {
		return l
	}
	var context tlsv3.DownstreamTlsContext
	if err := socket.GetTypedConfig().UnmarshalTo(&context); err != nil {
		t.Fatal(err)
	}
	common := context.GetCommonTlsContext()
	s, ok := r.SDS[common.GetTlsCertificateSdsSecretConfigs()[0].GetName()].(*tlsv3.Secret)
	if !ok {
		t.Fatalf("listener %s names a certificate that does not exist", l.GetName())
	}
	common.TlsCertificateSdsSecretConfigs = nil
	common.TlsCertificates = []*tlsv3.TlsCertificate{s.GetTlsCertificate()}
	packed, err := anypb.New(&context)
	if err != nil {
		t.Fatal(err)
	}
	socket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: packed}
	return l
}

func TestProblems(t *testing.T) {
	good := translate.Endpoint{Scheme: "https", Host: "good.example", Port: 443}
	for name, c := range map[string]struct {
		listener *configv1.Listener
		endpoint *translate.Endpoint
		roots    string
		socket   string
		want     string
	}{
		"listener name":     {listener: &configv1.Listener{Name: "S3", Protocol: 1, Address: "::1", Port: 1}, want: "not [a-z0-9-]"},
		"listener address":  {listener: &configv1.Listener{Name: "x", Protocol: 1, Address: "localhost", Port: 1}, want: "not an IP address"},
		"listener port":     {listener: &configv1.Listener{Name: "x", Protocol: 1, Address: "::1", Port: 65536}, want: "out of range"},
		"listener protocol": {listener: &configv1.Listener{Name: "x", Address: "::1", Port: 1}, want: "unknown protocol"},
		"same name":         {listener: &configv1.Listener{Name: "s3", Protocol: 1, Address: "::1", Port: 1}, want: "has this name"},
		"same address":      {listener: &configv1.Listener{Name: "x", Protocol: 1, Address: "127.0.0.1", Port: 9000}, want: "belongs to listener s3"},
		"certificate name":  {listener: &configv1.Listener{Name: "x", Protocol: 1, Address: "::1", Port: 1, Certificate: "lost"}, want: "--tls"},
		"certificate":       {listener: &configv1.Listener{Name: "x", Protocol: 1, Address: "::1", Port: 1, Certificate: "bad"}, want: "private key does not match"},
		"scheme":            {endpoint: &translate.Endpoint{Scheme: "ftp", Host: "x", Port: 1}, want: "neither https nor http"},
		"port":              {endpoint: &translate.Endpoint{Scheme: "http", Host: "x"}, want: "no port"},
		"host":              {endpoint: &translate.Endpoint{Scheme: "http", Host: "a..b", Port: 1}, want: "not a host name"},
		"upper case":        {endpoint: &translate.Endpoint{Scheme: "http", Host: "Example.com", Port: 1}, want: "lower-case"},
		"brackets":          {endpoint: &translate.Endpoint{Scheme: "http", Host: "[::1]", Port: 1}, want: "lower-case"},
		"zone":              {endpoint: &translate.Endpoint{Scheme: "http", Host: "fe80::1%eth0", Port: 1}, want: "zones"},
		"CA without TLS":    {endpoint: &translate.Endpoint{Scheme: "http", Host: "x", Port: 1, CAPEM: []byte("x")}, want: "for an http endpoint"},
		"CA not PEM":        {endpoint: &translate.Endpoint{Scheme: "https", Host: "x", Port: 1, CAPEM: []byte("x")}, want: "holds no certificate"},
		"socket":            {socket: "/" + strings.Repeat("x", 107), want: "has 108 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, []*configv1.Listener{s3Listener}, good)
			other := newAuthority(t).certificate(t, "x.example")
			in.Certificates = map[string]translate.Certificate{"bad": {Chain: siteCertificate(t).Chain, Key: other.Key}}
			if c.listener != nil {
				in.Listeners = append(in.Listeners, c.listener)
			}
			if c.endpoint != nil {
				in.Endpoints = append(in.Endpoints, *c.endpoint)
			}
			if c.socket != "" {
				in.ExtProcSocket = c.socket
			}
			r, problems := translate.Render(in)
			if len(problems) != 1 || !strings.Contains(problems[0].String(), c.want) {
				t.Errorf("problems %v, want one with %q", problems, c.want)
			}
			if len(r.LDS) != 1 || len(r.RDS) != 1 || r.CDS[good.Cluster()] == nil {
				t.Error("the rest was not rendered")
			}
		})
	}
	t.Run("no system roots", func(t *testing.T) {
		in := input(t, nil, good)
		in.SystemRoots = ""
		if _, problems := translate.Render(in); len(problems) != 1 || !strings.Contains(problems[0].String(), "system roots") {
			t.Errorf("problems %v", problems)
		}
	})
}

// A cluster's name is a promise that other rooms compute for themselves.
func TestClusterName(t *testing.T) {
	const digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" // of "foo"
	e := translate.Endpoint{Scheme: "https", Host: "x.example", Port: 443, CAPEM: []byte("foo")}
	if got, want := e.Cluster(), translate.ClusterName("https", "x.example", 443, digest); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	names := map[string]bool{
		translate.ClusterName("https", "x.example", 443, digest): true,
		translate.ClusterName("http", "x.example", 443, digest):  true,
		translate.ClusterName("https", "y.example", 443, digest): true,
		translate.ClusterName("https", "x.example", 444, digest): true,
		translate.ClusterName("https", "x.example", 443, ""):     true,
	}
	if len(names) != 5 {
		t.Errorf("names collide: %v", names)
	}
}
