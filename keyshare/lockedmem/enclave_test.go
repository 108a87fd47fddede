package lockedmem_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"keybridge/keyshare/lockedmem"
)

func checkEnclave(e *lockedmem.Enclave, want string) error {
	return e.Open(func(b []byte) error {
		if string(b) != want {
			return fmt.Errorf("enclave holds %d other bytes", len(b))
		}
		return nil
	})
}

func TestEnclave(t *testing.T) {
	for _, n := range []int{1, 32, 4096, 5000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			src := bytes.Repeat([]byte{'x'}, n)
			want := string(src)
			e, err := lockedmem.NewEnclave(src)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(src, make([]byte, n)) {
				t.Error("source was not wiped")
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 5 {
						if err := checkEnclave(e, want); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()

			mine := errors.New("mine")
			if err := e.Open(func([]byte) error { return mine }); !errors.Is(err, mine) {
				t.Errorf("error of use: got %v", err)
			}
			e.Destroy()
			e.Destroy()
			if err := checkEnclave(e, want); !errors.Is(err, lockedmem.ErrPurged) {
				t.Errorf("after Destroy: %v", err)
			}
		})
	}
	if _, err := lockedmem.NewEnclave(nil); !errors.Is(err, lockedmem.ErrSize) {
		t.Errorf("empty: %v", err)
	}
}

func TestEnclaveAfterPanic(t *testing.T) {
	e, err := lockedmem.NewEnclave([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = e.Open(func([]byte) error { panic("use") })
	}()
	if err := checkEnclave(e, "secret"); err != nil {
		t.Error(err)
	}
	e.Destroy() // waits for readers: hangs if the panic left one behind
}

func TestDo(t *testing.T) {
	ran := false
	lockedmem.Do(func() { lockedmem.Do(func() { ran = true }) })
	if !ran {
		t.Error("f did not run")
	}
	defer func() {
		if got := recover(); got != "in f" {
			t.Errorf("recovered %v", got)
		}
	}()
	lockedmem.Do(func() { panic("in f") })
}

func TestSecretMode(t *testing.T) {
	if got := lockedmem.SecretMode(); got != wantMode {
		t.Errorf("SecretMode() = %q, built for %q", got, wantMode)
	}
}

func BenchmarkEnclaveOpen(b *testing.B) {
	e, err := lockedmem.NewEnclave(make([]byte, 2048))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := e.Open(func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
