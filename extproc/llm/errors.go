package llm

import (
	"encoding/json"
	"net/url"
	"strings"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

const served = "POST /v1/chat/completions, POST /v1/completions, POST /v1/embeddings, GET /v1/models and GET /v1/models/{model}"

// The answers that do not depend on the request. Messages of 401 follow
// OpenAI's, without the part of the key that it echoes.
var (
	errNoKey = refuse(401, "invalid_request_error", "", "no_key",
		"You didn't provide an API key. Provide your repository key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).")
	errTwoKeys = refuse(401, "invalid_request_error", "invalid_api_key", "duplicate_key",
		"More than one Authorization header was sent. Send one, with your repository key.")
	errBadKey = refuse(401, "invalid_request_error", "invalid_api_key", "bad_key",
		"Incorrect API key provided. Use a repository key that was issued for this gateway and is still valid.")
	errQuery = refuse(400, "invalid_request_error", "query_not_allowed", "query",
		"Query strings are not accepted: none of the operations served here has query parameters.")
	errUnknownURL = refuse(404, "invalid_request_error", "unknown_url", "unknown_url",
		"Unknown request URL or method. Served are "+served+"; put /connectors/{name} in front to name a connector.")
	errNotAllowed = refuse(403, "invalid_request_error", "operation_not_allowed", "operation_not_allowed",
		"Repository keys cannot use this operation: it is not served here, or it would reach what is stored at the provider for other users of the account. Served are "+served+".")
	errNoConnector = refuse(400, "invalid_request_error", "no_connector", "no_connector",
		"The repository of this key has no AI connector.")
	errConnector = refuse(503, "server_error", "connector_unusable", "connector_unusable",
		"The credential of this connector cannot be used. Ask the owner of the connector to enter it again.")
	errUnavailable = refuse(503, "server_error", "gateway_unavailable", "unavailable",
		"The gateway cannot serve requests at the moment. Try again later.")
)

func errWhichConnector(r *grant.Repository) *extproc.Error {
	return refuse(400, "invalid_request_error", "connector_required", "connector_required",
		"The repository of this key has several AI connectors. Name one in the path (the base URL of your client): "+paths(r)+".")
}

func errUnknownConnector(r *grant.Repository) *extproc.Error {
	if len(r.AI) == 0 {
		return errNoConnector
	}
	return refuse(404, "invalid_request_error", "connector_not_found", "connector_not_found",
		"The repository of this key has no AI connector of that name. It has: "+paths(r)+".")
}

// paths lists the base paths of a repository's own connectors.
func paths(r *grant.Repository) string {
	all := make([]string, len(r.AI))
	for i, c := range r.AI {
		all[i] = connectorPrefix + url.PathEscape(c.Name) + apiPrefix
	}
	return strings.Join(all, ", ")
}

// refuse makes an answer in OpenAI's error form ("Error codes", OpenAI API guides).
func refuse(status int, kind, code, reason, message string) *extproc.Error {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	b := body{Message: message, Type: kind}
	if code != "" {
		b.Code = &code
	}
	text, err := json.Marshal(struct {
		Error body `json:"error"`
	}{b})
	if err != nil {
		panic(err) // strings always marshal
	}
	e := &extproc.Error{Status: status, ContentType: "application/json", Body: text, Reason: reason}
	switch status {
	case 401:
		e.Headers = []extproc.Header{{Name: "www-authenticate", Value: "Bearer"}}
	case 503:
		e.Headers = []extproc.Header{{Name: "retry-after", Value: "5"}}
	}
	return e
}
