package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"
)

// index finds events without reading the file: 40 bytes for each, and each
// different identifier once.
type index struct {
	entries []entry
	names   map[string]uint32
	end     int64 // where the next line begins
}

type entry struct {
	offset                                   int64
	time                                     int64 // Unix nanoseconds
	length                                   uint32
	context, event, subject, user, workspace uint32 // in names
}

func (x *index) add(e *Event, length int) {
	x.entries = append(x.entries, entry{
		offset: x.end, time: e.Time.UnixNano(), length: uint32(length),
		context: x.name(e.Context), event: x.name(e.Event), subject: x.name(e.ContextID), user: x.name(e.UserID), workspace: x.name(e.WorkspaceID),
	})
	x.end += int64(length)
}

// name is 0 for "".
func (x *index) name(s string) uint32 {
	if s == "" {
		return 0
	}
	n, ok := x.names[s]
	if !ok {
		if x.names == nil {
			x.names = make(map[string]uint32)
		}
		n = uint32(len(x.names)) + 1
		x.names[s] = n
	}
	return n
}

// query is a Filter in the index's terms; a field that is 0 matches all.
type query struct {
	from, to                                 int64
	context, event, subject, user, workspace uint32
	workspaces                               map[uint32]bool // nil: all
}

// query is false where nothing can match: the log has never seen such a name.
func (x *index) query(f *Filter) (q query, ok bool) {
	q = query{from: math.MinInt64, to: math.MaxInt64}
	if !f.From.IsZero() {
		q.from = nanoseconds(f.From)
	}
	if !f.To.IsZero() {
		q.to = nanoseconds(f.To)
	}
	for _, p := range [...]struct {
		want string
		id   *uint32
	}{{f.Context, &q.context}, {f.Event, &q.event}, {f.ContextID, &q.subject}, {f.UserID, &q.user}, {f.WorkspaceID, &q.workspace}} {
		if p.want == "" {
			continue
		}
		if *p.id, ok = x.names[p.want]; !ok {
			return q, false
		}
	}
	if f.Workspaces != nil {
		q.workspaces = make(map[uint32]bool)
		for _, w := range f.Workspaces {
			if id, ok := x.names[w]; ok || w == "" {
				q.workspaces[id] = true
			}
		}
	}
	return q, true
}

// nanoseconds keeps times that UnixNano cannot express on their side of all events.
func nanoseconds(t time.Time) int64 {
	switch y := t.Year(); {
	case y < 1700:
		return math.MinInt64
	case y > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

func (q *query) match(e *entry) bool {
	return q.from <= e.time && e.time < q.to &&
		(q.context == 0 || q.context == e.context) && (q.event == 0 || q.event == e.event) &&
		(q.subject == 0 || q.subject == e.subject) && (q.user == 0 || q.user == e.user) &&
		(q.workspace == 0 || q.workspace == e.workspace) &&
		(q.workspaces == nil || q.workspaces[e.workspace])
}

// Query answers the newest events first, and how many there are in all. Each is
// read from the file and must still have its hash.
func (l *Log) Query(ctx context.Context, f Filter) (events []Event, total int, err error) {
	if f.Take == 0 {
		f.Take = MaxTake
	}
	if f.Skip < 0 || f.Take < 0 || f.Take > MaxTake {
		return nil, 0, fmt.Errorf("%w: skip %d, take %d; want skip of 0 or more and take of 1 to %d", ErrFilter, f.Skip, f.Take, MaxTake)
	}
	l.mu.RLock()
	entries := l.index.entries // grows, but what is in it stays as it is
	q, ok := l.index.query(&f)
	l.mu.RUnlock()
	if !ok {
		return nil, 0, nil
	}
	for i := len(entries) - 1; i >= 0; i-- {
		if i%(1<<16) == 0 && ctx.Err() != nil {
			return nil, 0, fmt.Errorf("audit: %w", ctx.Err())
		}
		if !q.match(&entries[i]) {
			continue
		}
		if total >= f.Skip && len(events) < f.Take {
			e, err := l.event(uint64(i)+1, &entries[i])
			if err != nil {
				return nil, 0, err
			}
			events = append(events, e)
		}
		total++
	}
	return events, total, nil
}

func (l *Log) event(seq uint64, at *entry) (Event, error) {
	b := make([]byte, at.length)
	if _, err := l.f.ReadAt(b, at.offset); errors.Is(err, fs.ErrClosed) {
		return Event{}, ErrClosed
	} else if err != nil {
		return Event{}, fmt.Errorf("audit log: %s: %w", l.path, &LineError{Line: seq, Err: err})
	}
	e, line, err := parse(b[:len(b)-1])
	if err == nil && line.Seq != seq {
		err = fmt.Errorf("number %d is there", line.Seq)
	}
	if err != nil {
		return Event{}, fmt.Errorf("audit log: %s: %w", l.path, &LineError{Line: seq, Err: err})
	}
	return e, nil
}
