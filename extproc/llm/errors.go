package llm

import (
	"encoding/json"
	"net/url"
	"strings"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

const (
	servedOpenAI = "POST /v1/chat/completions, POST /v1/completions, POST /v1/embeddings, GET /v1/models and GET /v1/models/{model}"
	servedClaude = "POST /v1/messages, POST /v1/messages/count_tokens, GET /v1/models and GET /v1/models/{model}"
)

// inForms is one answer in each form.
type inForms [forms]*extproc.Error

// The answers that do not depend on the request. Messages of 401 follow the
// providers', without the part of the key that OpenAI echoes.
var (
	errNoKey = refuseEach(401, "", "no_key",
		"You didn't provide an API key. Provide your repository key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
		"x-api-key header is required. Provide your repository key there, or in an Authorization header using Bearer auth.")
	errTwoKeys = refuseEach(401, "invalid_api_key", "duplicate_key",
		"More than one Authorization header was sent. Send one, with your repository key.",
		"More than one x-api-key or Authorization header was sent. Send one of them, with your repository key.")
	errBadKey = refuseEach(401, "invalid_api_key", "bad_key",
		"Incorrect API key provided. Use a repository key that was issued for this gateway and is still valid.",
		"invalid x-api-key. Use a repository key that was issued for this gateway and is still valid.")
	errKeyType = refuseEach(403, "key_type", "key_type",
		"This repository key is of type ANTHROPIC: it is for "+servedClaude+".",
		"This repository key is of type OPENAI or OTHER: it is for "+servedOpenAI+".")
	errQuery = refuseEach(400, "query_not_allowed", "query",
		"Query strings are not accepted: none of the operations served here has query parameters.",
		"Query parameters are not accepted, but for beta=true, and limit, after_id and before_id of the list of models, each once.")
	errUnknownURL = refuseEach(404, "unknown_url", "unknown_url",
		"Unknown request URL or method. Served are "+servedOpenAI+"; put /connectors/{name} in front to name a connector.",
		"Unknown request URL or method. Served are "+servedClaude+"; put /connectors/{name} in front to name a connector.")
	errNotAllowed = refuseEach(403, "operation_not_allowed", "operation_not_allowed",
		"Repository keys cannot use this operation: it is not served here, or it would reach what is stored at the provider for other users of the account. Served are "+servedOpenAI+".",
		"Repository keys cannot use this operation: it is not served here, or it would reach what is stored at the provider for other users of the account. Served are "+servedClaude+".")
	errNoConnector = refuse(400, "no_connector", "no_connector",
		"The repository of this key has no AI connector that keys of its type reach.")
	errVersion = refuse(400, "invalid_version", "invalid_version",
		"anthropic-version: one header, a date as in 2023-06-01.")
	errConnector = refuse(503, "connector_unusable", "connector_unusable",
		"The credential of this connector cannot be used. Ask the owner of the connector to enter it again.")
	// What a provider refuses is the connector's key, and SDKs give up on a 401.
	errOurs = refuse(503, "provider_refused", "provider_auth",
		"The provider refuses the key of this connector. Your repository key is fine. Try again later, or tell the owner of the connector.")
	errUnavailable = refuse(503, "gateway_unavailable", "unavailable",
		"The gateway cannot serve requests at the moment. Try again later.")
)

// The answers to bodies. A body is read only to find its model.
var (
	errBody = refuse(400, "invalid_json", "invalid_body",
		"We could not parse the JSON body of your request: it must be one JSON object.")
	errEncoding = refuse(400, "unsupported_encoding", "body_encoding",
		"The repository of this key has several AI connectors, and the model in the body decides which one is used: send the body without content-encoding, or name a connector in the path.")
	errDeep = refuse(400, "invalid_json", "body_depth",
		"The JSON body of your request nests too deeply.")
	errTwoModels = refuse(400, "duplicate_model", "duplicate_model",
		"model: given more than once.")
	errModel = refuse(400, "invalid_model", "invalid_model",
		"model: must be a string of 1 to 256 bytes.")
	errNoModel = refuse(400, "missing_model", "missing_model",
		"model: field required.")
	errTooLarge = refuse(413, "request_too_large", "body_too_large",
		"The model did not come within the part of the body that the gateway reads to choose a connector. Put it first in the body, or name a connector in the path.")
	errTooSlow = refuse(408, "request_timeout", "body_too_slow",
		"The body did not arrive in time.")
)

func errScan(e scanError) *inForms {
	switch e {
	case scanDeep:
		return errDeep
	case scanTwice:
		return errTwoModels
	case scanNoString:
		return errModel
	case scanMissing:
		return errNoModel
	}
	return errBody
}

func errUnknownConnector(f form, key *grant.Key) *extproc.Error {
	all := paths(f, key)
	if all == "" {
		return errNoConnector[f]
	}
	return write(f, 404, "connector_not_found", "connector_not_found",
		"The repository of this key has no AI connector of that name that keys of its type reach. It has: "+all+".")
}

func errUnknownModel(f form, key *grant.Key, model string) *extproc.Error {
	return write(f, 404, "model_not_found", "model_not_found",
		"The model `"+model+"` does not exist, or no AI connector of the repository of this key offers it. Connectors can also be named in the path (the base URL of your client): "+paths(f, key)+".")
}

func errBeta(f form, feature string) *extproc.Error {
	return write(f, 400, "beta_not_allowed", "beta_not_allowed",
		"Unexpected value `"+feature+"` for the `anthropic-beta` header: the feature is unknown here, or it would reach what is stored at the provider for other users of the account.")
}

// paths lists the connectors that a key reaches, as base URLs of clients have them:
// those of OpenAI end in /v1, those of Anthropic before it.
func paths(f form, key *grant.Key) string {
	suffix := apiPrefix
	if f == anthropic {
		suffix = ""
	}
	var all []string
	for _, c := range key.Repository().AI {
		if key.Reaches(c) {
			all = append(all, connectorPrefix+url.PathEscape(c.Name)+suffix)
		}
	}
	return strings.Join(all, ", ")
}

// refuse makes an answer whose message is the same in each form.
func refuse(status int, code, reason, message string) *inForms {
	return refuseEach(status, code, reason, message, message)
}

func refuseEach(status int, code, reason, openAIMessage, anthropicMessage string) *inForms {
	return &inForms{
		openAI:    write(openAI, status, code, reason, openAIMessage),
		anthropic: write(anthropic, status, code, reason, anthropicMessage),
		either:    write(either, status, code, reason, openAIMessage),
	}
}

// write makes an answer in OpenAI's error form ("Error codes", OpenAI API guides),
// in Anthropic's ("Errors", Claude API reference), or in one that is both.
func write(f form, status int, code, reason, message string) *extproc.Error {
	type errorBody struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	type claudeBody struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	b := errorBody{Message: message, Type: "invalid_request_error"}
	if status >= 500 {
		b.Type = "server_error"
	}
	if code != "" {
		b.Code = &code
	}
	var body any
	switch f {
	case openAI:
		body = struct {
			Error errorBody `json:"error"`
		}{b}
	case anthropic:
		body = struct {
			Type  string     `json:"type"`
			Error claudeBody `json:"error"`
		}{"error", claudeBody{claudeType(status), message}}
	default:
		b.Type = claudeType(status)
		body = struct {
			Type  string    `json:"type"`
			Error errorBody `json:"error"`
		}{"error", b}
	}
	e := answer(status, reason, body)
	switch status {
	case 401:
		e.Headers = []extproc.Header{{Name: "www-authenticate", Value: "Bearer"}}
	case 503:
		e.Headers = []extproc.Header{{Name: "retry-after", Value: "5"}}
	}
	return e
}

// claudeType is what Anthropic calls an error of that status.
func claudeType(status int) string {
	switch status {
	case 401:
		return "authentication_error"
	case 403:
		return "permission_error"
	case 404:
		return "not_found_error"
	case 408:
		return "timeout_error"
	case 413:
		return "request_too_large"
	case 503:
		return "api_error"
	}
	return "invalid_request_error"
}

// answer is a response that the bridge itself gives.
func answer(status int, reason string, body any) *extproc.Error {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return &extproc.Error{Status: status, ContentType: "application/json", Body: text, Reason: reason}
}
