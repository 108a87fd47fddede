package extproc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"
)

// decide asks the protocol about a request's headers. It is the guard: whatever
// happens in a protocol, the answer is a complete Decision, an Error, or NeedBody
// where that is possible.
func (s *Server) decide(p Protocol, r *Request) (d *Decision, e *Error) {
	defer func() {
		if v := recover(); v != nil {
			d, e = nil, s.panicked(p, v)
		}
	}()
	d, e = p.Decide(s.opts.Now(), r)
	_, ok := p.(BodyDecider)
	return s.check(p, d, e, ok && !r.EndOfStream, !r.EndOfStream, false)
}

// decideBody asks it about the headers and what has arrived of the body.
func (s *Server) decideBody(p BodyDecider, r *Request, body []byte, complete bool) (d *Decision, e *Error) {
	defer func() {
		if v := recover(); v != nil {
			d, e = nil, s.panicked(p, v)
		}
	}()
	d, e = p.DecideBody(s.opts.Now(), r, body, complete)
	return s.check(p, d, e, !complete, false, complete)
}

func (s *Server) check(p Protocol, d *Decision, e *Error, mayNeedBody, mayRewrite, mayReplace bool) (*Decision, *Error) {
	switch {
	case e == NeedBody && !mayNeedBody:
		s.opts.Logger.Error("asks for a body where there is none to ask for", "protocol", p.Name())
		return nil, unavailable(p)
	case e != nil:
		return nil, e
	case d == nil || d.Cluster == "" || d.Authority == "", d.Rewriter != nil && !mayRewrite, d.Body != nil && !mayReplace:
		s.opts.Logger.Error("incomplete decision", "protocol", p.Name())
		return nil, unavailable(p)
	}
	return d, nil
}

// tell counts a decision, with e nil for a request that goes on.
func (s *Server) tell(p Protocol, e *Error, took time.Duration) {
	reason := ""
	if e != nil {
		reason = e.Reason
		if log := s.opts.Logger; log.Enabled(context.Background(), slog.LevelDebug) {
			log.Debug("answered by the bridge", "protocol", p.Name(), "status", e.Status, "reason", reason)
		}
	}
	if s.opts.Observer != nil {
		s.opts.Observer.Decided(p.Name(), reason, took)
	}
}

// panicked logs where, and of what was thrown only what the runtime says itself:
// another value may carry what the client sent.
func (s *Server) panicked(p Protocol, v any) *Error {
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	s.opts.Logger.Error("panic while deciding", "protocol", p.Name(), "panic", what, "stack", string(debug.Stack()))
	return unavailable(p)
}

func unavailable(p Protocol) *Error { return words(p.Unavailable) }

// words asks a protocol that may be broken for its own words.
func words(ask func() *Error) (e *Error) {
	defer func() {
		if recover() != nil || e == nil || e == NeedBody {
			e = &Error{Status: 503, ContentType: "text/plain", Reason: "broken"}
		}
	}()
	return ask()
}
