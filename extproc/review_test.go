package extproc_test

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"keybridge/extproc"
)

// reviewing is a script that reviews answers.
type reviewing struct {
	script
	review func(*extproc.Answer) *extproc.Refusal
}

func (r reviewing) Review(a *extproc.Answer) *extproc.Refusal { return r.review(a) }
func (reviewing) RefusalCodes() []string                      { return []string{"refused"} }

// answered is the first message of a review: pairs are headers, names and values in turn.
func answered(t *testing.T, mode extprocfilterv3.ProcessingMode_BodySendMode, endOfStream bool, shown map[string]any, pairs ...string) *extprocv3.ProcessingRequest {
	t.Helper()
	s, err := structpb.NewStruct(shown)
	if err != nil {
		t.Fatal(err)
	}
	return &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers: headers(true, pairs...).GetRequestHeaders().GetHeaders(), EndOfStream: endOfStream,
		}},
		Attributes:     map[string]*structpb.Struct{"envoy.filters.http.ext_proc": s},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{ResponseBodyMode: mode},
	}
}

func answerBody(text string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: []byte(text), EndOfStream: true},
	}}
}

var attributes = map[string]any{
	"xds.cluster_name": "cluster", "request.method": "GET", "request.path": "/b/k?q",
	"request.headers['authorization']": "secret", "request.headers['": "x", "other": "y",
}

const (
	none     = extprocfilterv3.ProcessingMode_NONE
	buffered = extprocfilterv3.ProcessingMode_BUFFERED
)

func TestReview(t *testing.T) {
	instead := &extproc.Error{Status: 503, ContentType: "text/plain", Body: []byte("not you"), Reason: "refused"}
	for name, c := range map[string]struct {
		mode    extprocfilterv3.ProcessingMode_BodySendMode
		noBody  bool
		refusal *extproc.Refusal
		known   bool
		want    string // the body that replaces the answer; empty: it passes
	}{
		"passes":                       {mode: buffered},
		"without a body":               {mode: buffered, noBody: true},
		"body not shown":               {mode: none},
		"refused":                      {mode: buffered, refusal: &extproc.Refusal{Certain: true, Instead: instead}, want: "not you"},
		"refused, no body":             {mode: buffered, noBody: true, refusal: &extproc.Refusal{Certain: true, Instead: instead}, want: "not you"},
		"refused, body not shown":      {mode: none, refusal: &extproc.Refusal{Certain: true, Instead: instead}, want: "not you"},
		"withheld":                     {mode: buffered, refusal: &extproc.Refusal{Instead: instead}, want: "not you"},
		"perhaps":                      {mode: buffered, noBody: true, refusal: &extproc.Refusal{Pass: true, Instead: instead}},
		"perhaps, and known":           {mode: buffered, noBody: true, refusal: &extproc.Refusal{Pass: true, Instead: instead}, known: true, want: "not you"},
		"refused with nothing instead": {mode: buffered, refusal: &extproc.Refusal{Certain: true}, want: "not now"},
	} {
		t.Run(name, func(t *testing.T) {
			var seen *extproc.Answer
			var told []string
			p := reviewing{script{decide: echo}, func(a *extproc.Answer) *extproc.Refusal {
				seen = extproc.NewAnswer(extproc.Answer{
					Status: a.Status, Cluster: a.Cluster, Method: a.Method, Path: a.Path, Body: append([]byte(nil), a.Body...),
				}, nil, nil)
				if a.Header("x-twice") != "1,2" || a.Header("absent") != "" || a.Sent("authorization") != "secret" || a.Sent("absent") != "" {
					t.Errorf("%v", a)
				}
				return c.refusal
			}}
			dial, _ := serve(t, map[string]extproc.Protocol{"s3": p}, extproc.Options{Refused: func(protocol, cluster string, r *extproc.Refusal) bool {
				told = append(told, protocol+" "+cluster)
				if r != c.refusal {
					t.Errorf("told of %v", r)
				}
				return c.known
			}})
			s := open(t, dial("s3"))
			send := func(m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
				t.Helper()
				if err := s.Send(m); err != nil {
					t.Fatal(err)
				}
				got, err := s.Recv()
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			got := send(answered(t, c.mode, c.noBody, attributes, ":status", "403", "x-twice", "1", "x-twice", "2"))
			body := ""
			if c.mode == buffered && !c.noBody {
				if got.GetResponseHeaders() == nil || got.GetResponseHeaders().GetResponse() != nil {
					t.Errorf("the headers were answered with %v", got)
				}
				body = "a body"
				got = send(answerBody(body))
			}
			switch {
			case c.want != "":
				if r := got.GetImmediateResponse(); r.GetStatus().GetCode() != 503 || string(r.GetBody()) != c.want {
					t.Errorf("got %v", got)
				}
			case got.GetImmediateResponse() != nil || got.GetResponseBody().GetResponse() != nil || got.GetResponseHeaders().GetResponse() != nil:
				t.Errorf("got %v, want the answer to pass untouched", got)
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the stream goes on: %v", err)
			}
			want := &extproc.Answer{Status: 403, Cluster: "cluster", Method: "GET", Path: "/b/k?q", Body: []byte(body)}
			if diff := cmp.Diff(want, seen, cmp.AllowUnexported(extproc.Answer{}), equateEmpty); diff != "" {
				t.Errorf("the protocol saw (-want +got):\n%s", diff)
			}
			if n := len(told); n != 0 != (c.refusal != nil) || n == 1 && told[0] != "script cluster" {
				t.Errorf("told %q", told)
			}
		})
	}
}

var equateEmpty = cmp.Transformer("bytes", func(b []byte) string { return string(b) })

// What cannot be reviewed ends in an error, on which Envoy withholds the answer.
func TestReviewNoAnswerIsAnError(t *testing.T) {
	p := reviewing{script{decide: echo}, func(*extproc.Answer) *extproc.Refusal { return nil }}
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": p, "mute": script{decide: echo}}, extproc.Options{})
	forbidden := answered(t, buffered, false, attributes, ":status", "403")
	for name, c := range map[string]struct {
		authority string
		messages  []*extprocv3.ProcessingRequest
		code      codes.Code
	}{
		"a protocol that reviews nothing": {"mute", []*extprocv3.ProcessingRequest{forbidden}, codes.InvalidArgument},
		"no protocol":                     {"gcs", []*extprocv3.ProcessingRequest{forbidden}, codes.Unimplemented},
		"no status":                       {"s3", []*extprocv3.ProcessingRequest{answered(t, buffered, false, attributes)}, codes.InvalidArgument},
		"odd status":                      {"s3", []*extprocv3.ProcessingRequest{answered(t, buffered, false, attributes, ":status", "4o3")}, codes.InvalidArgument},
		"headers instead of the body":     {"s3", []*extprocv3.ProcessingRequest{forbidden, get("/a")}, codes.InvalidArgument},
		"end instead of the body":         {"s3", []*extprocv3.ProcessingRequest{forbidden}, codes.Aborted},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, dial(c.authority))
			for i, m := range c.messages {
				if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if i+1 < len(c.messages) || c.code == codes.Aborted {
					if _, err := s.Recv(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Recv(); got != nil || status.Code(err) != c.code {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestReviewGuard(t *testing.T) {
	var log safeBuffer
	p := reviewing{script{decide: echo}, func(a *extproc.Answer) *extproc.Refusal { panic("topsecret " + a.Sent("authorization")) }}
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": p}, extproc.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 2 { // and it goes on serving
		got, err := ask(t, dial("s3"), answered(t, none, false, attributes, ":status", "401"))
		if err != nil {
			t.Fatal(err)
		}
		if r := got.GetImmediateResponse(); r.GetStatus().GetCode() != 503 || string(r.GetBody()) != "not now" {
			t.Errorf("%v", got)
		}
	}
	if s := log.String(); strings.Contains(s, "secret") {
		t.Errorf("logged: %s", s)
	}
}
