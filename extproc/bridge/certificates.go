package bridge

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"keybridge/keyshare/lockedmem"
	"keybridge/xds/translate"
)

const (
	// certificatesEvery is how often certificate files are read. Reading them whole
	// finds every kind of change (a write, a rename, a symbolic link that a mounted
	// Kubernetes secret swaps), with whatever times the files claim.
	certificatesEvery = 2 * time.Second
	// maxCertificateFile bounds a file; a chain with an RSA-4096 key has ~10 KB.
	maxCertificateFile = 1 << 20
)

// Certificates are what the listeners of a bridge's Envoy prove themselves with,
// each read from two files and read again when they change. A pair that cannot
// be used is a problem for the listeners that name it and for nobody else; if
// there was a good one before, that stays.
type Certificates struct {
	log   *slog.Logger
	pairs map[string]*certificateFiles
	state atomic.Pointer[certificates]
}

// certificates is one consistent view; it does not change.
type certificates struct {
	usable   map[string]translate.Certificate
	problems []string
}

var noCertificates = &certificates{}

// certificateFiles is one pair; the goroutine of Run owns it.
type certificateFiles struct {
	name, chain, key string

	good     translate.Certificate
	notAfter time.Time // of good; zero if there is none
	seen     [32]byte  // digest of what good was read from
	wrong    string    // what was wrong the last time
	reported string    // what has been reported as wrong and has not come right
}

// NewCertificates reads pairs given as NAME=CERT.pem,KEY.pem. A pair that cannot be
// used yet is reported and tried again; an error is about how the pairs are named.
func NewCertificates(pairs []string, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{log: log, pairs: map[string]*certificateFiles{}}
	for _, p := range pairs {
		name, files, ok := strings.Cut(p, "=")
		chain, key, ok2 := strings.Cut(files, ",")
		if !ok || !ok2 || chain == "" || key == "" || strings.Contains(key, ",") {
			return nil, fmt.Errorf("%q is not NAME=CERT.pem,KEY.pem", p)
		}
		if !certificateName(name) {
			return nil, fmt.Errorf("%q: a certificate's name is 1 to 40 of [a-z0-9-]", name)
		}
		if c.pairs[name] != nil {
			return nil, fmt.Errorf("two certificates are named %q", name)
		}
		c.pairs[name] = &certificateFiles{name: name, chain: chain, key: key}
	}
	c.read(true)
	return c, nil
}

func certificateName(s string) bool {
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 40
}

// Run follows the files until ctx ends, and calls changed after Current has.
func (c *Certificates) Run(ctx context.Context, changed func()) error {
	if c == nil || len(c.pairs) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(certificatesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if c.read(false) {
				changed()
			}
		}
	}
}

// Current returns the certificates that can be used, by name, and what is wrong
// with the others or with their newest files. Both belong to c.
func (c *Certificates) Current() (usable map[string]translate.Certificate, problems []string) {
	s := c.current()
	return s.usable, s.problems
}

func (c *Certificates) current() *certificates {
	if c == nil {
		return noCertificates
	}
	return c.state.Load()
}

// read looks at all files and says whether the view has changed.
func (c *Certificates) read(first bool) bool {
	next := &certificates{usable: map[string]translate.Certificate{}}
	renewed := false
	for _, name := range slices.Sorted(maps.Keys(c.pairs)) {
		f := c.pairs[name]
		taken, err := f.read(first)
		if f.note(err, first) {
			c.log.Error("certificate refused", "certificate", name, "error", err, "serving", f.serving())
		}
		if taken {
			renewed = true
			c.log.Info("certificate read", "certificate", name, "until", f.notAfter)
		}
		if !f.notAfter.IsZero() {
			next.usable[name] = f.good
		}
		switch {
		case f.reported != "":
			next.problems = append(next.problems, fmt.Sprintf("certificate %s: %s (%s)", name, f.reported, f.serving()))
		case !f.notAfter.IsZero() && time.Now().After(f.notAfter):
			next.problems = append(next.problems, fmt.Sprintf("certificate %s: expired on %s", name, f.notAfter.Format(time.RFC3339)))
		}
	}
	if old := c.state.Load(); old != nil && !renewed && slices.Equal(old.problems, next.problems) {
		return false
	}
	c.state.Store(next)
	return true
}

// note keeps what is wrong and says whether that is to be reported now. The first
// sight of a broken pair may be half a replacement: it is reported when it lasts.
func (f *certificateFiles) note(err error, first bool) (report bool) {
	if err == nil {
		f.wrong, f.reported = "", ""
		return false
	}
	wrong := err.Error()
	if lasts := first || f.wrong == wrong; lasts && f.reported != wrong {
		f.reported, report = wrong, true
	}
	f.wrong = wrong
	return report
}

func (f *certificateFiles) serving() string {
	if f.notAfter.IsZero() {
		return "nothing to serve"
	}
	return "the one before stays"
}

// read takes the files if they hold another pair than the one in use.
func (f *certificateFiles) read(first bool) (taken bool, err error) {
	next := translate.Certificate{}
	if next.Chain, err = readCertificateFile(f.chain, false); err != nil {
		return false, err
	}
	if next.Key, err = readCertificateFile(f.key, true); err != nil {
		return false, err
	}
	defer func() {
		if !taken {
			lockedmem.Wipe(next.Key)
		}
	}()
	digest := digestOf(next)
	if digest == f.seen {
		return false, nil
	}
	leaf, err := next.Leaf()
	if err != nil {
		return false, fmt.Errorf("%s and %s: %w", f.chain, f.key, err)
	}
	// An expired one is better than none, but no replacement.
	if now := time.Now(); !first && !f.notAfter.IsZero() && (now.After(leaf.NotAfter) || now.Before(leaf.NotBefore)) {
		return false, fmt.Errorf("%s: valid from %s to %s", f.chain, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	// The old key is not wiped: Envoy's ADS response may still be made from it.
	f.good, f.notAfter, f.seen = next, leaf.NotAfter, digest
	return true, nil
}

func digestOf(c translate.Certificate) [32]byte {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, uint64(len(c.Chain))) // a hash takes all
	h.Write(c.Chain)
	h.Write(c.Key)
	return [32]byte(h.Sum(nil))
}

// readCertificateFile asks the open file, not the path: what is checked is what is read.
func readCertificateFile(path string, private bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	// A group may read it: that is how Kubernetes gives a secret to a container (fsGroup).
	if perm := st.Mode().Perm(); private && perm&0o037 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others in; run: chmod 640 %s (in Kubernetes: defaultMode: 0440)", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCertificateFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxCertificateFile {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxCertificateFile)
	}
	return b, nil
}
