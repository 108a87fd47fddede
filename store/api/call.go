package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"keybridge/store"
)

// call is one request with the token that it came with.
type call struct {
	*http.Request
	w       http.ResponseWriter
	token   *store.Token
	version uint64 // of the one record that the answer is about; sent as ETag
	did     string // what the audit log calls the change, if not by its first record
}

// absentText is how clients of this kind of platform send "no value".
func absentText(s string) bool { return s == "" || s == "null" || s == "undefined" }

// query returns a parameter, empty where it is absent.
func (q *call) query(name string) string {
	if v := q.URL.Query().Get(name); !absentText(v) {
		return v
	}
	return ""
}

// queryID returns a parameter that is a record id, empty where it is absent.
func (q *call) queryID(name string) (string, error) {
	v := q.query(name)
	if v == "" {
		return "", nil
	}
	id, ok := parseID(v)
	if !ok {
		return "", badField(name, "is not a UUID")
	}
	return id, nil
}

// parseID reads a UUID in its 36-character form; ids are kept in lower case.
func parseID(s string) (string, bool) {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != 36 || id == uuid.Nil {
		return "", false
	}
	return id.String(), true
}

// match compares If-Match, where there is one, with a record's version (RFC 9110 §13.1.1).
func (q *call) match(m *store.Meta) error {
	header := q.Header.Values("If-Match")
	if len(header) == 0 {
		return nil
	}
	for tag := range strings.SplitSeq(strings.Join(header, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || tag == strconv.Quote(strconv.FormatUint(m.Version, 10)) {
			return nil
		}
	}
	return &failure{http.StatusPreconditionFailed, "VERSION_MISMATCH",
		"If-Match: the record is at version \"" + strconv.FormatUint(m.Version, 10) + "\""}
}

// creation identifies a create request by its Idempotency-Key; nil without one.
// Keys of different tokens and routes do not meet.
func (q *call) creation(b *body) (*store.Creation, error) {
	header := q.Header.Values("Idempotency-Key")
	if len(header) == 0 {
		return nil, nil
	}
	key := header[0]
	if len(header) > 1 || len(key) == 0 || len(key) > 255 ||
		strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) {
		return nil, badField("Idempotency-Key", "must be one value of 1 to 255 visible ASCII characters")
	}
	sum := sha256.Sum256([]byte(q.token.M.ID + "\n" + q.Method + " " + q.URL.Path + "\n" + key))
	return &store.Creation{Key: hex.EncodeToString(sum[:]), Digest: hex.EncodeToString(b.digest.Sum(nil))}, nil
}

// rank orders roles; 0 is none.
func rank(a store.Access) int {
	return slices.Index([]store.Access{store.AccessRead, store.AccessWrite, store.AccessAdmin}, a) + 1
}

// may reports whether the token has a role of at least need in a workspace.
func (q *call) may(workspace string, need store.Access) bool {
	return max(rank(q.token.Roles[workspace]), rank(q.token.Roles["*"])) >= rank(need)
}

func (q *call) require(workspace string, need store.Access) error {
	if !q.may(workspace, need) {
		return errForbidden
	}
	return nil
}

// everywhere reports whether the token sees all workspaces.
func (q *call) everywhere() bool { return rank(q.token.Roles["*"]) > 0 }

// workspaces lists those that the token is limited to.
func (q *call) workspaces() []string {
	var out []string
	for id := range q.token.Roles {
		if id != "*" && q.may(id, store.AccessRead) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
