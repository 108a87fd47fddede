package link

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"keybridge/keyshare/identity"
)

// ProbeTimeout is how long a bridge takes for a probe at most.
const ProbeTimeout = 10 * time.Second

const (
	// helloWithin is how long a bridge that attaches has for its first report.
	helloWithin = 10 * time.Second
	// reportGap and reportEvery are the least and the most time between reports.
	reportGap   = 250 * time.Millisecond
	reportEvery = 10 * time.Second
	// maxProbes bounds the probes that a bridge works on at once.
	maxProbes = 16
	// attachAgain is the pause before attaching again, with up to as much again.
	attachAgain = 500 * time.Millisecond
)

// Attach implements LinkServer: the stream is the bridge's end of the Hub.
func (s *Server) Attach(stream Link_AttachServer) error {
	ctx := stream.Context()
	p, err := s.bridge(ctx)
	if err != nil {
		return err
	}
	messages := make(chan *BridgeMessage)
	go func() { // ends with the stream's context, which ends when Attach returns
		defer close(messages)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	hello := time.NewTimer(helloWithin)
	defer hello.Stop()
	var first *Report
	select {
	case m := <-messages:
		if first = m.GetReport(); first == nil {
			return status.Error(codes.InvalidArgument, "the first message is not a report")
		}
	case <-hello.C:
		return status.Error(codes.DeadlineExceeded, "no report")
	case <-ctx.Done():
		return ctx.Err()
	}
	a := s.hub.attach(p, addressOf(ctx), func() (identity.Peer, error) { return s.bridge(ctx) }, first)
	defer s.hub.detach(a)
	s.hub.log.Info("bridge attached", "bridge", p.Name, "version", first.Version)
	defer s.hub.log.Info("bridge detached", "bridge", p.Name)
	var told []byte
	// tell sends the manifest if it is news. A bridge that it does not list any more is
	// told so, with the very document that says it, before it is sent away.
	tell := func() error {
		if m := s.hub.manifest(); m != nil && !bytes.Equal(m, told) {
			if err := stream.Send(&ControlMessage{Manifest: m}); err != nil {
				return err
			}
			told = m
		}
		_, err := s.bridge(ctx)
		return err
	}
	ping := s.hub.take(a, &BridgeMessage{Message: &BridgeMessage_Report{Report: first}})
	for {
		if ping != nil {
			if err := stream.Send(ping); err != nil {
				return err
			}
		}
		ping = nil
		select {
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			if _, err := s.bridge(ctx); err != nil {
				return tell() // revoked since
			}
			ping = s.hub.take(a, m)
		case <-a.news:
			if err := tell(); err != nil {
				return err
			}
		case m := <-a.send:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// addressOf is the host that a peer connects from.
func addressOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// Attachment is a bridge's end of Attach.
type Attachment struct {
	Control grpc.ClientConnInterface
	// Report is the bridge as it is now.
	Report func() *Report
	// Changed, of capacity 1, gets a value when Report has something new to say.
	Changed <-chan struct{}
	// Probe makes the call that is asked for and returns within ProbeTimeout. It is
	// called concurrently; it need not set the result's id.
	Probe func(ctx context.Context, p *Probe) *ProbeResult
	// Manifest gets every signed manifest that the control plane sends, the first soon
	// after attaching. It verifies what it gets and does not block; nil: not told.
	Manifest func(signed []byte)
	Log      *slog.Logger
}

// Run stays attached until ctx ends, whatever happens to the control plane, and
// returns ctx's error. Reports follow changes, 250 ms apart at least, and 10 s at most.
func (a *Attachment) Run(ctx context.Context) error {
	for {
		err := a.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.Log.Debug("not attached to the control plane", "error", err)
		t := time.NewTimer(attachAgain + rand.N(attachAgain)) //nolint:gosec // spreads reconnects; nothing to guess
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (a *Attachment) once(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := NewLinkClient(a.Control).Attach(ctx)
	if err != nil {
		return err
	}
	out := make(chan *BridgeMessage) // one sender: a gRPC stream takes no two at once
	workers.Go(func() { cancel(a.report(ctx, stream, out)) })
	free := make(chan struct{}, maxProbes)
	for {
		m, err := stream.Recv()
		if err != nil {
			cancel(err)
			return context.Cause(ctx)
		}
		if len(m.Manifest) > 0 && a.Manifest != nil {
			a.Manifest(m.Manifest)
		}
		p := m.Probe
		if p == nil {
			continue // none, or of a newer control plane
		}
		answer := func(r *ProbeResult) {
			r.Id = p.Id
			select {
			case out <- &BridgeMessage{Message: &BridgeMessage_ProbeResult{ProbeResult: r}}:
			case <-ctx.Done():
			}
		}
		// Nothing here may wait for the stream to take an answer: the control plane
		// may be waiting for this end to read.
		if isPing(p) {
			workers.Go(func() { answer(&ProbeResult{Ok: true}) })
			continue
		}
		select {
		case free <- struct{}{}:
			workers.Go(func() {
				defer func() { <-free }()
				limited, cancel := context.WithTimeout(ctx, ProbeTimeout)
				defer cancel()
				answer(a.Probe(limited, p))
			})
		default:
			workers.Go(func() {
				answer(&ProbeResult{Busy: true, Message: "the bridge has too many probes under way; try again"})
			})
		}
	}
}

// isPing says that a probe asks for nothing but a sign of life.
func isPing(p *Probe) bool {
	return p.Connector == "" && p.Credential == "" && len(p.Sealed) == 0
}

// report sends what is in out, and reports, until ctx ends.
func (a *Attachment) report(ctx context.Context, stream Link_AttachClient, out <-chan *BridgeMessage) error {
	due := time.NewTimer(0) // the hello
	defer due.Stop()
	var last time.Time
	for {
		var m *BridgeMessage
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m = <-out:
		case <-a.Changed:
			due.Reset(time.Until(last.Add(reportGap)))
			continue
		case <-due.C:
			last = time.Now()
			due.Reset(reportEvery)
			m = &BridgeMessage{Message: &BridgeMessage_Report{Report: a.Report()}}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}
