package e2e_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// expecting is the head of a PUT of length bytes whose Expect header is signed, which no
// SDK at hand does ("Create a signed AWS API request", IAM User Guide).
func expecting(host, path string, key stack.Key, length int) string {
	at := time.Now().UTC().Format("20060102T150405Z")
	const signed = "expect;host;x-amz-content-sha256;x-amz-date"
	canonical := "PUT\n" + path + "\n\nexpect:100-continue\nhost:" + host + "\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:" + at + "\n\n" + signed + "\nUNSIGNED-PAYLOAD"
	sum := sha256.Sum256([]byte(canonical))
	scope := at[:8] + "/" + provider.Region + "/s3/aws4_request"
	mac := []byte("AWS4" + key.Secret)
	for _, part := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+at+"\n"+scope+"\n"+hex.EncodeToString(sum[:])) {
		h := hmac.New(sha256.New, mac)
		h.Write([]byte(part))
		mac = h.Sum(nil)
	}
	return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nX-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\nX-Amz-Date: %s\r\n"+
		"Authorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x\r\nContent-Length: %d\r\n\r\n", path, host, at, key.Key, scope, signed, mac, length)
}

// A bad signature is answered before 100 Continue invites the body; a good one has the
// provider invite it.
func TestS3ExpectRaw(t *testing.T) {
	w := shared(t)
	const path, body = "/" + bucket + "/expected", "what was held back"
	// first sends the head alone and returns the first line of what comes.
	first := func(key stack.Key) (net.Conn, *bufio.Reader, string) {
		t.Helper()
		c, err := net.Dial("tcp", w.S3)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, expecting(w.S3, path, key, len(body))); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return c, r, line
	}
	for name, key := range map[string]stack.Key{
		"bad signature": {Key: w.admin.Key, Secret: flip(w.admin.Secret)},
		"unknown key":   {Key: "AKIAUNKNOWNUNKNOWN00", Secret: w.admin.Secret},
		"no right":      w.read,
	} {
		t.Run(name, func(t *testing.T) {
			w.reset()
			_, _, line := first(key)
			if line != "HTTP/1.1 403 Forbidden\r\n" {
				t.Errorf("the first thing that came is %q", line)
			}
			w.barrier(t)
		})
	}
	t.Run("good", func(t *testing.T) {
		w.reset()
		c, r, line := first(w.admin)
		if line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("the first thing that came is %q", line)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, body); err != nil {
			t.Fatal(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 200 OK\r\n" {
			t.Errorf("%q, %v", line, err)
		}
		seen := w.s3.Requests()
		if len(seen) != 1 {
			t.Fatalf("at the provider: %v", w.atProviders())
		}
		if v, _ := seen[0].Get("Expect"); v != "100-continue" {
			t.Errorf("expect %q at the provider", v)
		}
		got, err := w.askS3(t.Context(), s3Request{method: http.MethodGet, path: path, key: w.read})
		if err != nil || got.body != body {
			t.Errorf("stored %v, %v", got, err)
		}
	})
}

// untouched is a body that knows whether anybody asked for it.
type untouched struct {
	io.Reader
	read atomic.Bool
}

func (u *untouched) Read(p []byte) (int, error) {
	u.read.Store(true)
	return u.Reader.Read(p)
}

// The same with a client that speaks HTTP/2, and one that speaks HTTP/1.1.
func TestS3Expect(t *testing.T) {
	w := shared(t)
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) { w.expects(t, unhurried(t, http2)) })
	}
}

// expects uploads with the client, which sends no body uninvited: it is invited where the
// signature is good, and has its answer before where it is not.
func (w *world) expects(t *testing.T, client *http.Client) {
	for name, c := range map[string]struct {
		key    stack.Key
		status int
	}{
		"bad signature": {stack.Key{Key: w.admin.Key, Secret: flip(w.admin.Secret)}, 403},
		"good":          {w.admin, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w.s3.Reset()
			body := &untouched{Reader: strings.NewReader("x")}
			q, err := signedRequest(t.Context(), w.endpoints.S3, s3Request{
				method: http.MethodPut, path: "/" + bucket + "/expected", key: c.key, body: "x", at: time.Now(), header: []string{"Expect", "100-continue"},
			})
			if err != nil {
				t.Fatal(err)
			}
			q.Body, q.GetBody = io.NopCloser(body), nil
			var invited atomic.Int32
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			q = q.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { invited.Add(1) }}))
			res, err := client.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			answer := readAll(t, res.Body)
			good := c.status == 200
			if res.StatusCode != c.status || invited.Load() == 1 != good || body.read.Load() != good {
				t.Errorf("%d %s; invited %d times, sent %v", res.StatusCode, answer, invited.Load(), body.read.Load())
			}
			if seen := len(w.s3.Requests()); seen > 1 || seen == 1 != good {
				t.Errorf("the provider has seen %d requests", seen)
			}
		})
	}
}
