package s3

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// confine holds an operation to the folder that the repository is limited to in its
// bucket. What reaches beyond it is answered as a foreign bucket is.
func (s *scratch) confine(o *operation, folder string) *failure {
	switch {
	case o.object:
		if !inFolder(folder, s.target.key) {
			return &failFolder
		}
	case o.keyless:
	case o.may&pPrefix != 0:
		return s.confineListing(folder)
	case o.must == pDelete:
		s.folder = folder // decided by the body
	default: // the bucket's configuration is everybody's
		return &failFolder
	}
	return nil
}

// inFolder says whether a key is in a folder, whatever a provider makes of it: some
// remove "." and empty segments, resolve "..", take a backslash for a slash, end a
// name at a zero byte or read overlong UTF-8. It may end in one slash, as the keys of
// empty directories do, but for the folder's own, which without it is outside.
func inFolder(folder, key string) bool {
	rest, ok := strings.CutPrefix(key, folder)
	if !ok || rest == "" || strings.ContainsFunc(rest, unicode.IsControl) {
		return false
	}
	return utf8.ValidString(rest) && segments(rest, false)
}

// reaches says whether what a listing begins with, or goes on after, is in a folder.
// It is part of a key or compared with keys, so that empty segments do no harm, and
// may be in keys that others have put there.
func reaches(folder, text string) bool {
	rest, ok := strings.CutPrefix(text, folder)
	return ok && utf8.ValidString(rest) && segments(rest, true)
}

// segments refuses "." and ".." among the segments of s, and empty ones before the
// last unless they are wanted.
func segments(s string, empty bool) bool {
	for more := true; more; {
		segment := s
		i := strings.IndexAny(s, `/\`)
		if more = i >= 0; more {
			segment, s = s[:i], s[i+1:]
		}
		switch segment {
		case ".", "..":
			return false
		case "":
			if more && !empty {
				return false
			}
		}
	}
	return true
}

// confineListing gives a listing without a prefix the folder for one. Markers are
// where an earlier answer ended, or a client's own idea of it.
func (s *scratch) confineListing(folder string) *failure {
	prefix, given := -1, false
	for i := range s.query.params {
		if s.query.params[i].auth {
			continue
		}
		p := parameter(s.query.name(i))
		if p&(pPrefix|pMarker|pStartAfter|pKeyMarker) == 0 {
			continue
		}
		value := s.decoded(s.query.value(i))
		if value != "" && !reaches(folder, value) {
			return &failFolder
		}
		if p == pPrefix {
			prefix, given = i, value != ""
		}
	}
	if !given {
		s.query.setPrefix(prefix, folder)
		s.same = false
	}
	return nil
}

// setPrefix puts the prefix in the place of an empty one, or among the parameters.
func (q *query) setPrefix(at int, prefix string) {
	p := param{from: len(q.text)}
	q.text = append(q.text, "prefix"...)
	p.mid = len(q.text)
	for i := range len(prefix) {
		q.text = encode(q.text, prefix[i], true)
	}
	p.to = len(q.text)
	if at < 0 {
		q.insert(p)
	} else {
		q.params[at] = p
	}
}
