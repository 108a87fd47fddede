package s3_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

const (
	streamed        = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamedTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	crc             = "x-amz-checksum-crc32:AAAAAA=="
)

// upload is a PUT of n bytes in signed chunks.
func upload(n int, trailer string) call {
	c := call{
		method: "PUT", path: "/photos/cat.jpg", hash: streamed, length: 1,
		header: http.Header{"Content-Encoding": {"aws-chunked"}, "X-Amz-Decoded-Content-Length": {fmt.Sprint(n)}},
	}
	if trailer != "" {
		c.hash = streamedTrailer
		c.header.Set("X-Amz-Trailer", strings.Split(trailer, ":")[0])
	}
	return c
}

func seed(authorization string) string {
	_, signature, _ := strings.Cut(authorization, "Signature=")
	return signature
}

// chunks signs the body of a request that k signed.
func chunks(r *extproc.Request, k protocoltest.Key) *protocoltest.Chunks {
	return &protocoltest.Chunks{Secret: k.Secret, Date: r.Header("x-amz-date"), Region: "us-east-1", Seed: seed(r.Header("authorization"))}
}

// begin has the request of an upload decided, and returns what signs the client's
// chunks and what signs as the provider wants them.
func (s *stage) begin(t testing.TB, c call) (w extproc.BodyRewriter, client, upstream *protocoltest.Chunks) {
	t.Helper()
	r := c.sign(t, s.write)
	client = chunks(r, s.write)
	d, e := s.Decide(now, r)
	if e != nil {
		t.Fatalf("%s %s", e.Reason, e.Body)
	}
	upstream = &protocoltest.Chunks{Secret: protocoltest.ProviderSecret("photos"), Region: "eu-central-1"}
	for _, h := range d.Set {
		switch h.Name {
		case "authorization":
			upstream.Seed = strings.Clone(seed(h.Value))
		case "x-amz-date":
			upstream.Date = strings.Clone(h.Value)
		}
	}
	w = d.Rewriter
	d.Rewriter = nil
	t.Cleanup(w.Close)
	return w, client, upstream
}

// rewritten feeds a body in pieces that end where cut says, and returns what went on.
func rewritten(w extproc.BodyRewriter, body string, cut func(rest int) int) (string, *extproc.Error) {
	b := []byte(body)
	for from := 0; ; {
		to := from + cut(len(b)-from)
		ready, e := w.Rewrite(b[from:to], to == len(b))
		if e != nil {
			return "", e
		}
		if from = to; from == len(b) {
			return string(b[:ready]), nil
		}
	}
}

func whole(rest int) int     { return rest }
func one(int) int            { return 1 }
func thousands(rest int) int { return min(rest, 1000) }

// TestSignedChunks: what the client signed goes on signed for the provider, however
// the body is cut into pieces, at its length.
func TestSignedChunks(t *testing.T) {
	s := newStage(t)
	data := strings.Repeat("0123456789abcdef", 3000)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, trailer := range []string{"", crc} {
		for _, n := range []int{0, 1, 8191, 8192, 8193, 20000, 48000} {
			for name, cut := range map[string]func(int) int{
				"whole": whole, "one": one, "thousands": thousands, "any": func(rest int) int { return min(rest, 1+rnd.IntN(500)) },
			} {
				t.Run(fmt.Sprintf("%d bytes%s, %s", n, trailer, name), func(t *testing.T) {
					w, client, upstream := s.begin(t, upload(n, trailer))
					got, e := rewritten(w, client.Body(data[:n], 8192, trailer), cut)
					if e != nil {
						t.Fatalf("%s", e.Body)
					}
					if want := upstream.Body(data[:n], 8192, trailer); got != want {
						t.Errorf("got %d bytes, want %d\n%.200q\n%.200q", len(got), len(want), got, want)
					}
				})
			}
		}
	}
}

// TestNothingUnverified: no byte of a chunk goes on before its signature was seen, and
// the end of the body not before all of it was.
func TestNothingUnverified(t *testing.T) {
	s := newStage(t)
	w, client, _ := s.begin(t, upload(16384, crc))
	parts := client.Parts(strings.Repeat("x", 16384), 8192, crc)
	for i, done := 0, 0; i < len(parts); i++ {
		part := []byte(parts[i])
		for at := range part {
			last := i == len(parts)-1 && at == len(part)-1
			ready, e := w.Rewrite(part[at:at+1], last)
			if e != nil {
				t.Fatalf("%s", e.Body)
			}
			want := done
			if last || i < 2 && at == len(part)-1 {
				want += len(part)
			}
			if i >= 2 && last {
				want = len(strings.Join(parts, ""))
			}
			if ready != int64(want) {
				t.Fatalf("part %d, byte %d: %d bytes may go, want %d", i, at, ready, want)
			}
		}
		if i < 2 {
			done += len(part)
		}
	}
}

// TestChunkExample is the example of the Amazon S3 API Reference, "Signature
// calculations … in multiple chunks": signatures of AWS's own making.
func TestChunkExample(t *testing.T) {
	c := protocoltest.Chunks{
		Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", Date: "20130524T000000Z", Region: "us-east-1",
		Seed: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
	}
	for i, want := range []string{
		"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n",
		"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n",
		"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n",
	} {
		if got := c.Chunk(strings.Repeat("a", []int{65536, 1024, 0}[i])); !strings.HasPrefix(got, want) {
			t.Errorf("chunk %d: %.100q", i, got)
		}
	}
}

// TestChunkAttacks: everything but what the client signed, in its order, is refused.
func TestChunkAttacks(t *testing.T) {
	s := newStage(t)
	const size = 8192
	data := strings.Repeat("a", size) + strings.Repeat("b", size) + strings.Repeat("c", 100)
	join := func(p ...string) string { return strings.Join(p, "") }
	for _, tt := range []struct {
		name    string
		trailer string
		change  func(p []string) string // chunks a, b, c, the empty one, the trailer if any, CRLF
		code    string
		reason  string
	}{
		{"first chunk's data changed", "", func(p []string) string { return strings.Replace(join(p...), "aaa", "aab", 1) }, "SignatureDoesNotMatch", "bad_signature"},
		{"last chunk's data changed", "", func(p []string) string { return strings.Replace(join(p...), "ccc", "ccd", 1) }, "SignatureDoesNotMatch", "bad_signature"},
		{"signature changed", "", func(p []string) string {
			return strings.Replace(join(p...), "signature=", "signature=0", 1)[:len(join(p...))]
		}, "IncompleteBody", "malformed_chunks"},
		{"signature in capitals", "", func(p []string) string {
			return strings.Replace(join(p...), p[0][21:85], strings.ToUpper(p[0][21:85]), 1)
		}, "SignatureDoesNotMatch", "bad_signature"},
		{"signature of no length", "", func(p []string) string { return "2000;chunk-signature=\r\n" + p[0][87:] }, "IncompleteBody", "malformed_chunks"},
		{"chunk without a signature", "", func(p []string) string { return "2000\r\n" + p[0][87:] + join(p[1:]...) }, "IncompleteBody", "malformed_chunks"},
		{"another extension", "", func(p []string) string { return strings.Replace(join(p...), "chunk-signature", "chunk-signaturf", 1) }, "IncompleteBody", "malformed_chunks"},
		{"an extension more", "", func(p []string) string { return strings.Replace(join(p...), "\r\n", ";x=y\r\n", 1) }, "IncompleteBody", "malformed_chunks"},
		{"chunks out of order", "", func(p []string) string { return join(p[1], p[0], p[2], p[3], p[4]) }, "SignatureDoesNotMatch", "bad_signature"},
		{"a chunk twice", "", func(p []string) string { return join(p[0], p[0], p[1], p[2], p[3], p[4]) }, "SignatureDoesNotMatch", "bad_signature"},
		{"first chunk missing", "", func(p []string) string { return join(p[1:]...) }, "SignatureDoesNotMatch", "bad_signature"},
		{"middle chunk missing", "", func(p []string) string { return join(p[0], p[2], p[3], p[4]) }, "SignatureDoesNotMatch", "bad_signature"},
		{"last chunk of data missing", "", func(p []string) string { return join(p[0], p[1], p[3], p[4]) }, "IncompleteBody", "chunks_length"},
		{"final chunk missing", "", func(p []string) string { return join(p[:3]...) }, "IncompleteBody", "malformed_chunks"},
		{"final CRLF missing", "", func(p []string) string { return join(p[:4]...) }, "IncompleteBody", "malformed_chunks"},
		{"final chunk alone", "", func(p []string) string { return join(p[3:]...) }, "IncompleteBody", "chunks_length"},
		{"cut within a chunk", "", func(p []string) string { return join(p...)[:9000] }, "IncompleteBody", "malformed_chunks"},
		{"cut within a header", "", func(p []string) string { return join(p...)[:30] }, "IncompleteBody", "malformed_chunks"},
		{"no body", "", func([]string) string { return "" }, "IncompleteBody", "malformed_chunks"},
		{"not chunks", "", func([]string) string { return data }, "IncompleteBody", "malformed_chunks"},
		{"bytes after the end", "", func(p []string) string { return join(p...) + "x" }, "IncompleteBody", "malformed_chunks"},
		{"another body after the end", "", func(p []string) string { return join(p...) + join(p...) }, "IncompleteBody", "malformed_chunks"},
		{"data longer than its size", "", func(p []string) string { return strings.Replace(join(p...), "aaa", "aaaa", 1) }, "IncompleteBody", "malformed_chunks"},
		{"data shorter than its size", "", func(p []string) string { return strings.Replace(join(p...), "aaa", "aa", 1) }, "IncompleteBody", "malformed_chunks"},
		{"size of more than 32 bits", "", func(p []string) string { return "100002000" + p[0][4:] }, "IncompleteBody", "malformed_chunks"},
		{"size that overflows 64 bits", "", func(p []string) string { return "10000000000002000" + p[0][4:] }, "IncompleteBody", "malformed_chunks"},
		{"negative size", "", func(p []string) string { return "-" + join(p...) }, "IncompleteBody", "malformed_chunks"},
		{"size with a prefix", "", func(p []string) string { return "0x" + join(p...) }, "IncompleteBody", "malformed_chunks"},
		{"size with a space", "", func(p []string) string { return " " + join(p...) }, "IncompleteBody", "malformed_chunks"},
		{"no size", "", func(p []string) string { return join(p...)[4:] }, "IncompleteBody", "malformed_chunks"},
		{"LF for CRLF", "", func(p []string) string { return strings.Replace(join(p...), "\r\n", "\n", 1) }, "IncompleteBody", "malformed_chunks"},
		{"CRLF before the first chunk", "", func(p []string) string { return "\r\n" + join(p...) }, "IncompleteBody", "malformed_chunks"},
		{"more data than announced", "", func([]string) string { return "ffff;chunk-signature=" }, "IncompleteBody", "chunks_length"},
		{"a trailer that was not announced", "", func(p []string) string { return join(p[:4]...) + crc + "\r\n\r\n" }, "IncompleteBody", "malformed_chunks"},
		{"trailer missing", crc, func(p []string) string { return join(p[:4]...) + p[5] }, "MalformedTrailerError", "malformed_trailer"},
		{"trailer's value changed", crc, func(p []string) string { return strings.Replace(join(p...), "AAAAAA==", "AAAAAQ==", 1) }, "SignatureDoesNotMatch", "bad_signature"},
		{"trailer's signature missing", crc, func(p []string) string { return join(p[:4]...) + crc + "\r\n\r\n" }, "IncompleteBody", "malformed_chunks"},
		{"trailer's signature changed", crc, func(p []string) string {
			return join(p[:4]...) + crc + "\r\nx-amz-trailer-signature:" + strings.Repeat("0", 64) + "\r\n\r\n"
		}, "SignatureDoesNotMatch", "bad_signature"},
		{"another trailer", crc, func(p []string) string { return strings.Replace(join(p...), "crc32", "sha1", 1) }, "MalformedTrailerError", "malformed_trailer"},
		{"trailer twice", crc, func(p []string) string { return join(p[:5]...) + p[4] + p[5] }, "IncompleteBody", "malformed_chunks"},
		{"trailer without a value", crc, func(p []string) string { return strings.Replace(join(p...), "AAAAAA==", "", 1) }, "MalformedTrailerError", "malformed_trailer"},
		{"trailer's value too long", crc, func(p []string) string {
			return strings.Replace(join(p...), "AAAAAA==", strings.Repeat("A", 200), 1)
		}, "MalformedTrailerError", "malformed_trailer"},
		{"trailer's value on two lines", crc, func(p []string) string { return strings.Replace(join(p...), "AAAAAA==", "AAA\nAAA==", 1) }, "MalformedTrailerError", "malformed_trailer"},
		{"cut before the trailer", crc, func(p []string) string { return join(p[:4]...) }, "IncompleteBody", "malformed_chunks"},
		{"cut before the end of the trailer", crc, func(p []string) string { return join(p[:5]...) }, "IncompleteBody", "malformed_chunks"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, cut := range map[string]func(int) int{"whole": whole, "one": one, "thousands": thousands} {
				w, client, _ := s.begin(t, upload(len(data), tt.trailer))
				body := tt.change(client.Parts(data, size, tt.trailer))
				if body == "" {
					cut = whole
				}
				got, e := rewritten(w, body, cut)
				if e == nil {
					t.Fatalf("%s: let %d bytes go", name, len(got))
				}
				if w := parseError(t, e); w.Code != tt.code || e.Reason != tt.reason || w.Resource != "/photos/cat.jpg" {
					t.Errorf("%s: %s %s", name, e.Reason, e.Body)
				}
			}
		})
	}
	for _, tt := range []struct {
		name, reason string
		c            call
		body         func(*protocoltest.Chunks) string
	}{
		{"chunks below 8 KiB but the last", "chunk_size", upload(300, ""), func(c *protocoltest.Chunks) string { return c.Body(data[:300], 100, "") }},
		{"chunk of more than 8 MiB", "chunk_too_large", upload(9<<20, ""), func(*protocoltest.Chunks) string { return "900000;" }},
		{"another key's chunks", "bad_signature", upload(100, ""), func(c *protocoltest.Chunks) string { c.Secret = s.read.Secret; return c.Body(data[:100], 100, "") }},
		{"another day's chunks", "bad_signature", upload(100, ""), func(c *protocoltest.Chunks) string { c.Date = "20261121T120000Z"; return c.Body(data[:100], 100, "") }},
		{"another region's chunks", "bad_signature", upload(100, ""), func(c *protocoltest.Chunks) string { c.Region = "eu-west-1"; return c.Body(data[:100], 100, "") }},
		{"chunks of another request", "bad_signature", upload(100, ""), func(c *protocoltest.Chunks) string {
			c.Seed = strings.Repeat("0", 64)
			return c.Body(data[:100], 100, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, client, _ := s.begin(t, tt.c)
			if got, e := rewritten(w, tt.body(client), whole); e == nil || e.Reason != tt.reason {
				t.Errorf("%d bytes, %+v", len(got), e)
			}
		})
	}
}

// TestChunkedRequests refused by their headers.
func TestChunkedRequests(t *testing.T) {
	s := newStage(t)
	change := func(trailer string, f func(c *call)) *extproc.Request {
		c := upload(100, trailer)
		f(&c)
		return c.sign(t, s.write)
	}
	lines := func(name string, values ...string) func(*call) {
		return func(c *call) { c.header[name] = values }
	}
	for name, tt := range map[string]struct {
		r      *extproc.Request
		status int
		reason string
	}{
		"no decoded length":    {change("", func(c *call) { c.header.Del("X-Amz-Decoded-Content-Length") }), 411, "no_decoded_length"},
		"two decoded lengths":  {change("", lines("X-Amz-Decoded-Content-Length", "100", "100")), 400, "repeated"},
		"negative length":      {change("", lines("X-Amz-Decoded-Content-Length", "-100")), 400, "decoded_length"},
		"length of 20 digits":  {change("", lines("X-Amz-Decoded-Content-Length", "10000000000000000000")), 400, "decoded_length"},
		"length in hex":        {change("", lines("X-Amz-Decoded-Content-Length", "0x64")), 400, "decoded_length"},
		"no trailer announced": {change(crc, func(c *call) { c.header.Del("X-Amz-Trailer") }), 400, "malformed_trailer"},
		"two trailers":         {change(crc, lines("X-Amz-Trailer", "x-amz-checksum-crc32,x-amz-checksum-sha1")), 400, "trailer_name"},
		"two trailer headers":  {change(crc, lines("X-Amz-Trailer", "x-amz-checksum-crc32", "x-amz-checksum-sha1")), 400, "repeated"},
		"trailer of metadata":  {change(crc, lines("X-Amz-Trailer", "x-amz-meta-a")), 400, "trailer_name"},
		"without a body":       {change("", func(c *call) { c.length = 0 }), 400, "malformed_chunks"},
		"presigned":            {upload(100, "").presign(t, s.write, 3600e9), 501, "streaming"},
		"SigV4A chunks":        {change("", func(c *call) { c.hash = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD" }), 501, "streaming"},
		"a READ key":           {upload(100, "").sign(t, s.read), 403, "forbidden"},
	} {
		d, e := s.Decide(now, tt.r)
		if e == nil || e.Status != tt.status || e.Reason != tt.reason {
			t.Errorf("%s: %+v, %+v", name, d, e)
		}
	}
	slots, _ := s.Arena.InUse()
	w, _, _ := s.begin(t, upload(100, ""))
	if n, _ := s.Arena.InUse(); n != slots+2 {
		t.Errorf("%d secrets for an upload", n-slots)
	}
	_ = w
}

// TestUploadOutlivesCredentials: one that has begun goes on when keys are rotated, as
// one does whose body does not pass the bridge; not when the bridge is purged.
func TestUploadOutlivesCredentials(t *testing.T) {
	s := newStage(t)
	data := strings.Repeat("x", 16384)
	w, client, upstream := s.begin(t, upload(len(data), ""))
	key := s.Live.Load().Lookup(s.write.ID)
	key.Repository().Storage("photos")
	c, _ := key.Repository().Storage("photos")
	c.Credential.Free()
	key.Secret.Free()
	if got, e := rewritten(w, client.Body(data, 8192, ""), whole); e != nil || got != upstream.Body(data, 8192, "") {
		t.Errorf("after rotation: %d bytes, %+v", len(got), e)
	}

	s = newStage(t)
	w, client, _ = s.begin(t, upload(len(data), ""))
	body := []byte(client.Body(data, 8192, ""))
	if ready, e := w.Rewrite(body[:9000], false); e != nil || ready == 0 {
		t.Fatalf("%d, %+v", ready, e)
	}
	s.Arena.Purge()
	if _, e := w.Rewrite(body[9000:], true); e == nil || e.Status != 503 {
		t.Errorf("after the purge: %+v", e)
	}
}

// FuzzChunks: whatever a body is made of, and however it is cut, either nothing of it
// is let go that the client did not sign, or it is the client's own.
func FuzzChunks(f *testing.F) {
	data := strings.Repeat("y", 9000)
	f.Add(uint16(0), []byte(nil), uint16(7), false)
	f.Add(uint16(10), []byte("x"), uint16(1000), true)
	f.Add(uint16(8283), []byte("\r\n"), uint16(1), false)
	f.Add(uint16(9190), []byte("0;chunk-signature="), uint16(64), true)
	f.Fuzz(func(t *testing.T, at uint16, put []byte, size uint16, trails bool) {
		s := newStage(t)
		trailer := ""
		if trails {
			trailer = crc
		}
		w, client, upstream := s.begin(t, upload(len(data), trailer))
		body := client.Body(data, 8192, trailer)
		changed := []byte(body)
		if int(at) < len(body) {
			copy(changed[at:], put)
		}
		got, e := rewritten(w, string(changed), func(rest int) int { return min(rest, int(size)+1) })
		same := bytes.Equal(changed, []byte(body))
		if same && (e != nil || got != upstream.Body(data, 8192, trailer)) {
			t.Errorf("the client's own: %+v", e)
		}
		if !same && e == nil {
			t.Errorf("let a changed body go: %.100q", put)
		}
	})
}
