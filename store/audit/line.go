package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxName = 64       // bytes of Context and Event
	maxID   = 256      // of an identifier
	maxData = 32 << 10 // of Data, as it is written
	// maxLine bounds a line: Data, and four identifiers of which JSON escapes
	// could make six bytes each, and the rest.
	maxLine = 64 << 10
)

// line is the JSON form of an event. Its field order is the order in the file.
type line struct {
	Seq         uint64          `json:"seq"`
	ID          string          `json:"id"`
	Time        time.Time       `json:"time"`
	Context     string          `json:"context"`
	Event       string          `json:"event"`
	ContextID   string          `json:"contextId,omitempty"`
	UserID      string          `json:"userId,omitempty"`
	WorkspaceID string          `json:"workspaceId,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	Prev        string          `json:"prev"`
	Hash        string          `json:"hash,omitempty"`
}

// A line ends in this, the hash's 64 hex digits between the two.
const (
	hashOpen  = `,"hash":"`
	hashClose = `"}`
	tail      = len(hashOpen) + 2*sha256.Size + len(hashClose)
)

// check says whether an event can be a line, which parse then takes back.
func (e *Event) check() error {
	for _, f := range []struct {
		name, value string
		least, most int
	}{
		{"Context", e.Context, 1, maxName}, {"Event", e.Event, 1, maxName}, {"ID", e.ID, 1, maxID},
		{"ContextID", e.ContextID, 0, maxID}, {"UserID", e.UserID, 0, maxID}, {"WorkspaceID", e.WorkspaceID, 0, maxID},
	} {
		if len(f.value) < f.least || len(f.value) > f.most {
			return fmt.Errorf("%w: %s has %d bytes, want %d to %d", ErrEvent, f.name, len(f.value), f.least, f.most)
		}
		if !utf8.ValidString(f.value) || strings.ContainsFunc(f.value, unicode.IsControl) {
			return fmt.Errorf("%w: %s is not plain text", ErrEvent, f.name)
		}
	}
	// What the index keeps as nanoseconds.
	if y := e.Time.Year(); y < 1970 || y > 2261 {
		return fmt.Errorf("%w: the time is in the year %d", ErrEvent, y)
	}
	if e.Data != nil && (!utf8.Valid(e.Data) || !json.Valid(e.Data)) {
		return fmt.Errorf("%w: Data is not JSON", ErrEvent)
	}
	if len(e.Data) > maxData {
		return fmt.Errorf("%w: Data has %d bytes, want at most %d", ErrEvent, len(e.Data), maxData)
	}
	return nil
}

// canonical brings Data into the form that it has in the file.
func (e *Event) canonical() error {
	e.Time = e.Time.UTC()
	if len(bytes.TrimSpace(e.Data)) == 0 || bytes.Equal(bytes.TrimSpace(e.Data), []byte("null")) {
		e.Data = nil
		return nil
	}
	b, err := json.Marshal(e.Data)
	if err != nil {
		return fmt.Errorf("%w: Data is not JSON", ErrEvent)
	}
	e.Data = b
	return nil
}

// encode appends the line that follows head, line feed included.
func encode(dst []byte, e *Event, head Head) ([]byte, Head, error) {
	b, err := json.Marshal(&line{
		Seq: head.Lines + 1, ID: e.ID, Time: e.Time, Context: e.Context, Event: e.Event, ContextID: e.ContextID,
		UserID: e.UserID, WorkspaceID: e.WorkspaceID, Data: e.Data, Prev: head.Hash,
	})
	if err != nil {
		return nil, Head{}, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	b = b[:len(b)-1]
	head = Head{Lines: head.Lines + 1, Hash: digest(b)}
	dst = append(append(append(dst, b...), hashOpen...), head.Hash...)
	return append(append(dst, hashClose...), '\n'), head, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// parse reads a line without its line feed, and refuses all that encode would not
// have written.
func parse(b []byte) (Event, *line, error) {
	bad := func(why string) (Event, *line, error) { return Event{}, nil, errors.New(why) }
	n := len(b) - tail
	if n < 0 || !bytes.HasPrefix(b[n:], []byte(hashOpen)) || !bytes.HasSuffix(b, []byte(hashClose)) {
		return bad("not an audit line")
	}
	if hash := b[n+len(hashOpen) : len(b)-len(hashClose)]; digest(b[:n]) != string(hash) {
		return bad("the line does not have the hash that it says: it was changed")
	}
	var l line
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	if err := in.Decode(&l); err != nil {
		return Event{}, nil, fmt.Errorf("not an audit line: %w", err)
	}
	e := Event{
		ID: l.ID, Time: l.Time, Context: l.Context, Event: l.Event, ContextID: l.ContextID,
		UserID: l.UserID, WorkspaceID: l.WorkspaceID, Data: l.Data,
	}
	if err := e.check(); err != nil {
		return Event{}, nil, err
	}
	if l.Seq == 0 || l.Time.Location() != time.UTC {
		return bad("not an audit line in canonical form")
	}
	again, _, err := encode(nil, &e, Head{Lines: l.Seq - 1, Hash: l.Prev})
	if err != nil || !bytes.Equal(again[:len(again)-1], b) {
		return bad("not an audit line in canonical form")
	}
	return e, &l, nil
}

// read goes through a log from the start, and gives each whole and good line, line
// feed included, to each, with the head that it makes. It returns where the good part ends and, with an ErrTorn,
// the bytes after it.
func read(r io.Reader, each func(at Head, e *Event, raw []byte) error) (head Head, size int64, torn []byte, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		wrong := func(err error) (Head, int64, []byte, error) {
			return head, size, nil, &LineError{Line: head.Lines + 1, Err: err}
		}
		raw, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(raw) == 0:
			return head, size, nil, nil
		case errors.Is(err, io.EOF):
			return head, size, bytes.Clone(raw), &LineError{Line: head.Lines + 1, Err: ErrTorn}
		case errors.Is(err, bufio.ErrBufferFull):
			return wrong(fmt.Errorf("longer than %d bytes, not an audit line", maxLine))
		case err != nil:
			return head, size, nil, fmt.Errorf("audit: reading line %d: %w", head.Lines+1, err)
		}
		e, l, err := parse(raw[:len(raw)-1])
		if err != nil {
			return wrong(err)
		}
		if l.Seq != head.Lines+1 || l.Prev != head.Hash {
			return wrong(fmt.Errorf("it is number %d and does not follow the line before it: lines were put in, taken out or moved", l.Seq))
		}
		next := Head{Lines: l.Seq, Hash: l.Hash}
		if err := each(next, &e, raw); err != nil {
			return head, size, nil, err
		}
		head, size = next, size+int64(len(raw))
	}
}
