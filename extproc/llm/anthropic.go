package llm

import (
	"strings"

	"keybridge/extproc"
)

const (
	versionHeader = "anthropic-version"
	betaHeader    = "anthropic-beta"
	// browserHeader admits that a browser holds the key; providers want it for CORS.
	browserHeader = "anthropic-dangerous-direct-browser-access"
)

// betas are the features of anthropic-beta that pass, in any of their dated
// revisions ("Beta headers", Claude API reference, and the values that Anthropic's
// SDKs know): those that change how one message is written, read or counted. Left
// out is what reaches things stored for all users of the provider's account, such as
// files-api, skills, code-execution (its containers), message-batches, agent-memory,
// managed-agents, mcp-tunnels, user-profiles, and what administers the account.
var betas = map[string]bool{
	"advanced-tool-use": true, "advisor-tool": true, "cache-diagnosis": true, "claude-code": true, "compact": true,
	"computer-use": true, "context-1m": true, "context-management": true, "dev-full-thinking": true, "effort": true,
	"extended-cache-ttl": true, "fast-mode": true, "fine-grained-tool-streaming": true, "inline-tools": true,
	"interleaved-thinking": true, "max-tokens-3-5-sonnet": true, "mcp-client": true,
	"mid-conversation-output-config": true, "mid-conversation-system-clear-at": true, "mid-conversation-tool-changes": true,
	"model-context-window-exceeded": true, "output-128k": true, "output-300k": true, "pdfs": true, "prompt-caching": true,
	"structured-outputs": true, "task-budgets": true, "thinking-binding-controls": true, "thinking-display-updates": true,
	"thinking-token-count": true, "token-counting": true, "token-efficient-tools": true, "tool-search-tool": true,
	"web-fetch": true, "web-search": true,
}

// checkAnthropic looks at the headers of Anthropic's that decide what a provider makes of a request.
func checkAnthropic(r *extproc.Request) *extproc.Error {
	switch r.Values(versionHeader) {
	case 0: // the provider asks for it in its own words
	case 1:
		if v := r.Header(versionHeader); len(v) != len("2023-06-01") || !isDate(v) {
			return errVersion[anthropic]
		}
	default:
		return errVersion[anthropic]
	}
	for _, h := range r.Headers() {
		if h.Name != betaHeader {
			continue
		}
		// A list (RFC 9110 §5.6.1); empty elements are to be ignored.
		for feature := range strings.SplitSeq(h.Value, ",") {
			if feature = strings.Trim(feature, " \t"); feature != "" && !allowedBeta(feature) {
				return errBeta(anthropic, strings.ToValidUTF8(feature[:min(len(feature), 64)], ""))
			}
		}
	}
	return nil
}

// allowedBeta accepts the name of a feature, a hyphen, and a date: 2025-05-14, or 20250219 as Claude Code writes it.
func allowedBeta(feature string) bool {
	for _, date := range []int{len("2025-05-14"), len("20250514")} {
		name := len(feature) - date - 1
		if name > 0 && feature[name] == '-' && isDate(feature[name+1:]) && betas[feature[:name]] {
			return true
		}
	}
	return false
}

// isDate accepts the form of a date, with hyphens or without.
func isDate(s string) bool {
	switch {
	case len(s) == 10 && s[4] == '-' && s[7] == '-':
		return isDigits(s[:4]) && isDigits(s[5:7]) && isDigits(s[8:])
	case len(s) == 8:
		return isDigits(s)
	}
	return false
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// removeAnthropic removes the headers that choose a part of the provider's account
// (anthropic-workspace-id, anthropic-user-profile-id) and all others of Anthropic's
// that are not known.
func removeAnthropic(d *extproc.Decision, r *extproc.Request) {
	for _, h := range r.Headers() {
		if strings.HasPrefix(h.Name, "anthropic-") && h.Name != versionHeader && h.Name != betaHeader && h.Name != browserHeader {
			d.Remove = append(d.Remove, h.Name)
		}
	}
}
