package extproc

import (
	"bytes"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// split is b as frames of n bytes.
func split(b []byte, n int) (frames mem.BufferSlice) {
	for len(b) > 0 {
		m := min(n, len(b))
		frames = append(frames, mem.SliceBuffer(b[:m]))
		b = b[m:]
	}
	return frames
}

// equal says how a message that the codec read differs from what the library reads.
func equal(t *testing.T, b []byte, frame int) {
	t.Helper()
	var m message
	err := m.read(split(b, frame))
	want := &extprocv3.ProcessingRequest{}
	if wantErr := proto.Unmarshal(b, want); (err != nil) != (wantErr != nil) {
		// Header lines are looked at when they are read.
		if wantErr == nil || m.number != numRequestHeaders && m.number != numResponseTrailers {
			t.Fatalf("%x: %v, and the library: %v", b, err, wantErr)
		}
		if m.number == numRequestHeaders && (&Request{}).read(m.headers) == nil && proto.Unmarshal(m.headers, &extprocv3.HttpHeaders{}) != nil {
			t.Fatalf("%x: headers that the library does not read", b)
		}
		return
	}
	if err != nil {
		return
	}
	switch q := want.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if m.number != numRequestHeaders {
			t.Fatalf("%x: number %d", b, m.number)
		}
		got, lines := &Request{}, &Request{}
		if err := got.read(m.headers); err != nil {
			return // stricter than the library: fields that Envoy does not send
		}
		for _, h := range q.RequestHeaders.GetHeaders().GetHeaders() {
			value := h.GetValue()
			if len(h.GetRawValue()) > 0 {
				value = string(h.GetRawValue())
			}
			lines.add(h.GetKey(), value)
		}
		lines.EndOfStream = q.RequestHeaders.GetEndOfStream()
		if diff := cmp.Diff(lines, got, cmp.AllowUnexported(Request{}), cmp.Comparer(func(Decision, Decision) bool { return true })); diff != "" {
			t.Fatalf("%x: %s", b, diff)
		}
	case *extprocv3.ProcessingRequest_RequestBody:
		if m.number != numRequestBody || m.last != q.RequestBody.GetEndOfStream() || !bytes.Equal(m.body.Materialize(), q.RequestBody.GetBody()) {
			t.Fatalf("%x: %d %v %q", b, m.number, m.last, m.body.Materialize())
		}
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		if m.number != numResponseTrailers {
			t.Fatalf("%x: number %d", b, m.number)
		}
	default:
		if m.any == nil || !proto.Equal(m.any, want) {
			t.Fatalf("%x: %v", b, m.any)
		}
	}
}

// wires are messages as Envoy and others write them.
func wires(t testing.TB) [][]byte {
	t.Helper()
	var all [][]byte
	add := func(m *extprocv3.ProcessingRequest, beside ...byte) {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, append(b, beside...))
	}
	headers := func(end bool, lines ...*corev3.HeaderValue) *extprocv3.ProcessingRequest {
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
			RequestHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: lines}, EndOfStream: end},
		}}
	}
	body := func(b string, end bool) *extprocv3.ProcessingRequest {
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
			RequestBody: &extprocv3.HttpBody{Body: []byte(b), EndOfStream: end},
		}}
	}
	metadata := []byte{8<<3 | 2, 0} // metadata_context, empty, as Envoy sends it
	line := &corev3.HeaderValue{Key: ":path", RawValue: []byte("/a\xff")}
	add(headers(true, line, &corev3.HeaderValue{Key: "x", Value: "old"}, &corev3.HeaderValue{Key: ":path", RawValue: []byte("/b")}), metadata...)
	add(headers(false))
	add(body("some bytes", false), metadata...)
	add(body(strings.Repeat("x", 300), true), metadata...)
	add(body("", true))
	add(body("", false))
	add(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}}, metadata...)
	add(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}})
	add(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{}}})
	other := []byte{6<<3 | 2, 0} // request_trailers: of those that exclude each other the last counts
	add(headers(true, line), other...)
	add(body("some bytes", true), other...)
	add(body("some bytes", true), 4<<3|2, 2, 1<<3|2, 0)
	add(body("some bytes", true), 0xff) // cut off
	add(headers(true, line), 0xff)
	all = append(all, nil, []byte{4<<3 | 2}, []byte{4<<3 | 2, 0x7f, 1}, []byte{2<<3 | 2, 3, 1<<3 | 2, 1, 7}, []byte{4<<3 | 2, 3, 1<<3 | 2, 9, 7}, bytes.Repeat([]byte{0x22, 0xff}, 12))
	return all
}

func TestCodec(t *testing.T) {
	for _, b := range wires(t) {
		for frame := 1; frame <= len(b)+1; frame++ {
			equal(t, b, frame)
		}
	}
}

func FuzzCodec(f *testing.F) {
	for _, b := range wires(f) {
		f.Add(b, 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, frame int) { equal(t, b, max(1, frame%64)) })
}

func TestCodecWrites(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 16 << 10, maxPiece} {
		for _, last := range []bool{false, true} {
			body := bytes.Repeat([]byte("b"), size)
			b, err := newCodec().Marshal(&passed{body: split(body, 5000), size: size, last: last})
			if err != nil {
				t.Fatal(err)
			}
			var got extprocv3.ProcessingResponse
			if err := proto.Unmarshal(b.Materialize(), &got); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			want := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
				RequestBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{
					Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{Body: body, EndOfStream: last}},
				}}},
			}}
			if !proto.Equal(&got, want) {
				t.Errorf("%d bytes, last %v: not what the library reads", size, last)
			}
		}
	}
}

// TestSlabs: what was given back comes again, at the length asked for.
func TestSlabs(t *testing.T) {
	s := newSlabs()
	var taken []*[]byte
	for range slabsKept + 2*slabsMapped {
		b := s.Get(slabSize - 1)
		if len(*b) != slabSize-1 || cap(*b) != slabSize {
			t.Fatalf("%d of %d bytes", len(*b), cap(*b))
		}
		(*b)[0] = 'x'
		taken = append(taken, b)
	}
	for _, b := range taken {
		s.Put(b)
	}
	if got, want := len(s.free), len(taken); got != want {
		t.Errorf("%d wait for the next body, want %d", got, want)
	}
	if b := s.Get(slabSize); (*b)[0] != 0 || len(s.free) != len(taken)-1 {
		t.Error("the last one that was given back kept its memory, or does not come again")
	}
	for _, n := range []int{1, slabSize / 4, slabSize + 1} {
		b := s.Get(n)
		if len(*b) != n || cap(*b) == slabSize {
			t.Errorf("asked for %d bytes: %d of %d", n, len(*b), cap(*b))
		}
		s.Put(b)
	}
}
