package xds

import (
	"context"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callbacks are go-control-plane's hooks. They authorise a stream when it
// opens, and put the peer's authorised name and group in place of the node that
// it claims to be: the caches read them from there.
type callbacks struct {
	server  *Server
	tracker *tracker
	gone    func() // or nil
}

func (c *callbacks) closed(key streamKey) {
	c.tracker.closed(key)
	if c.gone != nil {
		c.gone()
	}
}

func (c *callbacks) open(ctx context.Context, key streamKey) error {
	node, group, err := c.server.authorize(ctx)
	if err != nil {
		c.server.log.Warn("xds: peer refused", "error", err)
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		return status.Error(codes.PermissionDenied, "peer refused")
	}
	c.tracker.open(key, node, group)
	return nil
}

// request returns the node to put into a request that claims to come from `claimed`.
func (c *callbacks) request(key streamKey, claimed *corev3.Node, typeURL, nonce, rejected string, isNack bool) (*corev3.Node, error) {
	node, group, greeted := c.tracker.request(key, typeURL, nonce, rejected, isNack)
	if claimed.GetId() != node && (claimed != nil || !greeted) {
		c.server.log.Warn("xds: peer names itself otherwise than its identity does", "identity", node, "node", truncate(claimed.GetId(), 100))
		return nil, status.Errorf(codes.PermissionDenied, "node id must be %q, the name of the peer's identity", node)
	}
	return &corev3.Node{Id: node, Cluster: group}, nil
}

// OnDeltaStreamOpen implements delta.Callbacks.
func (c *callbacks) OnDeltaStreamOpen(ctx context.Context, id int64, _ string) error {
	return c.open(ctx, streamKey{id: id})
}

// OnDeltaStreamClosed implements delta.Callbacks.
func (c *callbacks) OnDeltaStreamClosed(id int64, _ *corev3.Node) {
	c.closed(streamKey{id: id})
}

// OnStreamDeltaRequest implements delta.Callbacks.
func (c *callbacks) OnStreamDeltaRequest(id int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	node, err := c.request(streamKey{id: id}, req.GetNode(), req.GetTypeUrl(), req.GetResponseNonce(),
		req.GetErrorDetail().GetMessage(), req.GetErrorDetail() != nil)
	if err != nil {
		return err
	}
	req.Node = node
	return nil
}

// OnStreamDeltaResponse implements delta.Callbacks.
func (c *callbacks) OnStreamDeltaResponse(id int64, _ *discoveryv3.DeltaDiscoveryRequest, resp *discoveryv3.DeltaDiscoveryResponse) {
	c.tracker.sent(streamKey{id: id}, resp.GetTypeUrl(), resp.GetNonce(), resp.GetSystemVersionInfo())
}

// OnStreamOpen implements sotw.Callbacks.
func (c *callbacks) OnStreamOpen(ctx context.Context, id int64, _ string) error {
	return c.open(ctx, streamKey{sotw: true, id: id})
}

// OnStreamClosed implements sotw.Callbacks.
func (c *callbacks) OnStreamClosed(id int64, _ *corev3.Node) {
	c.closed(streamKey{sotw: true, id: id})
}

// OnStreamRequest implements sotw.Callbacks.
func (c *callbacks) OnStreamRequest(id int64, req *discoveryv3.DiscoveryRequest) error {
	node, err := c.request(streamKey{sotw: true, id: id}, req.GetNode(), req.GetTypeUrl(), req.GetResponseNonce(),
		req.GetErrorDetail().GetMessage(), req.GetErrorDetail() != nil)
	if err != nil {
		return err
	}
	req.Node = node
	return nil
}

// OnStreamResponse implements sotw.Callbacks.
func (c *callbacks) OnStreamResponse(_ context.Context, id int64, _ *discoveryv3.DiscoveryRequest, resp *discoveryv3.DiscoveryResponse) {
	c.tracker.sent(streamKey{sotw: true, id: id}, resp.GetTypeUrl(), resp.GetNonce(), resp.GetVersionInfo())
}
