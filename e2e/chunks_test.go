package e2e_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/extproc/protocoltest"
)

// chunkedPut is a PUT of data in signed chunks of a size. change may spoil the parts of
// the body (see protocoltest.Chunks.Parts).
func chunkedPut(w *world, path, data string, size int, trailer string, change func(parts []string) []string) s3Request {
	q := s3Request{
		method: http.MethodPut, path: path, key: w.write, hash: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
		header: []string{"Content-Encoding", "aws-chunked", "X-Amz-Decoded-Content-Length", fmt.Sprint(len(data))},
	}
	if trailer != "" {
		q.hash += "-TRAILER"
		q.header = append(q.header, "X-Amz-Trailer", strings.Split(trailer, ":")[0])
	}
	q.chunks = func(c *protocoltest.Chunks) string {
		parts := c.Parts(data, size, trailer)
		if change != nil {
			parts = change(parts)
		}
		return strings.Join(parts, "")
	}
	return q
}

// checksum is a trailer for data.
func checksum(data string) string {
	sum := crc32.NewIEEE()
	_, _ = sum.Write([]byte(data))
	return "x-amz-checksum-crc32:" + base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// text is n bytes that do not repeat.
func text(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)[:n]
}

// TestS3SignedChunks: versitygw holds every chunk and the trailer against the
// provider credential's signature.
func TestS3SignedChunks(t *testing.T) {
	w := shared(t)
	for _, tt := range []struct {
		name    string
		n, size int
		trails  bool
		header  []string
	}{
		{name: "nothing", n: 0, size: 8192},
		{name: "one byte", n: 1, size: 8192},
		{name: "8 KiB chunks", n: 100_000, size: 8192},
		{name: "64 KiB chunks", n: 3 << 20, size: 64 << 10},
		{name: "1 MiB chunks", n: 20 << 20, size: 1 << 20},
		{name: "one chunk of 8 MiB", n: 8 << 20, size: 8 << 20},
		{name: "trailer", n: 1_000_000, size: 64 << 10, trails: true},
		{name: "trailer of nothing", n: 0, size: 8192, trails: true},
		{name: "expecting 100 Continue", n: 1_000_000, size: 64 << 10, header: []string{"Expect", "100-continue"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := text(tt.n)
			trailer := ""
			if tt.trails {
				trailer = checksum(data)
			}
			q := chunkedPut(w, "/"+bucket+"/chunks/ü b", data, tt.size, trailer, nil)
			q.header = append(q.header, tt.header...)
			q.path = "/" + bucket + "/chunks/%C3%BC%20b"
			a, err := w.askS3(t.Context(), q)
			if err != nil || a.status != http.StatusOK {
				t.Fatal(a, err)
			}
			w.wantObject(t, "chunks/ü b", data)
		})
	}
	t.Run("part of an upload", func(t *testing.T) {
		ctx, c, key := t.Context(), w.s3SDK(w.admin), aws.String("chunks/parts")
		up, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: key})
		if err != nil {
			t.Fatal(err)
		}
		data := text(6 << 20)
		a, err := w.askS3(ctx, chunkedPut(w, "/"+bucket+"/chunks/parts?partNumber=1&uploadId="+aws.ToString(up.UploadId), data, 64<<10, "", nil))
		if err != nil || a.status != http.StatusOK {
			t.Fatal(a, err)
		}
		parts, err := c.ListParts(ctx, &s3.ListPartsInput{Bucket: aws.String(bucket), Key: key, UploadId: up.UploadId})
		if err != nil || len(parts.Parts) != 1 || aws.ToInt64(parts.Parts[0].Size) != int64(len(data)) {
			t.Error(parts, err)
		}
		if _, err := c.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: aws.String(bucket), Key: key, UploadId: up.UploadId}); err != nil {
			t.Error(err)
		}
	})
}

// TestS3SpoiltChunks: whatever is wrong with a chunk, wherever it is, the client is
// told so, no object appears, and none is replaced.
func TestS3SpoiltChunks(t *testing.T) {
	w := shared(t)
	const size = 64 << 10
	data := text(20 * size)
	replaced := func(i int, from, to string) func([]string) []string {
		return func(p []string) []string { p[i] = strings.Replace(p[i], from, to, 1); return p }
	}
	spoil := func(i int) func([]string) []string {
		return func(p []string) []string {
			b := []byte(p[i])
			b[len(b)-10] ^= 1
			p[i] = string(b)
			return p
		}
	}
	for _, tt := range []struct {
		name   string
		trails bool
		change func(p []string) []string
		status int
		code   string
		// silent: the provider hears nothing of it.
		silent bool
	}{
		{"first chunk changed", false, spoil(0), 403, "SignatureDoesNotMatch", true},
		{"first chunk's signature changed", false, replaced(0, "signature=", "signature=0"), 400, "IncompleteBody", true},
		{"first chunk without a signature", false, replaced(0, ";chunk-signature=", ";chunk-sign="), 400, "IncompleteBody", true},
		{"second chunk changed", false, spoil(1), 403, "SignatureDoesNotMatch", false},
		{"last chunk changed", false, spoil(19), 403, "SignatureDoesNotMatch", false},
		{"final chunk changed", false, spoil(20), 403, "SignatureDoesNotMatch", false},
		{"chunks out of order", false, func(p []string) []string { p[7], p[8] = p[8], p[7]; return p }, 403, "SignatureDoesNotMatch", false},
		{"a chunk twice", false, func(p []string) []string { p[8] = p[7]; return p }, 403, "SignatureDoesNotMatch", false},
		{"a chunk missing", false, func(p []string) []string { return append(p[:9:9], p[10:]...) }, 403, "SignatureDoesNotMatch", false},
		{"final chunk missing", false, func(p []string) []string { return p[:20] }, 400, "IncompleteBody", false},
		{"cut within a chunk", false, func(p []string) []string { p[19] = p[19][:100]; return p[:20] }, 400, "IncompleteBody", false},
		{"more after the end", false, func(p []string) []string { return append(p, "0\r\n\r\n") }, 400, "IncompleteBody", false},
		{"more than announced", false, func(p []string) []string { p[19] = "10001" + p[19][5:]; return p }, 400, "IncompleteBody", false},
		{"size that overflows", false, func(p []string) []string { p[5] = "1000000000000" + p[5]; return p }, 400, "IncompleteBody", false},
		{"trailer changed", true, func(p []string) []string { p[21] = strings.Replace(p[21], ":", ":A", 1); return p }, 403, "SignatureDoesNotMatch", false},
		{"trailer missing", true, func(p []string) []string { p[21] = ""; return p }, 400, "MalformedTrailerError", false},
		{"trailer without a signature", true, func(p []string) []string { p[21], _, _ = strings.Cut(p[21], "x-amz-trailer"); return p }, 400, "IncompleteBody", false},
		{"another trailer", true, replaced(21, "crc32", "sha1"), 400, "MalformedTrailerError", false},
		{"smuggled request", false, func(p []string) []string {
			return append(p, "DELETE /"+bucket+"/"+present+" HTTP/1.1\r\nHost: x\r\n\r\n")
		}, 400, "IncompleteBody", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, key := range []string{"chunks/spoilt", present} {
				w.reset()
				trailer := ""
				if tt.trails {
					trailer = checksum(data)
				}
				a, err := w.askS3(t.Context(), chunkedPut(w, "/"+bucket+"/"+key, data, size, trailer, tt.change))
				if err != nil {
					t.Fatal(err)
				}
				wantS3Error(t, a, tt.status, tt.code)
				if tt.silent {
					w.barrier(t)
				}
			}
			list, err := w.s3.Direct().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket), Prefix: aws.String("chunks/spoilt")})
			if err != nil || len(list.Contents) != 0 {
				t.Errorf("%v, %v", list, err)
			}
			head, err := w.s3.Direct().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String(present)})
			if err != nil || aws.ToInt64(head.ContentLength) >= size {
				t.Errorf("the object that was there: %v, %v", head, err)
			}
		})
	}
}
