package lockedmem

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// MaxSecret is the size of the largest secret that an [Arena] takes, in bytes.
const MaxSecret = 64 << 10

// Errors of [Arena.Copy] and [Enclave.Open].
var (
	ErrPurged = errors.New("lockedmem: purged")
	ErrSize   = errors.New("lockedmem: secret is empty or too large")
)

// slotSizes are the size classes. Rounding wastes less than half of a slot; a
// 32-byte key (a derived SigV4 key, a SHA-256) fits its slot exactly.
var slotSizes = [...]int{16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8 << 10, 16 << 10, 32 << 10, MaxSecret}

// A class starts with a small slab, because the locked-memory limit may be 8 MiB
// for everything, and doubles, because each slab costs three kernel mappings.
const (
	firstSlab = 16 << 10
	lastSlab  = 256 << 10
)

// Arena holds secrets in locked memory. Its methods may be called concurrently.
//
// A secret costs its slot, 24 bytes for the [Secret] and 4 for the slot's
// generation: 60 bytes in all for a 32-byte key.
type Arena struct {
	mu      sync.Mutex
	purged  bool
	slabs   []*slab
	classes [len(slotSizes)]class
	slots   int
	bytes   int
}

// class is the slots of one size. Only Copy, Free and Purge touch it, under Arena.mu.
type class struct {
	slabs int        // how many slabs it has
	tail  *slab      // the newest slab, whose slots from next on were never used
	next  uint32     // first unused slot of tail
	free  []freeSlot // slots given back
}

type freeSlot struct {
	slab *slab
	slot uint32
}

// slab is a run of equal slots. mem never changes and stays mapped until the
// package's Purge, so that readers need no lock.
type slab struct {
	mem   []byte
	size  uint32 // of a slot
	class int
	gone  atomic.Bool // purged: mem may be unmapped
	// generations counts, per slot, how often it was given back. A Secret whose
	// slot has moved on is no secret any more, so that neither a second Free nor a
	// forgotten copy of the handle reaches the slot's next owner.
	generations []atomic.Uint32
}

// NewArena returns an empty arena. It fails if memory cannot be locked, unless
// [Harden] was told to go on without.
func NewArena() (*Arena, error) {
	a := &Arena{}
	// The first slab is made now, so that a process that cannot lock memory says
	// so when it starts, not when its first secret arrives.
	if err := a.grow(classFor(32)); err != nil {
		return nil, err
	}
	arenas.Store(a, struct{}{})
	return a, nil
}

// Copy copies src into locked memory and wipes src, also when it fails.
// It fails with [ErrPurged], [ErrSize], or because memory cannot be locked.
func (a *Arena) Copy(src []byte) (Secret, error) {
	defer Wipe(src)
	if len(src) == 0 || len(src) > MaxSecret {
		return Secret{}, fmt.Errorf("%w: %d bytes of at most %d", ErrSize, len(src), MaxSecret)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.purged {
		return Secret{}, ErrPurged
	}
	ci := classFor(len(src))
	c := &a.classes[ci]
	var f freeSlot
	if n := len(c.free); n > 0 {
		f = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		if c.tail == nil || int(c.next) == len(c.tail.generations) {
			if err := a.grow(ci); err != nil {
				return Secret{}, err
			}
		}
		f = freeSlot{c.tail, c.next}
		c.next++
	}
	copy(f.slab.at(f.slot), src)
	a.slots++
	a.bytes += int(f.slab.size)
	return Secret{
		slab:       f.slab,
		slot:       f.slot,
		generation: f.slab.generations[f.slot].Load(),
		length:     uint32(len(src)),
	}, nil
}

// Free wipes s at once; its slot is used again. The caller guarantees that no
// reader is left. Freeing the zero Secret, or one that is gone, does nothing.
func (a *Arena) Free(s Secret) {
	if s.slab == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.purged || !s.slab.generations[s.slot].CompareAndSwap(s.generation, s.generation+1) {
		return
	}
	Wipe(s.slab.at(s.slot))
	c := &a.classes[s.slab.class]
	c.free = append(c.free, freeSlot{s.slab, s.slot})
	a.slots--
	a.bytes -= int(s.slab.size)
}

// Purge wipes and releases everything, for good. [Secret.Bytes] of all its
// secrets is nil from then on; a view taken before reads zeros.
func (a *Arena) Purge() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.purged {
		return
	}
	a.purged = true
	for _, s := range a.slabs {
		s.gone.Store(true)
		drop(s.mem)
	}
	a.slabs, a.classes = nil, [len(slotSizes)]class{}
	a.slots, a.bytes = 0, 0
	arenas.Delete(a)
}

// InUse reports how many secrets the arena holds and the bytes of their slots.
func (a *Arena) InUse() (slots, bytes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.slots, a.bytes
}

// grow gives class ci a new slab. The caller holds a.mu, or owns a alone.
func (a *Arena) grow(ci int) error {
	c, size := &a.classes[ci], slotSizes[ci]
	total := max(size, min(firstSlab<<min(c.slabs, 8), lastSlab))
	mem, err := pages(total)
	if err != nil {
		return err
	}
	s := &slab{mem: mem, size: uint32(size), class: ci, generations: make([]atomic.Uint32, total/size)}
	a.slabs = append(a.slabs, s)
	c.slabs++
	c.tail, c.next = s, 0
	return nil
}

func classFor(n int) int {
	for i, size := range slotSizes {
		if n <= size {
			return i
		}
	}
	panic("lockedmem: size not checked")
}

func (s *slab) at(slot uint32) []byte {
	from := int(slot) * int(s.size)
	return s.mem[from : from+int(s.size) : from+int(s.size)]
}
