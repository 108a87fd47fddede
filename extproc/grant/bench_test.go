package grant_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

// manyKeys is a Builder with n keys in a hundred repositories, and their ids. Their
// secrets are never looked at.
func manyKeys(n int) (*grant.Builder, []*grant.Key, []string) {
	b := grant.NewBuilder()
	b.Resources(repositories("", 100), nil)
	keys, ids := make([]*grant.Key, n), make([]string, n)
	for i := range keys {
		in := manyInput(i, grant.AccessRead)
		keys[i], ids[i] = b.Key(nil, &in), fmt.Sprintf("AKID%016d", i)
	}
	return b, keys, ids
}

func repositories(name string, n int) (out []grant.RepositoryInput) {
	for i := range n {
		out = append(out, grant.RepositoryInput{ID: fmt.Sprint("repository-", i), Workspace: ours, Name: name})
	}
	return out
}

// held is a credential without a secret.
func held(h seal.Header) *credential.Credential {
	c, err := credential.Hold(nil, h, lockedmem.Secret{})
	if err != nil {
		panic(err)
	}
	return c
}

func manyInput(i int, access grant.Access) grant.KeyInput {
	h := seal.Header{
		Format: 1, Workspace: ours, Type: seal.TypeRepositoryKey, Record: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Version: 1,
		Binding: seal.Binding{Use: seal.UseS3Key, Key: fmt.Sprintf("AKID%016d", i), Repository: fmt.Sprint("repository-", i%100)},
	}
	return grant.KeyInput{ID: h.Record, Workspace: ours, Access: access, Credential: held(h)}
}

// One key changes, comes back, and goes: each index is what it was when it was made.
func TestBuilderChangesOneKey(t *testing.T) {
	b, keys, ids := manyKeys(5000)
	before := b.Index()
	in := manyInput(7, grant.AccessAdmin)
	changed := b.Key(keys[7], &in)
	after := b.Index()
	gone := b.Key(changed, nil)
	last := b.Index()
	if gone != nil || before.Len() != 5000 || after.Len() != 5000 || last.Len() != 4999 {
		t.Errorf("%d, %d and %d keys", before.Len(), after.Len(), last.Len())
	}
	if before.Lookup(ids[7]) != keys[7] || after.Lookup(ids[7]) != changed || last.Lookup(ids[7]) != nil {
		t.Error("an index has another key than it was made with")
	}
	for i, id := range ids {
		if i != 7 && (after.Lookup(id) != keys[i] || last.Lookup(id) != keys[i]) {
			t.Fatalf("key %d is not there", i)
		}
	}
	if after.Lookup("AKIDUNKNOWN") != nil || (&grant.Index{}).Lookup(ids[0]) != nil {
		t.Error("found what is not there")
	}
}

// A repository that goes takes its keys along, and brings them back.
func TestBuilderRepositoriesComeAndGo(t *testing.T) {
	b, _, ids := manyKeys(1000)
	ix := b.Index()
	b.Resources(repositories("renamed", 50), nil)
	if k := ix.Lookup(ids[0]); k == nil || k.Repository().Name != "renamed" {
		t.Errorf("a published index has %+v", k)
	}
	if ix.Lookup(ids[99]) != nil || b.Index().Len() != 500 {
		t.Errorf("keys of a missing repository: %d", b.Index().Len())
	}
	if p := b.Problems(); len(p) != 100 || p[0].Reason != "its repository is missing" {
		t.Errorf("%d problems, %v", len(p), p[0])
	}
	foreign := repositories("", 100)
	for i := range foreign {
		foreign[i].Workspace = theirs
	}
	b.Resources(foreign, nil)
	if p := b.Problems(); b.Index().Len() != 0 || len(p) != 100 || p[0].Reason != "its repository belongs to another workspace" {
		t.Errorf("%d keys in foreign repositories", b.Index().Len())
	}
	b.Resources(repositories("", 100), nil)
	if ix := b.Index(); ix.Len() != 1000 || ix.Lookup(ids[99]) == nil || len(b.Problems()) != 0 {
		t.Errorf("%d keys came back", ix.Len())
	}
}

// Of keys that share an id none works, until one is left.
func TestBuilderKeyIDTwice(t *testing.T) {
	b := grant.NewBuilder()
	b.Resources(repositories("", 100), nil)
	var keys []*grant.Key
	for i := range 3 {
		in := manyInput(i, grant.AccessRead)
		h := seal.Header{Workspace: ours, Type: seal.TypeRepositoryKey, Record: in.ID, Version: 1,
			Binding: seal.Binding{Use: seal.UseS3Key, Key: "AKIDSAME", Repository: "repository-0"}}
		in.Credential = held(h)
		keys = append(keys, b.Key(nil, &in))
	}
	for i, want := range []int{3, 2, 0} {
		if ix := b.Index(); len(b.Problems()) != want || (ix.Lookup("AKIDSAME") != nil) != (want == 0) {
			t.Errorf("%d problems and %d keys, want %d", len(b.Problems()), ix.Len(), want)
		}
		if i < 2 {
			b.Key(keys[i], nil)
		}
	}
	if k := b.Index().Lookup("AKIDSAME"); k != keys[2] {
		t.Errorf("left is %+v", k)
	}
}

var sizes = []int{10, 1_000_000}

func BenchmarkLookup(b *testing.B) {
	for _, n := range sizes {
		builder, _, ids := manyKeys(n)
		ix := builder.Index()
		for name, among := range map[string]int{"ten of them": 10, "any": n} {
			order := make([]string, 1<<16)
			for i := range order {
				order[i] = ids[rand.IntN(among)]
			}
			b.Run(fmt.Sprintf("%d keys, %s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if ix.Lookup(order[i&(len(order)-1)]) == nil {
						b.Fatal("not there")
					}
					i++
				}
			})
		}
	}
}

// BenchmarkChange is one key that changes, and the index after it.
func BenchmarkChange(b *testing.B) {
	for _, n := range sizes {
		builder, keys, _ := manyKeys(n)
		in := manyInput(3, grant.AccessRead)
		k := keys[3]
		b.Run(fmt.Sprint(n, " keys"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				k = builder.Key(k, &in)
				builder.Index()
			}
		})
	}
}

// BenchmarkResources is a change of repositories, of which there are a hundred.
func BenchmarkResources(b *testing.B) {
	for _, n := range sizes {
		builder, _, _ := manyKeys(n)
		in := repositories("", 100)
		b.Run(fmt.Sprint(n, " keys"), func(b *testing.B) {
			for b.Loop() {
				builder.Resources(in, nil)
				builder.Index()
			}
		})
	}
}
