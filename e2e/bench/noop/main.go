// Command noop is the external processor that the benchmark measures Keybridge
// against. It is FROZEN: it must be neither optimised nor changed, nor share code
// with extproc, or numbers of different days could not be compared. What it costs
// is what Envoy's ext_proc and gRPC cost in any processor written in Go.
//
// It answers request headers with an empty HeadersResponse, and each piece of a body
// that comes in mode FULL_DUPLEX_STREAMED with the same piece, in messages of
// 64 KiB at most, as Envoy recommends
// (ProcessingMode.BodySendMode.FULL_DUPLEX_STREAMED). Its socket and those of its
// gRPC options that tune the transport are those that extproc.Server had when the
// benchmark was written.
package main

import (
	"errors"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: noop SOCKET")
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	g := grpc.NewServer(
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))*4),
		grpc.MaxRecvMsgSize(9<<20),
		grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(256<<10),
		grpc.InitialConnWindowSize(4<<20),
	)
	extprocv3.RegisterExternalProcessorServer(g, processor{})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		g.Stop()
	}()
	if err := g.Serve(l); err != nil {
		log.Fatal(err)
	}
}

type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
}

func (processor) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch q := m.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			err = stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
				RequestHeaders: &extprocv3.HeadersResponse{},
			}})
		case *extprocv3.ProcessingRequest_RequestBody:
			err = echo(stream, q.RequestBody.GetBody(), q.RequestBody.GetEndOfStream())
		case *extprocv3.ProcessingRequest_ResponseTrailers:
			err = stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{
				ResponseTrailers: &extprocv3.TrailersResponse{},
			}})
		}
		if err != nil {
			return err
		}
	}
}

func echo(stream extprocv3.ExternalProcessor_ProcessServer, body []byte, last bool) error {
	for {
		n := min(len(body), 64<<10)
		end := last && n == len(body)
		err := stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{
				Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{
					Body: body[:n], EndOfStream: end,
				}},
			}}},
		}})
		if body = body[n:]; err != nil || len(body) == 0 {
			return err
		}
	}
}
