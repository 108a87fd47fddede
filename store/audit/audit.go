package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxTake is the most events that one Query answers.
const MaxTake = 100

// Errors that callers tell apart.
var (
	ErrEvent  = errors.New("audit: not an event that can be written")
	ErrFilter = errors.New("audit: not a filter that can be answered")
	ErrClosed = errors.New("audit: the log is closed")
	// ErrInUse says that another process writes the file.
	ErrInUse = errors.New("audit: in use by another process")
	// ErrTorn says that the last line has no end: its writer died, or is at work.
	ErrTorn = errors.New("the line has no end")
)

// Event is one decision that changes state. It never carries a secret, in Data or
// elsewhere.
type Event struct {
	ID          string          // at most 256 bytes; "": Append makes a UUID
	Time        time.Time       // zero: now
	Context     string          // kind of the thing, e.g. "connector"
	Event       string          // what happened to it, e.g. "created"
	ContextID   string          // which thing
	UserID      string          // who; "" is the system itself
	WorkspaceID string          // "" for what is of no workspace
	Data        json.RawMessage // any JSON, at most 32 KiB; nil: none
}

// Filter selects events; the zero Filter is all. A field that is set must match
// exactly.
type Filter struct {
	From, To    time.Time // From ≤ time < To; zero: open
	Context     string
	Event       string
	ContextID   string
	UserID      string
	WorkspaceID string
	// Workspaces, if not nil, are those that the caller may see: events of no
	// workspace are seen only if it has "".
	Workspaces []string
	Skip       int
	Take       int // 1 to MaxTake; 0 is MaxTake
}

// Head is the end of a log: how many lines, and the hash of the last one.
type Head struct {
	Lines uint64
	Hash  string // hex SHA-256, "" of an empty log
}

// String is LINES:HASH.
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Lines, h.Hash) }

// LineError names the first line that is wrong.
type LineError struct {
	Line uint64 // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *LineError) Unwrap() error { return e.Err }
