package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	configv1 "keybridge/xds/config/v1"
)

// State is all that the control plane says, by resource name. The messages
// belong to the client; they are not changed after they were handed on.
type State struct {
	Listeners    map[string]*configv1.Listener
	Connectors   map[string]*configv1.Connector
	Repositories map[string]*configv1.Repository
}

// Config is what a Client needs.
type Config struct {
	Conn grpc.ClientConnInterface
	// Node is the name of this process's identity.
	Node string
	// On gets the whole state after every change. An error rejects the change at
	// the control plane; the state stays and is offered again, whole, with the
	// next one. It runs on the client's goroutine, never twice at once.
	On func(State) error
	// Log gets lost and regained connections; nil discards.
	Log *slog.Logger
}

// Health says how the client stands with the control plane.
type Health struct {
	// Connected is true while a stream is open on which every type was answered.
	Connected bool
	// Since is when Connected last changed; zero before the first time.
	Since time.Time
	// Err is why the last stream ended.
	Err error
}

// Client follows the control plane. Use New.
type Client struct {
	cfg    Config
	state  *state
	synced chan struct{}
	once   sync.Once

	mu     sync.Mutex
	health Health
}

const (
	// settle is how long a change waits for others to come along.
	settle = 10 * time.Millisecond
	// Back-off between streams: doubled each time, with full jitter in its upper half.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// New makes a client; Run runs it.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, state: newState(), synced: make(chan struct{})}
}

// Synced is closed once the callback has taken a whole state for the first time.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Health returns how the client stands with the control plane.
func (c *Client) Health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

// Run follows the control plane until ctx ends, and returns ctx's error.
func (c *Client) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		answered, err := c.stream(ctx)
		if ctx.Err() != nil {
			c.setHealth(false, ctx.Err())
			return ctx.Err()
		}
		c.setHealth(false, err)
		if answered {
			backoff = minBackoff
		}
		wait := backoff/2 + rand.N(backoff/2) //nolint:gosec // spreads reconnects; nothing to guess
		c.cfg.Log.Warn("xds: lost the control plane", "error", err, "retry", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (c *Client) setHealth(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health.Connected != connected || c.health.Since.IsZero() {
		c.health.Since = time.Now()
	}
	c.health.Connected = connected
	c.health.Err = err
}

// pending is a response that was applied but not yet answered.
type pending struct {
	response *discoveryv3.DeltaDiscoveryResponse
	// bad are the resources that were not applied, and why.
	bad []string
}

// stream runs one stream. It reports whether every type was answered on it, and
// why it ended.
func (c *Client) stream(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c.cfg.Conn).DeltaAggregatedResources(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse)
	received := make(chan error, 1)
	go func() { received <- receive(ctx, stream, responses) }()
	defer func() {
		cancel() // ends the receiver
		for range responses {
		}
	}()

	for i, t := range typeURLs {
		req := &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:                 t,
			ResourceNamesSubscribe:  []string{"*"},
			InitialResourceVersions: c.state.versions(t),
		}
		if i == 0 {
			req.Node = &corev3.Node{Id: c.cfg.Node}
		}
		if stream.Send(req) != nil {
			return false, ended(responses, received)
		}
	}

	missing := slices.Clone(typeURLs)
	var batch []pending
	settling := false
	timer := time.NewTimer(settle)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case resp, ok := <-responses:
			if !ok {
				return len(missing) == 0, ended(responses, received)
			}
			bad := c.state.apply(resp)
			batch = append(batch, pending{resp, bad})
			missing = slices.DeleteFunc(missing, func(t string) bool { return t == resp.GetTypeUrl() })
			if len(missing) == 0 && !settling {
				timer.Reset(settle) // counted from the first change
				settling = true
			}
		case <-timer.C:
			settling = false
			c.setHealth(true, nil)
			if c.handOn(stream, batch) != nil {
				return true, ended(responses, received)
			}
			batch = nil
		}
	}
}

// ended returns why a stream is over: a failed Send does not say, Recv does.
func ended(responses <-chan *discoveryv3.DeltaDiscoveryResponse, received <-chan error) error {
	for range responses {
	}
	return <-received
}

func receive(ctx context.Context, stream grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse], out chan<- *discoveryv3.DeltaDiscoveryResponse) error {
	defer close(out)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the control plane ended the stream")
		}
		if err != nil {
			return err
		}
		select {
		case out <- resp:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// handOn gives the state to the callback and answers the responses that led to it.
func (c *Client) handOn(stream grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse], batch []pending) error {
	refused := c.cfg.On(c.state.snapshot())
	if refused == nil {
		c.once.Do(func() { close(c.synced) })
	}
	for _, p := range batch {
		req := &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:       p.response.GetTypeUrl(),
			ResponseNonce: p.response.GetNonce(),
		}
		words := p.bad
		if refused != nil {
			// Not claimed at the next connection, so that it is sent again.
			c.state.forget(p.response)
			words = append(words, refused.Error())
		}
		if len(words) > 0 {
			text := strings.Join(words, "; ")
			req.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: text}
			c.cfg.Log.Warn("xds: rejected configuration of the control plane", "type", req.TypeUrl, "error", text)
		}
		if err := stream.Send(req); err != nil {
			return err
		}
	}
	return nil
}
