package credential_test

import (
	"bytes"
	stdhmac "crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"keybridge/extproc/credential"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
)

func newArena(t testing.TB) *lockedmem.Arena {
	t.Helper()
	arena, err := lockedmem.NewArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(arena.Purge)
	return arena
}

func newCredential(t testing.TB, arena *lockedmem.Arena, secret string) *credential.Credential {
	t.Helper()
	h := seal.Header{Format: 1, Workspace: "w", Type: seal.TypeCredential, Record: "r", Version: 3, Binding: seal.Binding{Use: "s3", Key: "AKID"}}
	c, err := credential.New(arena, h, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// signature is what AWS documents, with the standard library.
func signature(secret string, s credential.Scope, message []byte) [sha256.Size]byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.Day, s.Region, s.Service, "aws4_request", string(message)} {
		h := stdhmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return [sha256.Size]byte(key)
}

func TestSign(t *testing.T) {
	arena := newArena(t)
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, length := range []int{1, 20, 40, 59, 60, 61, 64, 128, 1000} {
		secret := make([]byte, length)
		for i := range secret {
			secret[i] = byte(1 + rnd.IntN(255)) // a NUL would begin a session token
		}
		c := newCredential(t, arena, string(secret))
		for range 20 {
			s := credential.Scope{
				Day: fmt.Sprintf("202611%02d", 1+rnd.IntN(2)), Region: strings.Repeat("r", 1+rnd.IntN(70)), Service: "s3",
			}
			message := bytes.Repeat([]byte{byte(length)}, rnd.IntN(300))
			want := signature(string(secret), s, message)
			for _, state := range []string{"derived", "cached"} {
				var got [sha256.Size]byte
				if err := c.Sign(&got, s, message); err != nil {
					t.Fatal(err)
				}
				if got != want {
					t.Fatalf("secret of %d bytes, %s: %x, want %x", length, state, got, want)
				}
				c.Keep(s)
			}
		}
	}
}

// TestVector is AWS's own example ("Signature Calculation Examples", Amazon S3 API Reference).
func TestVector(t *testing.T) {
	c := newCredential(t, newArena(t), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	message := "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n" +
		"7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972"
	var mac [sha256.Size]byte
	if err := c.Sign(&mac, credential.Scope{Day: "20130524", Region: "us-east-1", Service: "s3"}, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%x", mac), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNewWipesPlaintext(t *testing.T) {
	arena := newArena(t)
	plaintext := []byte("secret")
	c, err := credential.New(arena, seal.Header{Record: "r"}, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plaintext, make([]byte, 6)) {
		t.Errorf("left %q", plaintext)
	}
	if got := c.Secret().Bytes(); string(got) != "secret" {
		t.Errorf("holds %q", got)
	}
	arena.Purge()
	plaintext = []byte("secret")
	if _, err := credential.New(arena, seal.Header{Record: "r"}, plaintext); !errors.Is(err, lockedmem.ErrPurged) {
		t.Errorf("after the purge: %v", err)
	}
	if !bytes.Equal(plaintext, make([]byte, 6)) {
		t.Errorf("left %q after a failure", plaintext)
	}
}

func s3Header(use string) seal.Header {
	return seal.Header{Format: 1, Workspace: "w", Type: seal.TypeCredential, Record: "r", Version: 1, Binding: seal.Binding{Use: use, Key: "AKID"}}
}

// TestSessionToken: secret and token have a place each, and both go with the credential.
func TestSessionToken(t *testing.T) {
	arena := newArena(t)
	before, _ := arena.InUse()
	c, err := credential.New(arena, s3Header(seal.UseS3), seal.WithToken([]byte("secret"), []byte("to/k+en==")))
	if err != nil {
		t.Fatal(err)
	}
	secret, token := c.Secret(), c.Token()
	if string(secret.Bytes()) != "secret" || string(token.Bytes()) != "to/k+en==" {
		t.Errorf("secret %q, token %q", secret.Bytes(), token.Bytes())
	}
	scope := credential.Scope{Day: "20261122", Region: "r", Service: "s3"}
	var mac [sha256.Size]byte
	if err := c.Sign(&mac, scope, []byte("m")); err != nil || mac != signature("secret", scope, []byte("m")) {
		t.Errorf("signed %x, %v", mac, err)
	}
	if n, _ := arena.InUse(); n != before+2 {
		t.Errorf("%d slots in use, want 2", n-before)
	}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v", token, token)} {
		if strings.Contains(text, "to/k+en") {
			t.Errorf("printed %s", text)
		}
	}
	c.Free()
	c.Free()
	if n, _ := arena.InUse(); n != before || secret.Bytes() != nil || token.Bytes() != nil {
		t.Errorf("%d slots in use after Free", n-before)
	}
	if token := newCredential(t, arena, "secret").Token(); token.Bytes() != nil || token.Len() != 0 {
		t.Error("a static secret has a token")
	}
	// Only S3 credentials have one: elsewhere a NUL is a byte as any other.
	if c, err = credential.New(arena, s3Header(seal.UseOpenAI), []byte("a\x00b")); err != nil || string(c.Secret().Bytes()) != "a\x00b" {
		t.Errorf("AI: %v", err)
	}
}

// FuzzPayload: whatever was sealed is a secret, a secret and a token fit for a header,
// or refused; nothing is left in the arena by what is refused.
func FuzzPayload(f *testing.F) {
	for _, s := range []string{"secret", "secret\x00token", "\x00", "\x00token", "secret\x00", "secret\x00to\x00ken", "secret\x00token\r\nx-amz-acl: public-read", "s\x00t n", "s\x00t\xc3\xa9", "s\x00\x7f"} {
		f.Add([]byte(s))
	}
	arena := newArena(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		before, _ := arena.InUse()
		c, err := credential.New(arena, s3Header(seal.UseS3), bytes.Clone(payload))
		secret, token, found := bytes.Cut(payload, []byte{0})
		good := len(secret) > 0 && len(payload) <= lockedmem.MaxSecret &&
			(!found || len(token) > 0 && !bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }))
		if (err == nil) != good {
			t.Fatalf("%q: %v", payload, err)
		}
		if err == nil {
			if !bytes.Equal(c.Secret().Bytes(), secret) || !bytes.Equal(c.Token().Bytes(), token) {
				t.Errorf("%q: secret %q, token %q", payload, c.Secret().Bytes(), c.Token().Bytes())
			}
			c.Free()
		} else if len(secret) > 20 && strings.Contains(err.Error(), string(secret)) {
			t.Errorf("the error has the secret: %v", err)
		}
		if n, _ := arena.InUse(); n != before {
			t.Errorf("%q: %d slots stay in use", payload, n-before)
		}
	})
}

// TestSize: a bridge may hold a million.
func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(credential.Credential{}); n > 128 {
		t.Errorf("a credential has %d bytes, want at most 128", n)
	}
}

// TestKeepIsBounded: eight scopes of a day and its neighbours stay, older days go.
func TestKeepIsBounded(t *testing.T) {
	arena := newArena(t)
	c := newCredential(t, arena, "secret")
	before, _ := arena.InUse()
	kept := func() int {
		n, _ := arena.InUse()
		return n - before
	}
	for i := range 50 {
		s := credential.Scope{Day: "20261122", Region: fmt.Sprintf("region-%d", i), Service: "s3"}
		c.Keep(s)
		c.Keep(s)
	}
	if n := kept(); n != 8 {
		t.Errorf("%d keys kept, want 8", n)
	}
	c.Keep(credential.Scope{Day: "20261123", Region: "r", Service: "s3"})
	if n := kept(); n != 8 {
		t.Errorf("%d keys kept the next day, want 8", n)
	}
	c.Keep(credential.Scope{Day: "20261124", Region: "r", Service: "s3"})
	if n := kept(); n != 1 {
		t.Errorf("%d keys kept two days later, want 1", n)
	}
	c.Keep(credential.Scope{Day: "20200101", Region: "r", Service: "s3"})
	if n := kept(); n != 1 {
		t.Errorf("%d keys kept after the clock went back, want 1", n)
	}
	c.Free()
	if n, _ := arena.InUse(); n != before-1 {
		t.Errorf("%d slots in use after Free, want %d", n, before-1)
	}
}

// TestGone: with a secret that is gone nothing is signed, cached key or not.
func TestGone(t *testing.T) {
	day := credential.Scope{Day: "20261122", Region: "r", Service: "s3"}
	for name, end := range map[string]func(*lockedmem.Arena, *credential.Credential){
		"freed":  func(_ *lockedmem.Arena, c *credential.Credential) { c.Free() },
		"purged": func(a *lockedmem.Arena, _ *credential.Credential) { a.Purge() },
	} {
		t.Run(name, func(t *testing.T) {
			arena := newArena(t)
			c := newCredential(t, arena, "secret")
			c.Keep(day)
			end(arena, c)
			for _, s := range []credential.Scope{day, {Day: "20261123", Region: "r", Service: "s3"}} {
				var mac [sha256.Size]byte
				if err := c.Sign(&mac, s, []byte("m")); !errors.Is(err, credential.ErrPurged) || mac != [sha256.Size]byte{} {
					t.Errorf("%v: signed %x, %v", s, mac, err)
				}
				c.Keep(s)
			}
			c.Free()
		})
	}
}

// TestConcurrent signs while days change under the readers.
func TestConcurrent(t *testing.T) {
	c := newCredential(t, newArena(t), "secret")
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 300 {
				s := credential.Scope{Day: start.AddDate(0, 0, i/3).Format("20060102"), Region: "r", Service: "s3"}
				var got [sha256.Size]byte
				if err := c.Sign(&got, s, []byte("m")); err != nil {
					t.Error(err)
				}
				if got != signature("secret", s, []byte("m")) {
					t.Error("wrong signature")
				}
				c.Keep(s)
			}
		})
	}
	wg.Wait()
}

func TestPrintsNothing(t *testing.T) {
	c := newCredential(t, newArena(t), "topsecret")
	c.Keep(credential.Scope{Day: "20261122", Region: "r", Service: "s3"})
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credential", c)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{log.String(), string(encoded), fmt.Sprint(c), fmt.Sprintf("%v %+v %s %q", c, c, c, c)} {
		if strings.Contains(s, "topsecret") || !strings.Contains(s, "credential r") {
			t.Errorf("printed %s", s)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	c := newCredential(b, newArena(b), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	s := credential.Scope{Day: "20130524", Region: "us-east-1", Service: "s3"}
	message := bytes.Repeat([]byte("m"), 137)
	var mac [sha256.Size]byte
	for _, state := range []string{"derive", "cached"} {
		b.Run(state, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Sign(&mac, s, message); err != nil {
					b.Fatal(err)
				}
			}
		})
		c.Keep(s)
	}
}
