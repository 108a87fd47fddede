package extproc_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"keybridge/extproc"
)

// reader is a script that may ask for bodies.
type reader struct {
	script
	body     func(r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error)
	tooLarge func() *extproc.Error
}

func (p reader) DecideBody(_ time.Time, r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
	return p.body(r, body, complete)
}

func (p reader) TooLarge() *extproc.Error {
	if p.tooLarge != nil {
		return p.tooLarge()
	}
	return refusal(413, "too_large")
}

func (reader) TooSlow() *extproc.Error { return refusal(408, "too_slow") }

func needBody(*extproc.Request) (*extproc.Decision, *extproc.Error) { return nil, extproc.NeedBody }

// onWord forwards, with a key, once the word has come.
func onWord(word string) reader {
	return reader{script: script{decide: needBody}, body: func(r *extproc.Request, body []byte, complete bool) (*extproc.Decision, *extproc.Error) {
		switch {
		case bytes.Contains(body, []byte(word)):
			d, e := echo(r)
			d.Key = "key"
			return d, e
		case complete:
			return nil, refusal(400, "no_word")
		}
		return nil, extproc.NeedBody
	}}
}

func post(more ...string) *extprocv3.ProcessingRequest {
	return headers(false, append([]string{":method", "POST", ":path", "/a", ":authority", "front:1", ":scheme", "http"}, more...)...)
}

func piece(body string, last bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: last},
	}}
}

var (
	requestTrailers = &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{
		RequestTrailers: &extprocv3.HttpTrailers{Trailers: &corev3.HeaderMap{}},
	}}
	responseTrailers = &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{
		ResponseTrailers: &extprocv3.HttpTrailers{Trailers: &corev3.HeaderMap{}},
	}}
	responseHeaders = &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{
		ResponseHeaders: &extprocv3.HttpHeaders{},
	}}
	responseBody = &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: []byte("x")},
	}}
)

// send sends messages, which may come too late.
func send(t testing.TB, s extprocv3.ExternalProcessor_ProcessClient, messages ...*extprocv3.ProcessingRequest) {
	t.Helper()
	for _, m := range messages {
		if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}

// receive wants an answer.
func receive(t testing.TB, s extprocv3.ExternalProcessor_ProcessClient) *extprocv3.ProcessingResponse {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantError reads to the stream's end, which must be an error.
func wantError(t testing.TB, s extprocv3.ExternalProcessor_ProcessClient, code codes.Code) {
	t.Helper()
	for {
		_, err := s.Recv()
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) || status.Code(err) != code {
			t.Errorf("the stream ended with %v, want %v", err, code)
		}
		return
	}
}

// asked opens a stream and wants it to ask for the body and for nothing else.
func asked(t testing.TB, c extprocv3.ExternalProcessorClient) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	s := open(t, c)
	send(t, s, post())
	want := &extprocv3.ProcessingResponse{ModeOverride: &filterv3.ProcessingMode{
		RequestHeaderMode: filterv3.ProcessingMode_SEND, RequestBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
		RequestTrailerMode: filterv3.ProcessingMode_SEND, ResponseHeaderMode: filterv3.ProcessingMode_SKIP,
		ResponseTrailerMode: filterv3.ProcessingMode_SEND,
	}}
	if diff := cmp.Diff(want, receive(t, s), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	return s
}

func TestBody(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"p": onWord("yes!")}, extproc.Options{MaxBody: 200 << 10})
	s := asked(t, dial("p"))
	first := strings.Repeat("a", 70<<10)
	send(t, s, piece(first, false), piece("", false), piece("ye", false), piece("s!"+first, false))
	if receive(t, s).GetRequestHeaders() == nil {
		t.Fatal("the first answer is not to the headers")
	}
	var got strings.Builder
	take := func(want int) (last bool) {
		t.Helper()
		for got.Len() < want {
			p := receive(t, s).GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
			if p == nil || last {
				t.Fatalf("%v after %d bytes", p, got.Len())
			}
			if n := len(p.GetBody()); n > 64<<10 {
				t.Errorf("a piece of %d bytes", n)
			}
			got.Write(p.GetBody())
			last = p.GetEndOfStream()
		}
		return last
	}
	if take(140<<10+4) || got.String() != first+"yes!"+first {
		t.Error("what was held is not what came, or ends the body")
	}
	// From here on each piece goes on as it comes, and may be more than MaxBody.
	for range 10 {
		send(t, s, piece(first, false))
		if take(got.Len() + len(first)) {
			t.Error("the body ends too soon")
		}
	}
	send(t, s, piece("", true))
	if p := receive(t, s).GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse(); len(p.GetBody()) != 0 || !p.GetEndOfStream() {
		t.Errorf("the last piece is %v", p)
	}
	send(t, s, responseTrailers)
	if receive(t, s).GetResponseTrailers() == nil {
		t.Error("the trailers were not answered")
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

// replaces forwards another body of n bytes, once all of the client's has come, or early.
func replaces(n int, early bool) reader {
	p := onWord("")
	p.body = func(r *extproc.Request, _ []byte, complete bool) (*extproc.Decision, *extproc.Error) {
		if !complete && !early {
			return nil, extproc.NeedBody
		}
		d, e := echo(r)
		d.Body = bytes.Repeat([]byte("n"), n)
		return d, e
	}
	return p
}

// TestBodyReplaced: the provider gets the protocol's body in place of the client's, and
// its length.
func TestBodyReplaced(t *testing.T) {
	for _, n := range []int{0, 5, 150 << 10} {
		dial, _ := serve(t, map[string]extproc.Protocol{"p": replaces(n, false)}, extproc.Options{})
		s := asked(t, dial("p"))
		send(t, s, piece("the client's", false), piece(" body", true))
		var length string
		for _, h := range receive(t, s).GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
			if h.GetHeader().GetKey() == "content-length" {
				length = string(h.GetHeader().GetRawValue()) + h.GetHeader().GetValue()
			}
		}
		if length != strconv.Itoa(n) {
			t.Errorf("content-length %q, want %d", length, n)
		}
		var got strings.Builder
		for last := false; !last; {
			p := receive(t, s).GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
			got.Write(p.GetBody())
			last = p.GetEndOfStream()
		}
		if got.String() != strings.Repeat("n", n) {
			t.Errorf("%d bytes of another body", got.Len())
		}
	}
}

// TestBodyRefused: each in the protocol's words, and only once.
func TestBodyRefused(t *testing.T) {
	broken := onWord("yes!")
	broken.body = func(*extproc.Request, []byte, bool) (*extproc.Decision, *extproc.Error) { panic("topsecret") }
	asksOn := onWord("yes!")
	asksOn.body = func(*extproc.Request, []byte, bool) (*extproc.Decision, *extproc.Error) { return nil, extproc.NeedBody }
	half := onWord("yes!")
	half.body = func(r *extproc.Request, _ []byte, _ bool) (*extproc.Decision, *extproc.Error) {
		return r.Decision(), nil
	}
	noWords := onWord("yes!")
	noWords.tooLarge = func() *extproc.Error { panic(1) }
	for _, tt := range []struct {
		name   string
		p      extproc.Protocol
		opts   extproc.Options
		body   []*extprocv3.ProcessingRequest
		status int
		answer string
	}{
		{"by the protocol", onWord("yes!"), extproc.Options{}, []*extprocv3.ProcessingRequest{piece("no", true)}, 400, "no_word"},
		{"empty", onWord("yes!"), extproc.Options{}, []*extprocv3.ProcessingRequest{piece("", true)}, 400, "no_word"},
		{"panic", broken, extproc.Options{}, []*extprocv3.ProcessingRequest{piece("no", false)}, 503, "not now"},
		{"asks for more than there is", asksOn, extproc.Options{}, []*extprocv3.ProcessingRequest{piece("no", true)}, 503, "not now"},
		{"half a decision", half, extproc.Options{}, []*extprocv3.ProcessingRequest{piece("no", false)}, 503, "not now"},
		{"another body before all of it came", replaces(3, true), extproc.Options{}, []*extprocv3.ProcessingRequest{piece("no", false)}, 503, "not now"},
		{"full", onWord("yes!"), extproc.Options{MaxBody: 3}, []*extprocv3.ProcessingRequest{piece("abc", false)}, 413, "too_large"},
		{"fuller", onWord("yes!"), extproc.Options{MaxBody: 3}, []*extprocv3.ProcessingRequest{piece("ab", false), piece("yes!", true)}, 413, "too_large"},
		{"full without words", noWords, extproc.Options{MaxBody: 3}, []*extprocv3.ProcessingRequest{piece("abc", false)}, 503, ""},
		{"all bodies together", onWord("yes!"), extproc.Options{MaxHeld: 20 << 10}, []*extprocv3.ProcessingRequest{piece(strings.Repeat("x", 20<<10+1), false)}, 503, "not now"},
		{"slow", onWord("yes!"), extproc.Options{BodyTimeout: time.Millisecond}, nil, 408, "too_slow"},
		{"slow in the middle", onWord("yes!"), extproc.Options{BodyTimeout: 50 * time.Millisecond}, []*extprocv3.ProcessingRequest{piece("no", false)}, 408, "too_slow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Logger = slog.New(slog.DiscardHandler)
			dial, _ := serve(t, map[string]extproc.Protocol{"p": tt.p}, tt.opts)
			c := dial("p")
			for range 3 { // what one holds is given back
				s := asked(t, c)
				send(t, s, tt.body...)
				r := receive(t, s).GetImmediateResponse()
				if int(r.GetStatus().GetCode()) != tt.status || string(r.GetBody()) != tt.answer {
					t.Errorf("%v", r)
				}
				if m, err := s.Recv(); err == nil {
					t.Errorf("after the refusal: %v", m)
				}
			}
		})
	}
	t.Run("no body to ask for", func(t *testing.T) {
		dial, _ := serve(t, map[string]extproc.Protocol{"p": onWord("yes!"), "plain": script{decide: needBody}},
			extproc.Options{Logger: slog.New(slog.DiscardHandler)})
		for authority, m := range map[string]*extprocv3.ProcessingRequest{"p": get("/"), "plain": post()} {
			answer, err := ask(t, dial(authority), m)
			if err != nil || answer.GetImmediateResponse().GetStatus().GetCode() != 503 {
				t.Errorf("%s: %v, %v", authority, answer, err)
			}
		}
	})
	t.Run("within the limit of the last piece", func(t *testing.T) {
		dial, _ := serve(t, map[string]extproc.Protocol{"p": onWord("yes!")}, extproc.Options{MaxBody: 4})
		s := asked(t, dial("p"))
		send(t, s, piece("yes!and on", true))
		if receive(t, s).GetRequestHeaders() == nil {
			t.Error("refused")
		}
	})
}

// TestOutOfOrder: a message that cannot come ends the stream with an error, which
// ends the request.
func TestOutOfOrder(t *testing.T) {
	dial, _ := serve(t, map[string]extproc.Protocol{"p": onWord("yes!"), "s3": script{decide: echoWithKey}}, extproc.Options{})
	empty := &extprocv3.ProcessingRequest{}
	for name, m := range map[string]*extprocv3.ProcessingRequest{
		"headers": post(), "response headers": responseHeaders, "response body": responseBody,
		"response trailers": responseTrailers, "trailers": requestTrailers, "nothing": empty,
	} {
		t.Run(name+" before the decision", func(t *testing.T) {
			s := asked(t, dial("p"))
			send(t, s, piece("ye", false), m, piece("s!", true))
			wantError(t, s, codes.InvalidArgument)
		})
	}
	for name, m := range map[string]*extprocv3.ProcessingRequest{
		"headers": post(), "response headers": responseHeaders, "response body": responseBody, "trailers": requestTrailers, "nothing": empty,
	} {
		t.Run(name+" within the body", func(t *testing.T) {
			s := asked(t, dial("p"))
			send(t, s, piece("yes!", false), m)
			wantError(t, s, codes.InvalidArgument)
		})
	}
	for name, m := range map[string]*extprocv3.ProcessingRequest{
		"headers": post(), "response headers": responseHeaders, "response body": responseBody,
		"trailers": requestTrailers, "body": piece("", true), "nothing": empty,
	} {
		t.Run(name+" after the body", func(t *testing.T) {
			s := asked(t, dial("p"))
			send(t, s, piece("yes!", true), m)
			wantError(t, s, codes.InvalidArgument)
		})
		t.Run(name+" after the headers", func(t *testing.T) {
			s := open(t, dial("s3"))
			send(t, s, post(), m)
			wantError(t, s, codes.InvalidArgument)
		})
	}
	t.Run("trailers of the response twice", func(t *testing.T) {
		s := open(t, dial("s3"))
		send(t, s, post(), responseTrailers, responseTrailers)
		wantError(t, s, codes.InvalidArgument)
	})
	for name, messages := range map[string][]*extprocv3.ProcessingRequest{
		"before the body": nil, "before the decision": {piece("ye", false)}, "within the body": {piece("yes!", false)},
	} {
		t.Run("end "+name, func(t *testing.T) {
			s := asked(t, dial("p"))
			send(t, s, messages...)
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			wantError(t, s, codes.Aborted)
		})
	}
}

// FuzzMessages sends messages in any order. Whatever they are, a stream that ends
// cleanly was refused, or told the whole body that came; and nothing of a body goes on
// before the answer to the headers.
func FuzzMessages(f *testing.F) {
	for _, seed := range []string{"hb.l", "hyl", "hybbltc", "hl", "hbc", "hyc", "hybhl", "bh", "hyr", "hylc", "gc", "gtc", "gb", "hytlt"} {
		f.Add(seed)
	}
	dial, _ := serve(f, map[string]extproc.Protocol{"p": onWord("yes!")}, extproc.Options{
		MaxBody: 20, Logger: slog.New(slog.DiscardHandler),
	})
	c := dial("p")
	f.Fuzz(func(t *testing.T, script string) {
		if len(script) > 50 {
			t.Skip()
		}
		s := open(t, c)
		var sent strings.Builder
		whole, closed := false, false
		for _, b := range []byte(script) {
			if closed {
				break
			}
			body := func(text string, last bool) {
				if !whole {
					sent.WriteString(text)
				}
				whole = whole || last
				send(t, s, piece(text, last))
			}
			switch b {
			case 'h':
				send(t, s, post())
			case 'g':
				send(t, s, get("/"))
			case 'b':
				body("some", false)
			case '.':
				body("", false)
			case 'y':
				body("yes!", false)
			case 'l':
				body("last", true)
			case 't':
				send(t, s, responseTrailers)
			case 'q':
				send(t, s, requestTrailers)
			case 'r':
				send(t, s, responseHeaders)
			case 'c':
				closed = true
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		answered, refused, last := false, false, false
		for {
			m, err := s.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) && !refused && (!answered || !whole || !last || got.String() != sent.String()) {
					t.Errorf("%q: a clean end, answered %v, %q of %q passed on, to the end %v", script, answered, got.String(), sent.String(), last)
				}
				return
			}
			switch {
			case refused:
				t.Errorf("%q: after the refusal: %v", script, m)
			case m.GetRequestHeaders() != nil:
				if answered {
					t.Errorf("%q: two answers", script)
				}
				answered = true
			case m.GetImmediateResponse() != nil:
				if answered {
					t.Errorf("%q: a refusal after the answer", script)
				}
				refused = true
			case m.GetRequestBody() != nil:
				p := m.GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
				if !answered || last {
					t.Errorf("%q: a piece of the body too early or too late", script)
				}
				got.Write(p.GetBody())
				last = p.GetEndOfStream()
			}
		}
	})
}
