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
// What it needs of Envoy's filter: request_header_mode and response_trailer_mode
// SEND and everything else NONE or SKIP, failure_mode_allow false,
// allow_mode_override and allow_content_length_header true,
// mutation_rules.allow_all_routing true (to set :authority), and
// grpc_service.envoy_grpc.authority naming the protocol.
//
// # Bodies
//
// A [BodyDecider] may ask for the body of a request. The answer to the headers is then
// preceded by a mode override alone (FULL_DUPLEX_STREAMED), on which Envoy sends the
// body while it holds the request; the bytes that arrive are held here until the
// protocol has decided, and then go on in order, followed by the rest piece by piece.
// The provider sees nothing before the decision, and content-length stays. Envoy
// watches no time after the override, so [Options] has the deadline, and bounds for one
// body and for all together. Such a stream ends cleanly only after the whole body: an
// end before, a stop of the server included, is a gRPC error, which resets the request.
// So do trailers of such a request, because Envoy 1.40 would send the provider its body
// twice (measured). A client that sends Expect: 100-continue gets no 100 before the
// decision; it sends its body after a moment of its own (curl: 1 s).
//
// # Open requests
//
// Envoy keeps the stream of a request that went on until the request ends, since it
// would still send the trailers of the response, and a gRPC error on the stream resets
// the request in both directions, also when the response has begun (measured with Envoy
// 1.40). [Server.EndStreams] uses that: what a revoked key has open ends within
// milliseconds, a response on HTTP/1.1 once Envoy has closed the connection (its
// delayed_close_timeout, 1 s by default). The same error comes when this process dies:
// requests that nobody could revoke any more do not go on. The price is 14 KiB here for
// each open request; CPU of Envoy and bridge together for a small one changed by -2 to
// +8 % in four runs against closing the stream after the answer. A decision by a body of
// 2 KB costs 30 % more CPU than one by the headers.
//
// # Answers
//
// What a provider answers passes unseen, but for the statuses that Envoy's second filter
// is configured for (xds/translate, review). Such a stream begins with the headers of the
// answer; a [Reviewer] sees it whole and says what the client gets. That is for refusals
// of the bridge's own credential, about which the client must not hear in the provider's
// words. Envoy withholds an answer on which the stream fails.
//
// # Headers
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
