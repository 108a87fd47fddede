package audit

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Verify reads a whole log and returns its end. The error is a *LineError for the
// first line that is wrong, and Head then is the end of what is right before it.
// Heads that were noted earlier (Log.Head) may be given: a log that lacks one was
// rewritten or cut.
func Verify(r io.Reader, known ...Head) (Head, error) {
	head, _, _, err := read(r, func(at Head, _ *Event, _ []byte) error {
		for _, k := range known {
			if k.Lines == at.Lines && k.Hash != at.Hash {
				return &LineError{Line: at.Lines, Err: fmt.Errorf("its hash is %s where %s was noted: the log was rewritten at this line or before", at.Hash, k.Hash)}
			}
		}
		return nil
	})
	if err != nil {
		return head, err
	}
	for _, k := range known {
		if k.Lines > head.Lines {
			return head, &LineError{Line: head.Lines + 1, Err: fmt.Errorf("missing: the log once had %d lines, the last ones were cut off", k.Lines)}
		}
	}
	return head, nil
}

// Format of an Export.
type Format string

// JSON gives the lines as they are in the log, each with its hash; CSV a table with
// a heading, in which a cell that a spreadsheet would compute has a ' before it.
const (
	JSON Format = "json"
	CSV  Format = "csv"
)

// Export copies the events that f selects, oldest first, and counts them; Skip and
// Take do not apply. It verifies what it reads, and stops at the first line that is
// wrong, with the error that Verify gives.
func Export(w io.Writer, r io.Reader, format Format, f Filter) (n int, err error) {
	var put func(at Head, e *Event, raw []byte) error
	flush := func() error { return nil }
	switch format {
	case JSON:
		put = func(_ Head, _ *Event, raw []byte) error { _, err := w.Write(raw); return err }
	case CSV:
		table := csv.NewWriter(w)
		if err := table.Write(columns); err != nil {
			return 0, fmt.Errorf("audit: export: %w", err)
		}
		put = func(at Head, e *Event, _ []byte) error { return table.Write(row(at, e)) }
		flush = func() error { table.Flush(); return table.Error() }
	default:
		return 0, fmt.Errorf("%w: format %q, want json or csv", ErrFilter, format)
	}
	_, _, _, err = read(r, func(at Head, e *Event, raw []byte) error {
		if !f.match(e) {
			return nil
		}
		if err := put(at, e, raw); err != nil {
			return fmt.Errorf("audit: export: %w", err)
		}
		n++
		return nil
	})
	if ferr := flush(); ferr != nil {
		err = errors.Join(err, fmt.Errorf("audit: export: %w", ferr))
	}
	return n, err
}

var columns = []string{"seq", "time", "context", "event", "contextId", "userId", "workspaceId", "id", "data", "hash"}

func row(at Head, e *Event) []string {
	out := []string{
		strconv.FormatUint(at.Lines, 10), e.Time.Format(time.RFC3339Nano), e.Context, e.Event, e.ContextID, e.UserID,
		e.WorkspaceID, e.ID, string(e.Data), at.Hash,
	}
	for i, cell := range out {
		// OWASP, "CSV Injection". A number is none.
		if _, err := strconv.ParseFloat(cell, 64); err != nil && cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			out[i] = "'" + cell
		}
	}
	return out
}

// match is Filter without an index.
func (f *Filter) match(e *Event) bool {
	if !f.From.IsZero() && e.Time.Before(f.From) || !f.To.IsZero() && !e.Time.Before(f.To) {
		return false
	}
	for _, p := range [...][2]string{
		{f.Context, e.Context}, {f.Event, e.Event}, {f.ContextID, e.ContextID}, {f.UserID, e.UserID}, {f.WorkspaceID, e.WorkspaceID},
	} {
		if p[0] != "" && p[0] != p[1] {
			return false
		}
	}
	return f.Workspaces == nil || slices.Contains(f.Workspaces, e.WorkspaceID)
}
