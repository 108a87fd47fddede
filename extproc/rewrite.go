package extproc

import (
	"sync"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/mem"
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

// rewriting is a body on its way through a BodyRewriter.
type rewriting struct {
	rewriter BodyRewriter
	held     []slab // what arrived and was not passed
	skip     int    // bytes of the first slab that were
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
		if err := c.stream.RecvMsg(&c.message); err != nil {
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
	if c.message.number != numRequestBody || w.last {
		return 0, errUnexpected // trailers of the request too: see take
	}
	n, before := c.message.body.Len(), w.arrived
	w.last = c.message.last
	w.arrived += int64(n)
	if c.server.held.Add(int64(n)) > c.server.opts.MaxHeld {
		c.server.warnFull()
		return 0, w.refuse(c, unavailable(c.protocol))
	}
	ready = w.passed
	for _, b := range c.message.body {
		for data := b.ReadOnlyData(); len(data) > 0; {
			piece := w.hold(data, c.server.slabs)
			data, n = data[len(piece):], n-len(piece)
			var e *Error
			if ready, e = c.server.rewrite(c.protocol, w, piece, w.last && n == 0); e != nil {
				return 0, w.refuse(c, e)
			}
		}
	}
	c.message.free()
	if w.arrived == before {
		var e *Error
		if ready, e = c.server.rewrite(c.protocol, w, nil, w.last); e != nil {
			return 0, w.refuse(c, e)
		}
	}
	return ready, nil
}

// rewrite is the guard around a rewriter, as decide is around a protocol.
func (s *Server) rewrite(p Protocol, w *rewriting, piece []byte, complete bool) (ready int64, e *Error) {
	defer func() {
		if v := recover(); v != nil {
			e = s.panicked(p, v)
		}
	}()
	ready, e = w.rewriter.Rewrite(piece, complete)
	if e == nil && (ready < w.passed || ready > w.arrived || complete && ready != w.arrived) {
		s.opts.Logger.Error("lets go another part of a body than there is", "protocol", p.Name())
		e = unavailable(p)
	}
	return ready, e
}

// slab is memory that holds a part of a body, in the order of arrival, and is gRPC's
// to give back once the last part of it was sent.
type slab struct {
	mem.Buffer
	data []byte // what is in use of it
}

// hold copies as much of a piece as one slab takes, and returns that as it is kept.
// The memory in which a message came is not for writing.
func (w *rewriting) hold(piece []byte, from *slabs) []byte {
	if n := len(w.held); n == 0 || len(w.held[n-1].data) == slabSize {
		b := from.Get(slabSize)
		w.held = append(w.held, slab{mem.NewBuffer(b, from), (*b)[:0]})
	}
	last := &w.held[len(w.held)-1]
	at := len(last.data)
	last.data = last.data[:at+min(len(piece), slabSize-at)]
	return last.data[at : at+copy(last.data[at:], piece)]
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
	var body mem.BufferSlice
	n := ready - w.passed
	for left, skip := n, w.skip; left > 0; skip = 0 {
		s := w.held[0]
		m := min(left, int64(len(s.data)-skip))
		body = append(body, s.Slice(skip, skip+int(m)))
		left -= m
		if w.skip = skip + int(m); w.skip == len(s.data) {
			s.Free()
			w.held[0] = slab{}
			w.held, w.skip = w.held[1:], 0
		}
	}
	defer body.Free()
	w.passed = ready
	err := c.pass(body, 0, w.last)
	c.server.held.Add(-n) // whether they were sent or not: close takes off what was not passed
	if err != nil {
		return err
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
	for i := range w.held {
		w.held[i].Free()
	}
	w.held = nil
	w.rewriter.Close()
}
