package provider

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Field is one header line, as it was on the wire.
type Field struct{ Name, Value string }

// Request is one HTTP/1 request as a Recorder saw it.
type Request struct {
	Method, Target, Proto string // Target is the raw request target, byte for byte
	Header, Trailer       []Field
	// Body is the number of body bytes so far, without chunk framing.
	Body int64
	// Chunked says that the body had no content-length.
	Chunked bool
	// Complete says that the whole request has passed.
	Complete bool
	// ServerName is the TLS server name that the client asked for.
	ServerName string
	// Malformed says why the bytes were no HTTP/1 request; the rest of the
	// connection was forwarded unread.
	Malformed string
}

// Get returns the value of a header and whether there is exactly one.
func (q Request) Get(name string) (value string, one bool) {
	n := 0
	for _, f := range q.Header {
		if strings.EqualFold(f.Name, name) {
			value = f.Value
			n++
		}
	}
	return value, n == 1
}

// Line is the request line, for messages.
func (q Request) Line() string { return q.Method + " " + q.Target }

// parser is fed the client's half of a connection in arbitrary pieces. It reads
// HTTP/1 message framing (RFC 9112 §6, §7.1) and refuses what two parsers could
// read differently.
type parser struct {
	begin func(*Request) // called once a header is complete
	mu    *sync.Mutex    // guards a Request that begin has seen

	state   parseState
	line    []byte // of a header, trailer or chunk size, without its end
	left    int64  // of a body or chunk
	request *Request
}

type parseState uint8

const (
	inHeader parseState = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	broken
)

// maxLine bounds what a connection that is not HTTP can make the parser hold.
const maxLine = 1 << 20

func (p *parser) feed(b []byte) {
	for len(b) > 0 {
		switch p.state {
		case broken:
			return
		case inBody, inChunk:
			n := min(p.left, int64(len(b)))
			p.mu.Lock()
			p.request.Body += n
			p.mu.Unlock()
			b, p.left = b[n:], p.left-n
			if p.left > 0 {
				return
			}
			if p.state == inChunk {
				p.state = inChunkEnd
			} else {
				p.complete()
			}
		default:
			end := bytes.IndexByte(b, '\n')
			if end < 0 {
				p.line = append(p.line, b...)
				if len(p.line) > maxLine {
					p.fail("line too long")
				}
				return
			}
			line := append(p.line, b[:end]...)
			b, p.line = b[end+1:], p.line[:0:0]
			text, ok := bytes.CutSuffix(line, []byte("\r"))
			if !ok {
				p.fail("bare line feed")
				return
			}
			p.endOfLine(string(text))
		}
	}
}

func (p *parser) endOfLine(line string) {
	switch p.state {
	case inHeader:
		p.headerLine(line)
	case inChunkSize:
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(size, 16, 64)
		switch {
		case err != nil || n < 0:
			p.fail("chunk size " + strconv.Quote(line))
		case n == 0:
			p.state = inTrailer
		default:
			p.state, p.left = inChunk, n
		}
	case inChunkEnd:
		if line != "" {
			p.fail("chunk longer than its size")
			return
		}
		p.state = inChunkSize
	case inTrailer:
		if line == "" {
			p.complete()
			return
		}
		f, ok := parseField(line)
		if !ok {
			p.fail("trailer " + strconv.Quote(line))
			return
		}
		p.mu.Lock()
		p.request.Trailer = append(p.request.Trailer, f)
		p.mu.Unlock()
	}
}

func (p *parser) headerLine(line string) {
	if p.request == nil {
		part := strings.Split(line, " ")
		p.request = &Request{}
		if len(part) != 3 || part[0] == "" || part[1] == "" || !strings.HasPrefix(part[2], "HTTP/1.") {
			p.fail("request line " + strconv.Quote(line))
			return
		}
		p.request.Method, p.request.Target, p.request.Proto = part[0], part[1], part[2]
		return
	}
	if line != "" {
		f, ok := parseField(line)
		if !ok {
			p.fail("header " + strconv.Quote(line))
			return
		}
		p.request.Header = append(p.request.Header, f)
		return
	}
	length, chunked, err := p.request.framing()
	if err != nil {
		p.fail(err.Error())
		return
	}
	p.request.Chunked = chunked
	p.begin(p.request)
	switch {
	case chunked:
		p.state = inChunkSize
	case length > 0:
		p.state, p.left = inBody, length
	default:
		p.complete()
	}
}

func parseField(line string) (Field, bool) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return Field{}, false
	}
	return Field{name, strings.Trim(value, " \t")}, true
}

// framing is the length of the body, or that it is chunked.
func (q *Request) framing() (length int64, chunked bool, err error) {
	var lengths, codings []string
	for _, f := range q.Header {
		switch strings.ToLower(f.Name) {
		case "content-length":
			lengths = append(lengths, f.Value)
		case "transfer-encoding":
			codings = append(codings, f.Value)
		}
	}
	switch {
	case len(codings) == 1 && len(lengths) == 0 && strings.EqualFold(codings[0], "chunked"):
		return 0, true, nil
	case len(codings) > 0:
		return 0, false, fmt.Errorf("transfer-encoding %q with content-length %q", codings, lengths)
	case len(lengths) == 0:
		return 0, false, nil
	case len(lengths) > 1:
		return 0, false, fmt.Errorf("content-length %q", lengths)
	}
	n, err := strconv.ParseUint(lengths[0], 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("content-length %q", lengths[0])
	}
	return int64(n), false, nil
}

func (p *parser) complete() {
	p.mu.Lock()
	p.request.Complete = true
	p.mu.Unlock()
	p.state, p.request = inHeader, nil
}

// fail gives up on the connection and records that it did.
func (p *parser) fail(why string) {
	if p.request == nil {
		p.request = &Request{}
	}
	p.mu.Lock()
	p.request.Malformed = why
	p.mu.Unlock()
	if p.state == inHeader {
		p.begin(p.request)
	}
	p.state = broken
}
