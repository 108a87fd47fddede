package unseal_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
)

func secondPublic(t testing.TB) *seal.PublicKey {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(secondKey())
	if err != nil {
		t.Fatal(err)
	}
	public, err := seal.NewPublicKey(&key.(*rsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// What was sealed for one record, version, workspace, binding or key opens as no
// other, neither whole nor in parts.
func TestMovedRecordsDoNotOpen(t *testing.T) {
	_, public := readRecords(t)
	k := newKeyring(t)
	const secret, otherSecret = "the provider's secret key", "another secret, as long.."
	good := mustSeal(t, public, credentialHeader(), secret)

	changes := map[string]func(h *seal.Header){
		"workspace": func(h *seal.Header) { h.Workspace = "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1dfff" },
		"record":    func(h *seal.Header) { h.Record = "9a1de644-815e-46d1-bb8f-aa1837f8afff" },
		"version":   func(h *seal.Header) { h.Version = 2 },
		"use":       func(h *seal.Header) { h.Binding.Use, h.Binding.Key, h.Binding.Scope = seal.UseOpenAI, "", "/my-bucket" },
		"key":       func(h *seal.Header) { h.Binding.Key = "AKIDEXAMPLF" },
		"scheme":    func(h *seal.Header) { h.Binding.Scheme, h.Binding.CA = "http", "" },
		"host":      func(h *seal.Header) { h.Binding.Host = "s3.attacker.example" },
		"port":      func(h *seal.Header) { h.Binding.Port = 8443 },
		"CA":        func(h *seal.Header) { h.Binding.CA = seal.CADigest([]byte("an attacker's CA")) },
		"no CA":     func(h *seal.Header) { h.Binding.CA = "" },
		"scope":     func(h *seal.Header) { h.Binding.Scope = "other-bucket" },
		"any scope": func(h *seal.Header) { h.Binding.Scope = "*" },
		"type": func(h *seal.Header) {
			h.Type, h.Binding = seal.TypeRepositoryKey, seal.Binding{Use: seal.UseS3Key, Key: "AKIDEXAMPLE", Repository: h.Record}
		},
		"repository": func(h *seal.Header) {
			h.Type, h.Binding = seal.TypeRepositoryKey, seal.Binding{Use: seal.UseS3Key, Key: "AKIDEXAMPLE", Repository: h.Workspace}
		},
	}
	inWindow(t, k, func(w *unseal.Window) {
		if got, err := opened(w, good); err != nil || string(got) != secret {
			t.Fatalf("unchanged: %q, %v", got, err)
		}
		refused := func(name string, s *seal.Sealed) {
			t.Helper()
			if err := s.Validate(); err != nil {
				t.Fatalf("%s: shows nothing, the record is malformed: %v", name, err)
			}
			err := w.Open(s, func([]byte) error { t.Errorf("%s: opened", name); return nil })
			if !errors.Is(err, unseal.ErrOpen) {
				t.Errorf("%s: %v", name, err)
				return
			}
			if msg := err.Error(); !strings.Contains(msg, s.Header.Record) || strings.Contains(msg, secret) {
				t.Errorf("%s: the error does not name the record, or says too much: %s", name, msg)
			}
		}
		for name, change := range changes {
			h := good.Header
			change(&h)

			moved := clone(good)
			moved.Header = h
			refused(name+": header replaced", moved)

			other := mustSeal(t, public, h, otherSecret)
			part := clone(other)
			part.Key = good.Key
			refused(name+": key of the first in the second", part)

			part = clone(good)
			part.Key = other.Key
			refused(name+": key of the second in the first", part)

			part = clone(other)
			part.IV, part.AuthTag, part.Message = good.IV, good.AuthTag, good.Message
			refused(name+": body of the first in the second", part)
		}

		// Same header, sealed twice: not even then do the parts mix.
		again := mustSeal(t, public, good.Header, otherSecret)
		mixed := clone(good)
		mixed.Key = again.Key
		refused("key of the same record, sealed again", mixed)

		toSecond := mustSeal(t, secondPublic(t), good.Header, secret)
		if got, err := opened(w, toSecond); err != nil || string(got) != secret {
			t.Fatalf("sealed to the second key: %q, %v", got, err)
		}
		wrongID := clone(good)
		wrongID.Key.KeyID = toSecond.Key.KeyID
		refused("id of another key of the keyring", wrongID)
		otherKey := clone(good)
		otherKey.Key = toSecond.Key
		refused("key wrapped for another key of the keyring", otherKey)

		for field, bytesOf := range map[string]func(s *seal.Sealed) []byte{
			"wrap":    func(s *seal.Sealed) []byte { return s.Key.Value },
			"iv":      func(s *seal.Sealed) []byte { return s.IV },
			"authTag": func(s *seal.Sealed) []byte { return s.AuthTag },
			"message": func(s *seal.Sealed) []byte { return s.Message },
		} {
			n := len(bytesOf(good))
			for i := 0; i < n; i += max(1, n/16) {
				altered := clone(good)
				bytesOf(altered)[i] ^= 1
				refused(fmt.Sprintf("%s: byte %d", field, i), altered)
			}
		}
		shorter := clone(good)
		shorter.Message = shorter.Message[:len(shorter.Message)-1]
		refused("message cut", shorter)
		longer := clone(good)
		longer.Message = append(longer.Message, 0)
		refused("message extended", longer)
	})
}

func TestUnknownKey(t *testing.T) {
	_, public := readRecords(t)
	s := mustSeal(t, public, credentialHeader(), "secret")
	s.Key.KeyID = strings.Repeat("ab", 32)
	inWindow(t, newKeyring(t), func(w *unseal.Window) {
		_, err := opened(w, s)
		if !errors.Is(err, unseal.ErrUnknownKey) || !strings.Contains(err.Error(), s.Key.KeyID) || !strings.Contains(err.Error(), s.Header.Record) {
			t.Errorf("got %v", err)
		}
	})
}

func TestMalformedRecord(t *testing.T) {
	inWindow(t, newKeyring(t), func(w *unseal.Window) {
		if _, err := opened(w, &seal.Sealed{}); !errors.Is(err, seal.ErrHeader) {
			t.Errorf("zero record: %v", err)
		}
		_, public := readRecords(t)
		s := mustSeal(t, public, credentialHeader(), "secret")
		s.Key.Suite = seal.SuiteReservedHPKE
		if _, err := opened(w, s); !errors.Is(err, seal.ErrRecord) {
			t.Errorf("reserved suite: %v", err)
		}
	})
}

func TestPlaintextIsWiped(t *testing.T) {
	_, public := readRecords(t)
	s := mustSeal(t, public, credentialHeader(), "secret")
	mine := errors.New("mine")
	var kept []byte
	inWindow(t, newKeyring(t), func(w *unseal.Window) {
		check := func(how string) {
			if kept == nil || !bytes.Equal(kept, make([]byte, len(kept))) {
				t.Errorf("%s: plaintext is left: %q", how, kept)
			}
		}
		if err := w.Open(s, func(b []byte) error { kept = b; return nil }); err != nil {
			t.Error(err)
		}
		check("return")
		if err := w.Open(s, func(b []byte) error { kept = b; return mine }); !errors.Is(err, mine) {
			t.Errorf("error of use: %v", err)
		}
		check("error")
		func() {
			defer func() {
				if got := recover(); got != "use" {
					t.Errorf("recovered %v", got)
				}
			}()
			_ = w.Open(s, func(b []byte) error { kept = b; panic("use") })
		}()
		check("panic")
	})
}

func TestWindowEnds(t *testing.T) {
	_, public := readRecords(t)
	s := mustSeal(t, public, credentialHeader(), "secret")
	k := newKeyring(t)

	var kept *unseal.Window
	inWindow(t, k, func(w *unseal.Window) { kept = w })
	if _, err := opened(kept, s); !errors.Is(err, unseal.ErrClosed) {
		t.Errorf("a closed window: %v", err)
	}

	mine := errors.New("mine")
	if err := k.Window(context.Background(), func(*unseal.Window) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("error of use: %v", err)
	}

	func() {
		defer func() { _ = recover() }()
		_ = k.Window(context.Background(), func(w *unseal.Window) error { kept = w; panic("use") })
	}()
	if _, err := opened(kept, s); !errors.Is(err, unseal.ErrClosed) {
		t.Errorf("after a panic: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	err := k.Window(ctx, func(w *unseal.Window) error {
		cancel()
		_, err := opened(w, s)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while open: %v", err)
	}
	err = k.Window(ctx, func(*unseal.Window) error { t.Error("a window opened"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestParallelOpens(t *testing.T) {
	_, public := readRecords(t)
	k := newKeyring(t)
	var wg sync.WaitGroup
	for window := range 2 { // windows overlap, too
		wg.Go(func() {
			inWindow(t, k, func(w *unseal.Window) {
				var workers sync.WaitGroup
				defer workers.Wait()
				for worker := range 4 {
					workers.Go(func() {
						h := credentialHeader()
						for h.Version = 1; h.Version <= 5; h.Version++ {
							want := fmt.Sprintf("secret %d of worker %d.%d", h.Version, window, worker)
							s, err := seal.Seal(public, h, []byte(want))
							if err != nil {
								t.Error(err)
								return
							}
							if got, err := opened(w, s); err != nil || string(got) != want {
								t.Errorf("%q: got %q, %v", want, got, err)
							}
						}
					})
				}
			})
		})
	}
	wg.Wait()
}

func BenchmarkOpen(b *testing.B) {
	_, public := readRecords(b)
	s := mustSeal(b, public, credentialHeader(), "a secret of usual length, forty bytes ..")
	inWindow(b, newKeyring(b), func(w *unseal.Window) {
		b.ReportAllocs()
		for b.Loop() {
			if err := w.Open(s, func([]byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenParallel(b *testing.B) {
	_, public := readRecords(b)
	s := mustSeal(b, public, credentialHeader(), "a secret of usual length, forty bytes ..")
	inWindow(b, newKeyring(b), func(w *unseal.Window) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := w.Open(s, func([]byte) error { return nil }); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkWindow(b *testing.B) {
	k := newKeyring(b)
	for b.Loop() {
		inWindow(b, k, func(*unseal.Window) {})
	}
}
