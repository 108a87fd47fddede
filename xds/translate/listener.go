package translate

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	configv1 "keybridge/xds/config/v1"
)

// protocol is what differs between listeners: the words, and how long silence may last.
type protocol struct {
	authority   string // of the ext_proc stream
	routes      string // name of the route configuration
	contentType string
	errorBody   func(code, message string) string
	otherForms  []form // of errors
	// streamIdle ends a request on which no byte moves in either direction.
	streamIdle time.Duration
	// unheard are headers that clients send a lot of and the bridge never needs,
	// by name and by prefix. S3 has none: a client may sign any header.
	unheard, unheardPrefixes []string
	// replies are Envoy's own answers in the protocol's words.
	replies reply
	// refused are answers of the provider that are not passed on.
	refused []refusal
	// reviewed are what the bridge is shown of the provider's errors.
	reviewed reviewed
}

var (
	s3Protocol = &protocol{
		authority:   AuthorityS3,
		routes:      "keybridge-s3",
		contentType: "application/xml",
		errorBody:   s3Error,
		// The AWS SDKs give up reading after 60 s at most.
		streamIdle: 5 * time.Minute,
		replies:    s3Replies,
		refused:    []refusal{switched(s3Replies.provider), unframed(s3Replies.provider)},
		reviewed:   s3Reviewed,
	}
	aiProtocol = &protocol{
		authority:   AuthorityAI,
		routes:      "keybridge-ai",
		contentType: "application/json",
		errorBody:   aiError,
		otherForms:  []form{{anthropicPaths, anthropicError}},
		// A model may think in silence. The OpenAI SDKs wait for 10 minutes; the
		// client should be the one to give up.
		streamIdle:      15 * time.Minute,
		unheard:         []string{"user-agent", "accept-encoding", "accept-language"},
		unheardPrefixes: []string{"x-stainless-"},
		replies:         aiReplies,
		// What ends with the connection passes: JSON and events say themselves where they end.
		refused:  []refusal{switched(aiReplies.provider), redirected(aiReplies.redirect)},
		reviewed: aiReviewed,
	}
)

const (
	// messageTimeout bounds the bridge's answer to the headers.
	messageTimeout = 2 * time.Second
	// requestHeadersTimeout bounds how long a client may take to send its headers.
	requestHeadersTimeout = 30 * time.Second
	// connectionIdle closes connections without requests.
	connectionIdle = 15 * time.Minute
	bufferLimit    = 256 << 10
	maxHeadersKiB  = 64
	maxHeaders     = 200 // S3 metadata is up to 2 KB of x-amz-meta-* headers
	// What was stored with an object comes back with it, beside the provider's own headers.
	maxAnswerHeaders = maxHeaders + 100
)

func checkListener(l *configv1.Listener) (*protocol, error) {
	name := l.GetName()
	if name == "" || len(name) > 40 {
		return nil, fmt.Errorf("a listener's name has 1 to 40 bytes, not %d", len(name))
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return nil, fmt.Errorf("listener name %q is not [a-z0-9-]", name)
		}
	}
	if _, err := netip.ParseAddr(l.GetAddress()); err != nil {
		return nil, fmt.Errorf("address %q is not an IP address", l.GetAddress())
	}
	if l.GetPort() == 0 || l.GetPort() > 65535 {
		return nil, fmt.Errorf("port %d is out of range", l.GetPort())
	}
	switch l.GetProtocol() {
	case configv1.Protocol_S3:
		return s3Protocol, nil
	case configv1.Protocol_AI:
		return aiProtocol, nil
	default:
		return nil, errors.New("unknown protocol")
	}
}

func listener(l *configv1.Listener, p *protocol) *listenerv3.Listener {
	m := &listenerv3.Listener{
		Name: l.GetName(),
		// How much of a body Envoy reads ahead, and with that the size of the messages
		// in which the bridge gets those that it rewrites: 1 MiB by default (measured).
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address:       l.GetAddress(),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: l.GetPort()},
		}}},
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(connectionManager(l.GetName(), p))},
			}},
		}},
	}
	if name := l.GetCertificate(); name != "" {
		m.FilterChains[0].TransportSocket = downstreamTLS(name)
		m.FilterChains[0].TransportSocketConnectTimeout = durationpb.New(handshakeTimeout)
	}
	return m
}

func connectionManager(name string, p *protocol) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		CodecType:  hcmv3.HttpConnectionManager_AUTO, // HTTP/1.1, and HTTP/2 by ALPN or with prior knowledge
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			RouteConfigName: p.routes,
			ConfigSource: &corev3.ConfigSource{
				ResourceApiVersion:    corev3.ApiVersion_V3,
				ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
				InitialFetchTimeout:   durationpb.New(0), // no listener without routes
			},
		}},
		HttpFilters:                   httpFilters(p),
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{stripReserved()},
		LocalReplyConfig:              localReplies(p),

		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(connectionIdle),
			MaxHeadersCount: wrapperspb.UInt32(maxHeaders),
			// x-amz-meta-* names may hold underscores.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_ALLOW,
		},
		Http2ProtocolOptions:  &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(256)},
		MaxRequestHeadersKb:   wrapperspb.UInt32(maxHeadersKiB),
		RequestHeadersTimeout: durationpb.New(requestHeadersTimeout),
		StreamIdleTimeout:     durationpb.New(p.streamIdle),
		RequestTimeout:        durationpb.New(0),
		// Clients are not trusted: a connection that carried an invalid message ends.
		StreamErrorOnInvalidHttpMessage: wrapperspb.Bool(false),

		// What the client signed stays as it is. use_remote_address would overwrite
		// x-forwarded-proto and add x-envoy-external-address; without it nothing is
		// appended to x-forwarded-for either. No address counts as internal (Envoy's
		// default since 1.33; an empty internal_address_config would trust RFC 1918).
		UseRemoteAddress:             wrapperspb.Bool(false),
		SkipXffAppend:                true,
		GenerateRequestId:            wrapperspb.Bool(false),
		PreserveExternalRequestId:    true,
		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		NormalizePath:                wrapperspb.Bool(false),
		MergeSlashes:                 false,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
		// HTTP/2 providers are told the scheme that is really used.
		SchemeHeaderTransformation: &corev3.SchemeHeaderTransformation{MatchUpstream: true},
		// By default Envoy answers 100 Continue by itself, and a client sends its
		// body before the bridge has refused it.
		Proxy_100Continue: true,
	}
}

// stripReserved takes headers that only the bridge or Envoy may set from every
// client's request, before routing and filters: x-envoy-* could ask the router
// for retries or other timeouts.
func stripReserved() *corev3.TypedExtensionConfig {
	byPrefix := func(prefix string) *mutationv3.HeaderMutation {
		return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: prefixMatcher(prefix)},
		}}
	}
	return &corev3.TypedExtensionConfig{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: pack(&earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{
			byPrefix("x-keybridge-"),
			byPrefix("x-envoy-"),
		}}),
	}
}

func prefixMatcher(prefix string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}}
}

func httpFilters(p *protocol) []*hcmv3.HttpFilter {
	var filters []*hcmv3.HttpFilter
	add := func(name string, config proto.Message) {
		filters = append(filters, &hcmv3.HttpFilter{
			Name:       name,
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(config)},
		})
	}
	add("envoy.filters.http.ext_proc", extProc(p))
	add("envoy.filters.http.composite", review(p))
	add("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
	return filters
}

// extProc sends the bridge the request headers and nothing else; the bridge may
// ask for the body of single requests (mode override), and content-length then
// stays, since it passes bodies on at their length. Response trailers hardly ever
// come, but as they could, Envoy keeps the stream until the request ends, and an
// error on it resets the request: so the bridge can end those of a revoked key
// (measured with Envoy 1.40; no other mode does that without one more message).
func extProc(p *protocol) *extprocv3.ExternalProcessor {
	e := &extprocv3.ExternalProcessor{
		GrpcService: bridgeService(p),
		ProcessingMode: &extprocv3.ProcessingMode{
			RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
			ResponseHeaderMode:  extprocv3.ProcessingMode_SKIP,
			RequestBodyMode:     extprocv3.ProcessingMode_NONE,
			ResponseBodyMode:    extprocv3.ProcessingMode_NONE,
			RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
			ResponseTrailerMode: extprocv3.ProcessingMode_SEND,
		},
		FailureModeAllow:         false,
		StatusOnError:            &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:           durationpb.New(messageTimeout),
		AllowModeOverride:        true,
		AllowContentLengthHeader: true,
		MutationRules: &mutationv3.HeaderMutationRules{
			AllowAllRouting: wrapperspb.Bool(true),
			// A header that Envoy would not set after all must not go missing silently.
			DisallowIsError: wrapperspb.Bool(true),
		},
	}
	if len(p.unheard)+len(p.unheardPrefixes) > 0 {
		e.ForwardRules = &extprocv3.HeaderForwardingRules{DisallowedHeaders: &matcherv3.ListStringMatcher{}}
		add := func(m *matcherv3.StringMatcher) {
			e.ForwardRules.DisallowedHeaders.Patterns = append(e.ForwardRules.DisallowedHeaders.Patterns, m)
		}
		for _, name := range p.unheard {
			add(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}})
		}
		for _, prefix := range p.unheardPrefixes {
			add(prefixMatcher(prefix))
		}
	}
	return e
}

func bridgeService(p *protocol) *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName:      ExtProcCluster,
			Authority:        p.authority,
			SkipEnvoyHeaders: true,
		}},
	}
}
