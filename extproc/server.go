package extproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/metadata"
)

// ClusterHeader tells Envoy's one forwarding route which cluster to use. Envoy
// strips it from client requests and does not send it to providers.
const ClusterHeader = "x-keybridge-cluster"

// OnceHeader tells Envoy to forward a request without trying again: its body passes
// the bridge. Envoy treats it like ClusterHeader.
const OnceHeader = "x-keybridge-once"

// Options of a Server; the zero value is right.
type Options struct {
	// Logger gets panics as errors and what the bridge answers itself at debug level. Default: slog.Default.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Drain is how long Serve lets streams end by themselves when it stops. Default: 1 s.
	Drain time.Duration
	// MaxBody is how many bytes of a body are held at most while a BodyDecider
	// makes up its mind. Default: 8 MiB.
	MaxBody int
	// MaxHeld bounds what is held of all bodies together, those that are rewritten
	// too; beyond it requests that would need more are refused as Unavailable. Default: 512 MiB.
	MaxHeld int64
	// BodyTimeout bounds how long that may take from the request's headers on.
	// Default: 30 s.
	BodyTimeout time.Duration
	// RewriteTimeout bounds how long nothing may go on of a body that has a
	// BodyRewriter. Default: 5 min, as Envoy's S3 listener waits for a client.
	RewriteTimeout time.Duration
	// Observer is told of every decision. Default: nobody.
	Observer Observer
	// Refused is told when a provider refuses, or may refuse, the bridge's own
	// credential: by the protocol's name, the cluster and what the protocol saw. It
	// answers whether that credential is known to be refused. Default: nobody.
	Refused func(protocol, cluster string, r *Refusal) (known bool)
}

// Observer counts decisions. Its method is called concurrently, on the path of
// every request: it neither blocks nor allocates.
type Observer interface {
	// Decided tells the protocol's name and the Reason of the Error, "" for a
	// request that went on; took is what deciding took, without waiting for a body.
	// A request that ended before it was decided is not told; one whose body proves
	// wrong after it went on is told again, with that Reason.
	Decided(protocol, reason string, took time.Duration)
}

// Server is Envoy's external processor.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer
	protocols map[string]Protocol
	opts      Options
	stopping  atomic.Bool
	open      registry
	held      atomic.Int64 // bytes of bodies
	warned    atomic.Int64 // that these are too many, Unix seconds
	slabs     *slabs
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
	if opts.MaxBody == 0 {
		opts.MaxBody = 8 << 20
	}
	if opts.MaxHeld == 0 {
		opts.MaxHeld = 512 << 20
	}
	if opts.BodyTimeout == 0 {
		opts.BodyTimeout = 30 * time.Second
	}
	if opts.RewriteTimeout == 0 {
		opts.RewriteTimeout = 5 * time.Minute
	}
	return &Server{protocols: protocols, opts: opts, slabs: newSlabs()}
}

// Serve answers on l until ctx ends, then gives streams the drain time and cuts
// the rest off, so that Envoy sees a gRPC error and refuses those requests.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		// Streams are short and many: workers keep their grown stacks.
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))*4),
		// Envoy limits a request's headers to 60 KiB by default and 8 MiB at most.
		grpc.ForceServerCodecV2(newCodec()),
		experimental.BufferPool(s.slabs),
		grpc.MaxRecvMsgSize(9<<20),
		grpc.WaitForHandlers(true),
		grpc.InTapHandle(interruptible),
		// Fixed, as gRPC otherwise pings for them beside the data of every request.
		grpc.InitialWindowSize(64<<10),
		grpc.InitialConnWindowSize(4<<20),
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

// Held is how many bytes of bodies are held now.
func (s *Server) Held() int64 { return s.held.Load() }

func (s *Server) protocol(ctx context.Context) Protocol {
	if v := metadata.ValueFromIncomingContext(ctx, ":authority"); len(v) == 1 {
		return s.protocols[v[0]]
	}
	return nil
}
