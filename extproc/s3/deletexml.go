package s3

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDeleted is how many objects one DeleteObjects may name.
const maxDeleted = 1000

// parseDelete reads the body of DeleteObjects ("DeleteObjects", Amazon S3 API
// Reference) and returns its keys. The provider reads the same bytes with another
// parser, so only that part of XML is taken which all parsers read alike: UTF-8
// without a byte order mark, the elements of the operation, no attribute but the
// namespace, no comments, CDATA, processing instructions or DOCTYPE, no entities but
// XML's own five and characters, no control characters or line ends in text, no space
// around a key.
func parseDelete(body string) (keys []string, ok bool) {
	if !utf8.ValidString(body) {
		return nil, false
	}
	x := xmlReader{rest: body[len(declaration.FindString(body)):]}
	x.space()
	if t := x.tag(); !t.opens("Delete") {
		return nil, false
	}
	for quiet := false; ; {
		x.space()
		t := x.tag()
		switch {
		case t.closes("Delete"):
			x.space()
			return keys, x.rest == "" && len(keys) > 0
		case t.opens("Object") && len(keys) < maxDeleted:
			key, ok := x.object()
			if !ok {
				return nil, false
			}
			keys = append(keys, key)
		case t.opens("Quiet") && !quiet:
			quiet = true
			if text, ok := x.text("Quiet"); !ok || text != "true" && text != "false" {
				return nil, false
			}
		default:
			return nil, false
		}
	}
}

// declaration is what may stand before the document. The version says which
// characters end a line, the encoding what the bytes mean.
var declaration = regexp.MustCompile(`^<\?xml[ \t\r\n]+version="1\.0"(?:[ \t\r\n]+encoding="(?i:utf-8)")?(?:[ \t\r\n]+standalone="(?:yes|no)")?[ \t\r\n]*\?>` +
	`|^<\?xml[ \t\r\n]+version='1\.0'(?:[ \t\r\n]+encoding='(?i:utf-8)')?(?:[ \t\r\n]+standalone='(?:yes|no)')?[ \t\r\n]*\?>`)

// s3Namespace is what SDKs write, and the only attribute.
const s3Namespace = "http://s3.amazonaws.com/doc/2006-03-01/"

// xmlReader is a strict reader of a small part of XML.
type xmlReader struct{ rest string }

// xmlTag is a start tag, an end tag or an empty element; without a name it is none.
type xmlTag struct {
	name       string
	end, empty bool
}

func (t xmlTag) opens(name string) bool  { return t.name == name && !t.end && !t.empty }
func (t xmlTag) closes(name string) bool { return t.name == name && t.end }

// object reads the rest of an Object: its key once, each other element once at most.
func (x *xmlReader) object() (key string, ok bool) {
	seen := map[string]bool{}
	for {
		x.space()
		t := x.tag()
		if t.closes("Object") {
			return key, seen["Key"]
		}
		switch t.name {
		case "Key", "VersionId", "ETag", "LastModifiedTime", "Size":
		default:
			return "", false
		}
		if t.end || seen[t.name] {
			return "", false
		}
		seen[t.name] = true
		text := ""
		if !t.empty {
			if text, ok = x.text(t.name); !ok {
				return "", false
			}
		}
		if t.name == "Key" {
			if key = text; key == "" || strings.TrimSpace(key) != key {
				return "", false
			}
		}
	}
}

func (x *xmlReader) space() { x.rest = strings.TrimLeft(x.rest, " \t\r\n") }

// take skips a literal, if it comes next.
func (x *xmlReader) take(s string) (ok bool) {
	x.rest, ok = strings.CutPrefix(x.rest, s)
	return ok
}

// tag reads one tag.
func (x *xmlReader) tag() (t xmlTag) {
	if !x.take("<") {
		return xmlTag{}
	}
	t.end = x.take("/")
	n := strings.IndexFunc(x.rest, func(c rune) bool { return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') })
	if n <= 0 {
		return xmlTag{}
	}
	t.name, x.rest = x.rest[:n], x.rest[n:]
	before := len(x.rest)
	if x.space(); t.name == "Delete" && !t.end && len(x.rest) < before && x.take("xmlns=") {
		if !x.take(`"`+s3Namespace+`"`) && !x.take("'"+s3Namespace+"'") {
			return xmlTag{}
		}
		x.space()
	}
	t.empty = !t.end && x.take("/")
	if !x.take(">") {
		return xmlTag{}
	}
	return t
}

// text reads the text of an element and its end tag.
func (x *xmlReader) text(name string) (text string, ok bool) {
	raw, _, ok := strings.Cut(x.rest, "<")
	if !ok || strings.Contains(raw, "]]>") {
		return "", false
	}
	x.rest = x.rest[len(raw):]
	if text, ok = unescapeXML(raw); !ok || !x.tag().closes(name) {
		return "", false
	}
	return text, true
}

// unescapeXML decodes text. What it may not hold directly, it may not hold escaped.
func unescapeXML(raw string) (text string, ok bool) {
	var b strings.Builder
	for {
		before, after, escaped := strings.Cut(raw, "&")
		if strings.ContainsFunc(before, notText) {
			return "", false
		}
		if !escaped && b.Len() == 0 {
			return raw, true
		}
		b.WriteString(before)
		if !escaped {
			return b.String(), true
		}
		name, rest, ok := strings.Cut(after, ";")
		c := reference(name)
		if !ok || notText(c) {
			return "", false
		}
		b.WriteRune(c)
		raw = rest
	}
}

// reference is the character that an entity or a character reference names, 0 if it
// is none.
func reference(name string) rune {
	switch name {
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "amp":
		return '&'
	case "quot":
		return '"'
	case "apos":
		return '\''
	}
	digits, ok := strings.CutPrefix(name, "#")
	base := 10
	if hex, isHex := strings.CutPrefix(digits, "x"); isHex {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 31)
	if !ok || err != nil || n > unicode.MaxRune || !utf8.ValidRune(rune(n)) {
		return 0
	}
	return rune(n)
}

// notText are characters that XML has not (Char, XML 1.0 §2.2), and those that
// parsers normalise or providers cannot take in keys.
func notText(c rune) bool {
	return unicode.IsControl(c) || c == 0xFFFE || c == 0xFFFF || c == '\u2028' || c == '\ufeff'
}
