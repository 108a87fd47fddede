package keeper

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
)

// Events of the audit log: decisions that change who has a share, nothing else.
const (
	eventAccept  = "accept"  // a delivery was taken in from a file
	eventRelease = "release" // the share went to a bridge or an operator
	eventStage   = "stage"   // a share of a set to come was taken in
	eventAdopt   = "adopt"   // a newer manifest came into force
	eventPromote = "promote" // the staged share is the held one now
	eventOver    = "over"    // the held share is not released any more
	eventErase   = "erase"   // a share that was over is erased
	// eventRepair says that the end of a line was found that never got onto disk whole.
	eventRepair = "repair"
)

// maxLine bounds one line; a release takes about 1 KiB, an erasure 64 bytes a keeper.
const maxLine = 32 << 10

// auditLine is one line of the log, JSON. Each line carries the SHA-256 of the one
// before it, so that none can be changed or taken out without changing all that
// follow. A release also carries the signed request: it proves, to anyone who has
// the manifest, that the bridge asked.
type auditLine struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Manifest uint64    `json:"manifest,omitempty"` // version in force
	Set      string    `json:"set,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`
	// Releases only.
	Bridge string `json:"bridge,omitempty"` // or operator/NAME

	Reason    string            `json:"reason,omitempty"`
	PublicKey ed25519.PublicKey `json:"publicKey,omitempty"` // of the bridge
	Request   []byte            `json:"request,omitempty"`   // release.Transcript.Bytes
	Signature []byte            `json:"signature,omitempty"` // over Request
	// Erasures only: the keepers of the old set whose acknowledgements allow it.
	Keepers []string `json:"keepers,omitempty"`
	// Repairs only: what was cut off.
	Dropped string `json:"dropped,omitempty"` // hex SHA-256
	Prev    string `json:"prev"`              // hex SHA-256 of the previous line, "" at first
}

// auditLog appends to a log that it has verified. The file is opened for each line,
// not kept open: a log that was deleted, replaced or cut while the keeper runs is
// then noticed, and refused, before the next share goes out.
type auditLog struct {
	path string

	mu   sync.Mutex
	seq  uint64
	size int64
	head string
}

// createAudit opens the log, and starts it if there is none.
func createAudit(path string) (*auditLog, error) {
	if err := identity.CreatePrivate(path, nil); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return openAudit(path)
}

// openAudit verifies the whole log. The caller holds the directory's lock. A last
// line without its line feed never finished, hence no share was released on it: it
// is cut off, and that is logged.
func openAudit(path string) (*auditLog, error) {
	l := &auditLog{path: path}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("audit log: %s: mode %v, want a regular file of mode 0600", path, st.Mode())
	}
	torn, err := l.verify(f)
	if err != nil {
		return nil, fmt.Errorf("audit log: %s: %w", path, err)
	}
	if len(torn) == 0 {
		return l, nil
	}
	if err := f.Truncate(l.size); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	sum := sha256.Sum256(torn)
	_, err = l.append(&auditLine{Time: time.Now().UTC(), Event: eventRepair, Dropped: hex.EncodeToString(sum[:])})
	return l, err
}

// verify reads a log from the start and leaves l at its end. It returns the bytes
// after the last line feed.
func (l *auditLog) verify(r io.Reader) (torn []byte, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return bytes.Clone(b), nil
		}
		if err != nil { // bufio.ErrBufferFull: no line of ours is that long
			return nil, fmt.Errorf("line %d: %w", l.seq+1, err)
		}
		if err := l.check(b[:len(b)-1]); err != nil {
			return nil, fmt.Errorf("line %d: %w", l.seq+1, err)
		}
		l.advance(b)
	}
}

// advance moves the end past line, line feed included.
func (l *auditLog) advance(line []byte) {
	sum := sha256.Sum256(line[:len(line)-1])
	l.seq, l.size, l.head = l.seq+1, l.size+int64(len(line)), hex.EncodeToString(sum[:])
}

func (l *auditLog) check(b []byte) error {
	var line auditLine
	if err := json.Unmarshal(b, &line); err != nil {
		return fmt.Errorf("not an audit line: %w", err)
	}
	if again, err := json.Marshal(&line); err != nil || !bytes.Equal(b, again) {
		return errors.New("not an audit line in canonical form")
	}
	if line.Seq != l.seq+1 || line.Prev != l.head {
		return errors.New("does not follow the line before it: the log was changed")
	}
	switch line.Event {
	case eventAccept, eventStage, eventAdopt, eventPromote, eventOver, eventErase, eventRepair:
		return nil
	case eventRelease:
		t, err := release.ParseTranscript(line.Request)
		if err != nil {
			return err
		}
		if t.Set != line.Set || t.Epoch != line.Epoch || t.Reason != line.Reason {
			return errors.New("the line contradicts the request in it")
		}
		if !(identity.Peer{Key: line.PublicKey}).Verify(release.Domain, line.Request, line.Signature) {
			return errors.New("the signature of the request does not verify")
		}
		return nil
	}
	return fmt.Errorf("unknown event %q", line.Event)
}

// append numbers, chains and writes a line, waits until it is on disk, and returns
// its hash, the new head. If it fails nothing has happened, and the next append
// tries again from the same place.
func (l *auditLog) append(line *auditLine) (head string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line.Seq, line.Prev = l.seq+1, l.head
	b, err := json.Marshal(line)
	if err != nil {
		return "", fmt.Errorf("audit log: %w", err)
	}
	b = append(b, '\n')
	if err := l.write(b); err != nil {
		return "", fmt.Errorf("audit log: %w", err)
	}
	l.advance(b)
	return l.head, nil
}

func (l *auditLog) write(b []byte) (err error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != l.size {
		return fmt.Errorf("%s has %d bytes where this keeper wrote %d: the log was changed", l.path, st.Size(), l.size)
	}
	defer func() {
		if err != nil {
			_ = f.Truncate(l.size) // best effort; if it fails the size check above refuses the next line
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
