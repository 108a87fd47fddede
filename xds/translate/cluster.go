package translate

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnscommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// A provider that does not take a connection, TLS handshake included, in this
	// time is down; with the route's two more attempts a client waits for 15 s.
	providerConnectTimeout = 5 * time.Second
	// Kept-alive connections are given up before the usual load balancer does it
	// (60 s, Elastic Load Balancing: "Connection idle timeout"): a request that
	// meets a connection being closed fails, since it is not repeated.
	providerIdleTimeout = 30 * time.Second
	// unlimited lifts Envoy's circuit breakers (1024 connections, requests and
	// pending requests by default), which would answer 503 under load.
	unlimited = 1 << 20
)

// extProcCluster is the way to the bridge: HTTP/2 over its unix socket.
func extProcCluster(socket string) *clusterv3.Cluster {
	c := baseCluster(ExtProcCluster, time.Second)
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.LoadAssignment = assignment(ExtProcCluster, &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: socket}}})
	c.TypedExtensionProtocolOptions = httpOptions(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
				},
			},
		},
	})
	return c
}

// endpointCluster reaches one provider endpoint.
func endpointCluster(name string, e Endpoint, systemRoots string, servers []netip.AddrPort) (*clusterv3.Cluster, error) {
	if e.Port == 0 {
		return nil, errors.New("no port")
	}
	ip, ipErr := netip.ParseAddr(e.Host)
	if ipErr != nil {
		if err := checkName(e.Host); err != nil {
			return nil, err
		}
	} else if ip.Zone() != "" {
		return nil, errors.New("IPv6 zones are not supported")
	}
	c := baseCluster(name, providerConnectTimeout)
	// One name that does not resolve would otherwise withhold the ACK, and with
	// it the start, of all clusters (measured with Envoy 1.40).
	c.WaitForWarmOnInit = wrapperspb.Bool(false)
	c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{
		TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes:   wrapperspb.UInt32(4),
			KeepaliveTime:     wrapperspb.UInt32(60),
			KeepaliveInterval: wrapperspb.UInt32(15),
		},
	}
	c.LoadAssignment = assignment(name, &corev3.Address{Address: &corev3.Address_SocketAddress{
		SocketAddress: &corev3.SocketAddress{
			Address:       e.Host,
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(e.Port)},
		},
	}})
	if ipErr == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	} else {
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.dns", TypedConfig: pack(dns(servers)),
		}}
	}
	switch e.Scheme {
	case "http":
		if len(e.CAPEM) > 0 {
			return nil, errors.New("a CA bundle for an http endpoint")
		}
	case "https":
		tls, err := upstreamTLS(e, ipErr == nil, systemRoots)
		if err != nil {
			return nil, err
		}
		c.TransportSocket = &corev3.TransportSocket{
			Name:       "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(tls)},
		}
	default:
		return nil, fmt.Errorf("scheme %q is neither https nor http", e.Scheme)
	}
	c.TypedExtensionProtocolOptions = httpOptions(providerHTTP(e.HTTP2 && e.Scheme == "https"))
	return c, nil
}

func baseCluster(name string, connect time.Duration) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:           name,
		ConnectTimeout: durationpb.New(connect),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections:     wrapperspb.UInt32(unlimited),
			MaxPendingRequests: wrapperspb.UInt32(unlimited),
			MaxRequests:        wrapperspb.UInt32(unlimited),
			MaxRetries:         wrapperspb.UInt32(128),
		}}},
	}
}

func assignment(cluster string, a *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
			}},
		}},
	}
}

// dns is how names are resolved: one logical host, since providers rotate their
// addresses and a change must not end connections; IPv6 and IPv4 tried as in
// RFC 8305; a name that does not resolve asked for at a polite rate. Envoy goes on with
// the addresses that it has until there are others.
func dns(servers []netip.AddrPort) *dnsv3.DnsCluster {
	c := &dnsv3.DnsCluster{
		AllAddressesInSingleEndpoint: true,
		DnsLookupFamily:              dnscommonv3.DnsLookupFamily_ALL,
		DnsRefreshRate:               durationpb.New(30 * time.Second),
		RespectDnsTtl:                true,
		DnsMinRefreshRate:            durationpb.New(5 * time.Second),
		DnsJitter:                    durationpb.New(time.Second),
		DnsFailureRefreshRate: &dnsv3.DnsCluster_RefreshRate{
			BaseInterval: durationpb.New(time.Second),
			MaxInterval:  durationpb.New(10 * time.Second),
		},
	}
	if len(servers) == 0 {
		return c
	}
	resolver := &caresv3.CaresDnsResolverConfig{}
	for _, s := range servers {
		resolver.Resolvers = append(resolver.Resolvers, &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: s.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(s.Port())},
		}}})
	}
	c.TypedDnsResolverConfig = &corev3.TypedExtensionConfig{Name: "envoy.network.dns_resolver.cares", TypedConfig: pack(resolver)}
	return c
}

// upstreamTLS verifies the endpoint's certificate chain and name. Without the
// name Envoy would accept any host's certificate (measured).
func upstreamTLS(e Endpoint, isIP bool, systemRoots string) (*tlsv3.UpstreamTlsContext, error) {
	san := &tlsv3.SubjectAltNameMatcher{
		SanType: tlsv3.SubjectAltNameMatcher_DNS,
		// For DNS names Envoy matches wildcards in the certificate, as RFC 6125 has it.
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: e.Host}},
	}
	sni := e.Host
	if isIP {
		san.SanType = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		sni = "" // RFC 6066 §3: literal addresses are not permitted
	}
	var roots *corev3.DataSource
	switch {
	case len(e.CAPEM) > 0:
		if err := checkCA(e.CAPEM); err != nil {
			return nil, err
		}
		roots = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: e.CAPEM}}
	case systemRoots != "":
		roots = &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: systemRoots}}
	default:
		return nil, errors.New("no CA bundle, and this host has no known file of system roots")
	}
	return &tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
				TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa:                 roots,
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san},
				},
			},
		},
	}, nil
}

// providerHTTP speaks HTTP/1.1, or what the provider chooses by ALPN. S3 stays
// with HTTP/1.1: object bodies need no second flow control.
func providerHTTP(http2 bool) *httpv3.HttpProtocolOptions {
	o := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(providerIdleTimeout),
			MaxHeadersCount: wrapperspb.UInt32(maxAnswerHeaders), // 100 by default
		},
	}
	if http2 {
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
			HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}}
		return o
	}
	o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
				HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
			},
		},
	}
	return o
}

func httpOptions(o proto.Message) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(o)}
}

// checkName accepts lower-case host names (RFC 1123 §2.1) and nothing that
// Envoy or a resolver could read otherwise.
func checkName(host string) error {
	if host == "" || len(host) > 253 {
		return fmt.Errorf("a host name has 1 to 253 bytes, not %d", len(host))
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is not a host name", host)
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return fmt.Errorf("%q is not a lower-case host name", host)
			}
		}
	}
	return nil
}

// checkCA refuses what Envoy would reject, so that it is named before it is sent.
func checkCA(bundle []byte) error {
	n := 0
	for rest := bundle; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("the CA bundle holds a %q, not only certificates", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("the CA bundle's certificate %d: %w", n+1, err)
		}
	}
	if n == 0 {
		return errors.New("the CA bundle holds no certificate")
	}
	return nil
}
