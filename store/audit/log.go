package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Log is an open audit file. Its methods may be called from any goroutine.
type Log struct {
	path string
	f    file

	queue   chan *request // unbuffered: what is in it has been taken
	stop    chan struct{}
	stopped chan struct{}
	close   func() error

	failures atomic.Uint64 // events that could not be written

	// Of the writing goroutine alone.
	size int64 // of what is committed
	torn bool  // there may be part of a failed batch behind it

	mu    sync.RWMutex
	head  Head
	index index
}

// file is what a Log does with *os.File.
type file interface {
	io.ReaderAt
	io.WriteCloser
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// request is an Append on its way to the writing goroutine.
type request struct {
	event Event
	done  chan error // capacity 1
}

// maxBatch bounds the events of one fsync.
const maxBatch = 256

// Open opens the file, which is made with mode 0600 if there is none, locks it
// against other writers and verifies it. What a writer that died left of a line is
// cut off, and a line says so: nothing was done on it.
func Open(path string) (*Log, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l, err := newLog(path, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit log: %s: %w", path, err)
	}
	return l, nil
}

func openFile(path string) (*os.File, error) {
	// O_APPEND: who wants to may set the append-only attribute (chattr +a) on the file.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	// Of the open file, hence gone with the process however that ends.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrInUse)
		}
		return nil, fmt.Errorf("%s: lock: %w", path, err)
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0) {
		err = fmt.Errorf("%s: mode %v, want a regular file of mode 0600", path, st.Mode())
	}
	if err == nil {
		err = syncDir(filepath.Dir(path)) // else a new file's name could be lost with the machine
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func newLog(path string, f file) (*Log, error) {
	l := &Log{path: path, f: f, queue: make(chan *request), stop: make(chan struct{}), stopped: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.stop)
		<-l.stopped
		return l.f.Close()
	})
	var rest []byte
	var err error
	l.head, l.size, rest, err = read(io.NewSectionReader(f, 0, 1<<62), func(_ Head, e *Event, raw []byte) error {
		l.index.add(e, len(raw))
		return nil
	})
	if errors.Is(err, ErrTorn) {
		l.torn = true
		data, _ := json.Marshal(map[string]any{"bytes": len(rest), "sha256": digest(rest)}) // a number and a string
		r := &request{event: Event{Context: "audit", Event: "repaired", Data: data}}
		if err = r.event.complete(); err == nil {
			err = l.commit([]*request{r})
		}
	}
	if err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// Append writes an event and returns when it is on disk. After an error the change
// must not be made. Once the event is being written, the end of ctx does not stop it.
func (l *Log) Append(ctx context.Context, e Event) error {
	if err := e.complete(); err != nil {
		return err
	}
	r := &request{event: e, done: make(chan error, 1)}
	select {
	case l.queue <- r:
		return <-r.done
	case <-l.stop:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("audit: %w", ctx.Err())
	}
}

// complete fills in what Append may be given without, and checks.
func (e *Event) complete() error {
	if e.ID == "" {
		e.ID = uuid.NewString()
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if err := e.canonical(); err != nil {
		return err
	}
	return e.check()
}

// Head is the end of the log.
func (l *Log) Head() Head {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.head
}

// Close ends the log, after the writes that are under way.
func (l *Log) Close() error { return l.close() }

// run writes what is queued. While one batch goes to disk the next gathers at the
// queue, so that many callers share an fsync and a lone one waits for no other.
func (l *Log) run() {
	defer close(l.stopped)
	for {
		select {
		case <-l.stop:
			return
		case r := <-l.queue:
			batch := l.gather(r)
			err := l.commit(batch)
			if err != nil {
				l.failures.Add(uint64(len(batch)))
				err = fmt.Errorf("audit log: %w", err)
			}
			for _, r := range batch {
				r.done <- err
			}
		}
	}
}

func (l *Log) gather(first *request) []*request {
	batch := []*request{first}
	for len(batch) < maxBatch {
		select {
		case r := <-l.queue:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch and waits until it is on disk; all of it or, for the log's
// reader, nothing.
func (l *Log) commit(batch []*request) (err error) {
	if l.torn {
		if err := l.cut(); err != nil {
			return err
		}
	}
	if err := l.unchanged(); err != nil {
		return err
	}
	head, lengths := l.head, make([]int, len(batch)) // only this goroutine changes head
	var out []byte
	for i, r := range batch {
		before := len(out)
		if out, head, err = encode(out, &r.event, head); err != nil {
			return err
		}
		lengths[i] = len(out) - before
	}
	l.torn = true
	if _, err = l.f.Write(out); err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		// What is there now may be whole lines on which nothing was done. If it
		// cannot be taken back at once, the next commit does so first.
		return errors.Join(err, l.cut())
	}
	l.torn = false
	l.size += int64(len(out))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = head
	for i, r := range batch {
		l.index.add(&r.event, lengths[i])
	}
	return nil
}

// cut takes back what is behind the last committed line.
func (l *Log) cut() error {
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	l.torn = false
	return nil
}

// unchanged notices a log that was cut, replaced or taken away under the process,
// where new lines would be lost, or follow none.
func (l *Log) unchanged() error {
	mine, err := l.f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(l.path)
	if err != nil {
		return err
	}
	if !os.SameFile(mine, there) {
		return fmt.Errorf("%s is another file now: the log was replaced", l.path)
	}
	if mine.Size() != l.size {
		return fmt.Errorf("%s has %d bytes where this process wrote %d: the log was changed", l.path, mine.Size(), l.size)
	}
	return nil
}
