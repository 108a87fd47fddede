package extproc

import (
	"errors"
	"unicode/utf8"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what codec falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec is gRPC's for protocol buffers, but for what the path of every request and
// every piece of a body is made of: these it reads and writes itself. Header lines are
// read into one piece of memory, not into an object and two strings each, and bodies
// are not copied from and to messages. What it reads is on the wire as the same
// message of the same .proto file, and whatever it finds in another form than Envoy's
// it has the library read.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*message); ok {
		return m.read(data)
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.(*passed); ok {
		return p.write(), nil
	}
	return c.CodecV2.Marshal(v)
}

// The numbers of ProcessingRequest.request that are asked for, of the first field
// beside it, and of HttpHeaders, HttpBody, HeaderMap and HeaderValue.
const (
	numRequestHeaders   = protowire.Number(2)
	numRequestBody      = protowire.Number(4)
	numResponseTrailers = protowire.Number(7)
	numBeside           = protowire.Number(8)

	numHeaders            = protowire.Number(1)
	numHeadersEndOfStream = protowire.Number(3)
	numHeaderLine         = protowire.Number(1)
	numKey                = protowire.Number(1)
	numValue              = protowire.Number(2)
	numRawValue           = protowire.Number(3)

	tagBody        = 1<<3 | byte(protowire.BytesType)
	tagEndOfStream = 2<<3 | byte(protowire.VarintType)
)

var errMalformed = errors.New("not a ProcessingRequest")

// message is what Envoy sends, as far as the path of a request needs it.
type message struct {
	// number says which of ProcessingRequest.request it is.
	number protowire.Number
	// headers is HttpHeaders as it came, in memory of its own; see Request.read.
	headers []byte
	// body is that of HttpBody, valid until the message is used again.
	body mem.BufferSlice
	last bool // HttpBody.end_of_stream
	// any is the message if it is not one of those that are read here.
	any *extprocv3.ProcessingRequest
}

// read reads a ProcessingRequest.
func (m *message) read(data mem.BufferSlice) error {
	m.reset()
	if m.readBody(data) {
		return nil
	}
	// Its own memory, as strings of the request are views of it.
	b := data.Materialize()
	if m.readSmall(b) {
		return nil
	}
	m.reset()
	return m.readAny(b)
}

func (m *message) reset() {
	m.free()
	*m = message{body: m.body}
}

// free lets go of the memory of a body.
func (m *message) free() {
	m.body.Free()
	clear(m.body)
	m.body = m.body[:0]
}

// readSmall reads a message that begins with what is asked for, as Envoy's does.
func (m *message) readSmall(b []byte) bool {
	number, value, n := consumeBytes(b)
	switch {
	case n < 0:
		return false
	case number == numRequestHeaders:
		m.headers = value
	case number != numResponseTrailers:
		return false
	}
	m.number = number
	return beside(b[n:])
}

// beside says whether b is only fields that are not asked for: of those that exclude
// each other the last one would count. Envoy sends an empty metadata_context.
func beside(b []byte) bool {
	for len(b) > 0 {
		number, kind, k := protowire.ConsumeTag(b)
		if k < 0 || number < numBeside {
			return false
		}
		n := protowire.ConsumeFieldValue(number, kind, b[k:])
		if n < 0 {
			return false
		}
		b = b[k+n:]
	}
	return true
}

// consumeBytes takes a field of bytes; n is negative if there is none.
func consumeBytes(b []byte) (number protowire.Number, value []byte, n int) {
	number, kind, k := protowire.ConsumeTag(b)
	if k < 0 || kind != protowire.BytesType {
		return 0, nil, -1
	}
	if value, n = protowire.ConsumeBytes(b[k:]); n < 0 {
		return 0, nil, -1
	}
	return number, value, k + n
}

// readBody reads a message with a piece of the request's body, whose memory it keeps.
func (m *message) readBody(data mem.BufferSlice) bool {
	var head [2 * (1 + 10)]byte // tag and length, twice
	n := data.CopyTo(head[:])
	if n == 0 || head[0] != byte(numRequestBody)<<3|byte(protowire.BytesType) {
		return false
	}
	total := data.Len()
	length, k := protowire.ConsumeVarint(head[1:n])
	at := 1 + k
	if k < 0 || length > uint64(total-at) {
		return false
	}
	end := at + int(length) // of the HttpBody
	from, to := at, at      // its body
	if at < min(n, end) && head[at] == tagBody {
		length, k := protowire.ConsumeVarint(head[at+1 : min(n, end)])
		from = at + 1 + k
		if k < 0 || length > uint64(end-from) {
			return false
		}
		to = from + int(length)
	}
	// What follows the body is few bytes, in Envoy's messages.
	var tail [32]byte
	if total-to > len(tail) {
		return false
	}
	copyFrom(tail[:], data, to)
	switch last := tail[:end-to]; {
	case len(last) == 0:
	case len(last) == 2 && last[0] == tagEndOfStream && last[1] <= 1:
		m.last = last[1] == 1
	default:
		return false
	}
	if !beside(tail[end-to : total-to]) {
		return false
	}
	m.number = numRequestBody
	for _, b := range data {
		n := b.Len()
		if i, j := max(from, 0), min(to, n); i < j {
			m.body = append(m.body, b.Slice(i, j))
		}
		from, to = from-n, to-n
	}
	return true
}

// copyFrom copies what is in data from some byte on.
func copyFrom(to []byte, data mem.BufferSlice, from int) {
	for _, b := range data {
		if from < b.Len() {
			to = to[copy(to, b.ReadOnlyData()[from:]):]
		}
		from = max(0, from-b.Len())
	}
}

// readAny has the library read the message.
func (m *message) readAny(b []byte) (err error) {
	p := &extprocv3.ProcessingRequest{}
	if err := proto.Unmarshal(b, p); err != nil {
		return errMalformed // the library's error may show a header
	}
	switch q := p.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		m.number = numRequestHeaders
		m.headers, err = proto.Marshal(q.RequestHeaders)
	case *extprocv3.ProcessingRequest_RequestBody:
		m.number, m.last = numRequestBody, q.RequestBody.GetEndOfStream()
		if body := q.RequestBody.GetBody(); len(body) > 0 {
			m.body = append(m.body, mem.SliceBuffer(body))
		}
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		m.number = numResponseTrailers
	default:
		m.any = p
	}
	return err
}

// read fills r from HttpHeaders, whose memory r's strings are then views of. Envoy
// sends raw_value; value is read for older ones.
func (r *Request) read(b []byte) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		switch {
		case number == numHeaders && kind == protowire.BytesType:
			value, n := protowire.ConsumeBytes(b)
			if n < 0 || !r.readMap(value) {
				return errMalformed
			}
			b = b[n:]
		case number == numHeadersEndOfStream && kind == protowire.VarintType:
			value, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return errMalformed
			}
			r.EndOfStream, b = value != 0, b[n:]
		default:
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return errMalformed
			}
			b = b[n:]
		}
	}
	return nil
}

// readMap reads a HeaderMap.
func (r *Request) readMap(b []byte) bool {
	for len(b) > 0 {
		number, line, n := consumeBytes(b)
		if n < 0 || number != numHeaderLine {
			return false
		}
		b = b[n:]
		var key, value, raw []byte
		for len(line) > 0 {
			number, v, n := consumeBytes(line)
			if n < 0 {
				return false
			}
			line = line[n:]
			switch number {
			case numKey:
				key = v
			case numValue:
				value = v
			case numRawValue:
				raw = v
			default:
				return false
			}
		}
		if !utf8.Valid(key) || !utf8.Valid(value) {
			return false
		}
		if len(raw) > 0 {
			value = raw
		}
		r.add(view(key), view(value))
	}
	return true
}

// passed is a ProcessingResponse that passes bytes of the request's body on.
type passed struct {
	body mem.BufferSlice // becomes gRPC's
	size int
	last bool
}

// The tags of ProcessingResponse.request_body, BodyResponse.response,
// CommonResponse.body_mutation and BodyMutation.streamed_response, which is a
// StreamedBodyResponse.
var passedTags = [4]byte{
	3<<3 | byte(protowire.BytesType), 1<<3 | byte(protowire.BytesType), 3<<3 | byte(protowire.BytesType), 3<<3 | byte(protowire.BytesType),
}

// write puts the end_of_stream before the body, so that this can follow as it is: the
// order of fields is free ("Encoding", Protocol Buffers documentation).
func (p *passed) write() mem.BufferSlice {
	size := p.size
	if p.size > 0 {
		size += 1 + protowire.SizeVarint(uint64(p.size))
	}
	if p.last {
		size += 2
	}
	var sizes [len(passedTags)]int
	for i := len(sizes) - 1; i >= 0; i-- {
		sizes[i] = size
		size += 1 + protowire.SizeVarint(uint64(size))
	}
	head := make([]byte, 0, size-p.size)
	for i, tag := range passedTags {
		head = protowire.AppendVarint(append(head, tag), uint64(sizes[i]))
	}
	if p.last {
		head = append(head, tagEndOfStream, 1)
	}
	if p.size > 0 {
		head = protowire.AppendVarint(append(head, tagBody), uint64(p.size))
	}
	return append(append(make(mem.BufferSlice, 0, 1+len(p.body)), mem.SliceBuffer(head)), p.body...)
}
