package extproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ClusterHeader tells Envoy's one forwarding route which cluster to use. Envoy
// strips it from client requests and does not send it to providers.
const ClusterHeader = "x-keybridge-cluster"

// Options of a Server; the zero value is right.
type Options struct {
	// Logger gets panics as errors and refusals at debug level. Default: slog.Default.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Drain is how long Serve lets streams end by themselves when it stops. Default: 1 s.
	Drain time.Duration
}

// Server is Envoy's external processor.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer
	protocols map[string]Protocol
	opts      Options
	stopping  atomic.Bool
}

// NewServer answers for protocols, by the gRPC :authority that Envoy calls with
// (envoy_grpc.authority of each listener's filter, e.g. "s3").
func NewServer(protocols map[string]Protocol, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Drain == 0 {
		opts.Drain = time.Second
	}
	return &Server{protocols: protocols, opts: opts}
}

var (
	errStopping  = status.Error(codes.Unavailable, "the bridge is stopping")
	errProtocol  = status.Error(codes.Unimplemented, "no protocol answers to this authority")
	errFirst     = status.Error(codes.InvalidArgument, "the first message is not request headers")
	errNoHeaders = status.Error(codes.InvalidArgument, "the request headers carry no or repeated pseudo-headers")
)

// Serve answers on l until ctx ends, then gives streams the drain time and cuts
// the rest off, so that Envoy sees a gRPC error and refuses those requests.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		// Streams are short and many: workers keep their grown stacks.
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))*4),
		// Envoy limits a request's headers to 60 KiB by default and 8 MiB at most.
		grpc.MaxRecvMsgSize(9<<20),
		grpc.WaitForHandlers(true),
	)
	extprocv3.RegisterExternalProcessorServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("extproc: serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	cut := time.AfterFunc(s.opts.Drain, g.Stop)
	g.GracefulStop()
	cut.Stop()
	if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("extproc: serving %s: %w", l.Addr(), err)
	}
	return nil
}

// Process serves one stream, which is one HTTP request. It ends the stream as soon
// as it has answered: with the headers decided, Envoy has no more to ask.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	if s.stopping.Load() {
		return errStopping
	}
	protocol := s.protocol(stream.Context())
	if protocol == nil {
		return errProtocol
	}
	message, err := stream.Recv()
	if err != nil {
		// A clean end before the headers is an error too: nothing was decided.
		return fmt.Errorf("receiving the request headers: %w", err)
	}
	headers := message.GetRequestHeaders()
	if headers == nil {
		return errFirst
	}
	x := exchanges.Get().(*exchange)
	defer x.release()
	x.request.set(headers.GetHeaders().GetHeaders(), headers.GetEndOfStream())
	if x.request.Method == "" || x.request.Path == "" || x.request.Authority == "" || x.request.twice {
		return errNoHeaders
	}
	if s.stopping.Load() {
		return errStopping
	}
	decision, refusal := s.decide(protocol, &x.request)
	if refusal != nil {
		return stream.Send(x.refuse(refusal))
	}
	return stream.Send(x.forward(decision))
}

func (s *Server) protocol(ctx context.Context) Protocol {
	if v := metadata.ValueFromIncomingContext(ctx, ":authority"); len(v) == 1 {
		return s.protocols[v[0]]
	}
	return nil
}

// decide is the guard: whatever happens in a protocol, the answer is a complete
// Decision or an Error.
func (s *Server) decide(p Protocol, r *Request) (decision *Decision, refusal *Error) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(p, v)
			decision, refusal = nil, unavailable(p)
		}
	}()
	decision, refusal = p.Decide(s.opts.Now(), r)
	switch {
	case refusal != nil:
		if log := s.opts.Logger; log.Enabled(context.Background(), slog.LevelDebug) {
			log.Debug("refused", "protocol", p.Name(), "status", refusal.Status, "reason", refusal.Reason)
		}
		return nil, refusal
	case decision == nil || decision.Cluster == "" || decision.Authority == "":
		s.opts.Logger.Error("incomplete decision", "protocol", p.Name())
		return nil, unavailable(p)
	}
	return decision, nil
}

// panicked logs where, and of what was thrown only what the runtime says itself:
// another value may carry what the client sent.
func (s *Server) panicked(p Protocol, v any) {
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	s.opts.Logger.Error("panic while deciding", "protocol", p.Name(), "panic", what, "stack", string(debug.Stack()))
}

// unavailable asks a protocol that may be broken for its own words.
func unavailable(p Protocol) (e *Error) {
	defer func() {
		if recover() != nil || e == nil {
			e = &Error{Status: 503, ContentType: "text/plain", Reason: "broken"}
		}
	}()
	return p.Unavailable()
}

var exchanges = sync.Pool{New: func() any { return newExchange() }}
