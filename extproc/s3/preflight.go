package s3

import (
	"strings"

	"keybridge/extproc"
)

var (
	failOrigin  = failure{"BadRequest", 400, "Insufficient information. Origin request header needed.", "preflight"}
	failAsks    = failure{"BadRequest", 400, "Invalid Access-Control-Request-Method: ", "preflight"}
	failAsksFor = failure{"BadRequest", 400, "Access-Control-Request-Headers ", "preflight"}
	failCORS    = failure{"AccessForbidden", 403, "CORSResponse: CORS is not enabled for this bucket.", "preflight"}
)

// preflight answers what a browser asks before it makes a request to another origin.
// It does so without a key, and without one no bucket is anybody's: the same bucket
// has other connectors in other workspaces. So the answer is that of a bucket without
// a CORS configuration, and of the mistakes those that the request alone shows.
func preflight(r *extproc.Request) *extproc.Error {
	method := r.Header("access-control-request-method")
	switch {
	case r.Header("origin") == "":
		return failOrigin.answer(r)
	case method != "GET" && method != "PUT" && method != "POST" && method != "HEAD" && method != "DELETE":
		return failAsks.because(method[:min(len(method), maxDetail)]).answer(r)
	}
	if names := r.Header("access-control-request-headers"); names != "" {
		for name := range strings.SplitSeq(names, ",") {
			if !validName(strings.ToLower(strings.TrimPrefix(name, " "))) {
				return failAsksFor.because(quoted(name) + " contains invalid character.").answer(r)
			}
		}
	}
	return failCORS.answer(r)
}
