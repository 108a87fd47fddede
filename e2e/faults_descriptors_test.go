package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keybridge/e2e/stack"
)

// descriptors is how many files and connections a process has open.
func descriptors(t *testing.T, pid int) uint64 {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return uint64(len(all))
}

// flood opens connections that say nothing, until undo or as many as there are to be.
func flood(t *testing.T, address string, n int) (conns []net.Conn, undo func()) {
	t.Helper()
	address = strings.TrimPrefix(address, "http://")
	for range n {
		c, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			break // the listener's queue is full
		}
		conns = append(conns, c)
	}
	undo = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	t.Cleanup(undo)
	return conns, undo
}

// TestFaultDescriptors: each process in turn may open no more files or connections, while
// many connections are made to it that say nothing.
func TestFaultDescriptors(t *testing.T) {
	f := startFaults(t)
	t.Run("bridge", func(t *testing.T) {
		began := time.Now()
		undo := limit(t, f.pid(t, stack.Bridge), unix.RLIMIT_NOFILE, descriptors(t, f.pid(t, stack.Bridge)))
		_, leave := flood(t, f.endpoints.Health, 200)
		f.load.goesOn(t, began)
		f.takesChanges(t)
		leave()
		undo()
		f.says(t, "ready")
		f.load.goesOn(t, began)
	})
	t.Run("bridge, and Envoy is new", func(t *testing.T) {
		f.kill(t, stack.Envoy)
		undo := limit(t, f.pid(t, stack.Bridge), unix.RLIMIT_NOFILE, 3) // fewer than it has
		f.starts(t, stack.Envoy)
		f.load.fails(t, time.Now())
		undo()
		f.load.recovers(t, time.Now())
	})
	t.Run("control plane", func(t *testing.T) {
		began, clerk := time.Now(), f.startClerk(t)
		clerk.goesOn(t)
		undo := limit(t, f.pid(t, stack.Control), unix.RLIMIT_NOFILE, descriptors(t, f.pid(t, stack.Control))+5)
		_, leave := flood(t, f.endpoints.Admin, 200)
		clerk.goesOn(t) // over the connection that it has
		f.load.goesOn(t, began)
		leave()
		undo()
		f.takesChanges(t)
		clerk.end(t)
		f.load.goesOn(t, began)
	})
	t.Run("Envoy, to clients", func(t *testing.T) {
		// A launcher with so small a limit gives its Envoy a cap on connections that fits.
		f.kill(t, stack.Envoy)
		f.args[stack.Envoy] = append([]string{"sh", "-c", `ulimit -n 512 && exec "$@"`, "sh"}, f.args[stack.Envoy]...)
		f.starts(t, stack.Envoy)
		f.load.recovers(t, time.Now())
		began := time.Now()
		conns, leave := flood(t, f.endpoints.S3, 400)
		// Those beyond the cap are closed at once; the applications' own go on.
		closed := 0
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); err != nil && !os.IsTimeout(err) {
				closed++
			}
		}
		t.Logf("%d of %d connections closed, %d descriptors", closed, len(conns), descriptors(t, f.envoyPID(t)))
		if closed == 0 || closed == len(conns) {
			t.Errorf("%d of %d connections were closed", closed, len(conns))
		}
		f.load.goesOn(t, began)
		get := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: f.read}
		if a, err := f.askS3(t.Context(), get); err == nil {
			t.Errorf("a new connection beyond the cap was served: %v", a)
		}
		leave()
		f.answers(t, "a new connection", get, http.StatusOK)
		f.load.goesOn(t, began)
	})
	t.Run("Envoy, to providers", func(t *testing.T) { f.noUpstreams(t) })
}

// noUpstreams has Envoy need more connections to a provider than it may open.
func (f *faults) noUpstreams(t *testing.T) {
	client := unhurried(t, true)
	client.Timeout = hangs
	ask := f.load.aiApplication(client)
	if _, o, err := ask(t.Context()); o != served {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var once sync.Once
	let := func() { once.Do(func() { close(release); f.ai.Hold(nil) }) }
	defer let()
	f.ai.Hold(func(ctx context.Context, _ int) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	undo := limit(t, f.envoyPID(t), unix.RLIMIT_NOFILE, descriptors(t, f.envoyPID(t)))
	defer undo()
	const streams = 40
	outcomes := make(chan error, streams)
	for range streams {
		go func() {
			one := f.load.aiApplication(client)
			_, _, _ = one(t.Context()) // the first is no stream
			_, _, err := one(t.Context())
			outcomes <- err
		}()
	}
	// The first of them to end are refused, as the provider holds those that reach it.
	if err := <-outcomes; err == nil || err.Error() != "503 provider_unavailable" {
		t.Errorf("without a descriptor for the provider: %v", err)
	}
	undo()
	let()
	refusals := 1
	for range streams - 1 {
		if err := <-outcomes; err != nil {
			refusals++
			if err.Error() != "503 provider_unavailable" {
				t.Error(err)
			}
		}
	}
	t.Logf("%d of %d streams refused", refusals, streams)
	f.load.recovers(t, time.Now())
}
