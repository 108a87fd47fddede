package extproc

import (
	"sync"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// BodyRewriter checks the body of one request as it flows, and may change bytes of
// it, but never its length: a content-length stays true. The provider gets no byte
// that it has not let go, and as long as that is not the last one, no request that
// it could take for whole. Its methods are not called concurrently.
type BodyRewriter interface {
	// Rewrite is given the next piece of the body, and whether that ends it. It may
	// write to a piece until it lets it go. It returns how many bytes of the body,
	// from its start on, may go to the provider, or an Error, which refuses the
	// request, or cuts it off if the provider has part of it. All bytes of a complete
	// body may go. It does not block.
	Rewrite(piece []byte, complete bool) (ready int64, e *Error)
	// TooSlow refuses a body of which nothing could go for Options.RewriteTimeout, with
	// the status of BodyDecider.TooSlow.
	TooSlow() *Error
	// Close lets go what it holds. It is called once.
	Close()
}

// smallPiece is what is copied together rather than held by itself, as a client
// chooses how small its pieces are, and each costs more than its bytes.
const smallPiece = 4 << 10

// rewriting is a body on its way through a BodyRewriter.
type rewriting struct {
	rewriter BodyRewriter
	held     [][]byte // what arrived and was not passed, without empty pieces
	room     []byte   // behind the last of held, for small pieces
	arrived  int64
	passed   int64
	last     bool // all of the body arrived

	// One of the handler and the timer sends at a time, and after ended neither.
	mu       sync.Mutex
	timer    *time.Timer
	deadline time.Time // for the next bytes to go
	ended    bool
}

// answerRewritten answers the headers of a request whose body is rewritten. The
// provider is asked once the first bytes have proved right, unless the client waits
// for its 100 Continue. It returns whether more of the body will come.
func (c *call) answerRewritten(d *Decision) (more bool, err error) {
	w := &rewriting{rewriter: d.Rewriter}
	d.Rewriter, c.rewriting = nil, w
	forward := c.x.forward(d, true)
	first := sendBody
	waits := c.x.request.Header("expect") != ""
	if waits {
		forward.ModeOverride = sendBody.ModeOverride
		defer func() { forward.ModeOverride = nil }() // the message is used again
		first = forward
	}
	if err := c.stream.Send(first); err != nil {
		return false, err
	}
	w.watch(c)
	if waits {
		c.server.tell(c.protocol, nil, c.took)
		return true, nil
	}
	var ready int64
	for ready == 0 && !w.last {
		if err := c.stream.RecvMsg(c.message); err != nil {
			return false, errEnded
		}
		if ready, err = c.takePiece(); err != nil {
			return false, err
		}
	}
	if err := w.send(c.stream, forward); err != nil {
		return false, err
	}
	if err := w.pass(c, ready); err != nil {
		return false, err
	}
	c.server.tell(c.protocol, nil, c.took)
	return !w.last, nil
}

// rewritten passes on what may go with the next piece of a body whose request went
// on. It returns whether more of the body will come.
func (c *call) rewritten() (more bool, err error) {
	ready, err := c.takePiece()
	if err != nil {
		return false, err
	}
	return !c.rewriting.last, c.rewriting.pass(c, ready)
}

// takePiece shows the message's piece of the body to the rewriter, and returns what
// that says may go. The client has its answer if the error is errRefused.
func (c *call) takePiece() (ready int64, err error) {
	w := c.rewriting
	m, ok := c.message.GetRequest().(*extprocv3.ProcessingRequest_RequestBody)
	if !ok || w.last {
		return 0, errUnexpected // trailers of the request too: see take
	}
	w.last = m.RequestBody.GetEndOfStream()
	piece := w.hold(m.RequestBody.GetBody())
	if c.server.held.Add(int64(len(piece))) > c.server.opts.MaxHeld {
		c.server.warnFull()
		return 0, w.refuse(c, unavailable(c.protocol))
	}
	ready, e := c.server.rewrite(c.protocol, w, piece)
	if e != nil {
		return 0, w.refuse(c, e)
	}
	return ready, nil
}

// rewrite is the guard around a rewriter, as decide is around a protocol.
func (s *Server) rewrite(p Protocol, w *rewriting, piece []byte) (ready int64, e *Error) {
	defer func() {
		if v := recover(); v != nil {
			e = s.panicked(p, v)
		}
	}()
	ready, e = w.rewriter.Rewrite(piece, w.last)
	if e == nil && (ready < w.passed || ready > w.arrived || w.last && ready != w.arrived) {
		s.opts.Logger.Error("lets go another part of a body than there is", "protocol", p.Name())
		e = unavailable(p)
	}
	return ready, e
}

// hold keeps a piece, and returns it as it is kept.
func (w *rewriting) hold(piece []byte) []byte {
	n := len(piece)
	w.arrived += int64(n)
	switch {
	case n == 0:
		return nil
	case len(w.held) > 0 && n <= len(w.room):
		last := &w.held[len(w.held)-1]
		*last = (*last)[:len(*last)+copy(w.room, piece)]
		piece, w.room = w.room[:n], w.room[n:]
		return piece
	case n < smallPiece:
		b := make([]byte, smallPiece)
		copy(b, piece)
		piece, w.room = b[:n], b[n:]
	default:
		w.room = nil
	}
	w.held = append(w.held, piece)
	return piece
}

// pass sends the provider what it may have.
func (w *rewriting) pass(c *call, ready int64) error {
	if ready == w.passed && !w.last {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errEnded
	}
	for {
		var piece []byte
		if len(w.held) > 0 {
			piece = w.held[0][:min(int64(len(w.held[0])), ready-w.passed)]
		}
		if w.passed += int64(len(piece)); len(piece) > 0 {
			if w.held[0] = w.held[0][len(piece):]; len(w.held[0]) == 0 {
				w.held[0] = nil
				w.held = w.held[1:]
			}
		}
		if err := c.pass(piece, w.last && w.passed == ready); err != nil {
			return err
		}
		c.server.held.Add(-int64(len(piece)))
		if w.passed == ready {
			break
		}
	}
	w.deadline = time.Now().Add(c.server.opts.RewriteTimeout)
	return nil
}

// send sends a message beside the timer.
func (w *rewriting) send(stream extprocv3.ExternalProcessor_ProcessServer, m *extprocv3.ProcessingResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errEnded
	}
	return stream.Send(m)
}

// refuse answers the client. If the provider has a part of the body, Envoy resets
// that request, and the client still gets the answer, unless it has the provider's.
func (w *rewriting) refuse(c *call, e *Error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errEnded
	}
	w.ended = true
	if err := c.refuseNow(e); err != nil {
		return err
	}
	return errRefused
}

// refuseNow counts a refusal that comes after the decision, and sends it.
func (c *call) refuseNow(e *Error) error {
	c.server.tell(c.protocol, e, 0)
	return refuseOn(c.stream, e)
}

// watch ends a body of which nothing went on for too long.
func (w *rewriting) watch(c *call) {
	timeout := c.server.opts.RewriteTimeout
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deadline = time.Now().Add(timeout)
	w.timer = time.AfterFunc(timeout, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ended {
			return
		}
		if d := time.Until(w.deadline); d > 0 {
			w.timer.Reset(d)
			return
		}
		w.ended = true
		_ = c.refuseNow(words(w.rewriter.TooSlow)) // if it fails the stream has ended anyway
		c.end()
	})
}

// close is for the end of the stream.
func (w *rewriting) close(s *Server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
	s.held.Add(w.passed - w.arrived)
	w.rewriter.Close()
}
