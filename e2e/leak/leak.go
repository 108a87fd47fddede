package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// minSecret keeps needles long enough that a hit is a leak and not chance; the
// base64 form of n bytes, trimmed to whole groups, keeps at least n-3 of them.
const minSecret = 12

// Set is the secrets to look for. It may grow while scanners of it run.
type Set struct {
	mu      sync.Mutex
	needles atomic.Pointer[[]needle]
}

type needle struct {
	name string // "<secret's name> (<form>)"
	form []byte
}

// Add has the set look for a secret, under a name that reports can show. A
// secret shorter than 12 bytes is the caller's mistake and panics.
func (s *Set) Add(name, secret string) {
	if len(secret) < minSecret {
		panic("leak: secret " + name + " is too short to be looked for")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := forms(name, secret)
	if old := s.needles.Load(); old != nil {
		next = slices.Concat(*old, next)
	}
	s.needles.Store(&next)
}

// forms are the spellings of one secret.
func forms(name, secret string) []needle {
	raw := []byte(secret)
	out := []needle{
		{name + " (plain)", raw},
		{name + " (hex)", []byte(hex.EncodeToString(raw))},
		{name + " (HEX)", []byte(strings.ToUpper(hex.EncodeToString(raw)))},
	}
	for shift := range 3 {
		// Skip to the next whole group of three bytes and drop the ragged end:
		// what is left is spelt the same whatever stands around it.
		whole := raw[(3-shift)%3:]
		whole = whole[:len(whole)/3*3]
		std := base64.StdEncoding.EncodeToString(whole)
		out = append(out, needle{name + " (base64)", []byte(std)})
		if url := base64.URLEncoding.EncodeToString(whole); url != std {
			out = append(out, needle{name + " (base64url)", []byte(url)})
		}
	}
	return out
}

func (s *Set) list() []needle {
	if p := s.needles.Load(); p != nil {
		return *p
	}
	return nil
}

// In names the secrets that occur in b.
func (s *Set) In(b []byte) []string {
	var found []string
	for _, n := range s.list() {
		if bytes.Contains(b, n.form) {
			found = append(found, n.name)
		}
	}
	return found
}

// Scanner looks through one stream of bytes. It is an io.Writer for one
// goroutine; hits that straddle two writes are found.
type Scanner struct {
	set  *Set
	tail []byte
	hit  func(name string)
}

// Scanner calls hit for every secret it sees, possibly more than once.
func (s *Set) Scanner(hit func(name string)) *Scanner { return &Scanner{set: s, hit: hit} }

func (c *Scanner) Write(p []byte) (int, error) {
	needles := c.set.list()
	longest := 0
	for _, n := range needles {
		longest = max(longest, len(n.form))
	}
	// The seam is the old tail and as much of p as a straddling hit can need.
	seam := append(c.tail, p[:min(len(p), longest)]...)
	for _, n := range needles {
		if bytes.Contains(p, n.form) || bytes.Contains(seam, n.form) {
			c.hit(n.name)
		}
	}
	// Secrets that are added later may be longer: keep a fixed, generous tail.
	const keep = 1 << 10
	all := append(c.tail, p[max(0, len(p)-keep):]...)
	c.tail = append(c.tail[:0:0], all[max(0, len(all)-keep):]...)
	return len(p), nil
}

// Tree scans every regular file under root, except those that skip says true
// for, and returns one line "<relative path>: <name>" per hit. Files that vanish
// meanwhile are not an error.
func (s *Set) Tree(root string, skip func(rel string) bool) ([]string, error) {
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			return nil
		}
		hits, err := s.file(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, h := range hits {
			found = append(found, rel+": "+h)
		}
		return err
	})
	return found, err
}

func (s *Set) file(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hits := map[string]bool{}
	buf := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(s.Scanner(func(n string) { hits[n] = true }), io.LimitReader(f, 1<<32), buf); err != nil {
		return nil, fmt.Errorf("leak: reading %s: %w", path, err)
	}
	names := make([]string, 0, len(hits))
	for n := range hits {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

// Process scans the command line and the environment that a process started
// with (proc(5)), and returns one line per hit.
func (s *Set) Process(pid int) ([]string, error) {
	var found []string
	for _, f := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), f))
		if f == "environ" && errors.Is(err, fs.ErrPermission) {
			continue // not dumpable: the kernel shows it to nobody but root
		}
		if err != nil {
			return nil, fmt.Errorf("leak: %w", err)
		}
		if len(b) == 0 && f == "cmdline" {
			return nil, fmt.Errorf("leak: process %d has ended", pid) // a zombie has no command line: nothing was looked at
		}
		for _, h := range s.In(b) {
			found = append(found, f+": "+h)
		}
	}
	return found, nil
}
