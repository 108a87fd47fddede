package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"keybridge/store"
)

// failure is an error that the caller of the API is told as it stands.
type failure struct {
	status  int
	code    string
	message string
}

func (f *failure) Error() string { return f.message }

// badField is a 400 that begins with the name of the field.
func badField(field, format string, args ...any) *failure {
	return &failure{http.StatusBadRequest, "INVALID_FIELD", field + ": " + fmt.Sprintf(format, args...)}
}

func notFound(what string) *failure {
	return &failure{http.StatusNotFound, "NOT_FOUND", "no such " + what}
}

func conflict(code, format string, args ...any) *failure {
	return &failure{http.StatusConflict, code, fmt.Sprintf(format, args...)}
}

func inUse(format string, args ...any) *failure {
	return &failure{http.StatusForbidden, "IN_USE", fmt.Sprintf(format, args...)}
}

var (
	errForbidden    = &failure{http.StatusForbidden, "FORBIDDEN", "the token's role in this workspace does not allow that"}
	errUnauthorized = &failure{http.StatusUnauthorized, "UNAUTHORIZED", "a valid admin token is needed: Authorization: Bearer <token>"}
	errNotJSON      = &failure{http.StatusBadRequest, "INVALID_BODY", "the body is not one JSON object"}
	errTooLarge     = &failure{http.StatusRequestEntityTooLarge, "TOO_LARGE", fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	errUnwritable   = &failure{http.StatusServiceUnavailable, "STORE_UNWRITABLE", "the store cannot be written; nothing was changed"}
	errUnavailable  = &failure{http.StatusServiceUnavailable, "UNAVAILABLE", "the store is not available"}
)

// fail is the one place where an error becomes a response. What is not a failure
// is logged here and told as 500, or as the store's fault, without its text.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *failure
	switch {
	case errors.As(err, &f):
	case errors.Is(err, store.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f = errUnavailable
	default:
		f = &failure{http.StatusInternalServerError, "INTERNAL", "internal error"}
		if errors.Is(err, store.ErrUnwritable) {
			f = errUnwritable
		}
		s.Logger.LogAttrs(r.Context(), slog.LevelError, "admin request failed", append(RequestAttrs(r), slog.Any("error", err))...)
	}
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="keybridge"`)
	}
	// Strings and a bool: encoding them cannot fail.
	_ = writeJSON(w, f.status, struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
		Code    string `json:"error_code"`
	}{Message: f.message, Code: f.code})
}

// writeJSON sends an answer and overwrites its bytes: one kind of answer holds a secret.
func writeJSON(w http.ResponseWriter, status int, answer any) error {
	b, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	defer clear(b)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b)
	return nil
}

// takenFailure tells which name a write collided on.
func takenFailure(err *store.TakenError) error {
	if kind, _, _ := strings.Cut(err.Name, "/"); kind != "workspace" && kind != "connector" && kind != "repository" {
		return err
	}
	return conflict("NAME_ALREADY_USED", "name: already used")
}
