package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
)

// What a client has of a provider's fault.
const (
	whole = 0  // the answer as it was meant
	cut   = -1 // an answer that does not look whole, or none and no connection
	own   = -2 // the provider's own error

	notTried = -3
	// Any other is the status of an error in the protocol's own words.
)

// garbled is an answer that is not what the provider's server gave.
func garbled(text string) spoil {
	return func(s *spoilt) bool {
		s.send([]byte(text))
		return false
	}
}

// TestProviderFaults: a provider is slow, ends its connections, or answers what is no
// answer, while other applications work with other providers.
func TestProviderFaults(t *testing.T) {
	f := startFaulty(t)
	l := f.startLoad(t)
	f.spoilAnswers(t, l)
	f.failRequests(t, l)
	f.failHTTP2(t, l)
	l.end(t, "providers failed")
	f.scan(t)
}

func (f *faulty) spoilAnswers(t *testing.T, l *load) {
	for _, c := range []struct {
		name string
		want int
		do   spoil
	}{
		{"headers late", whole, func(s *spoilt) bool {
			err := f.others(s.ctx, l, 20)
			s.send(s.head, s.body)
			return err == nil
		}},
		{"headers in pieces", whole, func(s *spoilt) bool {
			for _, b := range s.head {
				s.send([]byte{b})
			}
			s.send(s.body)
			return true
		}},
		{"body pauses", whole, func(s *spoilt) bool {
			rest := s.half()
			err := f.others(s.ctx, l, 20)
			s.send(rest)
			return err == nil
		}},
		{"body trickles", whole, func(s *spoilt) bool {
			s.send(s.head)
			n := min(len(s.body), 1000)
			for _, b := range s.body[:n] {
				s.send([]byte{b})
			}
			s.send(s.body[n:])
			return true
		}},
		{"more headers than Envoy takes by default", whole, func(s *spoilt) bool {
			s.send(bytes.TrimSuffix(s.head, []byte("\r\n")))
			for i := range 120 {
				s.send(fmt.Appendf(nil, "X-Amz-Meta-%d: a\r\n", i))
			}
			s.send([]byte("\r\n"), s.body)
			return true
		}},
		{"100 Continue again and again", whole, func(s *spoilt) bool {
			s.send(bytes.Repeat([]byte("HTTP/1.1 100 Continue\r\n\r\n"), 20), s.head, s.body)
			return true
		}},
		{"half-closed after the answer", whole, func(s *spoilt) bool {
			s.cork() // the end comes with the last bytes: nobody can have taken the connection for a good one
			s.send(s.head, s.body)
			_ = s.to.CloseWrite()
			return true
		}},

		{"one more answer than was asked for", whole, func(s *spoilt) bool {
			s.cork()
			s.send(s.head, s.body, []byte("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nunasked-for"))
			s.uncork()
			return true
		}},

		{"closed before the answer", 503, func(s *spoilt) bool { return false }},
		{"half-closed before the answer", 503, func(s *spoilt) bool {
			_ = s.to.CloseWrite()
			<-s.ctx.Done()
			return false
		}},
		{"reset before the answer", 503, func(s *spoilt) bool { provider.Reset(s.to); return false }},
		{"closed within the headers", 502, func(s *spoilt) bool {
			s.send(s.head[:len(s.head)-3])
			return false
		}},
		{"another protocol", 502, garbled("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")},
		{"binary", 502, garbled(strings.Repeat("\x00\xff\x16\x03\x01", 1000))},
		{"HTML without a head", 502, garbled("<html><body>It works!</body></html>\n")},
		{"status in words", 502, garbled("HTTP/1.1 fine\r\nContent-Length: 0\r\n\r\n")},
		{"version of HTTP in words", 502, garbled("HTTP/one 200 OK\r\nContent-Length: 0\r\n\r\n")},
		{"header without a name", 502, garbled("HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n")},
		{"NUL in a header", 502, garbled("HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n")},
		{"length that is no number", 502, garbled("HTTP/1.1 200 OK\r\nContent-Length: all of it\r\n\r\nx")},
		{"two lengths", 502, garbled("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")},
		{"length and chunks", 502, garbled("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")},
		{"unknown transfer coding", 502, garbled("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx")},
		{"switches protocols", 502, garbled("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")},
		{"1 MB of headers", 502, garbled("HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 1000) + "Content-Length: 0\r\n\r\n")},
		{"a header of 1 MB", 502, garbled("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\nContent-Length: 0\r\n\r\n")},
		{"thousands of headers", 502, garbled("HTTP/1.1 200 OK\r\n" + strings.Repeat("a: b\r\n", 5000) + "Content-Length: 0\r\n\r\n")},

		{"closed within the body", cut, func(s *spoilt) bool { s.half(); return false }},
		{"reset within the body", cut, func(s *spoilt) bool { s.half(); provider.Reset(s.to); return false }},
		{"longer than what comes", cut, garbled("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort")},
		{"chunk size that is no number", cut, garbled("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nlots\r\n")},
		{"chunk longer than its size", cut, garbled("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello, world\r\n0\r\n\r\n")},
		{"no last chunk", cut, garbled("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")},
		{"chunk size that is negative", cut, garbled("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n")},
	} {
		f.spoil(t, c.name, c.do, func(d *demand) int {
			if c.want == cut && d.body { // there is no body in the answer
				return notTried
			}
			return c.want
		})
	}
	// Answers that may refuse the connector's credential are held until all of them is there.
	f.spoil(t, "closed within a refusal", garbled("HTTP/1.1 403 Forbidden\r\nContent-Length: 500\r\n\r\n<Error><Code>AccessDenied</Code>"), func(d *demand) int {
		if d.at == f.store.Recorder {
			return http.StatusBadGateway
		}
		return cut
	})
}

// spoil has each demand's answer spoilt.
func (f *faulty) spoil(t *testing.T, name string, do spoil, want func(*demand) int) {
	t.Run(name, func(t *testing.T) {
		for _, d := range f.demands {
			want := want(d)
			if want == notTried {
				continue
			}
			t.Run(d.name, func(t *testing.T) {
				f.wantFault(t, d, f.try(t, d, func(began <-chan struct{}) *provider.Fault { return f.fault(do, began) }), want)
			})
		}
	})
}

// failRequests fails requests as they arrive: on a connection that was kept alive, whose
// end they meet, and within their bodies.
func (f *faulty) failRequests(t *testing.T, l *load) {
	const early = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 61\r\nConnection: close\r\n\r\n<Error><Code>SlowDown</Code><Message>reduce</Message></Error>"
	for _, c := range []struct {
		name   string
		upload int64
		do     func(ctx context.Context, c *net.TCPConn)
		want   int
	}{
		{"connection reset as the request comes", 1, func(_ context.Context, c *net.TCPConn) { provider.Reset(c) }, 503},
		{"connection closed as the request comes", 1, func(context.Context, *net.TCPConn) {}, 503},
		{"reset within the upload", 100_000, func(_ context.Context, c *net.TCPConn) { provider.Reset(c) }, 503},
		{"closed within the upload", 100_000, func(context.Context, *net.TCPConn) {}, 503},
		{"half-closed within the upload", 100_000, func(ctx context.Context, c *net.TCPConn) {
			_ = c.CloseWrite()
			<-ctx.Done()
		}, 503},
		{"stalls within the upload, then resets", 100_000, func(ctx context.Context, c *net.TCPConn) {
			_ = f.others(ctx, l, 20)
			provider.Reset(c)
		}, 503},
		{"answers within the upload, and reads no more", 100_000, func(_ context.Context, c *net.TCPConn) { _, _ = io.WriteString(c, early) }, own},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, d := range f.demands {
				if c.upload > 1 && !d.body {
					continue
				}
				t.Run(d.name, func(t *testing.T) {
					got := f.try(t, d, func(<-chan struct{}) *provider.Fault {
						return &provider.Fault{Upload: c.upload, Do: func(ctx context.Context, conn *net.TCPConn, _ *bufio.Reader) bool {
							c.do(ctx, conn)
							return false
						}}
					})
					f.wantFault(t, d, got, c.want)
				})
			}
		})
	}
}

func (f *faulty) wantFault(t *testing.T, d *demand, got tried, want int) {
	t.Helper()
	if got.asked != 1 {
		t.Errorf("the provider was asked %d times", got.asked)
	}
	if d.body {
		out, err := f.store.Direct().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(faultyBucket), Key: aws.String("object")})
		if err != nil {
			t.Fatal(err)
		}
		defer out.Body.Close()
		if b, err := io.ReadAll(out.Body); err != nil || string(b) != f.object {
			t.Errorf("%d of %d bytes are stored: %v", len(b), len(f.object), err)
		}
	}
	switch {
	case want == cut:
		if got.err == nil {
			t.Errorf("%d %.200s: it looks whole", got.status, got.body)
		}
	case got.err != nil:
		t.Error(got.err)
	case want == own:
		wantS3Error(t, got.answer, http.StatusServiceUnavailable, "SlowDown")
	case want == whole:
		if err := d.whole(got.answer); err != nil {
			t.Error(err)
		}
	default:
		d.error(t, got.answer, want)
		if got.status >= http.StatusInternalServerError && strings.Contains(got.body, "127.0.0.1") {
			t.Errorf("an address in the answer: %s", got.body)
		}
	}
}
