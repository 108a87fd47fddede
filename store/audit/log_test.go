package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keybridge/store/audit"
)

func open(t *testing.T, path string) *audit.Log {
	t.Helper()
	l, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func add(t *testing.T, l *audit.Log, events ...audit.Event) {
	t.Helper()
	for _, e := range events {
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func created(n int) audit.Event {
	return audit.Event{
		ID: fmt.Sprintf("event-%d", n), Time: time.Date(2026, 1, 1, 0, n, 0, n, time.UTC), Context: "connector", Event: "created",
		ContextID: fmt.Sprintf("connector-%d", n), UserID: "ann", WorkspaceID: "w1", Data: json.RawMessage(fmt.Sprintf(`{"name":"c%d"}`, n)),
	}
}

func list(t *testing.T, l *audit.Log, f audit.Filter) []audit.Event {
	t.Helper()
	events, _, err := l.Query(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func verify(t *testing.T, path string) audit.Head {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := audit.Verify(f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestEventsSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	berlin := time.FixedZone("", 3600)
	in := []audit.Event{
		created(1),
		{ID: "2", Time: time.Date(2026, 1, 2, 1, 0, 0, 5, berlin), Context: "token", Event: "deleted"},
		{ID: "3", Time: time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC), Context: "c", Event: "e", UserID: "Ünï <&> \u2028 \"q\" \\", Data: json.RawMessage(" { \"a\" : [ 1.50, null, \"<\u2028>\" ] } ")},
		{ID: "4", Time: time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC), Context: "c", Event: "e", Data: json.RawMessage("null")},
	}
	add(t, l, in...)
	want := []audit.Event{in[3], in[2], in[1], in[0]}
	want[0].Data = nil
	want[1].Data = json.RawMessage(`{"a":[1.50,null,"\u003c\u2028\u003e"]}`)
	want[2].Time = in[1].Time.UTC()
	if diff := cmp.Diff(want, list(t, l, audit.Filter{})); diff != "" {
		t.Error(diff)
	}
	head := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if h := verify(t, path); h != head || h.Lines != 4 {
		t.Errorf("Verify %v, Head was %v", h, head)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	l = open(t, path)
	add(t, l, created(5))
	if diff := cmp.Diff(append([]audit.Event{created(5)}, want...), list(t, l, audit.Filter{})); diff != "" {
		t.Error("after a restart:", diff)
	}
}

func TestAppendFillsIn(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	before := time.Now()
	add(t, l, audit.Event{Context: "c", Event: "e"}, audit.Event{Context: "c", Event: "e"})
	got := list(t, l, audit.Filter{})
	if got[0].ID == got[1].ID || len(got[0].ID) != 36 {
		t.Errorf("ids %q, %q", got[0].ID, got[1].ID)
	}
	if got[1].Time.Before(before.Round(0)) || got[0].Time.After(time.Now()) {
		t.Errorf("time %v", got[1].Time)
	}
}

func TestAppendRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	for name, change := range map[string]func(*audit.Event){
		"no context":        func(e *audit.Event) { e.Context = "" },
		"no event":          func(e *audit.Event) { e.Event = "" },
		"a long context":    func(e *audit.Event) { e.Context = strings.Repeat("x", 65) },
		"a long user":       func(e *audit.Event) { e.UserID = strings.Repeat("x", 257) },
		"a line feed":       func(e *audit.Event) { e.UserID = "a\nb" },
		"a NUL":             func(e *audit.Event) { e.ContextID = "\x00" },
		"not UTF-8":         func(e *audit.Event) { e.WorkspaceID = "\xff" },
		"data not JSON":     func(e *audit.Event) { e.Data = json.RawMessage("{") },
		"data two values":   func(e *audit.Event) { e.Data = json.RawMessage("1 2") },
		"data not UTF-8":    func(e *audit.Event) { e.Data = json.RawMessage("\"\xff\"") },
		"data too long":     func(e *audit.Event) { e.Data = json.RawMessage(`"` + strings.Repeat("x", 33<<10) + `"`) },
		"data long escaped": func(e *audit.Event) { e.Data = json.RawMessage(`"` + strings.Repeat("<", 6<<10) + `"`) },
		"a strange year":    func(e *audit.Event) { e.Time = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			e := created(1)
			change(&e)
			if err := l.Append(t.Context(), e); !errors.Is(err, audit.ErrEvent) {
				t.Error(err)
			}
		})
	}
	if b, err := os.ReadFile(path); err != nil || len(b) > 0 {
		t.Errorf("written: %q, %v", b, err)
	}
}

// The longest line that Append takes is one that Verify takes.
func TestLongestLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	id := strings.Repeat("<", 256)
	add(t, l, audit.Event{
		ID: id, ContextID: id, UserID: id, WorkspaceID: id, Context: strings.Repeat("<", 64), Event: strings.Repeat("<", 64),
		Time: time.Date(2026, 1, 1, 0, 0, 0, 123456789, time.UTC), Data: json.RawMessage(`"` + strings.Repeat("x", 32<<10-2) + `"`),
	})
	if st, err := os.Stat(path); err != nil || st.Size() > audit.MaxLine {
		t.Errorf("%d bytes, %v", st.Size(), err)
	}
	verify(t, path)
}

func TestOneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	if _, err := audit.Open(path); !errors.Is(err, audit.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second Open: %v", err)
	}
	_ = l.Close()
	open(t, path)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(path string) error{
		"readable by others": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o644)) },
		"a link":             func(p string) error { return os.Symlink(filepath.Join(dir, "else"), p) },
		"a directory":        func(p string) error { return os.Mkdir(p, 0o700) },
		"not a log":          func(p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) },
		"no end of line":     func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 80<<10), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			if l, err := audit.Open(path); err == nil {
				_ = l.Close()
				t.Error("opened")
			} else if !strings.Contains(err.Error(), path) {
				t.Error(err)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(dir, "else")); err == nil {
		t.Error("made through a link")
	}
}

func TestClosed(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"))
	add(t, l, created(1))
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if err := l.Append(t.Context(), created(2)); !errors.Is(err, audit.ErrClosed) {
		t.Error(err)
	}
	if _, _, err := l.Query(t.Context(), audit.Filter{}); !errors.Is(err, audit.ErrClosed) {
		t.Error(err)
	}
}

// Wherever a machine dies in a write, the log opens again with the lines that were
// whole, says that something was cut off, and goes on.
func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "whole")
	l := open(t, path)
	add(t, l, created(1), created(2))
	_ = l.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(whole, '\n') + 1
	path = filepath.Join(dir, "torn")
	for n := range len(whole) {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		add(t, l, created(3))
		got := list(t, l, audit.Filter{})
		_ = l.Close()
		want := []audit.Event{created(3)}
		if n != 0 && n != first {
			want = append(want, audit.Event{Context: "audit", Event: "repaired"})
		}
		if n >= first {
			want = append(want, created(1))
		}
		for i := range got {
			if got[i].Context == "audit" {
				got[i].ID, got[i].Time, got[i].Data = "", time.Time{}, nil
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cut at %d: %s", n, diff)
		}
		verify(t, path)
	}
}

func TestConcurrency(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	const writers, each = 16, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				e := created(i)
				e.UserID = fmt.Sprint(w)
				if err := l.Append(t.Context(), e); err != nil {
					t.Error(err)
				}
				// What was appended is found at once, with all its writer's earlier ones.
				if _, total, err := l.Query(t.Context(), audit.Filter{UserID: e.UserID, Take: 3}); err != nil || total != i+1 {
					t.Errorf("%d events of %d, %v", total, i+1, err)
				}
			}
		})
	}
	all.Wait()
	_ = l.Close()
	if h := verify(t, path); h.Lines != writers*each {
		t.Errorf("%d lines", h.Lines)
	}
}

// slow is a disk whose Sync waits.
type slow struct {
	*os.File
	entered, leave chan struct{}
	syncs          int
}

func (f *slow) Sync() error {
	f.syncs++
	f.entered <- struct{}{}
	<-f.leave
	return f.File.Sync()
}

func TestGroupCommit(t *testing.T) {
	disk := &slow{entered: make(chan struct{}), leave: make(chan struct{})}
	l, err := audit.OpenOn(filepath.Join(t.TempDir(), "audit.log"), func(f *os.File) audit.File { disk.File = f; return disk })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	const writers = 50
	var started, done sync.WaitGroup
	for i := range writers {
		started.Add(1)
		done.Go(func() {
			started.Done()
			if err := l.Append(t.Context(), created(i)); err != nil {
				t.Error(err)
			}
		})
	}
	started.Wait()
	// Nobody is told before the disk has it.
	<-disk.entered
	if n := l.Head().Lines; n != 0 {
		t.Errorf("%d lines before the first Sync ended", n)
	}
	finished := make(chan struct{})
	go func() { done.Wait(); close(finished) }()
	for open := true; open; {
		select {
		case disk.leave <- struct{}{}:
		case <-disk.entered:
		case <-finished:
			open = false
		}
	}
	if disk.syncs > writers/2 {
		t.Errorf("%d Syncs for %d lines", disk.syncs, writers)
	}
}

// failing is a disk that fails where it is told to.
type failing struct {
	*os.File
	write    int // bytes that still fit; -1: any
	sync     error
	truncate error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.write < 0 || len(b) <= f.write {
		return f.File.Write(b)
	}
	n, err := f.File.Write(b[:f.write])
	return n, errors.Join(err, syscall.ENOSPC)
}

func (f *failing) Sync() error {
	if f.sync != nil {
		return f.sync
	}
	return f.File.Sync()
}

func (f *failing) Truncate(n int64) error {
	if f.truncate != nil {
		return f.truncate
	}
	return f.File.Truncate(n)
}

func TestFailingDisk(t *testing.T) {
	for name, c := range map[string]struct {
		broken failing
		want   error
	}{
		"full":                                  {failing{write: 0}, syscall.ENOSPC},
		"full within a line":                    {failing{write: 100}, syscall.ENOSPC},
		"full, and the part cannot be cut off":  {failing{write: 100, truncate: syscall.EIO}, syscall.ENOSPC},
		"cannot sync":                           {failing{write: -1, sync: syscall.EIO}, syscall.EIO},
		"cannot sync, the line cannot be taken": {failing{write: -1, sync: syscall.EIO, truncate: syscall.EIO}, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			disk := &failing{write: -1}
			l, err := audit.OpenOn(path, func(f *os.File) audit.File { disk.File = f; return disk })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			add(t, l, created(1))
			head := l.Head()
			broken := c.broken
			disk.write, disk.sync, disk.truncate = broken.write, broken.sync, broken.truncate
			for range 2 {
				// The second failure may be that the rest of the first cannot be cut off.
				if err := l.Append(t.Context(), created(2)); !errors.Is(err, c.want) && !errors.Is(err, broken.truncate) || err == nil {
					t.Errorf("Append: %v", err)
				}
			}
			if l.Head() != head {
				t.Errorf("head %v, want %v", l.Head(), head)
			}
			if diff := cmp.Diff([]audit.Event{created(1)}, list(t, l, audit.Filter{})); diff != "" {
				t.Error(diff)
			}
			// There is room again.
			disk.write, disk.sync, disk.truncate = -1, nil, nil
			add(t, l, created(3))
			if diff := cmp.Diff([]audit.Event{created(3), created(1)}, list(t, l, audit.Filter{})); diff != "" {
				t.Error(diff)
			}
			if h := verify(t, path); h.Lines != 2 {
				t.Errorf("%d lines", h.Lines)
			}
		})
	}
}

// A process that dies with a broken disk leaves what the next one repairs.
func TestFailingDiskThenRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	disk := &failing{write: 300}
	l, err := audit.OpenOn(path, func(f *os.File) audit.File { disk.File = f; return disk })
	if err != nil {
		t.Fatal(err)
	}
	add(t, l, audit.Event{Context: "c", Event: "e"})
	disk.write, disk.truncate = 20, syscall.EIO
	if err := l.Append(t.Context(), created(2)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = l.Close()
	l = open(t, path)
	if got := list(t, l, audit.Filter{Context: "audit", Event: "repaired"}); len(got) != 1 || !strings.Contains(string(got[0].Data), `"bytes":20`) {
		t.Errorf("%+v", got)
	}
	verify(t, path)
}

func TestLogChangedUnderTheProcess(t *testing.T) {
	for name, change := range map[string]func(path string, b []byte) error{
		"cut":      func(p string, b []byte) error { return os.Truncate(p, int64(len(b)-1)) },
		"emptied":  func(p string, _ []byte) error { return os.Truncate(p, 0) },
		"removed":  func(p string, _ []byte) error { return os.Remove(p) },
		"replaced": func(p string, b []byte) error { return errors.Join(os.Remove(p), os.WriteFile(p, b, 0o600)) },
		"moved":    func(p string, _ []byte) error { return os.Rename(p, p+".1") },
		"longer": func(p string, b []byte) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write(b)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			l := open(t, path)
			add(t, l, created(1))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(path, b); err != nil {
				t.Fatal(err)
			}
			if err := l.Append(t.Context(), created(2)); err == nil {
				t.Error("appended to a log that was changed")
			}
		})
	}
}

// A line that was changed on disk is not shown as if it were true.
func TestQueryNoticesAChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	add(t, l, created(1), created(2))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte("ann"), []byte("bob"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *audit.LineError
	if _, _, err := l.Query(t.Context(), audit.Filter{}); !errors.As(err, &bad) || bad.Line != 1 {
		t.Error(err)
	}
	list(t, l, audit.Filter{Take: 1})
}

func TestAppendWaitsNoLongerThanItsContext(t *testing.T) {
	disk := &slow{entered: make(chan struct{}), leave: make(chan struct{})}
	l, err := audit.OpenOn(filepath.Join(t.TempDir(), "audit.log"), func(f *os.File) audit.File { disk.File = f; return disk })
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error)
	go func() { first <- l.Append(t.Context(), created(1)) }()
	<-disk.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Append(ctx, created(2)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	disk.leave <- struct{}{}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := l.Head().Lines; n != 1 {
		t.Errorf("%d lines", n)
	}
	_ = l.Close()
}
