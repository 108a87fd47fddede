package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"keybridge/e2e/stack"
)

// upload is one PUT whose second half waits.
type upload struct {
	object string
	more   chan struct{} // closed to let the second half go
	done   chan struct{}
	answer answer
	err    error
}

// halves is a body that stops in the middle until more is closed, or its reader goes away.
type halves struct {
	first, second io.Reader
	more          <-chan struct{}
	gone          <-chan struct{}
}

func (h halves) Read(p []byte) (int, error) {
	if n, err := h.first.Read(p); n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	select {
	case <-h.more:
		return h.second.Read(p)
	case <-h.gone:
		return 0, errors.New("nobody reads on")
	}
}

// begins sends the first half of an upload and waits until the provider has had some of it.
func (f *faults) begins(ctx context.Context, t *testing.T, q s3Request) *upload {
	t.Helper()
	u := &upload{object: strings.TrimPrefix(q.path, "/"+bucket+"/"), more: make(chan struct{}), done: make(chan struct{})}
	r, err := f.signS3At(ctx, f.endpoints.S3, q)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	half := len(body) / 2
	r.Body, r.GetBody = io.NopCloser(halves{bytes.NewReader(body[:half]), bytes.NewReader(body[half:]), u.more, ctx.Done()}), nil
	go func() {
		defer close(u.done)
		u.answer, u.err = ask(r)
	}()
	if err := f.Wait(ctx, func() error {
		for _, seen := range f.s3.Requests() {
			if seen.Method == http.MethodPut && strings.HasPrefix(seen.Target, q.path) && seen.Body > 0 {
				return nil
			}
		}
		return errNotYet
	}); err != nil {
		t.Fatalf("%s: %v", u.object, err)
	}
	return u
}

// TestFaultWithinUploads: a bridge, or an Envoy, is told to stop or killed in the midst of
// uploads and a download. Whatever their clients then do, an upload is whole at the provider
// or it is not there.
func TestFaultWithinUploads(t *testing.T) {
	f := startFaults(t)
	for _, c := range []struct {
		name, process string
		stop          func(*testing.T, string)
	}{
		{"bridge stopped", stack.Bridge, f.terminate},
		{"bridge killed", stack.Bridge, f.kill},
		{"Envoy stopped", stack.Envoy, f.terminate},
		{"Envoy killed", stack.Envoy, f.kill},
	} {
		t.Run(c.name, func(t *testing.T) {
			stopped := f.withinUploads(t, strings.ReplaceAll(c.name, " ", "-"), func() { c.stop(t, c.process) })
			f.load.fails(t, time.Now())
			f.starts(t, c.process)
			f.load.recovers(t, time.Now())
			f.load.outage(t, c.name, stopped)
		})
	}
}

// terminate has a process stop by itself.
func (f *faults) terminate(t *testing.T, name string) {
	t.Helper()
	f.signal(t, name, syscall.SIGTERM)
	f.ends(t, name)
}

// forms are a PUT in all ways in which a body is signed.
func (f *faults) forms(path, data string) []s3Request {
	unsigned := s3Request{method: http.MethodPut, path: path + "-unsigned", key: f.write, body: data, hash: "UNSIGNED-PAYLOAD"}
	// The checksum that SDKs add by themselves. Without one it is the provider's duty to miss
	// the rest of a body whose connection ends: S3 does, versitygw v1.8.0 keeps what it has.
	_, sum, _ := strings.Cut(checksum(data), ":")
	unsigned.header = []string{"X-Amz-Checksum-Crc32", sum}
	return []s3Request{
		unsigned,
		{method: http.MethodPut, path: path + "-hashed", key: f.write, body: data},
		chunkedPut(f.world, path+"-chunks", data, 64<<10, "", nil),
		chunkedPut(f.world, path+"-trailer", data, 64<<10, checksum(data), nil),
	}
}

// withinUploads calls stop, which returns when a process is gone, within uploads of new
// objects and of others that replace one.
func (f *faults) withinUploads(t *testing.T, name string, stop func()) (stopped time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const before = "what was there before"
	data := text(2 << 20)
	// Half of the clients send on while the process drains, half when it is gone.
	var drained, late []*upload
	for _, object := range []string{"new", "replaced"} {
		for _, when := range []struct {
			name    string
			uploads *[]*upload
		}{{"drained", &drained}, {"late", &late}} {
			for _, q := range f.forms("/"+bucket+"/"+name+"/"+object+"-"+when.name, data) {
				if object == "replaced" {
					if err := f.putDirect(ctx, bucket, strings.TrimPrefix(q.path, "/"+bucket+"/"), before); err != nil {
						t.Fatal(err)
					}
				}
				*when.uploads = append(*when.uploads, f.begins(ctx, t, q))
			}
		}
	}
	open := f.startDownload(t)
	stopped = time.Now()
	for _, u := range drained {
		close(u.more)
	}
	stop()
	t.Logf("%s: gone after %v", name, time.Since(stopped).Round(time.Millisecond))
	for _, u := range late {
		close(u.more)
	}
	for _, u := range append(drained, late...) {
		<-u.done
		f.wantWholeOrNot(ctx, t, u, data, before)
	}
	n, err := io.Copy(io.Discard, open.body)
	if err == nil && open.read+int(n) != downloadSize {
		t.Errorf("a download of %d bytes came to a good end after %d", downloadSize, open.read+int(n))
	}
	t.Logf("download: %d more bytes, %v", n, err)
	return stopped
}

// wantWholeOrNot wants an upload acknowledged and whole, or refused and without effect.
func (f *faults) wantWholeOrNot(ctx context.Context, t *testing.T, u *upload, data, before string) {
	t.Helper()
	t.Logf("%s: %d, %v", u.object, u.answer.status, u.err)
	acknowledged, replaced := u.err == nil && u.answer.status == http.StatusOK, strings.Contains(u.object, "replaced")
	if u.err == nil && !acknowledged {
		wantS3Error(t, u.answer, http.StatusServiceUnavailable, "ServiceUnavailable")
	}
	got, err := f.s3.Direct().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(u.object)})
	var none *types.NoSuchKey
	switch {
	case errors.As(err, &none):
		if acknowledged || replaced {
			t.Errorf("%s is gone", u.object)
		}
	case err != nil:
		t.Fatal(err)
	default:
		if body := string(readAll(t, got.Body)); body != data && (acknowledged || !replaced || body != before) {
			t.Errorf("%s has %d bytes, %.40q", u.object, len(body), body)
		}
	}
}

// TestFaultControlAway: the control plane is away for longer than --max-stale. Traffic goes
// on until then, is refused from then on, and goes on again when it is back.
func TestFaultControlAway(t *testing.T) {
	f := startFaults(t)
	const maxStale = 2 * time.Second
	f.kill(t, stack.Bridge)
	f.starts(t, stack.Bridge, "--max-stale", maxStale.String())
	f.load.recovers(t, time.Now())
	for _, way := range []struct {
		name        string
		leave, back func()
	}{
		{"killed", func() { f.kill(t, stack.Control) }, func() { f.starts(t, stack.Control) }},
		// Its connections stay open: keepalive (cmd/keybridge/bridge.go) tells within 15 s.
		{"hanging", func() { f.signal(t, stack.Control, syscall.SIGSTOP) }, func() { f.signal(t, stack.Control, syscall.SIGCONT) }},
	} {
		gone := time.Now()
		way.leave()
		f.load.fails(t, gone)
		f.load.served(t, gone, gone.Add(maxStale))
		f.says(t, "stale")
		way.back()
		f.load.recovers(t, time.Now())
		f.says(t, "ready")
		f.load.outage(t, "control plane "+way.name, gone)
	}
	f.takesChanges(t)
}
