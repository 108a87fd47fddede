package lockedmem_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"keybridge/keyshare/lockedmem"
)

func newArena(t testing.TB) *lockedmem.Arena {
	t.Helper()
	a, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Purge)
	return a
}

func mustCopy(t testing.TB, a *lockedmem.Arena, b []byte) lockedmem.Secret {
	t.Helper()
	s, err := a.Copy(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checkInUse(t *testing.T, a *lockedmem.Arena, slots, size int) {
	t.Helper()
	if gotSlots, gotBytes := a.InUse(); gotSlots != slots || gotBytes != size {
		t.Errorf("InUse() = %d, %d; want %d, %d", gotSlots, gotBytes, slots, size)
	}
}

func TestCopyMoves(t *testing.T) {
	a := newArena(t)
	for _, n := range []int{1, 15, 16, 17, 31, 32, 33, 100, 1000, 1025, 4096, 4097, lockedmem.MaxSecret} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			want := bytes.Repeat([]byte{0xa5}, n)
			src := bytes.Clone(want)
			s, err := a.Copy(src)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(src, make([]byte, n)) {
				t.Error("source was not wiped")
			}
			if !bytes.Equal(s.Bytes(), want) || s.Len() != n {
				t.Error("the secret is not what was copied")
			}
			if got := s.Bytes(); cap(got) != n {
				t.Errorf("an append could write %d bytes beyond the secret", cap(got)-n)
			}
		})
	}
}

func TestCopyRefuses(t *testing.T) {
	a := newArena(t)
	for _, n := range []int{0, lockedmem.MaxSecret + 1} {
		src := bytes.Repeat([]byte{1}, n)
		if s, err := a.Copy(src); !errors.Is(err, lockedmem.ErrSize) || s.Bytes() != nil || s.Len() != 0 {
			t.Errorf("%d bytes: got %d bytes, %v", n, s.Len(), err)
		}
		if !bytes.Equal(src, make([]byte, n)) {
			t.Errorf("%d bytes: source was not wiped", n)
		}
	}
	checkInUse(t, a, 0, 0)
}

func TestZeroSecret(t *testing.T) {
	var s lockedmem.Secret
	if s.Bytes() != nil || s.Len() != 0 {
		t.Error("the zero Secret holds something")
	}
	a := newArena(t)
	a.Free(s)
	checkInUse(t, a, 0, 0)
}

func TestFree(t *testing.T) {
	a := newArena(t)
	s := mustCopy(t, a, []byte("the first secret of this slot"))
	view := s.Bytes()
	checkInUse(t, a, 1, 32)

	a.Free(s)
	if s.Bytes() != nil {
		t.Error("a freed secret is still there")
	}
	if !bytes.Equal(view, make([]byte, len(view))) {
		t.Error("the slot was not wiped")
	}
	checkInUse(t, a, 0, 0)

	next := mustCopy(t, a, []byte("the second secret of this slot"))
	if &next.Bytes()[0] != &view[0] {
		t.Fatal("the slot was not used again, so the rest of this test shows nothing")
	}
	a.Free(s) // again: must not reach the slot's new owner
	if got := string(next.Bytes()); got != "the second secret of this slot" {
		t.Errorf("a second Free reached another secret: %q", got)
	}
	if s.Bytes() != nil {
		t.Error("an old handle reads another secret")
	}
	checkInUse(t, a, 1, 32)
}

func TestPurge(t *testing.T) {
	a := newArena(t)
	secrets := make([]lockedmem.Secret, 3000) // several slabs
	for i := range secrets {
		secrets[i] = mustCopy(t, a, fmt.Appendf(nil, "secret %d", i))
	}
	view := secrets[17].Bytes()

	a.Purge()
	a.Purge()
	for i, s := range secrets {
		if s.Bytes() != nil {
			t.Fatalf("secret %d survived", i)
		}
		a.Free(s)
	}
	// A reader that was under way reads zeros; a fault would end the test binary.
	if !bytes.Equal(view, make([]byte, len(view))) {
		t.Error("memory was not wiped")
	}
	checkInUse(t, a, 0, 0)
	src := []byte("too late")
	if _, err := a.Copy(src); !errors.Is(err, lockedmem.ErrPurged) {
		t.Errorf("Copy after Purge: %v", err)
	}
	if !bytes.Equal(src, make([]byte, len(src))) {
		t.Error("source was not wiped")
	}
}

// Every slot belongs to one secret, whatever the order of Copy and Free.
func TestArenaModel(t *testing.T) {
	a := newArena(t)
	random := rand.New(rand.NewPCG(1, 2))
	type held struct {
		secret lockedmem.Secret
		want   []byte
	}
	var all []held
	for i := range 20000 {
		if len(all) > 0 && random.IntN(5) < 2 {
			n := random.IntN(len(all))
			a.Free(all[n].secret)
			all[n] = all[len(all)-1]
			all = all[:len(all)-1]
			continue
		}
		want := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1+random.IntN(300))
		all = append(all, held{mustCopy(t, a, want), want})
		if len(all) > 500 {
			a.Free(all[0].secret)
			all = all[1:]
		}
	}
	for _, h := range all {
		if !bytes.Equal(h.secret.Bytes(), h.want) {
			t.Fatal("a secret was overwritten")
		}
	}
	if slots, _ := a.InUse(); slots != len(all) {
		t.Errorf("%d slots in use, want %d", slots, len(all))
	}
}

// Readers take no lock; the race detector and the kernel watch this one.
func TestConcurrentReaders(t *testing.T) {
	a := newArena(t)
	shared := mustCopy(t, a, bytes.Repeat([]byte{7}, 32))
	var sum [8]int
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				own, err := a.Copy(bytes.Repeat([]byte{byte(worker)}, 1+i%200))
				if err != nil {
					break // purged by worker 0
				}
				for _, b := range shared.Bytes() {
					sum[worker] += int(b)
				}
				for _, b := range own.Bytes() {
					sum[worker] += int(b)
				}
				a.Free(own)
				if worker == 0 && i == 1000 {
					a.Purge()
				}
			}
		})
	}
	wg.Wait()
	if shared.Bytes() != nil {
		t.Error("the secret survived the purge")
	}
}

func TestOverhead(t *testing.T) {
	const secret, generation = 32, 4
	if got := int(unsafe.Sizeof(lockedmem.Secret{})) + generation; got > 64 {
		t.Errorf("a %d-byte secret costs %d bytes more", secret, got)
	}
	a := newArena(t)
	mustCopy(t, a, make([]byte, secret))
	checkInUse(t, a, 1, secret)
}

func TestWipe(t *testing.T) {
	b := []byte("secret")
	lockedmem.Wipe(b)
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("got %q", b)
	}
	lockedmem.Wipe(nil)
}

func BenchmarkSecretBytes(b *testing.B) {
	a := newArena(b)
	s := mustCopy(b, a, make([]byte, 32))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if len(s.Bytes()) != 32 {
				b.Error("gone")
			}
		}
	})
}

func BenchmarkCopyFree(b *testing.B) {
	a := newArena(b)
	src := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		s, err := a.Copy(src)
		if err != nil {
			b.Fatal(err)
		}
		a.Free(s)
	}
}
