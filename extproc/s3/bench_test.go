package s3_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
)

// respell writes the same path in other words, as clients that do not encode do.
func respell(r *extproc.Request) *extproc.Request {
	r.Path = strings.Replace(r.Path, "%2B", "+", 1)
	return r
}

// BenchmarkDecideInFolder is BenchmarkDecide where the repository is limited to a
// folder: a key, a listing that gets its prefix, and the deletion of a thousand keys
// from headers to decision.
func BenchmarkDecideInFolder(b *testing.B) {
	s := newFolders(b)
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("team/a b/2026/11/22/object-%04d.jpg", i)
	}
	body := deleteOf(keys...)
	for _, bm := range []struct {
		name string
		r    *extproc.Request
	}{
		{"get", call{method: "GET", path: "/photos/team/a%20b/2026/11/22/cat.jpg", query: "x-id=GetObject", hash: emptyHash}.sign(b, s.read)},
		{"list", call{method: "GET", path: "/photos", query: "delimiter=%2F&list-type=2", hash: emptyHash}.sign(b, s.read)},
		{"delete 1000", deleting(body, nil).sign(b, s.write)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, e := s.Decide(now, bm.r)
				if e == extproc.NeedBody {
					_, e = s.DecideBody(now, bm.r, []byte(body), true)
				}
				if e != nil {
					b.Fatalf("%+v", e)
				}
			}
		})
	}
}

// BenchmarkDecide measures the bridge's own work per request. A GET and a PUT as
// aws-sdk-go-v2 sends them, one whose path and query must be spelt again, and
// refusals, which must cost less than a good request.
func BenchmarkDecide(b *testing.B) {
	s := newStage(b)
	sdk := http.Header{
		"Accept-Encoding":       {"identity"},
		"Amz-Sdk-Invocation-Id": {"0e2f6b6e-7a54-4e4c-9d5a-0e1b2f3c4d5e"},
		"Amz-Sdk-Request":       {"attempt=1; max=3"},
		"User-Agent":            {"aws-sdk-go-v2/1.47.7 ua/2.1 os/linux lang/go#1.26.8 md/GOOS#linux md/GOARCH#amd64 api/s3#1.114.8 m/E,e"},
	}
	put := sdk.Clone()
	put.Set("Content-Type", "application/octet-stream")
	put.Set("Content-Encoding", "aws-chunked")
	put.Set("X-Amz-Decoded-Content-Length", "1048576")
	put.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
	put.Set("X-Amz-Sdk-Checksum-Algorithm", "CRC32")
	get := call{method: "GET", path: "/photos/2026/11/22/cat.jpg", query: "x-id=GetObject", header: sdk, hash: emptyHash}
	for _, bm := range []struct {
		name    string
		r       *extproc.Request
		refused string
	}{
		{"get", get.sign(b, s.read), ""},
		{"put", call{
			method: "PUT", path: "/photos/2026/11/22/cat.jpg", query: "x-id=PutObject", header: put, length: 1048700,
			hash: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
		}.sign(b, s.write), ""},
		{"list", call{
			method: "GET", path: "/photos", query: "delimiter=%2F&list-type=2&prefix=2026%2F11%2F", header: sdk, hash: emptyHash,
		}.sign(b, s.read), ""},
		{"presigned", call{method: "GET", path: "/photos/2026/11/22/cat.jpg", query: "x-id=GetObject"}.presign(b, s.read, time.Hour), ""},
		{"presigned, days old", call{method: "GET", path: "/photos/2026/11/22/cat.jpg", at: now.AddDate(0, 0, -3)}.presign(b, s.read, 7*24*time.Hour), ""},
		{"virtual host", call{method: "GET", path: "/2026/11/22/cat.jpg", query: "x-id=GetObject", header: sdk, host: "photos." + front}.sign(b, s.read), ""},
		{"copy", call{method: "PUT", path: "/photos/2026/11/22/cat.jpg", header: copyOf("photos/2026/11/21/cat.jpg")}.sign(b, s.admin), ""},
		{"respelt", respell(call{method: "GET", path: "/photos/a%20b%2Bc", query: "versionId=a%2Bb", header: sdk}.sign(b, s.read)), ""},
		{"refused/unknown key", get.sign(b, protocoltest.Key{ID: "AKIAUNKNOWNUNKNOWNXX", Secret: "none"}), "unknown_key"},
		{"refused/bad signature", get.sign(b, protocoltest.Key{ID: s.read.ID, Secret: "wrong"}), "bad_signature"},
		{"refused/presigned, bad signature", call{method: "GET", path: "/photos/k"}.presign(b, protocoltest.Key{ID: s.read.ID, Secret: "wrong"}, time.Hour), "bad_signature"},
		{"refused/foreign bucket", call{method: "GET", path: "/secret/key", header: sdk}.sign(b, s.read), "foreign_bucket"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, e := s.Decide(now, bm.r)
				if (e == nil) != (bm.refused == "") || (e != nil && e.Reason != bm.refused) {
					b.Fatalf("%+v", e)
				}
			}
		})
	}
}

// BenchmarkSignedChunks is a body of 64 KiB chunks, in the pieces that Envoy sends,
// beside the one pass of SHA-256 that it takes at the least.
func BenchmarkSignedChunks(b *testing.B) {
	const size, piece = 16 << 20, 32 << 10
	s := newStage(b)
	data := strings.Repeat("x", size)
	c := upload(size, "")
	r := c.sign(b, s.write)
	body := []byte(chunks(r, s.write).Body(data, 64<<10, ""))
	again := make([]byte, len(body))
	b.Run("rewrite", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			d, e := s.Decide(now, r)
			if e != nil {
				b.Fatal(e.Reason)
			}
			copy(again, body) // it writes to the pieces
			b.StartTimer()
			for rest := again; len(rest) > 0; {
				n := min(piece, len(rest))
				if _, e := d.Rewriter.Rewrite(rest[:n], n == len(rest)); e != nil {
					b.Fatal(e.Reason)
				}
				rest = rest[n:]
			}
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			sha256.Sum256(body)
		}
	})
}
