package translate_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/translate"
)

// soon is what the tests wait for instead of minutes.
const soon = 300 * time.Millisecond

// impatient renders the input with timeouts that end soon.
func impatient(t *testing.T, in translate.Input) translate.Resources {
	t.Helper()
	r, problems := translate.Render(in)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, l := range r.LDS {
		filter := l.(*listenerv3.Listener).GetFilterChains()[0].GetFilters()[0]
		m := &hcmv3.HttpConnectionManager{}
		if err := filter.GetTypedConfig().UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		m.StreamIdleTimeout, m.CommonHttpProtocolOptions.IdleTimeout, m.RequestHeadersTimeout = durationpb.New(soon), durationpb.New(soon), durationpb.New(soon)
		packed, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
	}
	return r
}

// Silence ends a request: of the provider before and within its answer, of the client
// within its headers, its body, and between requests.
func TestSilence(t *testing.T) {
	silent := listenSilently(t)
	half := startProvider(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	b, in := prepareBridge(t, silent, half.Endpoint)
	b.set(impatient(t, in))
	b.start()
	for name, p := range protocols {
		t.Run(name, func(t *testing.T) {
			b.t = t
			timeout := map[configv1.Protocol]string{configv1.Protocol_S3: "RequestTimeout", configv1.Protocol_AI: "request_timeout"}[p.protocol]

			b.onHeaders(forwardTo(silent))
			resp, body := b.send(p.protocol, get)
			wantError(t, p.protocol, resp, body, 504, p.provider)
			resp, body = b.send(p.protocol, "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
			wantError(t, p.protocol, resp, body, 408, timeout)
			resp, body = b.send(p.protocol, "GET /b/k HTTP/1.1\r\nHost: x\r\nX-A:")
			wantError(t, p.protocol, resp, body, 408, timeout)

			b.onHeaders(forwardTo(half.Endpoint))
			c := b.dial(p.protocol)
			if _, err := io.WriteString(c, get); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got, err := io.ReadAll(resp.Body); string(got) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %q, %v", got, err)
			}

			c = b.dial(p.protocol)
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("an idle connection: %d, %v", n, err)
			}
		})
	}
}

// listenSilently is an endpoint that takes connections and says nothing.
func listenSilently(t *testing.T) translate.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return translate.Endpoint{Scheme: "http", Host: "127.0.0.1", Port: uint16(l.Addr().(*net.TCPAddr).Port)}
}

func (b *bridge) dial(p configv1.Protocol) net.Conn {
	b.t.Helper()
	c, err := net.Dial("tcp", b.listen[p])
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	return c
}
