package bridge_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keybridge/extproc/bridge"
)

// pair makes a self-signed certificate and its key, as PEM.
func pair(t *testing.T, notAfter time.Time) (chain, key []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"s3.example.com"},
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// site is a certificate in files, watched in a bubble in which time is the test's.
type site struct {
	*bridge.Certificates
	dir     string
	log     *syncBuffer
	changes int
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t *testing.T, chain, key []byte) {
	t.Helper()
	must(t, os.WriteFile(s.path("tls.crt"), chain, 0o600))
	must(t, os.WriteFile(s.path("tls.key"), key, 0o600))
}

// poll lets the files be read n times.
func (s *site) poll(n int) {
	time.Sleep(time.Duration(n)*2*time.Second + time.Second)
	synctest.Wait()
}

func (s *site) want(t *testing.T, chain []byte, problem string) {
	t.Helper()
	usable, problems := s.Current()
	if got := usable["site"].Chain; !bytes.Equal(got, chain) {
		t.Errorf("serves %.60q, want %.60q", got, chain)
	}
	if got := strings.Join(problems, "\n"); problem == "" && got != "" || !strings.Contains(got, problem) {
		t.Errorf("problems %q, want %q", got, problem)
	}
}

func inBubble(t *testing.T, f func(t *testing.T, s *site)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f(t, &site{dir: dir, log: &syncBuffer{}})
	})
}

func (s *site) follow(t *testing.T) {
	t.Helper()
	c, err := bridge.NewCertificates([]string{"site=" + s.path("tls.crt") + "," + s.path("tls.key")}, slog.New(slog.NewTextHandler(s.log, nil)))
	must(t, err)
	s.Certificates = c
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx, func() { s.changes++ }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestCertificateFilesReplaced(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, s *site, chain, key []byte){
		"written over": func(t *testing.T, s *site, chain, key []byte) { s.write(t, chain, key) },
		"renamed": func(t *testing.T, s *site, chain, key []byte) {
			for name, b := range map[string][]byte{"tls.crt": chain, "tls.key": key} {
				must(t, os.WriteFile(s.path("new"), b, 0o600))
				must(t, os.Rename(s.path("new"), s.path(name)))
			}
		},
		// The files' times do not say that they have changed.
		"renamed with old times": func(t *testing.T, s *site, chain, key []byte) {
			for name, b := range map[string][]byte{"tls.crt": chain, "tls.key": key} {
				must(t, os.WriteFile(s.path("new"), b, 0o600))
				must(t, os.Chtimes(s.path("new"), time.Unix(0, 0), time.Unix(0, 0)))
				must(t, os.Rename(s.path("new"), s.path(name)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *site) {
				until := time.Now().Add(time.Hour)
				chain, key := pair(t, until)
				s.write(t, chain, key)
				s.follow(t)
				s.want(t, chain, "")
				s.poll(3)
				if s.changes != 0 {
					t.Errorf("%d changes of files that stayed", s.changes)
				}
				next, nextKey := pair(t, until)
				replace(t, s, next, nextKey)
				s.poll(1)
				s.want(t, next, "")
				if s.changes != 1 {
					t.Errorf("%d changes, want 1", s.changes)
				}
			})
		})
	}
}

// Kubernetes mounts a secret as links through one link to a directory, and swaps that.
func TestCertificateDirectorySwapped(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		until := time.Now().Add(time.Hour)
		version := func(name string) []byte {
			chain, key := pair(t, until)
			must(t, os.Mkdir(s.path(name), 0o700))
			must(t, os.WriteFile(s.path(name+"/tls.crt"), chain, 0o444))
			must(t, os.WriteFile(s.path(name+"/tls.key"), key, 0o440))
			must(t, os.Symlink(name, s.path("..next")))
			must(t, os.Rename(s.path("..next"), s.path("..data")))
			return chain
		}
		first := version("..1")
		for _, name := range []string{"tls.crt", "tls.key"} {
			must(t, os.Symlink("..data/"+name, s.path(name)))
		}
		s.follow(t)
		s.want(t, first, "")
		second := version("..2")
		s.poll(1)
		s.want(t, second, "")
	})
}

func TestBadCertificateKeepsTheOld(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(t *testing.T, s *site)
		want string
	}{
		"not PEM": {func(t *testing.T, s *site) { must(t, os.WriteFile(s.path("tls.crt"), []byte("rubbish"), 0o600)) }, "failed to find any PEM data"},
		"gone":    {func(t *testing.T, s *site) { must(t, os.Remove(s.path("tls.key"))) }, "no such file"},
		"other key": {func(t *testing.T, s *site) {
			_, k := pair(t, time.Now().Add(time.Hour))
			must(t, os.WriteFile(s.path("tls.key"), k, 0o600))
		}, "does not match"},
		"expired":  {func(t *testing.T, s *site) { c, k := pair(t, time.Now().Add(-time.Hour)); s.write(t, c, k) }, "valid from"},
		"not yet":  {func(t *testing.T, s *site) { c, k := pair(t, time.Now().Add(48*time.Hour)); s.write(t, c, k) }, "valid from"},
		"for all":  {func(t *testing.T, s *site) { must(t, os.Chmod(s.path("tls.key"), 0o644)) }, "chmod 640"},
		"writable": {func(t *testing.T, s *site) { must(t, os.Chmod(s.path("tls.key"), 0o660)) }, "chmod 640"},
		"directory": {func(t *testing.T, s *site) {
			must(t, os.Remove(s.path("tls.crt")))
			must(t, os.Mkdir(s.path("tls.crt"), 0o700))
		}, "not a regular file"},
		"far too big": {func(t *testing.T, s *site) { must(t, os.Truncate(s.path("tls.crt"), 2<<20)) }, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *site) {
				chain, key := pair(t, time.Now().Add(time.Hour))
				s.write(t, chain, key)
				s.follow(t)
				c.harm(t, s)
				s.poll(0)
				s.want(t, chain, "") // may be half a replacement
				s.poll(2)
				s.want(t, chain, c.want)
				if n := strings.Count(s.log.String(), "certificate refused"); n != 1 {
					t.Errorf("logged %d times: %s", n, s.log)
				}
				must(t, os.RemoveAll(s.path("tls.crt")))
				must(t, os.RemoveAll(s.path("tls.key")))
				chain, key = pair(t, time.Now().Add(time.Hour))
				s.write(t, chain, key)
				s.poll(1)
				s.want(t, chain, "")
				if strings.Contains(s.log.String(), "PRIVATE KEY") {
					t.Error("the log holds a key")
				}
			})
		})
	}
}

func TestCertificateAtStart(t *testing.T) {
	inBubble(t, func(t *testing.T, s *site) {
		s.follow(t) // no files yet
		s.want(t, nil, "nothing to serve")
		chain, key := pair(t, time.Now().Add(time.Minute))
		s.write(t, chain, key)
		s.poll(1)
		s.want(t, chain, "")
		s.poll(40) // it is served on, and says so
		s.want(t, chain, "expired on")
	})
}

func TestCertificateFlags(t *testing.T) {
	for _, flag := range []string{"", "site", "site=", "site=a", "site=a,", "site=,b", "site=a,b,c", "=a,b", "Site=a,b", "a b=a,b", strings.Repeat("x", 41) + "=a,b"} {
		if _, err := bridge.NewCertificates([]string{flag}, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q was taken", flag)
		}
	}
	if _, err := bridge.NewCertificates([]string{"a=b,c", "a=d,e"}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("two of one name were taken")
	}
}
