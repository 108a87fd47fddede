// Package extproc answers Envoy's external processing filter (ext_proc): for each
// HTTP request one header-only round trip, in which a [Protocol] verifies what the
// application signed, checks what its key may do, and names the cluster, authority,
// path and headers with which Envoy forwards the request to the provider.
//
// It fails closed. Nothing goes on unless a Decision was sent: a stream whose
// first message is not request headers, an authority that no protocol answers to, a
// panic in a protocol, and a shutdown all end in an error response or a gRPC error.
// The stream is never closed cleanly before an answer, because Envoy then forwards
// the request as the client sent it (measured; PROVIDERS.md), and even so Envoy's
// default route is a 503: only ClusterHeader, which Envoy strips from client
// requests, leads anywhere else.
//
// What it needs of Envoy's filter: request_header_mode SEND and everything else
// NONE or SKIP, failure_mode_allow false, mutation_rules.allow_all_routing true (to
// set :authority), and grpc_service.envoy_grpc.authority naming the protocol.
//
// A request's headers are those that Envoy holds when the filter runs, so a
// protocol that verifies signatures needs the connection manager to leave client
// headers alone: no use_remote_address (it overwrites x-forwarded-proto and
// x-request-id and extends x-forwarded-for) and proxy_100_continue (Expect is gone
// otherwise). Measured with Envoy 1.40 and those settings: x-forwarded-* and
// x-request-id arrive as the client sent them, and where it sent none Envoy adds
// x-forwarded-proto and x-request-id; Host arrives as :authority; Connection,
// Transfer-Encoding and the x-envoy-* headers that steer Envoy do not arrive as
// sent, so that a signature over one of them is refused.
package extproc
