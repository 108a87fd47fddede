package llm

import (
	"strings"

	"keybridge/extproc"
)

// codeUnauthorized is the one code of a Refusal.
const codeUnauthorized = "unauthorized"

// RefusalCodes implements extproc.Reviewer.
func (*Protocol) RefusalCodes() []string { return []string{codeUnauthorized} }

// Review implements extproc.Reviewer. An answer of 401 is about the connector's key and
// nothing else (RFC 9110 §15.5.2), which OpenAI repeats in part; the client's was right.
// What the provider refuses with another status passes, as it may be about the request.
func (*Protocol) Review(a *extproc.Answer) *extproc.Refusal {
	if a.Status != 401 {
		return nil
	}
	key := a.Sent("x-api-key")
	if key == "" {
		key = strings.TrimPrefix(a.Sent("authorization"), "Bearer ")
	}
	return &extproc.Refusal{Code: codeUnauthorized, Certain: true, Instead: errOurs[formAsked(a.Path)], Secret: key}
}

// formAsked tells the form by the path that the provider was asked for.
func formAsked(path string) form {
	path, _, _ = strings.Cut(path, "?")
	switch {
	case strings.HasSuffix(path, "/messages"), strings.HasSuffix(path, "/messages/count_tokens"):
		return anthropic
	case strings.HasSuffix(path, "/completions"), strings.HasSuffix(path, "/embeddings"):
		return openAI
	}
	return either
}
