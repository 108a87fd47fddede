package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// routeConfiguration has three routes for all that a protocol's listeners take: to
// the cluster that the bridge named, once or with further attempts, and a refusal.
func routeConfiguration(p *protocol) *routev3.RouteConfiguration {
	everything := &routev3.RouteMatch_Prefix{Prefix: "/"}
	once := forward(&routev3.RetryPolicy{})
	once.Name = "once"
	once.Match.Headers = append(once.Match.Headers, present(OnceHeader))
	forward := forward(&routev3.RetryPolicy{
		// Only what cannot have reached the provider: a repeated chat is billed twice.
		RetryOn:    "connect-failure,refused-stream,reset-before-request",
		NumRetries: wrapperspb.UInt32(2),
	})
	refuse := &routev3.Route{
		Name:  "refuse",
		Match: &routev3.RouteMatch{PathSpecifier: everything},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 503,
			Body:   inline(p.replies.unavailable.body(p)),
		}},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{contentType(p)},
	}
	return &routev3.RouteConfiguration{
		Name: p.routes,
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    p.routes,
			Domains: []string{"*"},
			Routes:  []*routev3.Route{once, forward, refuse},
		}},
	}
}

func forward(retries *routev3.RetryPolicy) *routev3.Route {
	return &routev3.Route{
		Name: "forward",
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
			Headers:       []*routev3.HeaderMatcher{present(ClusterHeader)},
		},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_ClusterHeader{ClusterHeader: ClusterHeader},
			// A request the provider no longer knows the cluster for is refused like one it never had.
			ClusterNotFoundResponseCode: routev3.RouteAction_SERVICE_UNAVAILABLE,
			Timeout:                     durationpb.New(0),
			RetryPolicy:                 retries,
		}},
		// x-forwarded-proto is Envoy's if the client sent none, and "http" makes some
		// providers redirect.
		RequestHeadersToRemove: []string{ClusterHeader, OnceHeader, "x-forwarded-proto"},
	}
}

func present(header string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:                 header,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
	}
}

func inline(body string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
}

func contentType(p *protocol) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: "content-type", Value: p.contentType},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
