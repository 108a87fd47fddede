package grant

import (
	"hash/maphash"
	"slices"
)

// shardCount is how many parts an index has. A change copies the parts that it
// touches: of a million keys, a thousand in each.
const shardCount = 1 << 10

// Index is immutable but for what Key.Repository returns: a Builder makes it, Live
// publishes it.
type Index struct {
	seed   maphash.Seed
	shards *[shardCount]shard // nil: no keys
	keys   int
}

// shard is a hash table with open addressing, whose keys are its values. Tags are a
// byte of the hash, 0 where there is no key: with them, a look at memory that is not
// cached is for the right key nearly always. Both have one length, a power of two; a
// quarter or more is empty.
type shard struct {
	tags []uint8
	keys []*Key
	used int
}

// Lookup finds a key by its public id; nil if there is none.
func (ix *Index) Lookup(keyID string) *Key {
	if ix.shards == nil {
		return nil
	}
	if k := find(ix.shards, ix.seed, keyID); k != nil && !k.Repository().gone {
		return k
	}
	return nil
}

// Len is the number of keys.
func (ix *Index) Len() int { return ix.keys }

func tagOf(h uint64) uint8 { return uint8(h>>56) | 1 }

func find(shards *[shardCount]shard, seed maphash.Seed, keyID string) *Key {
	h := maphash.String(seed, keyID)
	s := &shards[h%shardCount]
	if s.used == 0 {
		return nil
	}
	tag, mask := tagOf(h), uint64(len(s.tags)-1)
	for i := h / shardCount & mask; ; i = (i + 1) & mask {
		switch s.tags[i] {
		case 0:
			return nil
		case tag:
			if k := s.keys[i]; k.ID == keyID {
				return k
			}
		}
	}
}

// table is the index under construction. Shards that a published index has are copied
// before they change.
type table struct {
	seed   maphash.Seed
	shards *[shardCount]shard
	shared bool            // shards is that of an index
	owned  map[uint64]bool // shards that no index has
	keys   int
}

func newTable() *table {
	return &table{seed: maphash.MakeSeed(), shards: new([shardCount]shard), owned: map[uint64]bool{}}
}

// publish returns the table as it is now, which stays so.
func (t *table) publish() *[shardCount]shard {
	t.shared = true
	clear(t.owned)
	return t.shards
}

func (t *table) find(keyID string) *Key { return find(t.shards, t.seed, keyID) }

// put adds a key whose id is not there.
func (t *table) put(k *Key) {
	h := maphash.String(t.seed, k.ID)
	s := &t.shards[h%shardCount]
	switch {
	case (s.used+1)*4 > len(s.tags)*3:
		s = t.rebuild(h, s.used+1, nil)
	case !t.owned[h%shardCount]:
		s = t.replace(h, shard{slices.Clone(s.tags), slices.Clone(s.keys), s.used})
	}
	s.put(k, h)
	t.keys++
}

// drop removes a key that is there.
func (t *table) drop(k *Key) {
	h := maphash.String(t.seed, k.ID)
	t.rebuild(h, t.shards[h%shardCount].used-1, k)
	t.keys--
}

// rebuild makes a shard with room for n keys in place of the one of a hash, without one
// of its keys.
func (t *table) rebuild(h uint64, n int, without *Key) *shard {
	size := 4
	for n*4 > size*3 {
		size *= 2
	}
	s := shard{tags: make([]uint8, size), keys: make([]*Key, size)}
	for _, k := range t.shards[h%shardCount].keys {
		if k != nil && k != without {
			s.put(k, maphash.String(t.seed, k.ID))
		}
	}
	return t.replace(h, s)
}

func (t *table) replace(h uint64, s shard) *shard {
	if t.shared {
		again := *t.shards
		t.shards, t.shared = &again, false
	}
	at := h % shardCount
	t.shards[at], t.owned[at] = s, true
	return &t.shards[at]
}

func (s *shard) put(k *Key, h uint64) {
	mask := uint64(len(s.tags) - 1)
	i := h / shardCount & mask
	for s.tags[i] != 0 {
		i = (i + 1) & mask
	}
	s.tags[i], s.keys[i] = tagOf(h), k
	s.used++
}

// all calls f for every key until it says no.
func (t *table) all(f func(*Key) bool) {
	for i := range t.shards {
		for _, k := range t.shards[i].keys {
			if k != nil && !f(k) {
				return
			}
		}
	}
}
