package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/audit"
)

// Config is what the server needs from the control plane.
type Config struct {
	Store store.Store
	// Seal returns the key that secrets are sealed to now.
	Seal func() (*seal.PublicKey, error)
	// Manifest returns the newest signed manifest (JSON) for callers who seal
	// themselves; nil if there is none yet.
	Manifest func() []byte
	// Policy says which provider endpoints the operator allows.
	Policy seal.EndpointPolicy
	// Fleet is the connected bridges. With one, connectors are tried before they are
	// stored (?validate=false does without); with nil they never are, and what asks a
	// bridge answers NO_BRIDGE.
	Fleet Fleet
	// Expiring are the enrolments that need attention, for /sync; nil: there are none.
	Expiring func() []Expiring
	// Audit remembers each change before it is made; a change that it cannot write is
	// refused. nil: nothing is remembered.
	Audit Auditor
	// Limits are how fast callers may go.
	Limits Limits
	// Logger gets one line per request, without secrets. Default: none.
	Logger *slog.Logger
	// Metrics, if set, counts requests.
	Metrics *Metrics
	// Clock is time.Now by default.
	Clock func() time.Time
}

type server struct {
	Config
	mux *http.ServeMux
	// writing is held while a request decides and writes; see commit.
	writing  chan struct{}
	owed     []audit.Event       // see audited; whoever holds writing owns it
	fixed    map[string][]string // methods of the paths without a {name}
	requests *pacer              // by token
	failures *pacer              // by client address
	known    tokenSet            // that were right before
}

// New returns the admin API as one handler.
func New(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	l := c.Limits.withDefaults()
	s := &server{Config: c, mux: http.NewServeMux(), writing: make(chan struct{}, 1), fixed: map[string][]string{}, known: tokenSet{set: map[tokenHash]struct{}{}},
		requests: newPacer(l.Requests, l.Burst), failures: newPacer(l.Failures, l.FailureBurst)}
	for _, r := range routes {
		s.mux.Handle(r.method+" "+r.path, s.handler(r))
		if !strings.Contains(r.path, "{") {
			s.fixed[r.path] = append(s.fixed[r.path], r.method)
		}
	}
	return s
}

// route is one operation; handle answers what is sent as JSON with status 200.
type route struct {
	method, path string
	open         bool // needs no token
	handle       func(*server, *call) (any, error)
}

var routes = []route{
	{"GET", "/health", true, (*server).health},
	{"GET", "/openapi.yaml", true, nil},
	{"GET", "/sealing-key", false, (*server).sealingKey},

	{"POST", "/workspace", false, (*server).createWorkspace},
	{"GET", "/workspace", false, (*server).listWorkspaces},
	{"GET", "/workspace/{id}", false, (*server).getWorkspace},
	{"PUT", "/workspace/{id}", false, (*server).updateWorkspace},
	{"DELETE", "/workspace/{id}", false, (*server).deleteWorkspace},

	{"POST", "/apikeys", false, (*server).createAPIKey},
	{"GET", "/apikeys", false, (*server).listAPIKeys},
	{"PUT", "/apikeys/{id}", false, (*server).updateAPIKey},
	{"DELETE", "/apikeys/{id}", false, (*server).deleteAPIKey},

	{"POST", "/bucket", false, (*server).createBucket},
	{"GET", "/bucket", false, (*server).listBuckets},
	{"GET", "/bucket/available", false, (*server).availableBuckets},
	{"PUT", "/bucket/{id}", false, (*server).updateBucket},
	{"DELETE", "/bucket/{id}", false, (*server).deleteBucket},
	{"POST", "/bucket/{id}/validate", false, (*server).validateBucket},
	{"GET", "/bucket/{id}/status", false, (*server).bucketStatus},

	{"POST", "/ai/llm", false, (*server).createLLM},
	{"GET", "/ai/llm", false, (*server).listLLMs},
	{"GET", "/ai/llm/available", false, (*server).availableLLMs},
	{"PUT", "/ai/llm/{id}", false, (*server).updateLLM},
	{"DELETE", "/ai/llm/{id}", false, (*server).deleteLLM},
	{"POST", "/ai/llm/{id}/validate", false, (*server).validateLLM},
	{"GET", "/ai/llm/{id}/status", false, (*server).llmStatus},
	{"POST", "/ai/models", false, (*server).listModels},

	{"POST", "/repo", false, (*server).createRepo},
	{"GET", "/repo", false, (*server).listRepos},
	{"PUT", "/repo/{id}", false, (*server).updateRepo},
	{"DELETE", "/repo/{id}", false, (*server).deleteRepo},
	{"POST", "/repo/validate", false, (*server).validateNewRepo},
	{"POST", "/repo/{id}/validate", false, (*server).validateRepo},

	{"POST", "/repo/{id}/apikey", false, (*server).createStorageKey},
	{"GET", "/repo/{id}/apikey", false, (*server).listStorageKeys},
	{"PUT", "/repo/{id}/apikey/{keyId}", false, (*server).updateStorageKey},
	{"DELETE", "/repo/{id}/apikey/{keyId}", false, (*server).deleteStorageKey},
	{"POST", "/repo/{id}/apikey/{keyId}/rotate", false, (*server).rotateStorageKey},

	{"POST", "/repo/{id}/ai/apikey", false, (*server).createAIKey},
	{"GET", "/repo/{id}/ai/apikey", false, (*server).listAIKeys},
	{"PUT", "/repo/{id}/ai/apikey/{keyId}", false, (*server).updateAIKey},
	{"DELETE", "/repo/{id}/ai/apikey/{keyId}", false, (*server).deleteAIKey},
	{"POST", "/repo/{id}/ai/apikey/{keyId}/rotate", false, (*server).rotateAIKey},

	{"GET", "/node", false, (*server).listNodes},
	{"GET", "/sync", false, (*server).listSync},
	{"POST", "/systemevent", false, (*server).queryEvents},

	{"POST", "/token", false, (*server).createToken},
	{"GET", "/token", false, (*server).listTokens},
	{"DELETE", "/token/{id}", false, (*server).deleteToken},
}

func (s *server) handler(r route) http.Handler {
	if r.handle == nil {
		return http.HandlerFunc(serveOpenAPI)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		q := &call{Request: req, w: w}
		answer, err := s.answer(r, q)
		if err != nil {
			s.fail(w, req, err)
			return
		}
		if q.version != 0 {
			w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(q.version)))
		}
		if a, ok := answer.(interface{ wipe() }); ok {
			defer a.wipe()
		}
		if err := writeJSON(w, http.StatusOK, answer); err != nil {
			s.fail(w, req, err)
		}
	})
}

func (s *server) answer(r route, q *call) (any, error) {
	if !r.open {
		token, err := s.admit(q)
		if err != nil {
			return nil, err
		}
		q.token = token
	}
	return r.handle(s, q)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.Clock()
	rec := &recorder{ResponseWriter: w}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.panicked(rec, r, p)
		}
		took := s.Clock().Sub(start)
		s.Metrics.observe(r, rec.status, took)
		s.logRequest(r, rec.status, took)
	}()

	_, pattern := s.mux.Handler(r)
	if pattern == "" || path.Clean(r.URL.Path) != r.URL.Path {
		// ServeMux would answer in plain text, or redirect a POST into a GET.
		s.unmatched(rec, r)
		return
	}
	if methods := s.fixed[r.URL.Path]; methods != nil && strings.Contains(pattern, "{") {
		// PUT /bucket/available is no PUT /bucket/{id}.
		s.wrongMethod(rec, r, strings.Join(methods, ", "))
		return
	}
	s.mux.ServeHTTP(rec, r)
}

func (s *server) wrongMethod(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	s.fail(w, r, &failure{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "this path does not have that method"})
}

// unmatched answers 404, or 405 with the methods that the path has.
func (s *server) unmatched(w http.ResponseWriter, r *http.Request) {
	if path.Clean(r.URL.Path) == r.URL.Path {
		probe := recorder{ResponseWriter: discard{http.Header{}}}
		s.mux.ServeHTTP(&probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			s.wrongMethod(w, r, probe.Header().Get("Allow"))
			return
		}
	}
	s.fail(w, r, &failure{http.StatusNotFound, "NOT_FOUND", "no such path"})
}

// panicked answers a request whose handler panicked. Of the panic only what
// cannot hold request data is logged: the stack, and the text of a runtime error.
func (s *server) panicked(rec *recorder, r *http.Request, p any) {
	reason := fmt.Sprintf("%T", p)
	var re runtime.Error
	if err, ok := p.(error); ok && errors.As(err, &re) {
		reason = re.Error()
	}
	s.Logger.LogAttrs(r.Context(), slog.LevelError, "panic in the admin API",
		append(RequestAttrs(r), slog.String("panic", reason), slog.String("stack", string(debug.Stack())))...)
	if rec.status == 0 {
		s.fail(rec, r, &failure{http.StatusInternalServerError, "INTERNAL", "internal error"})
	}
}

// recorder remembers the status for the log line.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discard takes what ServeMux would have answered.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
