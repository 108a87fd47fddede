package llm

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxDepth is how deep a body may nest. Tool schemas reach a few dozen levels.
	maxDepth = 512
	// maxModelKey bounds the keys that are decoded: "model", each letter as \u00XX.
	maxModelKey = len("model") * 6
)

// scan reads a JSON text (RFC 8259) piece by piece and finds the value of the
// member "model" of the object that it is, without building the document. It
// accepts what encoding/json.Valid does (invalid UTF-8 within strings too, which is
// for the provider to judge), but for the depth.
//
// Of two members "model" parsers take the first, the last, or refuse: a text with
// two has no model.
type scan struct {
	model string // once found is set
	found bool

	at    int // how much of the text was read
	state scanState
	begun int // where the current string begins, behind its quote
	hex   int // how many digits of \uXXXX are to come
	word  string
	// isKey: the current string is the key of a member; isModel: the next value is that of a model.
	isKey, isModel bool

	depth  int
	object [maxDepth / 64]uint64 // bit i: level i+1 is an object, else an array
}

type scanState uint8

const (
	atStart      scanState = iota // before the object
	atValue                       // before a value
	atFirstValue                  // before a value or "]"
	atFirstKey                    // before a key or "}"
	atKey                         // before a key
	atColon
	atComma // behind a value: before "," or the end of what it is in
	inString
	inEscape
	inHex
	inWord  // "true", "false", "null"
	inMinus // behind "-"
	inZero  // behind a leading 0
	inInteger
	inDot // behind ".": a digit must follow
	inFraction
	inE     // behind "e"
	inESign // behind its sign
	inExponent
	atEnd // behind the object
)

// scanError says what is wrong with a body.
type scanError uint8

const (
	scanOK scanError = iota
	scanInvalid
	scanDeep
	scanTwice    // two models
	scanNoString // a model that is no string of a usable length
	scanMissing  // no model
)

// read reads on to the end of text, which is all of the body that has arrived:
// what was read before, and more. Complete says that nothing follows.
func (s *scan) read(text []byte, complete bool) scanError {
	for s.at < len(text) {
		if s.state == inString {
			s.at += plain(text[s.at:])
			if s.at == len(text) {
				break
			}
		}
		c := text[s.at]
		if err := s.step(c, text); err != scanOK {
			return err
		}
		s.at++
	}
	switch {
	case !complete:
		return scanOK
	case s.state != atEnd:
		return scanInvalid
	case !s.found:
		return scanMissing
	}
	return scanOK
}

func (s *scan) step(c byte, text []byte) scanError {
	switch s.state {
	case inString:
		switch c {
		case '"':
			return s.endString(text[s.begun:s.at])
		case '\\':
			s.state = inEscape
		default:
			return scanInvalid // a control character
		}
		return scanOK
	case inEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			s.state = inString
		case 'u':
			s.state, s.hex = inHex, 4
		default:
			return scanInvalid
		}
		return scanOK
	case inHex:
		if !isHex(c) {
			return scanInvalid
		}
		if s.hex--; s.hex == 0 {
			s.state = inString
		}
		return scanOK
	case inWord:
		if c != s.word[0] {
			return scanInvalid
		}
		if s.word = s.word[1:]; s.word == "" {
			s.state = atComma
		}
		return scanOK
	case inMinus, inZero, inInteger, inDot, inFraction, inE, inESign, inExponent:
		if next, ok := number(s.state, c); ok {
			s.state = next
			return scanOK
		}
		switch s.state {
		case inZero, inInteger, inFraction, inExponent:
			s.state = atComma // c is what follows the number
		default:
			return scanInvalid
		}
	}
	if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
		return scanOK
	}
	switch s.state {
	case atStart:
		if c == '{' {
			return s.open(true)
		}
	case atFirstValue:
		if c == ']' {
			s.close()
			return scanOK
		}
		return s.value(c)
	case atValue:
		return s.value(c)
	case atFirstKey:
		if c == '}' {
			s.close()
			return scanOK
		}
		fallthrough
	case atKey:
		if c == '"' {
			s.state, s.isKey, s.begun = inString, true, s.at+1
			return scanOK
		}
	case atColon:
		if c == ':' {
			s.state = atValue
			return scanOK
		}
	case atComma:
		switch {
		case c == ',' && s.inObject():
			s.state = atKey
			return scanOK
		case c == ',':
			s.state = atValue
			return scanOK
		case c == '}' && s.inObject(), c == ']' && !s.inObject():
			s.close()
			return scanOK
		}
	}
	return scanInvalid
}

// value begins a value with its first byte.
func (s *scan) value(c byte) scanError {
	if s.isModel && c != '"' {
		return scanNoString
	}
	switch c {
	case '"':
		s.state, s.isKey, s.begun = inString, false, s.at+1
	case '{':
		return s.open(true)
	case '[':
		return s.open(false)
	case '-':
		s.state = inMinus
	case '0':
		s.state = inZero
	case '1', '2', '3', '4', '5', '6', '7', '8', '9':
		s.state = inInteger
	case 't':
		s.state, s.word = inWord, "true"[1:]
	case 'f':
		s.state, s.word = inWord, "false"[1:]
	case 'n':
		s.state, s.word = inWord, "null"[1:]
	default:
		return scanInvalid
	}
	return scanOK
}

// number is the state after one more byte of a number (RFC 8259 §6).
func number(state scanState, c byte) (scanState, bool) {
	digit := '0' <= c && c <= '9'
	switch state {
	case inMinus:
		if c == '0' {
			return inZero, true
		}
		return inInteger, digit
	case inZero, inInteger:
		switch c {
		case '.':
			return inDot, true
		case 'e', 'E':
			return inE, true
		}
		return inInteger, digit && state == inInteger
	case inDot:
		return inFraction, digit
	case inFraction:
		if c == 'e' || c == 'E' {
			return inE, true
		}
		return inFraction, digit
	case inE:
		if c == '+' || c == '-' {
			return inESign, true
		}
	}
	return inExponent, digit // inE, inESign, inExponent
}

func (s *scan) open(object bool) scanError {
	if s.depth == maxDepth {
		return scanDeep
	}
	bit := uint64(1) << (s.depth % 64)
	if object {
		s.object[s.depth/64] |= bit
		s.state = atFirstKey
	} else {
		s.object[s.depth/64] &^= bit
		s.state = atFirstValue
	}
	s.depth++
	return scanOK
}

func (s *scan) close() {
	s.depth--
	s.state = atComma
	if s.depth == 0 {
		s.state = atEnd
	}
}

// inObject says whether the innermost level is an object.
func (s *scan) inObject() bool {
	i := s.depth - 1
	return s.object[i/64]>>(i%64)&1 == 1
}

// endString ends a string of which raw is what stands between the quotes.
func (s *scan) endString(raw []byte) scanError {
	switch {
	case s.isKey:
		s.state = atColon
		if s.depth == 1 && isModelKey(raw) {
			if s.found {
				return scanTwice
			}
			s.isModel = true
		}
	case s.isModel:
		s.state, s.isModel = atComma, false
		model, ok := unquote(raw, maxModel)
		if !ok || model == "" {
			return scanNoString
		}
		s.model, s.found = model, true
	default:
		s.state = atComma
	}
	return scanOK
}

func isModelKey(raw []byte) bool {
	if string(raw) == "model" {
		return true
	}
	if len(raw) > maxModelKey {
		return false
	}
	key, ok := unquote(raw, maxModelKey)
	return ok && key == "model"
}

// unquote decodes what stands between the quotes of a valid JSON string. Not ok is
// one longer than most bytes, or that is no text: invalid UTF-8, lone surrogates.
func unquote(raw []byte, most int) (string, bool) {
	if len(raw) > 6*most {
		return "", false
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		switch c := raw[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hexRune(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 >= len(raw) || raw[i+1] != '\\' || raw[i+2] != 'u' {
					return "", false
				}
				if r = utf16.DecodeRune(r, hexRune(raw[i+3:])); r == utf8.RuneError {
					return "", false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
	}
	return string(out), len(out) <= most && utf8.Valid(out)
}

// hexRune is the value of four hex digits.
func hexRune(raw []byte) rune {
	var r rune
	for _, c := range raw[:4] {
		r = r<<4 | rune(hexValue(c))
	}
	return r
}

// plain counts the bytes at the beginning of text that neither end a string nor
// need a look within one, eight at a time ("Determine if a word has a byte less
// than n", Bit Twiddling Hacks): nearly all of a large body is strings.
func plain(text []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(text)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(text[n:])
		quote, escape := w^(ones*'"'), w^(ones*'\\')
		hit := (w - ones*' ') &^ w
		hit |= (quote - ones) &^ quote
		hit |= (escape - ones) &^ escape
		// The lowest hit is exact; a borrow makes others only above it.
		if hit &= highs; hit != 0 {
			return n + bits.TrailingZeros64(hit)/8
		}
	}
	for ; n < len(text); n++ {
		if c := text[n]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return n
}
