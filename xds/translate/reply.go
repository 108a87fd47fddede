package translate

import (
	"encoding/json"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
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

// aiError is an error object in OpenAI's form with the one member more that makes
// it Anthropic's too: Envoy does not know which of them the client speaks.
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
	own := expression(envoysOwn)
	// Flags are set where the way to the provider failed (UF, UH, NC, …), but not
	// where the ext_proc stream did.
	flagged := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{}, // any flag
	}}
	c := &hcmv3.LocalReplyConfig{}
	add := func(filter *accesslogv3.AccessLogFilter, status uint32, a answer) {
		m := &hcmv3.ResponseMapper{
			Filter: filter,
			Body:   inline(a.body(p)),
			BodyFormatOverride: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline("%LOCAL_REPLY_BODY%")},
				// Setting it here rather than as a header keeps it single.
				ContentType: p.contentType,
			},
		}
		if status != 0 {
			m.StatusCode = wrapperspb.UInt32(status)
		}
		c.Mappers = append(c.Mappers, m)
	}
	failed := statusIs(accesslogv3.ComparisonFilter_GE, 500)
	add(allOf(own, failed, flagged), 0, p.replies.provider)
	add(allOf(own, failed), 503, p.replies.unavailable)
	for _, status := range []int{400, 403, 408, 413, 431} {
		add(allOf(own, statusIs(accesslogv3.ComparisonFilter_EQ, uint32(status))), 0, p.replies.byStatus[status])
	}
	add(own, 0, p.replies.otherwise)
	return c
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

// refuseRedirects answers 502 where the provider answers 3xx: a client that
// followed the redirect would take its repository key to another host. Nothing of
// the provider's answer is left; its body is read first, up to Envoy's buffer limit. It
// is for answers that are redirects alone: see answers.
//
// Lua, since Envoy 1.40 has nothing else for it that it calls stable: the
// custom_response filter is work in progress, outside Envoy's threat model.
func refuseRedirects(p *protocol) *luav3.Lua {
	return &luav3.Lua{DefaultSourceCode: inline(`function envoy_on_response(response)
  local headers = response:headers()
  local names = {}
  for name in pairs(headers) do
    if name:byte(1) ~= 58 then
      names[#names + 1] = name
    end
  end
  for _, name in ipairs(names) do
    headers:remove(name)
  end
  headers:replace(":status", "502")
  headers:replace("content-type", ` + strconv.Quote(p.contentType) + `)
  response:body(true):setBytes(` + strconv.Quote(p.replies.redirect.body(p)) + `)
end
`)}
}
