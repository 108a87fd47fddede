package translate_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// review is an answer of a provider that the bridge was shown.
type review struct {
	Authority  string
	Headers    map[string]string
	Attributes map[string]string
	Body       string
	NoBody     bool
}

// review keeps what it is shown, and answers as the test says.
func (b *bridge) review(authority string, req *extprocv3.ProcessingRequest, stream extprocv3.ExternalProcessor_ProcessServer) error {
	r := &review{Authority: authority, Headers: map[string]string{}, Attributes: map[string]string{}}
	for _, h := range req.GetResponseHeaders().GetHeaders().GetHeaders() {
		r.Headers[h.GetKey()] += string(h.GetRawValue())
	}
	for name, v := range req.GetAttributes()["envoy.filters.http.ext_proc"].GetFields() {
		r.Attributes[name] = v.GetStringValue()
	}
	if b.failing != nil {
		return b.failing()
	}
	r.NoBody = req.GetResponseHeaders().GetEndOfStream()
	pass := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}}
	if req.GetProtocolConfig().GetResponseBodyMode() != 0 && !r.NoBody {
		if err := stream.Send(pass); err != nil {
			return err
		}
		body, err := stream.Recv()
		if err != nil {
			return err
		}
		r.Body = string(body.GetResponseBody().GetBody())
		pass = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}}
	}
	b.mu.Lock()
	b.reviews = append(b.reviews, r)
	instead := b.instead
	b.mu.Unlock()
	if instead != nil {
		pass = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: instead}}
	}
	return stream.Send(pass)
}

// reviewed are the answers that the bridge was shown since this was asked last.
func (b *bridge) reviewed() []*review {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.reviews
	b.reviews = nil
	return r
}

func (b *bridge) replace(r *extprocv3.ImmediateResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.instead = r
}

var replaced = &extprocv3.ImmediateResponse{
	Status:  &typev3.HttpStatus{Code: 503},
	Headers: headersResponse(pair{"content-type", "application/x-bridge"}).GetRequestHeaders().GetResponse().GetHeaderMutation(),
	Body:    []byte("the bridge's words"),
}

func gzipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

// The bridge is shown the answers that may be refusals of its own credential, whole,
// and no other; the client gets what the bridge says, or the answer as it came.
func TestReview(t *testing.T) {
	const (
		marks  = "Server: provider\r\nX-Amz-Request-Id: of the provider\r\n"
		denied = "<Error><Code>SignatureDoesNotMatch</Code></Error>"
	)
	sized := func(status, body string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, marks, len(body), body)
	}
	for name, c := range map[string]struct {
		method, reply string
		s3, ai        bool   // the bridge sees it
		body          string // that the client gets if it passes
		encoding      string
	}{
		"200":           {reply: sized("200 OK", "fine"), body: "fine"},
		"204":           {reply: "HTTP/1.1 204 No Content\r\n" + marks + "\r\n"},
		"206":           {reply: sized("206 Partial Content", "fi"), body: "fi"},
		"400":           {reply: sized("400 Bad Request", denied), s3: true, body: denied},
		"401":           {reply: sized("401 Unauthorized", denied), s3: true, ai: true, body: denied},
		"403":           {reply: sized("403 Forbidden", denied), s3: true, body: denied},
		"404":           {reply: sized("404 Not Found", denied), body: denied},
		"409":           {reply: sized("409 Conflict", denied), body: denied},
		"412":           {reply: sized("412 Precondition Failed", denied), body: denied},
		"500":           {reply: sized("500 Internal Server Error", denied), body: denied},
		"503":           {reply: sized("503 Slow Down", denied), body: denied},
		"empty":         {reply: sized("403 Forbidden", ""), s3: true},
		"HEAD":          {method: "HEAD", reply: "HTTP/1.1 403 Forbidden\r\n" + marks + "Content-Length: 17\r\n\r\n", s3: true},
		"HEAD with 401": {method: "HEAD", reply: "HTTP/1.1 401 Unauthorized\r\n" + marks + "\r\n", s3: true, ai: true},
		"chunks":        {reply: "HTTP/1.1 403 Forbidden\r\n" + marks + "Transfer-Encoding: chunked\r\n\r\n7\r\n<Error>\r\n8\r\n</Error>\r\n0\r\n\r\n", s3: true, body: "<Error></Error>"},
		"until closed":  {reply: "HTTP/1.1 403 Forbidden\r\n" + marks + "Connection: close\r\n\r\n" + denied, s3: true, body: denied},
		"HTTP/1.0":      {reply: "HTTP/1.0 403 Forbidden\r\n" + marks + "\r\n" + denied, s3: true, body: denied},
		"encoded":       {reply: fmt.Sprintf("HTTP/1.1 403 Forbidden\r\n%sContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", marks, len(gzipped(denied)), gzipped(denied)), s3: true, body: gzipped(denied), encoding: "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			up := startProvider(t, c.reply)
			up.close = strings.Contains(c.reply, "Connection: close") || strings.HasPrefix(c.reply, "HTTP/1.0")
			b := startBridge(t, up.Endpoint)
			b.onHeaders(forwardTo(up.Endpoint))
			method := c.method
			if method == "" {
				method = "GET"
			}
			raw := method + " /bucket/key?a=b HTTP/1.1\r\nHost: x\r\nX-Api-Key: k\r\n\r\n"
			for protocol, sees := range map[configv1.Protocol]bool{configv1.Protocol_S3: c.s3, configv1.Protocol_AI: c.ai} {
				b.replace(nil)
				resp, body := b.send(protocol, raw)
				status := c.reply[len("HTTP/1.1 "):][:3]
				if fmt.Sprint(resp.StatusCode) != status || body != c.body || resp.Header.Get("Server") != "provider" || resp.Header.Get("X-Amz-Request-Id") != "of the provider" {
					t.Errorf("%v: got %d %q %v, want the provider's answer", protocol, resp.StatusCode, body, resp.Header)
				}
				if length := resp.Header.Get("Content-Length"); length == "" != !strings.Contains(c.reply, "Content-Length: ") {
					t.Errorf("%v: content-length %q", protocol, length)
				}
				seen := b.reviewed()
				if !sees {
					if len(seen) != 0 {
						t.Errorf("%v: the bridge was shown %+v", protocol, seen)
					}
					continue
				}
				want := &review{
					Authority: strings.ToLower(protocol.String()), Headers: map[string]string{":status": status},
					Attributes: map[string]string{"xds.cluster_name": up.Cluster(), "request.method": method, "request.path": "/bucket/key?a=b"},
					NoBody:     method == "HEAD" || c.body == "",
				}
				if protocol == configv1.Protocol_S3 {
					want.Body = c.body
				} else {
					want.Attributes["request.headers['x-api-key']"] = "k"
				}
				if c.encoding != "" {
					want.Headers["content-encoding"] = c.encoding
				}
				if diff := cmp.Diff([]*review{want}, seen); diff != "" {
					t.Errorf("%v: the bridge was shown (-want +got):\n%s", protocol, diff)
				}

				b.replace(replaced)
				resp, body = b.send(protocol, raw)
				words := string(replaced.Body)
				if method == "HEAD" {
					words = ""
				}
				if resp.StatusCode != 503 || body != words || resp.Header.Get("Content-Type") != "application/x-bridge" {
					t.Errorf("%v: got %d %q, want the bridge's answer", protocol, resp.StatusCode, body)
				}
				for _, gone := range []string{"Server", "X-Amz-Request-Id", "Content-Encoding"} {
					if v := resp.Header.Get(gone); v != "" {
						t.Errorf("%v: %s %q of the provider passed", protocol, gone, v)
					}
				}
				b.reviewed()
			}
		})
	}
}

// What the bridge answers itself, and what Envoy does, is not the provider's.
func TestOwnAnswersAreNotReviewed(t *testing.T) {
	b := startBridge(t)
	b.replace(replaced)
	for _, status := range []typev3.StatusCode{400, 401, 403} {
		b.onHeaders(func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
			return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
				ImmediateResponse: &extprocv3.ImmediateResponse{Status: &typev3.HttpStatus{Code: status}, Body: []byte("mine")},
			}}, nil
		})
		for _, p := range protocols {
			if resp, body := b.send(p.protocol, get); resp.StatusCode != int(status) || body != "mine" {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
		}
	}
	for _, raw := range []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"} {
		b.send(configv1.Protocol_S3, raw)
	}
	if seen := b.reviewed(); len(seen) != 0 {
		t.Errorf("the bridge was shown %+v", seen)
	}
}

// An answer that cannot be reviewed does not pass.
func TestReviewFailsClosed(t *testing.T) {
	const leak = "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nleak"
	long := strings.Repeat("x", 3_000_000)
	never := make(chan struct{})
	for name, c := range map[string]struct {
		reply  string
		review func() error
		status int
	}{
		"bridge fails":              {leak, func() error { return errors.New("broken") }, 503},
		"no answer in time":         {leak, func() error { <-never; return nil }, 503},
		"longer than fits":          {fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\nleak%s", len(long)+4, long), nil, 503},
		"longer than fits, chunked": {fmt.Sprintf("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\nleak%s\r\n0\r\n\r\n", len(long)+4, long), nil, 503},
		"cut off":                   {"HTTP/1.1 403 Forbidden\r\nContent-Length: 400\r\n\r\nleak", nil, 502},
	} {
		t.Run(name, func(t *testing.T) {
			up := startProvider(t, c.reply)
			up.close = name == "cut off"
			b := startBridge(t, up.Endpoint)
			if name == "no answer in time" {
				t.Cleanup(func() { close(never) }) // before the servers stop
			}
			b.onHeaders(forwardTo(up.Endpoint))
			b.failing = c.review
			resp, body := b.send(configv1.Protocol_S3, get)
			wantError(t, configv1.Protocol_S3, resp, body, c.status, "ServiceUnavailable")
			if strings.Contains(body, "leak") {
				t.Error("it passed")
			}
		})
	}
}

// A provider that refuses before it has read the body is answered for at once, and what
// the client still sends goes nowhere.
func TestReviewDuringUpload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}
	b := startBridge(t, e)
	b.onHeaders(forwardTo(e))
	b.replace(replaced)
	c, err := net.Dial("tcp", b.listen[configv1.Protocol_S3])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "PUT /bucket/key HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nsome of it"); err != nil {
		t.Fatal(err)
	}
	up, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	r := bufio.NewReader(up)
	if _, err := http.ReadRequest(r); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(up, "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nleak"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 503 || string(body) != string(replaced.Body) {
		t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
	}
	if rest, err := io.ReadAll(r); err == nil && len(rest) > len("some of it") {
		t.Errorf("the provider got %d bytes", len(rest))
	}
}
