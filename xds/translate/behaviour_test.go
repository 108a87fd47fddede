package translate_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"strings"
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
