package extproc

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/tap"
)

// streamContext is the context of one gRPC stream, with the means to end it from
// outside: a handler that waits for Envoy's next message waits for nothing else,
// and a second goroutine for each request would cost more than the rest of it.
type streamContext struct {
	context.Context
	cancel context.CancelFunc
}

type streamContextKey struct{}

// Value finds the context itself below those that gRPC puts around it.
func (c *streamContext) Value(key any) any {
	if _, ok := key.(streamContextKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// interruptible makes streams that can be ended. Only the tap comes early enough:
// the transport takes the context that it returns to wait on.
func interruptible(ctx context.Context, _ *tap.Info) (context.Context, error) {
	c := &streamContext{}
	c.Context, c.cancel = context.WithCancel(ctx) //nolint:gosec // G118: gRPC cancels ctx when the stream ends
	return c, nil
}

// interrupt returns what ends a stream with an error.
func interrupt(ctx context.Context) context.CancelFunc {
	if c, ok := ctx.Value(streamContextKey{}).(*streamContext); ok {
		return c.cancel
	}
	return nil
}

// openRequest is one request that went on and has not ended.
type openRequest struct {
	key        string
	end        context.CancelFunc
	list       *openList
	next, prev *openRequest
}

// openList is a ring with a lock of its own. Each openRequest comes back to its
// list, and as the pool of openRequests is per processor, so nearly are the lists.
type openList struct {
	mu   sync.Mutex
	root openRequest
	n    int
	_    [64]byte // no cache line for two
}

// registry knows the open requests.
type registry struct {
	lists [64]openList
	made  atomic.Uint32
	free  sync.Pool
	// ends counts calls of end.
	ends atomic.Uint64
}

// add enters a request that ends by calling end. A caller that decided about it
// after it saw ends at some number, and after add sees it there still, can be sure
// that each later end meets the request.
func (r *registry) add(key string, end context.CancelFunc) *openRequest {
	o, _ := r.free.Get().(*openRequest)
	if o == nil {
		o = &openRequest{list: &r.lists[r.made.Add(1)%uint32(len(r.lists))]}
	}
	o.key, o.end = key, end
	l := o.list
	l.mu.Lock()
	root := &l.root
	if root.next == nil {
		root.next, root.prev = root, root
	}
	o.next, o.prev = root, root.prev
	root.prev.next, root.prev = o, o
	l.n++
	l.mu.Unlock()
	return o
}

func (r *registry) remove(o *openRequest) {
	l := o.list
	l.mu.Lock()
	o.prev.next, o.next.prev = o.next, o.prev
	l.n--
	l.mu.Unlock()
	*o = openRequest{list: l}
	r.free.Put(o)
}

// end ends the requests of revoked keys.
func (r *registry) end(revoked func(key string) bool) (n int) {
	r.ends.Add(1)
	for i := range r.lists {
		l := &r.lists[i]
		l.mu.Lock()
		for o := l.root.next; o != nil && o != &l.root; o = o.next {
			if o.end != nil && revoked(o.key) {
				o.end()
				o.end = nil
				n++
			}
		}
		l.mu.Unlock()
	}
	return n
}

func (r *registry) len() (n int) {
	for i := range r.lists {
		l := &r.lists[i]
		l.mu.Lock()
		n += l.n
		l.mu.Unlock()
	}
	return n
}

// EndStreams ends the open requests whose Decision.Key is revoked, and returns how
// many. Envoy resets them, in whichever direction bytes still flow; one that has no
// answer yet gets a 503. No request of such a key is left if Decide refuses the key
// from before the call on. revoked is called under a lock for every open request:
// it neither blocks nor calls the server.
func (s *Server) EndStreams(revoked func(key string) bool) int { return s.open.end(revoked) }

// OpenStreams is how many requests with a Decision.Key are open.
func (s *Server) OpenStreams() int { return s.open.len() }
