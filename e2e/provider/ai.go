package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// AIConfig configures a server of an AI API.
type AIConfig struct {
	Key string // the one API key; empty for a fresh one
	// BasePath is the prefix of all paths; empty for "/v1".
	BasePath string
	Models   []string // empty for those that the server has by itself
	// Recorder settings; Dial is set by the server.
	Recorder RecorderConfig
}

// ai is what the servers of AI APIs have in common.
type ai struct {
	*Recorder
	Key, BasePath string

	models []string
	server *http.Server
	dir    string
	ended  chan error

	mu         sync.Mutex
	hold       func(ctx context.Context, event int) error
	violations []string
}

// startAI starts a server behind a recorder. What serve returns was refused, and is
// noted.
func startAI(config AIConfig, keyPrefix string, models []string, serve func(http.ResponseWriter, *http.Request) *refusal) (_ *ai, err error) {
	dir, err := os.MkdirTemp("", "kb-ai-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	socket := filepath.Join(dir, "ai.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	a := &ai{Key: config.Key, BasePath: config.BasePath, models: config.Models, dir: dir, ended: make(chan error, 1)}
	if a.Key == "" {
		a.Key = keyPrefix + rand.Text() + rand.Text()
	}
	if a.BasePath == "" {
		a.BasePath = "/v1"
	}
	if len(a.models) == 0 {
		a.models = models
	}
	config.Recorder.Dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	if a.Recorder, err = Record(config.Recorder); err != nil {
		l.Close()
		return nil, err
	}
	a.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r := serve(w, q); r != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.violations = append(a.violations, fmt.Sprintf("%s %s: %d %s", q.Method, q.RequestURI, r.status, r.message))
		}
	})}
	go func() { a.ended <- a.server.Serve(l) }()
	return a, nil
}

// Endpoint is the base URL as an SDK's configuration has it.
func (a *ai) Endpoint() string { return a.URL() + a.BasePath }

// Hold has f called before every event of a stream but the first; the stream
// waits for it, and ends if it fails. A nil f holds nothing.
func (a *ai) Hold(f func(ctx context.Context, event int) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hold = f
}

// Violations are the requests that were refused, and why.
func (a *ai) Violations() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.violations)
}

// Close ends the recorder and the server.
func (a *ai) Close() error {
	err := errors.Join(a.Recorder.Close(), a.server.Close())
	if served := <-a.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}

// refusal is an answer in the API's error form.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// refused is the refusal that err is, if it is one.
func refused(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	return nil
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// fromClient says whether a header is one that no provider should see.
func fromClient(name string) bool {
	switch n := strings.ToLower(name); n {
	case "api-key", "cookie", "proxy-authorization", "openai-organization", "openai-project":
		return true
	default:
		return strings.HasPrefix(n, "x-keybridge-")
	}
}

// read decodes a JSON body whose length was announced.
func read(q *http.Request, into any) error {
	mediaType, _, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "content-type %q", q.Header.Get("Content-Type"))
	}
	if q.ContentLength < 0 {
		// A body in a header-only ext_proc keeps its length; see PROVIDERS.md.
		return refuse(http.StatusLengthRequired, "no content-length")
	}
	body, err := io.ReadAll(q.Body)
	if err != nil || int64(len(body)) != q.ContentLength {
		return refuse(http.StatusBadRequest, "%d of %d body bytes arrived", len(body), q.ContentLength)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return refuse(http.StatusBadRequest, "body is not the JSON that was expected: %v", err)
	}
	return nil
}

// event is one server-sent event; a name is sent before its data.
type event struct {
	name string
	data any
}

// stream sends server-sent events, each flushed on its own, and what ends them.
func (a *ai) stream(w http.ResponseWriter, q *http.Request, events []event, end string) error {
	a.mu.Lock()
	hold := a.hold
	a.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	for i, e := range events {
		if hold != nil && i > 0 {
			if err := hold(q.Context(), i); err != nil {
				return fmt.Errorf("stream held: %w", err)
			}
		}
		b, err := json.Marshal(e.data)
		if err != nil {
			return err
		}
		if e.name != "" {
			b = fmt.Appendf(nil, "event: %s\ndata: %s\n\n", e.name, b)
		} else {
			b = fmt.Appendf(nil, "data: %s\n\n", b)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, end); err != nil {
		return err
	}
	return flush()
}
