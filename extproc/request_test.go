package extproc

import (
	"bytes"
	"strings"
	"testing"
)

// TestDecisionMemory: values made with Bytes stay as they are while the memory
// grows, and are wiped when the answer was sent.
func TestDecisionMemory(t *testing.T) {
	x := newExchange()
	d := x.request.Decision()
	var got []string
	for i := range 40 {
		got = append(got, d.Bytes([]byte("value "), bytes.Repeat([]byte{'a' + byte(i%26)}, i*10)))
	}
	d.SetBytes("authorization", []byte("Bearer "), []byte("secret"))
	for i, s := range got {
		if s != "value "+strings.Repeat(string(rune('a'+i%26)), i*10) {
			t.Errorf("value %d became %q", i, s)
		}
	}
	secret := d.Set[0].Value
	if secret != "Bearer secret" {
		t.Errorf("got %q", secret)
	}
	x.forward(d, false)
	x.release()
	for _, s := range append(got, secret) {
		if strings.Trim(s, "\x00") != "" {
			t.Errorf("%q is left", s)
		}
	}
	for _, l := range x.lines[:cap(x.lines)][:len(x.lines)] {
		if l.GetHeader().GetKey() != "" || l.GetHeader().GetRawValue() != nil {
			t.Errorf("a line is left: %v", l)
		}
	}
}

func TestNewRequest(t *testing.T) {
	r := NewRequest(true,
		Header{":method", "PUT"}, Header{":path", "/a?b"}, Header{":authority", "h:1"}, Header{":scheme", "https"},
		Header{"X-One", "1"}, Header{"x-one", "2"}, Header{"x-empty", ""})
	if r.Method != "PUT" || r.Path != "/a?b" || r.Authority != "h:1" || r.Scheme != "https" || !r.EndOfStream {
		t.Errorf("%+v", r)
	}
	if r.Header("x-one") != "1" || r.Values("x-one") != 2 || r.Values("x-empty") != 1 || r.Values("x-none") != 0 || len(r.Headers()) != 3 {
		t.Errorf("%v", r.Headers())
	}
}
