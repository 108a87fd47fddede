package extproc

import (
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/mem"
)

const (
	// slabSize is that of the pieces of memory in which bodies come and are rewritten:
	// what an HTTP/2 frame of Envoy's holds.
	slabSize = 16 << 10
	// slabsMapped are made at a time.
	slabsMapped = 64
	// slabsKept bounds those that keep their memory while they wait for the next body.
	slabsKept = 256
)

// slabs is the memory of bodies on their way. It is not Go's: that lets the heap grow
// to twice of what is in use before it collects, and drops pools then, so that 64
// bodies at once took 50 MiB where half of it was in use (measured). A slab that is
// given back, and is not among the first slabsKept, keeps its addresses alone.
//
// As gRPC's mem.BufferPool it also gives slabs for frames, without gRPC's clearing them
// for each, and leaves what is smaller or larger to gRPC's own.
type slabs struct {
	mem.BufferPool
	mu   sync.Mutex
	free []*[]byte
}

func newSlabs() *slabs { return &slabs{BufferPool: mem.DefaultBufferPool()} }

// Get implements mem.BufferPool.
func (s *slabs) Get(n int) *[]byte {
	if n <= slabSize/4 || n > slabSize {
		return s.BufferPool.Get(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 && !s.more() {
		b := make([]byte, n, slabSize)
		return &b
	}
	last := len(s.free) - 1
	b := s.free[last]
	s.free = s.free[:last]
	*b = (*b)[:n]
	return b
}

// more maps memory for further slabs; where there is none to be had, Go's is used.
func (s *slabs) more() bool {
	b, err := unix.Mmap(-1, 0, slabsMapped*slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return false
	}
	for ; len(b) > 0; b = b[slabSize:] {
		slab := b[:slabSize:slabSize]
		s.free = append(s.free, &slab)
	}
	return true
}

// Put implements mem.BufferPool.
func (s *slabs) Put(b *[]byte) {
	if cap(*b) != slabSize {
		s.BufferPool.Put(b)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) >= slabsKept {
		_ = unix.Madvise((*b)[:slabSize], unix.MADV_DONTNEED) // it is kept if that fails
	}
	s.free = append(s.free, b)
}
