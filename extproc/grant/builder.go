package grant

import (
	"cmp"
	"maps"
	"slices"
)

// maxListed bounds the problems of keys whose repository is missing: one that was
// deleted may have had a million.
const maxListed = 100

// Builder makes one index after the other. A change of one key costs the same whether
// there are ten or a million; repositories change in place, so one that changes costs
// nothing for its keys. One goroutine owns it.
type Builder struct {
	table  *table
	places map[placeID]*place
	// workspaces are those of the repositories by id, for what is said of strangers.
	workspaces map[string]string
	resources  []Problem
	refused    map[string]Problem // keys that do not fit, by record
	// twice are the keys that share an id; none of them is in the table.
	twice map[string][]*Key
	lost  int               // keys in the table whose repository is gone
	lists map[*Key]struct{} // some of them
}

// placeID is of a workspace, so that a repository never reaches another one's keys.
type placeID struct{ workspace, repository string }

// NewBuilder makes a Builder that has nothing yet.
func NewBuilder() *Builder {
	return &Builder{
		table: newTable(), places: map[placeID]*place{}, workspaces: map[string]string{},
		refused: map[string]Problem{}, twice: map[string][]*Key{}, lists: map[*Key]struct{}{},
	}
}

// Resources replaces all repositories and connectors, also in the indexes made before.
func (b *Builder) Resources(repositories []RepositoryInput, connectors []ConnectorInput) {
	r := resources{
		connectors:   make(map[string]*Connector, len(connectors)),
		repositories: make(map[string]*Repository, len(repositories)),
	}
	for i := range connectors {
		r.connector(&connectors[i])
	}
	for i := range repositories {
		r.repository(&repositories[i])
	}
	b.resources = r.problems
	clear(b.workspaces)
	for id, repository := range r.repositories {
		b.workspaces[id] = repository.Workspace
		b.place(placeID{repository.Workspace, id}).now.Store(repository)
	}
	b.lost = 0
	for id, p := range b.places {
		now := p.now.Load()
		if repository := r.repositories[id.repository]; repository != nil && repository == now {
			continue
		}
		if p.keys == 0 {
			delete(b.places, id)
			continue
		}
		if !now.gone {
			p.now.Store(gone(id.repository, id.workspace))
		}
		b.lost += p.keys
	}
	clear(b.lists)
	if b.lost > 0 {
		b.table.all(func(k *Key) bool { b.list(k); return len(b.lists) < min(b.lost, maxListed) })
	}
}

func (b *Builder) place(id placeID) *place {
	p := b.places[id]
	if p == nil {
		p = &place{}
		p.now.Store(gone(id.repository, id.workspace))
		b.places[id] = p
	}
	return p
}

func (b *Builder) list(k *Key) {
	if k.Repository().gone && len(b.lists) < maxListed {
		b.lists[k] = struct{}{}
	}
}

// Key puts a key in the place of what an earlier call returned for its record: nil the
// first time. Without in, the record is gone. What it returns is nil if the key does
// not fit.
func (b *Builder) Key(old *Key, in *KeyInput) *Key {
	if old != nil {
		b.remove(old)
	}
	if in == nil {
		return nil
	}
	delete(b.refused, in.ID)
	k, reason := b.check(in)
	if reason != "" {
		b.refused[in.ID] = Problem{"key", in.ID, in.Workspace, reason}
		return nil
	}
	k.repository.keys++
	// Two records with one key id cannot both be right, and nothing here says
	// which is: neither works. The store keeps ids unique.
	if others := b.twice[k.ID]; others != nil {
		b.twice[k.ID] = append(others, k)
	} else if other := b.table.find(k.ID); other != nil {
		b.drop(other)
		b.twice[k.ID] = []*Key{other, k}
	} else {
		b.put(k)
	}
	return k
}

// Forget drops what is said of a record that does not fit.
func (b *Builder) Forget(record string) { delete(b.refused, record) }

func (b *Builder) remove(k *Key) {
	k.repository.keys--
	others := b.twice[k.ID]
	if others == nil {
		b.drop(k)
		return
	}
	others = slices.DeleteFunc(others, func(o *Key) bool { return o == k })
	if b.twice[k.ID] = others; len(others) == 1 {
		delete(b.twice, k.ID)
		b.put(others[0])
	}
}

func (b *Builder) put(k *Key) {
	b.table.put(k)
	if k.Repository().gone {
		b.lost++
		b.list(k)
	}
}

func (b *Builder) drop(k *Key) {
	b.table.drop(k)
	if k.Repository().gone {
		b.lost--
		delete(b.lists, k)
	}
}

// Index is the index of what there is now.
func (b *Builder) Index() *Index {
	return &Index{seed: b.table.seed, shards: b.table.publish(), keys: b.table.keys - b.lost}
}

// Problems names what is left out; of keys without a repository, only some.
func (b *Builder) Problems() []Problem {
	out := slices.Clone(b.resources)
	out = slices.AppendSeq(out, maps.Values(b.refused))
	for _, keys := range b.twice {
		for _, k := range keys {
			out = append(out, Problem{"key", k.Record(), k.Workspace(), "key id is used twice"})
		}
	}
	for k := range b.lists {
		reason := "its repository is missing"
		if _, ok := b.workspaces[k.Repository().ID]; ok {
			reason = "its repository belongs to another workspace"
		}
		out = append(out, Problem{"key", k.Record(), k.Workspace(), reason})
	}
	slices.SortFunc(out, func(x, y Problem) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Reason, y.Reason))
	})
	return out
}

// check makes a key of what fits together, or says what does not.
func (b *Builder) check(in *KeyInput) (k *Key, reason string) {
	c := in.Credential
	if c == nil {
		return nil, "it could not be opened"
	}
	binding := c.Binding()
	switch {
	case c.Type() != typeRepositoryKey:
		return nil, "it is sealed as something else"
	case c.Record() != in.ID:
		return nil, "it is sealed as another record"
	case c.Workspace() != in.Workspace:
		return nil, "it is sealed for another workspace"
	case binding.Use != UseStorageKey && binding.Use != UseAIKey:
		return nil, "unknown use"
	case binding.Key == "":
		return nil, "it has no key id"
	case in.Access > AccessAdmin:
		return nil, "unknown access"
	}
	// The key id is the credential's own, which does not keep a whole record alive.
	k = &Key{ID: c.Key(), Access: in.Access, Disabled: in.Disabled, Secret: c}
	if binding.Use == UseAIKey {
		i := slices.Index(aiTypes[1:], cmp.Or(in.AIType, AITypeOther))
		if i < 0 {
			return nil, "unknown AI type"
		}
		k.ai = aiType(i + 1)
	}
	if !in.Expires.IsZero() {
		if k.expires = in.Expires.Unix(); k.expires == 0 {
			k.expires = 1 // 0 is never
		}
	}
	k.repository = b.place(placeID{in.Workspace, binding.Repository})
	return k, ""
}
