package extproc

import (
	"strconv"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// exchange is the memory of one request and its answer. gRPC has the answer
// encoded when Send returns, so that all of it can be used again.
type exchange struct {
	request Request

	common    extprocv3.CommonResponse
	forwardTo extprocv3.ProcessingResponse
	immediate extprocv3.ImmediateResponse
	refused   extprocv3.ProcessingResponse
	mutation  extprocv3.HeaderMutation
	lines     []*corev3.HeaderValueOption // each with its HeaderValue, kept
	used      int
}

var exchanges = sync.Pool{New: func() any { return newExchange() }}

func newExchange() *exchange {
	x := &exchange{}
	x.common.HeaderMutation = &x.mutation
	// The route was chosen before ClusterHeader existed.
	x.common.ClearRouteCache = true
	x.forwardTo.Response = &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: &x.common},
	}
	x.immediate.Headers = &x.mutation
	x.immediate.Status = &typev3.HttpStatus{}
	x.refused.Response = &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &x.immediate}
	return x
}

// release forgets everything of the request; bearer values are wiped with the
// request's decision.
func (x *exchange) release() {
	for _, l := range x.lines[:x.used] {
		l.Header.Key, l.Header.RawValue = "", nil
	}
	x.used = 0
	x.mutation.SetHeaders, x.mutation.RemoveHeaders = nil, nil
	x.immediate.Body, x.immediate.Details = nil, ""
	x.request.reset()
	exchanges.Put(x)
}

// set adds one header to the answer, as raw_value and without copying.
func (x *exchange) set(name, value string) {
	if x.used == len(x.lines) {
		x.lines = append(x.lines, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	h := x.lines[x.used].GetHeader()
	h.Key, h.RawValue = name, bytesOf(value)
	x.used++
}

// forward is the answer by which a request goes on; once says that it is not to be
// tried again.
func (x *exchange) forward(d *Decision, once bool) *extprocv3.ProcessingResponse {
	x.set(ClusterHeader, d.Cluster)
	if once {
		x.set(OnceHeader, "1")
	}
	x.set(":authority", d.Authority)
	if d.Path != "" {
		x.set(":path", d.Path)
	}
	for i := range d.Set {
		x.set(d.Set[i].Name, d.Set[i].Value)
	}
	if d.Body != nil {
		x.set("content-length", strconv.Itoa(len(d.Body)))
	}
	x.mutation.SetHeaders = x.lines[:x.used]
	x.mutation.RemoveHeaders = d.Remove
	return &x.forwardTo
}

// refuseOn refuses on a stream, beside whatever its call's exchange holds.
func refuseOn(stream extprocv3.ExternalProcessor_ProcessServer, e *Error) error {
	x := exchanges.Get().(*exchange)
	defer x.release()
	return stream.Send(x.refuse(e))
}

func (x *exchange) refuse(e *Error) *extprocv3.ProcessingResponse {
	if e.ContentType != "" {
		x.set("content-type", e.ContentType)
	}
	for i := range e.Headers {
		x.set(e.Headers[i].Name, e.Headers[i].Value)
	}
	x.mutation.SetHeaders = x.lines[:x.used]
	x.immediate.Status.Code = typev3.StatusCode(e.Status)
	x.immediate.Body = e.Body
	x.immediate.Details = e.Reason
	return &x.refused
}
