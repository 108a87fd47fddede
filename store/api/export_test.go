package api

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
