package e2e_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"

	"keybridge/e2e/stack"
	"keybridge/extproc"
)

// wantClosed wants every request to be refused in its protocol's words, with and
// without a good key and a routing header of the client's, and nothing at a provider.
func (w *world) wantClosed(t *testing.T, clusters []string) {
	t.Helper()
	w.reset()
	get := s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: w.admin}
	put := s3Request{method: http.MethodPut, path: "/" + bucket + "/closed", key: w.admin, body: "must not arrive"}
	routed := []s3Request{get, put}
	for _, c := range clusters {
		q := put
		q.unsigned = []string{extproc.ClusterHeader, c}
		routed = append(routed, q)
	}
	for _, q := range routed {
		a, err := w.askS3(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		wantS3Error(t, a, http.StatusServiceUnavailable, "ServiceUnavailable")
	}
	const body = `{"model":"kb-chat-1","messages":[{"role":"user","content":"must not arrive"}]}`
	for _, c := range append([]string{""}, clusters...) {
		var header []string
		if c != "" {
			header = []string{extproc.ClusterHeader, c}
		}
		a, err := w.askAI(t.Context(), http.MethodPost, "/v1/chat/completions", body, w.aiKey, header...)
		if err != nil {
			t.Fatal(err)
		}
		wantAIError(t, a, http.StatusServiceUnavailable, "server_error", "")
	}
	if got := w.atProviders(); len(got) != 0 {
		t.Errorf("at the providers: %v", got)
	}
}

// impostor answers Envoy's ext_proc streams in the bridge's place.
type impostor struct {
	extprocv3.UnimplementedExternalProcessorServer
	process func(extprocv3.ExternalProcessor_ProcessServer) error
}

func (i impostor) Process(s extprocv3.ExternalProcessor_ProcessServer) error { return i.process(s) }

// A bridge that hangs, dies, or ends its streams cleanly, which Envoy by itself
// takes for leave to forward the request as the client sent it (PROVIDERS.md).
func TestBridgeGone(t *testing.T) {
	w := start(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	clusters := w.clusters(t)

	t.Run("hangs", func(t *testing.T) {
		pid, err := w.PID(stack.Bridge)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
		w.wantClosed(t, nil) // each waits for the message timeout of 2 s
	})
	if err := w.serving(ctx); err != nil {
		t.Fatal("after the bridge went on: ", err)
	}
	if err := w.Kill(ctx, stack.Bridge); err != nil {
		t.Fatal(err)
	}
	t.Run("dead", func(t *testing.T) { w.wantClosed(t, clusters) })

	for name, process := range map[string]func(extprocv3.ExternalProcessor_ProcessServer) error{
		"closes the stream cleanly": func(s extprocv3.ExternalProcessor_ProcessServer) error {
			_, err := s.Recv()
			return err
		},
		"closes the stream unread": func(extprocv3.ExternalProcessor_ProcessServer) error { return nil },
		"lets everything go on": func(s extprocv3.ExternalProcessor_ProcessServer) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return s.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
				RequestHeaders: &extprocv3.HeadersResponse{},
			}})
		},
		"lets everything be routed again": func(s extprocv3.ExternalProcessor_ProcessServer) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return s.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
				RequestHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{ClearRouteCache: true}},
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			w.impersonate(t, func(s extprocv3.ExternalProcessor_ProcessServer) error {
				select {
				case asked <- struct{}{}:
				default:
				}
				return process(s)
			})
			w.wantClosed(t, clusters)
			select {
			case <-asked:
			default:
				t.Error("Envoy has not asked: this proves nothing")
			}
		})
	}
}

// impersonate serves ext_proc at the socket of a bridge that is gone.
func (w *world) impersonate(t *testing.T, process func(extprocv3.ExternalProcessor_ProcessServer) error) {
	t.Helper()
	socket := filepath.Join(w.Dir, "bridge", "extproc.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, impostor{process: process})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
