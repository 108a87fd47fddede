package api

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// RequestAttrs describes a request without anything that a caller could have put
// a secret into: the route instead of the path, record ids only where they are
// UUIDs, and no header, query or body.
func RequestAttrs(r *http.Request) []slog.Attr {
	route := r.Pattern
	if route == "" {
		route = "(none)"
	}
	attrs := []slog.Attr{slog.String("route", route)}
	for _, name := range []string{"id", "keyId"} {
		if id, err := uuid.Parse(r.PathValue(name)); err == nil {
			attrs = append(attrs, slog.String(name, id.String()))
		}
	}
	return attrs
}

// logRequest writes the line of a finished request: reads at debug level.
func (s *server) logRequest(r *http.Request, status int, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case status >= http.StatusInternalServerError:
		level = slog.LevelError
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		level = slog.LevelDebug
	}
	s.Logger.LogAttrs(r.Context(), level, "admin request",
		append(RequestAttrs(r), slog.Int("status", status), slog.Duration("took", took))...)
}
