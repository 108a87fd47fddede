package provider_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
)

// sink is a TCP server that keeps what it receives and answers each connection
// with one fixed text once the client has stopped sending.
func sink(t *testing.T, answer string) (dial func(context.Context) (net.Conn, error), received <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			got <- string(b)
			_, _ = io.WriteString(c, answer)
			c.Close()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}, got
}

func record(t *testing.T, config provider.RecorderConfig) *provider.Recorder {
	t.Helper()
	r, err := provider.Record(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// send writes text in pieces of step bytes, and returns the answer.
func send(t *testing.T, addr, text string, step int) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetNoDelay(true); err != nil {
		t.Fatal(err)
	}
	for rest := text; rest != ""; {
		n := min(step, len(rest))
		if _, err := io.WriteString(c, rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRecorderForwardsEveryByte(t *testing.T) {
	const traffic = "PUT /b/a//b/../%2e%2E/%C3%a9?x=%20&y HTTP/1.1\r\nHost: s3.example:81\r\nX-Odd:  two  spaces \r\nX-Odd: again\r\nContent-Length: 5\r\n\r\nhello" +
		"POST /chunks HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\r\n\r\n4;chunk-signature=ab\r\nwiki\r\n10\r\n0123456789abcdef\r\n0\r\nx-amz-trailer: v\r\n\r\n" +
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	want := []provider.Request{
		{
			Method: "PUT", Target: "/b/a//b/../%2e%2E/%C3%a9?x=%20&y", Proto: "HTTP/1.1", Body: 5, Complete: true,
			Header: []provider.Field{{"Host", "s3.example:81"}, {"X-Odd", "two  spaces"}, {"X-Odd", "again"}, {"Content-Length", "5"}},
		},
		{
			Method: "POST", Target: "/chunks", Proto: "HTTP/1.1", Body: 20, Chunked: true, Complete: true,
			Header:  []provider.Field{{"host", "h"}, {"Transfer-Encoding", "chunked"}},
			Trailer: []provider.Field{{"x-amz-trailer", "v"}},
		},
		{Method: "GET", Target: "/", Proto: "HTTP/1.1", Complete: true, Header: []provider.Field{{"Host", "h"}}},
	}
	for _, step := range []int{1, 3, 16, len(traffic)} {
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			dial, received := sink(t, "bye")
			r := record(t, provider.RecorderConfig{Dial: dial})
			if got := send(t, r.Addr(), traffic, step); got != "bye" {
				t.Errorf("answer %q", got)
			}
			if diff := cmp.Diff(traffic, <-received); diff != "" {
				t.Errorf("bytes altered: %s", diff)
			}
			if diff := cmp.Diff(want, r.Requests(), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			conns, in, out := r.Traffic()
			if conns != 1 || in != int64(len(traffic)) || out != 3 {
				t.Errorf("traffic %d %d %d", conns, in, out)
			}
			r.Reset()
			if n := len(r.Requests()); n != 0 {
				t.Errorf("%d requests after Reset", n)
			}
		})
	}
}

func TestRecorderNamesWhatIsNoRequest(t *testing.T) {
	for name, text := range map[string]string{
		"not HTTP":       "\x16\x03\x01\x02\n",
		"bare LF":        "GET / HTTP/1.1\nHost: h\n\n",
		"no version":     "GET /\r\n\r\n",
		"two lengths":    "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"length+chunked": "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"signed length":  "PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
		"space in name":  "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
		"bad chunk size": "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
		"chunk overruns": "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			dial, received := sink(t, "")
			r := record(t, provider.RecorderConfig{Dial: dial})
			send(t, r.Addr(), text, len(text))
			if got := <-received; got != text {
				t.Errorf("forwarded %q", got)
			}
			got := r.Requests()
			if len(got) != 1 || got[0].Malformed == "" {
				t.Errorf("recorded %+v", got)
			}
		})
	}
}

func TestRecorderFindsForbiddenSecrets(t *testing.T) {
	var set leak.Set
	set.Add("up", "secret-of-the-request")
	set.Add("down", "secret-of-the-answer")
	dial, received := sink(t, "HTTP/1.1 200 OK\r\nX: secret-of-the-answer\r\n\r\n")
	r := record(t, provider.RecorderConfig{Dial: dial, Forbidden: &set})
	send(t, r.Addr(), "GET / HTTP/1.1\r\nAuthorization: secret-of-the-request\r\n\r\n", 9)
	<-received
	if diff := cmp.Diff([]string{"up (plain)", "down (plain)"}, r.Leaks()); diff != "" {
		t.Error(diff)
	}
}

func TestRecorderServesTLS(t *testing.T) {
	config, ca, err := provider.Certificate("127.0.0.1", "s3.example")
	if err != nil {
		t.Fatal(err)
	}
	o := openAI(t, provider.OpenAIConfig{Recorder: provider.RecorderConfig{TLS: config}})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c, err := tls.Dial("tcp", o.Addr(), &tls.Config{RootCAs: pool, ServerName: "s3.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fmt.Fprintf(c, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", o.Addr(), o.Key)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %s, violations %v", res.Status, o.Violations())
	}
	if got := o.Requests(); len(got) != 1 || got[0].ServerName != "s3.example" {
		t.Errorf("recorded %+v", got)
	}
	if !strings.HasPrefix(o.Endpoint(), "https://127.0.0.1:") {
		t.Error(o.Endpoint())
	}
}

// A fault stands between the server's answer and the client, or between the request and
// the server; without one all is as it was, on the same connection.
func TestRecorderFails(t *testing.T) {
	o := openAI(t, provider.OpenAIConfig{})
	c, err := net.Dial("tcp", o.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	ask := func() (*http.Response, error) {
		fmt.Fprintf(c, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", o.Addr(), o.Key)
		res, err := http.ReadResponse(r, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		return res, err
	}
	want := func(status int) {
		t.Helper()
		if res, err := ask(); err != nil || res.StatusCode != status {
			t.Fatal(res, err)
		}
	}
	want(http.StatusOK)
	o.Fail(&provider.Fault{Do: func(_ context.Context, c *net.TCPConn, answer *bufio.Reader) bool {
		res, err := http.ReadResponse(answer, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
		}
		if err != nil || res.StatusCode != http.StatusOK {
			t.Error(res, err)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")
		return true
	}})
	want(http.StatusTeapot)
	o.Fail(nil)
	want(http.StatusOK)
	o.Fail(&provider.Fault{Upload: 1, Do: func(_ context.Context, c *net.TCPConn, _ *bufio.Reader) bool {
		provider.Reset(c)
		return false
	}})
	if res, err := ask(); err == nil {
		t.Error("an answer after a reset: ", res.Status)
	}
	if n := len(o.Requests()); n != 4 {
		t.Errorf("%d requests recorded", n)
	}
}
