package llm

import (
	"strings"

	"keybridge/extproc"
)

// form is whose API a request speaks, and so the form of errors and lists.
type form uint8

const (
	openAI form = iota
	anthropic
	// either is for answers that are made without the request: an error that clients
	// of both understand.
	either
	forms
)

// formOf tells the form of a request by its path, and where that is common to both
// by anthropic-version, which Anthropic requires of its clients.
func formOf(r *extproc.Request) form {
	rest := r.Path
	if named, ok := strings.CutPrefix(rest, connectorPrefix); ok {
		if slash := strings.IndexByte(named, '/'); slash >= 0 {
			rest = named[slash:]
		}
	}
	if rest, ok := strings.CutPrefix(rest, apiPrefix+"/"); ok {
		if end := strings.IndexAny(rest, "/?"); end >= 0 {
			rest = rest[:end]
		}
		switch rest {
		case "messages":
			return anthropic
		case "chat", "completions", "embeddings":
			return openAI
		}
	}
	if r.Values(versionHeader) > 0 {
		return anthropic
	}
	return openAI
}
