package api

import "net/http"

// Secrets returns one of each type that must not print itself.
func Secrets(b []byte) []any { return []any{secretText(b), issued(b)} }

// Routes lists the operations of the server as "METHOD /path".
func Routes() []string {
	var out []string
	for _, r := range routes {
		out = append(out, r.method+" "+r.path)
	}
	return out
}

// Remembered is how many addresses a handler of New keeps for failed tokens.
func Remembered(h http.Handler) int {
	s, ok := h.(*server)
	if !ok {
		return -1
	}
	s.failures.mu.Lock()
	defer s.failures.mu.Unlock()
	return len(s.failures.of)
}
