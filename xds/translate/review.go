package translate

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// reviewed are the answers of providers that the bridge is shown before the client.
type reviewed struct {
	statuses []string
	body     extprocv3.ProcessingMode_BodySendMode
	// headers of the answer that tell more than its status does.
	headers []string
	// credentials are the request headers that carry the bridge's own.
	credentials []string
}

var (
	// The codes that S3 refuses a credential with come with these; which of them it
	// is says the body ("Error responses", Amazon S3 API Reference).
	s3Reviewed = reviewed{[]string{"400", "401", "403"}, extprocv3.ProcessingMode_BUFFERED, []string{"content-encoding", "x-minio-error-code"}, []string{"authorization"}}
	// Of AI providers 401 alone, which says it without a body (RFC 9110 §15.5.2).
	aiReviewed = reviewed{[]string{"401"}, extprocv3.ProcessingMode_NONE, nil, []string{"authorization", "x-api-key"}}
)

// review has the bridge look at the answers with which a provider may refuse the
// bridge's own credential, and replaces those that are refused (refuse.go). These alone reach a
// filter, which is made only then: what it costs all others is that their status is looked up, 3 % (± 3) of
// the CPU that a bare Envoy 1.40 takes for a small GET on 16 connections, where a Lua
// filter takes 12 % and an ext_proc filter that a matcher skips 15 %. Envoy's own
// answers, the bridge's refusals among them, are left out.
//
// An answer that is reviewed is held until the bridge has seen all of it. If it is
// longer than Envoy's buffer (bufferLimit), or the bridge does not answer, it is replaced by
// Envoy's own 503.
func review(p *protocol) *compositev3.Composite {
	var statuses []*predicate
	for _, s := range p.reviewed.statuses {
		statuses = append(statuses, status(s))
	}
	rules := []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{run("review", "envoy.filters.http.ext_proc", reviewer(p), anyOf(statuses...))}
	for _, r := range p.refused {
		for _, f := range p.otherForms {
			rules = append(rules, run(r.name, "envoy.filters.http.lua", replace(p, r.with, f.errorBody), append(f.asked(), r.when...)...))
		}
		rules = append(rules, run(r.name, "envoy.filters.http.lua", replace(p, r.with, p.errorBody), r.when...))
	}
	return &compositev3.Composite{Matcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{
		MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: rules},
	}}}
}

// run has a filter see a provider's answer of which all predicates are true.
func run(name, filter string, config proto.Message, when ...*predicate) *xdsmatcherv3.Matcher_MatcherList_FieldMatcher {
	return &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{
		Predicate: all(append(when, is(&matcherv3.HttpResponseLocalReplyMatchInput{}, "false"))...),
		OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: extension(name, &compositev3.ExecuteFilterAction{TypedConfig: &corev3.TypedExtensionConfig{
				Name: filter, TypedConfig: pack(config),
			}}),
		}},
	}
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

func is(input proto.Message, value string) *predicate {
	return matches(input, &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: value}})
}

func status(code string) *predicate {
	return is(&matcherv3.HttpResponseHeaderMatchInput{HeaderName: ":status"}, code)
}

// has is true of an answer with the header.
func has(header string) *predicate {
	return matches(&matcherv3.HttpResponseHeaderMatchInput{HeaderName: header}, regex(".*"))
}

func regex(expression string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
		EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}}, Regex: expression,
	}}}
}

func not(p *predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

func matches(input proto.Message, value *xdsmatcherv3.StringMatcher) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   extension("input", input),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
		},
	}}
}

// anyOf one predicate is that one: Envoy wants two at the least.
func anyOf(p ...*predicate) *predicate {
	if len(p) == 1 {
		return p[0]
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: p},
	}}
}

func all(p ...*predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: p},
	}}
}

func extension(name string, config proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: pack(config)}
}

// reviewer sends the bridge of an answer the status, few headers and the body, and of the request what says whom it was made for. The credential
// comes from the bridge and goes back to it, over the same socket.
func reviewer(p *protocol) *extprocv3.ExternalProcessor {
	e := &extprocv3.ExternalProcessor{
		GrpcService: bridgeService(p),
		ProcessingMode: &extprocv3.ProcessingMode{
			RequestHeaderMode:   extprocv3.ProcessingMode_SKIP,
			ResponseHeaderMode:  extprocv3.ProcessingMode_SEND,
			RequestBodyMode:     extprocv3.ProcessingMode_NONE,
			ResponseBodyMode:    p.reviewed.body,
			RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
			ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
		},
		FailureModeAllow:   false,
		StatusOnError:      &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:     durationpb.New(messageTimeout),
		ResponseAttributes: []string{"xds.cluster_name", "request.method", "request.path"},
		ForwardRules:       &extprocv3.HeaderForwardingRules{AllowedHeaders: &matcherv3.ListStringMatcher{}},
	}
	for _, name := range p.reviewed.credentials {
		e.ResponseAttributes = append(e.ResponseAttributes, "request.headers['"+name+"']")
	}
	for _, name := range append([]string{":status"}, p.reviewed.headers...) {
		e.ForwardRules.AllowedHeaders.Patterns = append(e.ForwardRules.AllowedHeaders.Patterns,
			&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}})
	}
	return e
}
