package s3_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"keybridge/extproc"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

// sessionToken is as long as one of AWS.
var sessionToken = "IQoJb3JpZ2luX2VjE//+" + strings.Repeat("t0K=", 200)

// TestSessionToken: the provider's token is signed in its place among the headers, and
// is the only one, whatever the client sent. TestSDKSignatures tries more requests.
func TestSessionToken(t *testing.T) {
	s := newStageOf(t, sessionToken)
	headers := func(lines ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(lines); i += 2 {
			h.Add(lines[i], lines[i+1])
		}
		return h
	}
	const client = "X-Amz-Security-Token"
	for name, h := range map[string]http.Header{
		"last of the headers":             headers(),
		"after another":                   headers("X-Amz-Meta-A", "1"),
		"before others":                   headers("X-Amz-Storage-Class", "STANDARD", "X-Amz-Tagging", "a=b"),
		"between":                         headers("X-Amz-Meta-A", "1", "X-Amz-Tagging", "a=b"),
		"in place of the client's":        headers(client, "session"),
		"in place of two of the client's": headers(client, "one", client, "two", "X-Amz-Meta-A", "1", "X-Amz-Tagging", "a=b"),
		"in place of the same":            headers(client, sessionToken),
	} {
		t.Run(name, func(t *testing.T) {
			c := call{method: "PUT", path: "/photos/cat.jpg", header: h, length: 3}
			for how, r := range map[string]*extproc.Request{"header": c.sign(t, s.write), "presigned": c.presign(t, s.write, time.Hour)} {
				d, e := s.Decide(now, r)
				if e != nil {
					t.Fatalf("%s: %s", how, e.Body)
				}
				providerOf(t, r, d, "photos", sessionToken)
			}
		})
	}
	t.Run("in place of one that was not signed", func(t *testing.T) {
		r := with(call{method: "GET", path: "/photos/cat.jpg"}.sign(t, s.read), extproc.Header{Name: "x-amz-security-token", Value: "added"})
		if _, e := s.Decide(now, r); e == nil || e.Status != http.StatusForbidden {
			t.Errorf("answered %+v", e)
		}
	})
}

// TestSessionTokenOfChunks: the seed signature covers the token, and the chunks follow it.
func TestSessionTokenOfChunks(t *testing.T) {
	s := newStageOf(t, sessionToken)
	for _, trailer := range []string{"", crc} {
		r := upload(20000, trailer).sign(t, s.write)
		client := chunks(r, s.write)
		d, e := s.Decide(now, r)
		if e != nil {
			t.Fatalf("%s", e.Body)
		}
		providerOf(t, r, d, "photos", sessionToken)
		upstream := &protocoltest.Chunks{Secret: protocoltest.ProviderSecret("photos"), Region: "eu-central-1"}
		for _, h := range d.Set {
			switch h.Name {
			case "authorization":
				upstream.Seed = seed(h.Value)
			case "x-amz-date":
				upstream.Date = h.Value
			}
		}
		data := strings.Repeat("0123456789", 2000)
		got, e := rewritten(d.Rewriter, client.Body(data, 8192, trailer), whole)
		if e != nil || got != upstream.Body(data, 8192, trailer) {
			t.Errorf("trailer %q: %+v, %.200q", trailer, e, got)
		}
	}
}

// TestSessionTokenWiped: without its token a credential signs nothing more.
func TestSessionTokenWiped(t *testing.T) {
	s := newStageOf(t, sessionToken)
	r := call{method: "GET", path: "/photos/cat.jpg"}.sign(t, s.read)
	for _, c := range s.Input.Connectors {
		if c.ID == "photos" {
			s.Arena.Free(c.Credential.Token())
		}
	}
	if d, e := s.Decide(now, r); e == nil || e.Status != http.StatusServiceUnavailable {
		t.Errorf("decided %+v, %+v", d, e)
	}
}

// TestSessionTokenAllocations: with a token the path allocates nothing either.
func TestSessionTokenAllocations(t *testing.T) {
	s := newStageOf(t, sessionToken)
	r := call{method: "GET", path: "/photos/cat.jpg", query: "x-id=GetObject"}.sign(t, s.read)
	decide := func() {
		if _, e := s.Decide(now, r); e != nil {
			t.Fatal(e.Reason)
		}
	}
	decide()
	if n := testing.AllocsPerRun(200, decide); n > 0 && !raceEnabled {
		t.Errorf("%v allocations a request", n)
	}
}

// TestProbeSignsSessionToken; e2e has a server that checks both.
func TestProbeSignsSessionToken(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprint(r.Header.Values("X-Amz-Security-Token"), strings.Contains(r.Header.Get("Authorization"), ";x-amz-date;x-amz-security-token,")))
	}))
	defer server.Close()
	c := connectorTo(t, server.URL)
	w := protocoltest.NewWorld(t)
	c.Credential = w.Credential(seal.Header{Binding: *c.Credential.Binding()}, seal.WithToken([]byte("provider-secret"), []byte(sessionToken)))
	if _, err := s3.Probe(t.Context(), server.Client(), c); err != nil {
		t.Error(err)
	}
	if len(seen) != 1 || seen[0] != fmt.Sprint([]string{sessionToken}, true) {
		t.Errorf("the provider sees %q", seen)
	}
}
