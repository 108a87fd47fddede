package translate

import (
	"encoding/json"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// answer is one error in the words of a protocol.
type answer struct{ code, message string }

func (a answer) body(p *protocol) string { return p.errorBody(a.code, a.message) }

// reply are the answers of a protocol, by what went wrong.
type reply struct {
	unavailable answer         // the bridge is gone, or did not answer
	provider    answer         // the provider is
	redirect    answer         // the provider sent a redirect that is not passed on
	byStatus    map[int]answer // Envoy refused the request itself
	otherwise   answer
}

// s3Replies use codes of "Error responses", Amazon S3 API Reference.
var s3Replies = reply{
	unavailable: answer{"ServiceUnavailable", "The service is unable to handle this request now. Please try again."},
	provider:    answer{"ServiceUnavailable", "The storage provider cannot be reached now. Please try again."},
	byStatus: map[int]answer{
		400: {"InvalidRequest", "The request is not well-formed HTTP."},
		403: {"AccessDenied", "The request is not allowed here."},
		408: {"RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period."},
		413: {"EntityTooLarge", "The request is too large."},
		431: {"RequestHeaderSectionTooLarge", "Your request header section exceeds the maximum allowed size."},
	},
	otherwise: answer{"InvalidRequest", "The request is not supported."},
}

// aiReplies use the types of "Error codes", OpenAI API documentation.
var aiReplies = reply{
	unavailable: answer{"service_unavailable", "The service is unable to handle this request now. Please try again."},
	provider:    answer{"provider_unavailable", "The provider cannot be reached now. Please try again."},
	redirect:    answer{"provider_redirect", "The provider answered with a redirect, which is not followed."},
	byStatus: map[int]answer{
		400: {"bad_request", "The request is not well-formed HTTP."},
		403: {"forbidden", "The request is not allowed here."},
		408: {"request_timeout", "The request was not received in time."},
		413: {"request_too_large", "The request is too large."},
		431: {"headers_too_large", "The request headers are too large."},
	},
	otherwise: answer{"invalid_request", "The request is not supported."},
}

// s3Error is an S3 error document. Codes and messages here need no escaping.
func s3Error(code, message string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>` + "\n<Error><Code>" + code + "</Code><Message>" + message + "</Message></Error>"
}

// form is how errors are written where the request tells what the client speaks.
type form struct {
	paths     string // regular expression, before and after the bridge has changed the path
	errorBody func(code, message string) string
}

// anthropicPaths are what Anthropic's API alone has.
const anthropicPaths = `[^?]*/messages(/count_tokens)?([?].*)?`

// cel is true of requests in the form.
func (f form) cel() string { return "request.path.matches(" + strconv.Quote("^"+f.paths+"$") + ")" }

// anthropicError is an error in Anthropic's form ("Errors", Claude API reference).
func anthropicError(code, message string) string {
	kind := "invalid_request_error"
	switch code {
	case "service_unavailable", "provider_unavailable", "provider_redirect":
		kind = "api_error"
	case "forbidden":
		kind = "permission_error"
	case "request_timeout":
		kind = "timeout_error"
	case "request_too_large":
		kind = "request_too_large"
	}
	type body struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error body   `json:"error"`
	}{"error", body{kind, message}})
	if err != nil {
		panic("translate: " + err.Error()) // strings always marshal
	}
	return string(b)
}

// aiError is an error object in OpenAI's form with the one member more that makes
// it Anthropic's too, where the path does not tell which of them the client speaks.
func aiError(code, message string) string {
	kind := "invalid_request_error"
	switch code {
	case "service_unavailable", "provider_unavailable", "provider_redirect":
		kind = "server_error"
	}
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	b, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error body   `json:"error"`
	}{"error", body{Message: message, Type: kind, Code: code}})
	if err != nil {
		panic("translate: " + err.Error()) // strings always marshal
	}
	return string(b)
}

// envoysOwn is true of an answer that Envoy made itself. The bridge's answers and
// the refusing route's bring their content type along; Envoy's own get theirs
// only after this was asked, and always have details (StreamInfo's
// ResponseCodeDetails).
const envoysOwn = `!("content-type" in response.headers) && response.code_details != ""`

// localReplies puts Envoy's own answers into the words of the protocol.
func localReplies(p *protocol) *hcmv3.LocalReplyConfig {
	c := &hcmv3.LocalReplyConfig{}
	for _, f := range p.otherForms {
		c.Mappers = append(c.Mappers, localRepliesIn(p, expression(envoysOwn+" && "+f.cel()), f.errorBody)...)
	}
	c.Mappers = append(c.Mappers, localRepliesIn(p, expression(envoysOwn), p.errorBody)...)
	return c
}

func localRepliesIn(p *protocol, own *accesslogv3.AccessLogFilter, body func(code, message string) string) (mappers []*hcmv3.ResponseMapper) {
	// Flags are set where the way to the provider failed (UF, UH, NC, …), but not
	// where the ext_proc stream did.
	flagged := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{}, // any flag
	}}
	add := func(filter *accesslogv3.AccessLogFilter, status uint32, a answer) {
		m := &hcmv3.ResponseMapper{
			Filter: filter,
			Body:   inline(body(a.code, a.message)),
			BodyFormatOverride: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline("%LOCAL_REPLY_BODY%")},
				// Setting it here rather than as a header keeps it single.
				ContentType: p.contentType,
			},
		}
		if status != 0 {
			m.StatusCode = wrapperspb.UInt32(status)
		}
		mappers = append(mappers, m)
	}
	failed := statusIs(accesslogv3.ComparisonFilter_GE, 500)
	add(allOf(own, failed, flagged), 0, p.replies.provider)
	add(allOf(own, failed), 503, p.replies.unavailable)
	for _, status := range []int{400, 403, 408, 413, 431} {
		add(allOf(own, statusIs(accesslogv3.ComparisonFilter_EQ, uint32(status))), 0, p.replies.byStatus[status])
	}
	add(own, 0, p.replies.otherwise)
	return mappers
}

func expression(cel string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name: "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{
				TypedConfig: pack(&celv3.ExpressionFilter{Expression: cel}),
			},
		},
	}}
}

func statusIs(op accesslogv3.ComparisonFilter_Op, status uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: op,
			// The key is required, and names a runtime override that nobody sets.
			Value: &corev3.RuntimeUInt32{DefaultValue: status, RuntimeKey: "keybridge.local_reply." + strconv.Itoa(int(status))},
		}},
	}}
}

func allOf(f ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: f}}}
}
