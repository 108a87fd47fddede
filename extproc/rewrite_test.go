package extproc_test

import (
	"bytes"
	"context"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"keybridge/extproc"
)

// TestRewriteGivesBack: a body whose client leaves while it is passed on is held no
// more, however often that happens.
func TestRewriteGivesBack(t *testing.T) {
	const size = 512 << 10 // more than Envoy is sent before it reads
	dial, _ := serve(t, map[string]extproc.Protocol{"s3": &scribe{cluster: "c"}}, extproc.Options{MaxHeld: 16 * size})
	c := dial("s3")
	line := append(bytes.Repeat([]byte("x"), size-1), '\n')
	for i := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Process(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*extprocv3.ProcessingRequest{
			headers(false, ":method", "PUT", ":path", "/rewrite", ":authority", "a", ":scheme", "http"),
			{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: line}}},
		} {
			if err := s.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the mode, and the answer to the headers
			m, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if e := m.GetImmediateResponse(); e != nil {
				t.Fatalf("body %d: refused: %s", i, e.GetDetails())
			}
		}
		cancel()
	}
}
