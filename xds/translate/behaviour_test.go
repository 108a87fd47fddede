package translate_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	configv1 "keybridge/xds/config/v1"
)

// wantError checks that a response is an error in the protocol's own form.
func wantError(t *testing.T, p configv1.Protocol, resp *http.Response, body string, status int, code string) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d; body %q", resp.StatusCode, status, body)
	}
	got, contentType := "", ""
	switch p {
	case configv1.Protocol_S3:
		contentType = "application/xml"
		var e struct {
			XMLName       xml.Name `xml:"Error"`
			Code, Message string
		}
		if err := xml.Unmarshal([]byte(body), &e); err != nil {
			t.Errorf("body %q: %v", body, err)
		}
		got = e.Code
	default:
		contentType = "application/json"
		var e struct {
			Error struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Errorf("body %q: %v", body, err)
		}
		got = e.Error.Code
	}
	if got != code {
		t.Errorf("code %q, want %q; body %q", got, code, body)
	}
	if types := resp.Header["Content-Type"]; len(types) != 1 || types[0] != contentType {
		t.Errorf("content types %q, want %q", types, contentType)
	}
}

var protocols = map[string]struct {
	protocol    configv1.Protocol
	unavailable string
	provider    string
}{
	"S3": {configv1.Protocol_S3, "ServiceUnavailable", "ServiceUnavailable"},
	"AI": {configv1.Protocol_AI, "service_unavailable", "provider_unavailable"},
}

const get = "GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n"

func TestFailsClosed(t *testing.T) {
	up := startProvider(t, "")
	b := startBridge(t, up.Endpoint)
	late := make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(late) }))
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			b.t = t
			for name, d := range map[string]decide{
				"stream closed cleanly": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) { return nil, nil },
				"stream failed": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					return nil, errors.New("broken")
				},
				"no cluster named": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					return headersResponse(), nil
				},
				"wrong kind of answer": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{}}, nil
				},
				"header that Envoy keeps for itself": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					return headersResponse(pair{"x-keybridge-cluster", up.Cluster()}, pair{"x-envoy-retry-on", "5xx"}), nil
				},
				"no answer in time": func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					<-late
					return headersResponse(pair{"x-keybridge-cluster", up.Cluster()}), nil
				},
			} {
				t.Run(name, func(t *testing.T) {
					b.onHeaders(d)
					resp, body := b.send(p.protocol, get)
					wantError(t, p.protocol, resp, body, 503, p.unavailable)
				})
			}
			t.Run("unknown cluster", func(t *testing.T) {
				b.onHeaders(func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					return headersResponse(pair{"x-keybridge-cluster", "ep-0"}), nil
				})
				resp, body := b.send(p.protocol, get)
				wantError(t, p.protocol, resp, body, 503, p.provider)
			})
			t.Run("client names the cluster", func(t *testing.T) {
				seen := 0
				b.onHeaders(func(_ string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
					for _, v := range h.GetHeaders().GetHeaders() {
						if strings.HasPrefix(v.GetKey(), "x-keybridge-") || strings.HasPrefix(v.GetKey(), "x-envoy-") {
							seen++
						}
					}
					return nil, nil
				})
				resp, body := b.send(p.protocol, "GET / HTTP/1.1\r\nHost: x\r\nX-Keybridge-Cluster: "+up.Cluster()+
					"\r\nx-keybridge-other: 1\r\nx-envoy-retry-on: 5xx\r\n\r\n")
				wantError(t, p.protocol, resp, body, 503, p.unavailable)
				if seen != 0 {
					t.Errorf("the bridge saw %d reserved headers", seen)
				}
			})
		})
	}
	b.extproc.Stop()
	for name, p := range protocols {
		t.Run(name+" bridge gone", func(t *testing.T) {
			b.t = t
			resp, body := b.send(p.protocol, get)
			wantError(t, p.protocol, resp, body, 503, p.unavailable)
		})
	}
	if got := up.requests(); len(got) != 0 {
		t.Errorf("the provider was called: %q", got)
	}
}

// The bridge's own refusals must reach the client as they are.
func TestImmediateResponsePasses(t *testing.T) {
	b := startBridge(t)
	for _, status := range []typev3.StatusCode{400, 403, 404, 408, 413, 503} {
		b.onHeaders(func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
			r := headersResponse(pair{"content-type", "application/x-bridge"}).GetRequestHeaders().GetResponse().GetHeaderMutation()
			r.RemoveHeaders = nil
			return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
				ImmediateResponse: &extprocv3.ImmediateResponse{
					Status: &typev3.HttpStatus{Code: status}, Headers: r, Body: []byte("the bridge's words"),
				},
			}}, nil
		})
		resp, body := b.send(configv1.Protocol_S3, get)
		if resp.StatusCode != int(status) || body != "the bridge's words" || resp.Header.Get("Content-Type") != "application/x-bridge" {
			t.Errorf("status %d: got %d %q %q", status, resp.StatusCode, resp.Header["Content-Type"], body)
		}
	}
}

func TestForwardsWhatClientSent(t *testing.T) {
	up := startProvider(t, "")
	b := startBridge(t, up.Endpoint)
	for name, path := range map[string]string{
		"double slash":       "/bucket//a//b",
		"dots":               "/bucket/./a/../b/.",
		"leading dots":       "/../bucket/a",
		"escaped slash":      "/bucket/a%2Fb%2f%5C",
		"escaped dots":       "/bucket/%2e%2E/a",
		"query":              "/bucket/a?list-type=2&prefix=a%2Fb&x&y=",
		"plus and specials":  "/bucket/a+b%20c;d,e:f@g!$'()*~",
		"non-ASCII, escaped": "/bucket/%C3%A4",
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			seen := ""
			b.onHeaders(func(a string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
				seen, _ = header(h, ":path")
				return forwardTo(up.Endpoint)(a, h)
			})
			before := len(up.requests())
			resp, body := b.send(configv1.Protocol_S3, "GET "+path+" HTTP/1.1\r\nHost: x:9\r\n\r\n")
			if resp.StatusCode != 200 || body != "ok" {
				t.Fatalf("got %d %q", resp.StatusCode, body)
			}
			if seen != path {
				t.Errorf("the bridge saw %q, want %q", seen, path)
			}
			heads := up.requests()[before:]
			if len(heads) != 1 || !strings.HasPrefix(heads[0], "GET "+path+" HTTP/1.1\r\n") {
				t.Errorf("the provider saw %q, want path %q", heads, path)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	up := startProvider(t, "")
	b := startBridge(t, up.Endpoint)
	var seen map[string][]string
	b.onHeaders(func(a string, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
		seen = make(map[string][]string)
		for _, v := range h.GetHeaders().GetHeaders() {
			seen[v.GetKey()] = append(seen[v.GetKey()], string(v.GetRawValue()))
		}
		return forwardTo(up.Endpoint)(a, h)
	})
	resp, _ := b.send(configv1.Protocol_S3, "PUT /b/k HTTP/1.1\r\nHost: signed.example:8080\r\nAuthorization: secret\r\n"+
		"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nVia: 1.1 mine\r\n"+
		"x-amz-meta-under_score: a\r\nX-Amz-Meta-List: a\r\nX-Amz-Meta-List: b\r\nx-envoy-max-retries: 3\r\n"+
		"User-Agent: test\r\nAccept-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello")
	if got := resp.Header.Get("Server"); got != "provider" {
		t.Errorf("server header %q, want the provider's", got)
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "X-") {
			t.Errorf("the response got header %s", name)
		}
	}
	for name, want := range map[string]string{
		":authority":             "signed.example:8080",
		"x-forwarded-for":        "127.0.0.1",
		"x-forwarded-proto":      "https",
		"x-request-id":           "mine",
		"via":                    "1.1 mine",
		"x-amz-meta-under_score": "a",
		"user-agent":             "test",
		"accept-encoding":        "gzip",
		"content-length":         "5",
		"x-amz-meta-list":        "a b",
	} {
		if got := strings.Join(seen[name], " "); got != want {
			t.Errorf("the bridge saw %s %q, want %q", name, got, want)
		}
	}
	heads := up.requests()
	if len(heads) != 1 {
		t.Fatalf("the provider saw %d requests", len(heads))
	}
	head := strings.ToLower(heads[0])
	for _, want := range []string{"\r\ncontent-length: 5\r\n", "\r\nx-forwarded-for: 127.0.0.1\r\n", "\r\nx-request-id: mine\r\n"} {
		if !strings.Contains(head, want) {
			t.Errorf("the provider did not see %q in %q", want, head)
		}
	}
	for _, not := range []string{"x-keybridge", "x-envoy", "x-forwarded-proto", "secret", "transfer-encoding", "signed.example"} {
		if strings.Contains(head, not) {
			t.Errorf("the provider saw %q in %q", not, head)
		}
	}

	// What the SDKs of AI providers send a lot of is not worth a copy per request.
	b.send(configv1.Protocol_AI, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"+
		"User-Agent: test\r\nX-Stainless-Lang: go\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	for _, name := range []string{"authorization", "content-type", ":path", ":method"} {
		if len(seen[name]) != 1 {
			t.Errorf("the bridge saw %s %q", name, seen[name])
		}
	}
	for _, name := range []string{"user-agent", "x-stainless-lang"} {
		if len(seen[name]) != 0 {
			t.Errorf("the bridge saw %s", name)
		}
	}
	if head := up.requests()[1]; !strings.Contains(head, "x-stainless-lang: go\r\n") {
		t.Errorf("the provider did not see all headers: %q", head)
	}
}

// One provider error is one provider call: a repeated chat is billed twice.
func TestNoRetries(t *testing.T) {
	up := startProvider(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
	b := startBridge(t, up.Endpoint)
	b.onHeaders(forwardTo(up.Endpoint))
	resp, body := b.send(configv1.Protocol_AI, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-envoy-retry-on: 5xx\r\n"+
		"x-envoy-max-retries: 3\r\nX-Forwarded-For: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}")
	if resp.StatusCode != 503 || body != "busy" {
		t.Errorf("got %d %q, want the provider's answer", resp.StatusCode, body)
	}
	if n := len(up.requests()); n != 1 {
		t.Errorf("the provider was called %d times", n)
	}
}

func TestRedirects(t *testing.T) {
	const to = "Location: https://elsewhere.example/\r\nSet-Cookie: a=b\r\nX-Other: c\r\n"
	for name, c := range map[string]struct {
		reply  string
		status int
		code   string
	}{
		"body":            {"307 Temporary Redirect\r\n" + to + "Content-Length: 4\r\n\r\nmove", 502, "provider_redirect"},
		"no body":         {"301 Moved Permanently\r\n" + to + "Content-Length: 0\r\n\r\n", 502, "provider_redirect"},
		"chunks":          {"308 Permanent Redirect\r\n" + to + "Transfer-Encoding: chunked\r\n\r\n4\r\nmove\r\n4\r\nmove\r\n0\r\n\r\n", 502, "provider_redirect"},
		"compressed":      {"302 Found\r\n" + to + "Content-Encoding: gzip\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nmove", 502, "provider_redirect"},
		"not modified":    {"304 Not Modified\r\nEtag: x\r\n\r\n", 502, "provider_redirect"},
		"more than fits":  {"307 Temporary Redirect\r\n" + to + "Content-Length: 3000000\r\n\r\n" + strings.Repeat("x", 3_000_000), 503, "service_unavailable"},
		"not a redirect":  {"299 Fine\r\n" + to + "Content-Length: 4\r\n\r\nmove", 299, ""},
		"not one, either": {"400 Bad Request\r\n" + to + "Content-Length: 4\r\n\r\nmove", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			up := startProvider(t, "HTTP/1.1 "+c.reply)
			b := startBridge(t, up.Endpoint)
			b.onHeaders(forwardTo(up.Endpoint))
			resp, body := b.send(configv1.Protocol_AI, get)
			if c.code == "" {
				if resp.StatusCode != c.status || body != "move" || resp.Header.Get("X-Other") != "c" {
					t.Errorf("got %d %q %v, want the provider's answer", resp.StatusCode, body, resp.Header)
				}
				return
			}
			wantError(t, configv1.Protocol_AI, resp, body, c.status, c.code)
			for _, gone := range []string{"Location", "Set-Cookie", "X-Other", "Content-Encoding", "Etag"} {
				if got := resp.Header.Get(gone); got != "" {
					t.Errorf("%s %q passed", gone, got)
				}
			}
			if c.status == 502 && resp.ContentLength != int64(len(body)) {
				t.Errorf("content-length %d of %d bytes", resp.ContentLength, len(body))
			}
			if strings.Contains(b.log.String(), "lua") {
				t.Errorf("the script failed: %s", b.log)
			}
		})
	}
	t.Run("S3", func(t *testing.T) {
		up := startProvider(t, "HTTP/1.1 307 Temporary Redirect\r\n"+to+"Content-Length: 4\r\n\r\nmove")
		b := startBridge(t, up.Endpoint)
		b.onHeaders(forwardTo(up.Endpoint))
		resp, body := b.send(configv1.Protocol_S3, get)
		if resp.StatusCode != 307 || body != "move" {
			t.Errorf("got %d %q, want the provider's answer", resp.StatusCode, body)
		}
	})
}

func TestEnvoysOwnRefusals(t *testing.T) {
	b := startBridge(t)
	b.onHeaders(func(string, *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) { return nil, nil })
	for name, c := range map[string]struct {
		raw    string
		status int
		s3, ai string
	}{
		"no host":       {"GET / HTTP/1.1\r\n\r\n", 400, "InvalidRequest", "bad_request"},
		"HTTP/1.0":      {"GET / HTTP/1.0\r\n\r\n", 426, "InvalidRequest", "invalid_request"},
		"upgrade":       {"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "AccessDenied", "forbidden"},
		"large headers": {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", 431, "RequestHeaderSectionTooLarge", "headers_too_large"},
		"two lengths":   {"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "InvalidRequest", "bad_request"},
		"connect":       {"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 404, "InvalidRequest", "invalid_request"},
		"star":          {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, "InvalidRequest", "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			resp, body := b.send(configv1.Protocol_S3, c.raw)
			wantError(t, configv1.Protocol_S3, resp, body, c.status, c.s3)
			resp, body = b.send(configv1.Protocol_AI, c.raw)
			wantError(t, configv1.Protocol_AI, resp, body, c.status, c.ai)
		})
	}
}

// An answer whose body ends with the connection may lack its end. What AI providers send
// says itself where it ends.
func TestUnframedAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		method, head string
		s3           int
		body         string
	}{
		"no length":        {"GET", "200 OK\r\n\r\n", 502, ""},
		"a part, likewise": {"GET", "206 Partial Content\r\n\r\n", 502, ""},
		"length":           {"GET", "200 OK\r\nContent-Length: 4\r\n\r\n", 200, "body"},
		"chunks":           {"GET", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n", 200, "body"},
		"no content":       {"GET", "204 No Content\r\n\r\n", 204, ""},
		"HEAD":             {"HEAD", "200 OK\r\n\r\n", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reply := "HTTP/1.1 " + c.head
			if c.body != "" || c.s3 == 502 {
				reply += "body"
			}
			if strings.Contains(c.head, "chunked") {
				reply += "\r\n0\r\n\r\n"
			}
			up := startProvider(t, reply)
			up.close = true
			b := startBridge(t, up.Endpoint)
			b.onHeaders(forwardTo(up.Endpoint))
			raw := c.method + " /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n"
			resp, body := b.send(configv1.Protocol_S3, raw)
			if c.s3 == 502 {
				wantError(t, configv1.Protocol_S3, resp, body, 502, "ServiceUnavailable")
				resp, body = b.send(configv1.Protocol_AI, raw)
				if body != "body" {
					t.Errorf("AI: %d %q", resp.StatusCode, body)
				}
			} else if resp.StatusCode != c.s3 || body != c.body {
				t.Errorf("got %d %q", resp.StatusCode, body)
			}
		})
	}
}

// Nobody asked to switch protocols (RFC 9110 §15.2.2).
func TestSwitchedProtocols(t *testing.T) {
	up := startProvider(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")
	b := startBridge(t, up.Endpoint)
	b.onHeaders(forwardTo(up.Endpoint))
	for _, p := range protocols {
		resp, body := b.send(p.protocol, get)
		wantError(t, p.protocol, resp, body, 502, p.provider)
		if got := resp.Header.Get("Upgrade"); got != "" {
			t.Errorf("upgrade %q passed", got)
		}
	}
}
