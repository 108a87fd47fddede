package extproc

import (
	"bytes"
	"sync"
	"time"

	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/mem"
)

// maxPiece is what Envoy recommends at most for one message of a streamed body
// (ProcessingMode.BodySendMode.FULL_DUPLEX_STREAMED).
const maxPiece = 64 << 10

// sendBody makes Envoy send the body while it goes on waiting for the answer to
// the headers. It must carry nothing else, and Envoy stops its message timer
// with it (measured with Envoy 1.40): from here on the bridge watches the time.
var sendBody = &extprocv3.ProcessingResponse{ModeOverride: &extprocfilterv3.ProcessingMode{
	RequestHeaderMode:   extprocfilterv3.ProcessingMode_SEND,
	RequestBodyMode:     extprocfilterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
	RequestTrailerMode:  extprocfilterv3.ProcessingMode_SEND,
	ResponseHeaderMode:  extprocfilterv3.ProcessingMode_SKIP,
	ResponseBodyMode:    extprocfilterv3.ProcessingMode_NONE,
	ResponseTrailerMode: extprocfilterv3.ProcessingMode_SEND,
}}

// body is the body of a request that waits for its decision.
type body struct {
	decider  BodyDecider
	server   *Server
	held     []byte
	rest     mem.BufferSlice // of the last piece, but for skip bytes, beyond what may be held; lent by the message
	skip     int
	complete bool // held is the whole body
	last     bool // no more of the body comes

	// One of the handler and the timer answers.
	mu       sync.Mutex
	answered bool
}

// answerBody reads the body as far as the protocol must see it, and answers.
func (c *call) answerBody() (more bool, err error) {
	b := &body{decider: c.protocol.(BodyDecider), server: c.server}
	defer b.release()
	if err := c.stream.Send(sendBody); err != nil {
		return false, err
	}
	defer c.watch(b).Stop()
	for {
		if err := c.stream.RecvMsg(&c.message); err != nil {
			b.answer()
			return false, errEnded
		}
		decision, refusal := c.take(b)
		if refusal == NeedBody {
			continue
		}
		if !b.answer() {
			return false, errEnded
		}
		switch {
		case decision == nil && refusal == nil:
			return false, errUnexpected
		case refusal != nil:
			c.server.tell(c.protocol, refusal, c.took)
			return false, c.stream.Send(c.x.refuse(refusal))
		}
		c.server.tell(c.protocol, nil, c.took)
		return !b.last, c.sendHeld(decision, b)
	}
}

// watch refuses the request if it is not answered in time. It sends beside a
// handler that receives, and then ends the stream for it.
func (c *call) watch(b *body) *time.Timer {
	server, stream, end := c.server, c.stream, c.end
	return time.AfterFunc(server.opts.BodyTimeout, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.answered {
			return
		}
		b.answered = true
		refusal := words(b.decider.TooSlow)
		server.tell(b.decider, refusal, 0)
		_ = refuseOn(stream, refusal) // if it fails the stream has ended anyway
		end()
	})
}

// answer says whether the handler may answer; after it the timer does not.
func (b *body) answer() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.answered
	b.answered = true
	return !was
}

// take adds the message to the body and asks the protocol. It returns neither a
// decision nor an error for a message that cannot come here.
func (c *call) take(b *body) (*Decision, *Error) {
	if c.message.number != numRequestBody {
		// Trailers of the request are among what ends it: once they are answered Envoy
		// 1.40 sends the provider the whole body a second time (measured).
		return nil, nil
	}
	b.rest, b.skip, b.last = c.message.body, 0, c.message.last
	for room := c.server.opts.MaxBody - len(b.held); len(b.rest) > 0; b.rest = b.rest[1:] {
		piece := b.rest[0].ReadOnlyData()
		n := min(len(piece), room)
		if !b.hold(piece[:n]) {
			c.server.warnFull()
			return nil, unavailable(c.protocol)
		}
		if room -= n; n < len(piece) {
			b.skip = n
			break
		}
	}
	b.complete = b.last && len(b.rest) == 0
	d, e := c.decide(b)
	if e == NeedBody && len(b.held) == c.server.opts.MaxBody {
		return nil, words(b.decider.TooLarge)
	}
	return d, e
}

// hold copies a piece, unless too much is held already of all bodies together.
func (b *body) hold(piece []byte) bool {
	if need := len(b.held) + len(piece); need > cap(b.held) {
		// A client is not given memory for what it only announces.
		size := min(max(2*cap(b.held), need, 16<<10), b.server.opts.MaxBody)
		if b.server.held.Add(int64(size-cap(b.held))) > b.server.opts.MaxHeld {
			b.server.held.Add(int64(cap(b.held) - size))
			return false
		}
		held := make([]byte, len(b.held), size)
		copy(held, b.held)
		b.held = held
	}
	b.held = append(b.held, piece...)
	return true
}

// warnFull logs once a minute.
func (s *Server) warnFull() {
	now, last := time.Now().Unix(), s.warned.Load()
	if now-last >= 60 && s.warned.CompareAndSwap(last, now) {
		s.opts.Logger.Warn("requests are refused: the bodies held for decisions fill their memory", "bytes", s.opts.MaxHeld)
	}
}

func (b *body) release() {
	b.server.held.Add(int64(-cap(b.held)))
	b.held = nil
}

// sendHeld answers the headers and passes on what was held.
func (c *call) sendHeld(d *Decision, b *body) error {
	if err := c.stream.Send(c.x.forward(d, true)); err != nil {
		return err
	}
	if d.Body != nil { // the whole body was seen
		// A copy, as gRPC may not have written it yet when the decision is wiped.
		return c.pass(mem.BufferSlice{mem.SliceBuffer(bytes.Clone(d.Body))}, 0, true)
	}
	if err := c.pass(mem.BufferSlice{mem.SliceBuffer(b.held)}, 0, b.complete); err != nil || b.complete {
		return err
	}
	return c.pass(b.rest, b.skip, b.last)
}

// pass sends bytes of the body on, as they came, but for the first skip; last closes
// the body.
func (c *call) pass(body mem.BufferSlice, skip int, last bool) error {
	for p := &c.passed; ; {
		*p = passed{body: p.body[:0]}
		for len(body) > 0 && p.size < maxPiece {
			n := min(body[0].Len()-skip, maxPiece-p.size)
			if n > 0 {
				p.body = append(p.body, body[0].Slice(skip, skip+n))
			}
			p.size += n
			if skip += n; skip == body[0].Len() {
				body, skip = body[1:], 0
			}
		}
		if p.last = last && len(body) == 0; p.size == 0 && !p.last {
			return nil
		}
		if err := c.stream.SendMsg(p); err != nil || len(body) == 0 {
			return err
		}
	}
}
