package provider

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
)

// Fault is how a provider, or the network before it, fails a request. Whatever was
// asked before is answered, and the connections that are open stay.
type Fault struct {
	// Upload fails the request once so many of its bytes have come, the head among
	// them; the server behind may have seen less. 0: once the server has begun to
	// answer, having held the request against its rules.
	Upload int64
	// Do has the connection and what the server answers, if it does, and ends with ctx.
	// It says whether the connection goes on, an answer being whole; both ends are closed otherwise.
	Do func(ctx context.Context, client *net.TCPConn, answer *bufio.Reader) (goesOn bool)
}

// Reset ends a connection with RST, as a host does that has lost it.
func Reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // Close then says so (socket(7), SO_LINGER)
	_ = c.Close()
}

// Fail has every request fail from now on; nil ends that.
func (r *Recorder) Fail(f *Fault) { r.fault.Store(f) }

// failing is one connection of a Recorder that may be told to fail.
type failing struct {
	recorder *Recorder
	ctx      context.Context
	client   *net.TCPConn
	upstream net.Conn
	arrived  atomic.Int64 // bytes of the request, since the last answer
}

// outcome is what became of bytes that were seen.
type outcome uint8

const (
	pass outcome = iota
	seenTo
	over // with the connection
)

// asked sees what a client sends.
func (f *failing) asked(b []byte) outcome {
	n := f.arrived.Add(int64(len(b)))
	fault := f.recorder.fault.Load()
	if fault == nil || fault.Upload == 0 || n < fault.Upload {
		return pass
	}
	return f.do(fault, bytes.NewReader(nil))
}

// answered sees what the server sends.
func (f *failing) answered(b []byte) outcome {
	f.arrived.Store(0)
	fault := f.recorder.fault.Load()
	if fault == nil || fault.Upload > 0 {
		return pass
	}
	return f.do(fault, io.MultiReader(bytes.NewReader(b), f.upstream))
}

func (f *failing) do(fault *Fault, answer io.Reader) outcome {
	if fault.Do(f.ctx, f.client, bufio.NewReader(answer)) {
		return seenTo
	}
	return over
}
