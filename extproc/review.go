package extproc

import (
	"strconv"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Answer is what a provider answered to a request that went on, with one of the
// statuses that Envoy is configured to show the bridge before the client.
type Answer struct {
	Status int
	// Cluster, Method and Path are of the request as it went to the provider.
	Cluster, Method, Path string
	// Body is all of the answer's body; nil if it has none, as those to HEAD, or if
	// Envoy is not configured to show it.
	Body []byte

	headers, sent map[string]string
}

// NewAnswer gives an answer its headers, and those of the request, for tests.
func NewAnswer(a Answer, headers, sent map[string]string) *Answer {
	a.headers, a.sent = headers, sent
	return &a
}

// Header is a header of the answer, empty if there is none or if Envoy is not
// configured to show it.
func (a *Answer) Header(name string) string { return a.headers[name] }

// Sent is a header of the request as it went to the provider, likewise.
func (a *Answer) Sent(name string) string { return a.sent[name] }

// Refusal is an answer with which a provider refuses, or may refuse, the credential
// that the bridge put on the request.
type Refusal struct {
	// Code is one of the Reviewer's RefusalCodes.
	Code string
	// Certain says that it is the credential; otherwise the answer does not tell.
	Certain bool
	// Instead is what the client gets.
	Instead *Error
	// Pass lets the client have the answer as it came, unless the credential is known
	// to be refused.
	Pass bool
	// KeyID and Bucket, or Secret, are whom the provider was asked for, as far as the
	// request shows.
	KeyID, Bucket, Secret string
}

// Reviewer is a Protocol that knows when a provider refuses the bridge's own
// credential. The client's is fine then, and the provider's words would tell the
// client of what it must not see.
type Reviewer interface {
	Protocol
	// Review returns nil for an answer that the client gets as it came. a is only lent.
	Review(a *Answer) *Refusal
	// RefusalCodes are all that a Refusal's Code may be.
	RefusalCodes() []string
}

// attributesOf is where Envoy puts the attributes that its filter is configured to send.
const attributesOf = "envoy.filters.http.ext_proc"

var (
	answerGoesOn = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{},
	}}
	answerBodyGoesOn = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
		ResponseBody: &extprocv3.BodyResponse{},
	}}
)

// review serves a stream that begins with the headers of a provider's answer. Envoy
// holds the answer meanwhile, and replaces it by a 503 of its own if the stream fails.
func (c *call) review(headers *extprocv3.HttpHeaders) error {
	reviewer, ok := c.protocol.(Reviewer)
	if !ok {
		return errFirst
	}
	a, err := answerOf(headers, c.message.any.GetAttributes()[attributesOf])
	if err != nil {
		return err
	}
	goOn := answerGoesOn
	if !headers.GetEndOfStream() && c.message.any.GetProtocolConfig().GetResponseBodyMode() != 0 {
		if err := c.stream.Send(answerGoesOn); err != nil {
			return err
		}
		if err := c.stream.RecvMsg(&c.message); err != nil {
			return errEnded
		}
		body := c.message.any.GetResponseBody()
		if body == nil {
			return errUnexpected
		}
		a.Body, goOn = body.GetBody(), answerBodyGoesOn
	}
	instead := c.server.review(reviewer, a)
	if instead == nil {
		return c.stream.Send(goOn)
	}
	return refuseOn(c.stream, instead)
}

// answerOf copies what it takes of a message.
func answerOf(headers *extprocv3.HttpHeaders, attributes *structpb.Struct) (*Answer, error) {
	a := &Answer{headers: map[string]string{}, sent: map[string]string{}}
	for _, h := range headers.GetHeaders().GetHeaders() {
		value := string(h.GetRawValue())
		if before, repeated := a.headers[h.GetKey()]; repeated {
			value = before + "," + value // RFC 9110 §5.3
		}
		a.headers[h.GetKey()] = value
	}
	var err error
	if a.Status, err = strconv.Atoi(a.headers[":status"]); err != nil {
		return nil, errNoStatus
	}
	for name, v := range attributes.GetFields() {
		switch value := v.GetStringValue(); name {
		case "xds.cluster_name":
			a.Cluster = value
		case "request.method":
			a.Method = value
		case "request.path":
			a.Path = value
		default: // request.headers['NAME']
			const before, after = "request.headers['", "']"
			if n := len(name) - len(after); n > len(before) && name[:len(before)] == before && name[n:] == after {
				a.sent[name[len(before):n]] = value
			}
		}
	}
	return a, nil
}

// review asks the protocol; whatever happens there, the client gets no more than it may.
func (s *Server) review(p Reviewer, a *Answer) (instead *Error) {
	defer func() {
		if v := recover(); v != nil {
			instead = s.panicked(p, v)
		}
	}()
	r := p.Review(a)
	if r == nil {
		return nil
	}
	known := s.opts.Refused != nil && s.opts.Refused(p.Name(), a.Cluster, r)
	if r.Pass && !known {
		return nil
	}
	if r.Instead == nil {
		return unavailable(p)
	}
	return r.Instead
}
