package grant

import "hash/maphash"

// shardCount is how many parts an index has. A change copies the parts that it
// touches: of a million keys, 250 in each.
const shardCount = 1 << 12

// Index is immutable but for what Key.Repository returns: a Builder makes it, Live
// publishes it.
type Index struct {
	seed   maphash.Seed
	shards *[shardCount]*shard // nil: no keys
	keys   int
}

// shard is a hash table with open addressing, whose keys are its values.
type shard struct {
	slots []*Key // a power of two, a quarter or more of them nil
	used  int
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

func find(shards *[shardCount]*shard, seed maphash.Seed, keyID string) *Key {
	h := maphash.String(seed, keyID)
	s := shards[h%shardCount]
	if s == nil {
		return nil
	}
	mask := uint64(len(s.slots) - 1)
	for i := h / shardCount; ; i++ {
		if k := s.slots[i&mask]; k == nil || k.ID == keyID {
			return k
		}
	}
}

// table is the index under construction. Shards that a published index has are copied
// before they change.
type table struct {
	seed   maphash.Seed
	shards *[shardCount]*shard
	shared bool                // shards is that of an index
	owned  map[*shard]struct{} // shards that no index has
	keys   int
}

func newTable() *table {
	return &table{seed: maphash.MakeSeed(), shards: new([shardCount]*shard), owned: map[*shard]struct{}{}}
}

// publish returns the table as it is now, which stays so.
func (t *table) publish() *[shardCount]*shard {
	t.shared = true
	clear(t.owned)
	return t.shards
}

func (t *table) find(keyID string) *Key { return find(t.shards, t.seed, keyID) }

// put adds a key whose id is not there.
func (t *table) put(k *Key) {
	h := maphash.String(t.seed, k.ID)
	s := t.edit(h, 1)
	s.put(k, h)
	t.keys++
}

// drop removes a key that is there.
func (t *table) drop(k *Key) {
	h := maphash.String(t.seed, k.ID)
	old := t.shards[h%shardCount]
	t.rebuild(h, old.used-1, func(s *shard) {
		for _, other := range old.slots {
			if other != nil && other != k {
				s.put(other, maphash.String(t.seed, other.ID))
			}
		}
	})
	t.keys--
}

// edit is the shard of a hash, with room for more and no index's.
func (t *table) edit(h uint64, more int) *shard {
	s := t.shards[h%shardCount]
	if s != nil && (s.used+more)*4 <= len(s.slots)*3 {
		if _, ok := t.owned[s]; ok {
			return s
		}
		n := &shard{slots: append([]*Key(nil), s.slots...), used: s.used}
		t.replace(h, n)
		return n
	}
	used := 0
	if s != nil {
		used = s.used
	}
	return t.rebuild(h, used+more, func(n *shard) {
		if s == nil {
			return
		}
		for _, k := range s.slots {
			if k != nil {
				n.put(k, maphash.String(t.seed, k.ID))
			}
		}
	})
}

// rebuild makes a shard with room for n keys in place of the one of a hash.
func (t *table) rebuild(h uint64, n int, fill func(*shard)) *shard {
	size := 4
	for n*4 > size*3 {
		size *= 2
	}
	s := &shard{slots: make([]*Key, size)}
	fill(s)
	t.replace(h, s)
	return s
}

func (t *table) replace(h uint64, s *shard) {
	if t.shared {
		again := *t.shards
		t.shards, t.shared = &again, false
	}
	delete(t.owned, t.shards[h%shardCount])
	t.shards[h%shardCount] = s
	t.owned[s] = struct{}{}
}

func (s *shard) put(k *Key, h uint64) {
	mask := uint64(len(s.slots) - 1)
	for i := h / shardCount; ; i++ {
		if s.slots[i&mask] == nil {
			s.slots[i&mask] = k
			s.used++
			return
		}
	}
}

// all calls f for every key until it says no.
func (t *table) all(f func(*Key) bool) {
	for _, s := range t.shards {
		if s == nil {
			continue
		}
		for _, k := range s.slots {
			if k != nil && !f(k) {
				return
			}
		}
	}
}
