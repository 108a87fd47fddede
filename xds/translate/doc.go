// Package translate renders what a bridge knows into the resources of its Envoy:
// listeners, routes, clusters and certificates. It is pure: the same input gives
// the same output, and nothing is looked up.
//
// What every listener promises, whatever the input (DESIGN.md §5):
//
//   - No request reaches a provider unless the bridge named a cluster for it.
//     The only forwarding route needs the header x-keybridge-cluster, which is
//     taken from every client's request before anything else looks at it, and
//     which the bridge sets over ext_proc. All else is answered 503, so a bridge
//     that ends its stream without an answer forwards nothing.
//   - The path, the query, the authority and the client's headers reach the
//     bridge byte for byte as the client sent (and signed) them: nothing is
//     normalised, merged, unescaped, stripped or appended. Exceptions: header
//     names become lower-case, hop-by-hop headers go (RFC 9110 §7.6.1), and
//     x-forwarded-proto is added if absent; it and x-envoy-* never go upstream.
//   - Where Envoy answers by itself, it answers in the words of the listener's
//     protocol: S3 XML or OpenAI JSON.
//   - An answer by which a provider may refuse the bridge's own credential is held until
//     the bridge has seen it, and does not pass if the bridge cannot say so.
//   - A request is never repeated once its headers may have reached a provider.
//   - A listener that names a certificate speaks TLS 1.2 or 1.3 with it, HTTP/2 or
//     HTTP/1.1 by ALPN; one whose certificate is not there is left out, never plain.
//
// Clusters are per endpoint, not per connector, and are named after what they
// reach (ClusterName), so that a cluster's name never changes its meaning. TLS
// is verified against the endpoint's own name or address, never against
// anything a request says.
package translate
