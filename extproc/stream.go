package extproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errStopping   = status.Error(codes.Unavailable, "the bridge is stopping")
	errProtocol   = status.Error(codes.Unimplemented, "no protocol answers to this authority")
	errFirst      = status.Error(codes.InvalidArgument, "the first message is not request headers")
	errHeaders    = status.Error(codes.InvalidArgument, "the request headers are malformed")
	errNoHeaders  = status.Error(codes.InvalidArgument, "the request headers carry no or repeated pseudo-headers")
	errNoStatus   = status.Error(codes.InvalidArgument, "the headers of an answer carry no status")
	errUnexpected = status.Error(codes.InvalidArgument, "a message that cannot come here")
	errRefused    = errors.New("the client has its answer")
	errEnded      = status.Error(codes.Aborted, "the stream ended within the request")
	errServer     = status.Error(codes.Internal, "the stream was not accepted by Serve")
)

// call is one stream, which is one HTTP request.
type call struct {
	server   *Server
	stream   extprocv3.ExternalProcessor_ProcessServer
	protocol Protocol
	end      context.CancelFunc // ends the stream with an error
	x        *exchange
	message  message // the last one received
	passed   passed
	// ends is server.open.ends from before the protocol saw the headers.
	ends uint64
	took time.Duration
	open *openRequest // once the request went on, if its key can be revoked
	// rewriting is set if the protocol rewrites the body.
	rewriting *rewriting
}

// Process serves one stream. It returns nil only where Envoy has no more to ask:
// after a refusal, after the headers of a request without a key to revoke, or when
// Envoy itself has ended the stream.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	if s.stopping.Load() {
		return errStopping
	}
	c := call{
		server: s, stream: stream, protocol: s.protocol(stream.Context()), end: interrupt(stream.Context()),
	}
	defer c.message.reset()
	switch {
	case c.protocol == nil:
		return errProtocol
	case c.end == nil:
		return errServer
	}
	if err := stream.RecvMsg(&c.message); err != nil {
		// A clean end before the headers is an error too: nothing was decided.
		return fmt.Errorf("receiving the request headers: %w", err)
	}
	if answer := c.message.any.GetResponseHeaders(); answer != nil {
		return c.review(answer)
	}
	if c.message.number != numRequestHeaders {
		return errFirst
	}
	c.x = exchanges.Get().(*exchange)
	more, err := c.answer()
	c.x.release() // wipes what the decision held, however long the request lasts
	if c.open != nil {
		defer s.open.remove(c.open)
	}
	if c.rewriting != nil {
		defer c.rewriting.close(s)
	}
	if err == nil && (c.open != nil || more) {
		err = c.follow(more)
	}
	if errors.Is(err, errRefused) {
		return nil
	}
	return err
}

// answer decides and sends the answer. It returns whether Envoy will send more of
// the request's body.
func (c *call) answer() (more bool, err error) {
	r := &c.x.request
	if err := r.read(c.message.headers); err != nil {
		return false, errHeaders
	}
	if r.Method == "" || r.Path == "" || r.Authority == "" || r.twice {
		return false, errNoHeaders
	}
	if c.server.stopping.Load() {
		return false, errStopping
	}
	decision, refusal := c.decide(nil)
	if refusal == NeedBody {
		return c.answerBody()
	}
	if refusal == nil && decision.Rewriter != nil {
		return c.answerRewritten(decision)
	}
	c.server.tell(c.protocol, refusal, c.took)
	if refusal != nil {
		return false, c.stream.Send(c.x.refuse(refusal))
	}
	return false, c.stream.Send(c.x.forward(decision, false))
}

// decide asks the protocol: about the headers, or, with b, about what has arrived
// of the body. A request that may go on is entered among the open ones. If keys
// were revoked since the protocol saw the headers, it is asked from the start, as
// what it knew then may be what was revoked.
func (c *call) decide(b *body) (d *Decision, e *Error) {
	s := c.server
	var start time.Time
	if s.opts.Observer != nil {
		start = time.Now()
	}
	for again := b == nil; ; again = true {
		e = NeedBody
		if again {
			c.x.request.State = nil
			c.ends = s.open.ends.Load()
			d, e = s.decide(c.protocol, &c.x.request)
		}
		if b != nil && e == NeedBody {
			d, e = s.decideBody(b.decider, &c.x.request, b.held, b.complete)
		}
		if e != nil || d.Key == "" {
			break
		}
		c.open = s.open.add(d.Key, c.end)
		if s.open.ends.Load() == c.ends {
			break
		}
		s.open.remove(c.open)
		c.open = nil
	}
	if s.opts.Observer != nil {
		c.took += time.Since(start)
	}
	return d, e
}

// responseTrailersGoOn lets the trailers of a response pass.
var responseTrailersGoOn = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{
	ResponseTrailers: &extprocv3.TrailersResponse{},
}}

// follow passes on what comes of a request after its answer, and waits for its end.
// Envoy keeps the stream until then because it would send a response's trailers.
func (c *call) follow(more bool) error {
	answered := false
	for {
		if err := c.stream.RecvMsg(&c.message); err != nil {
			if errors.Is(err, io.EOF) && !more {
				return nil // no request is left whose end could be taken for its answer
			}
			return errEnded
		}
		switch c.message.number {
		case numRequestBody:
			if !more {
				return errUnexpected
			}
			if c.rewriting != nil {
				var err error
				if more, err = c.rewritten(); err != nil {
					return err
				}
				continue
			}
			more = !c.message.last
			if err := c.pass(c.message.body, 0, !more); err != nil {
				return err
			}
		case numResponseTrailers:
			if answered {
				return errUnexpected
			}
			answered = true
			if err := c.stream.Send(responseTrailersGoOn); err != nil {
				return err
			}
		default: // trailers of the request too: see take
			return errUnexpected
		}
	}
}
