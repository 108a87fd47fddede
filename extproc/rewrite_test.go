package extproc_test

import (
	"bytes"
	"context"
	"testing"
	"time"

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
	// leave says whether the body was taken, whose client then leaves.
	leave := func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
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
			if m.GetImmediateResponse() != nil {
				return false
			}
		}
		return true
	}
	for range 300 {
		leave() // one before may not have ended yet
	}
	for deadline := time.Now().Add(patience); !leave(); {
		if time.Now().After(deadline) {
			t.Fatal("refused: what is held was not given back")
		}
	}
}
