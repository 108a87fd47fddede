// Package xds is the aggregated discovery server that Keybridge runs twice: in
// the control plane, where bridges fetch the typed resources of xds/config/v1
// over mTLS, and in every bridge, where its Envoy fetches listeners, routes,
// clusters and certificates over a unix socket.
//
// Resources live in groups. A group is what one set of peers may see (the
// workspaces that a bridge is enrolled for; in a bridge there is one group, its
// Envoy), and a peer sees its own group and nothing else: the Authorize callback
// decides which group that is from the connection, never from what the peer
// says. Updating one group costs its own watchers only.
//
// Delta is the protocol that our own peers use; state of the world is served
// too. Resource versions are content hashes, so a peer that reconnects to a
// restarted server is sent what changed and nothing else; the version of a
// group's type is a counter, prefixed per start, since state of the world
// cannot tell a restarted server's counter from its predecessor's.
//
// A server has at most one response per peer and type in flight: while a peer
// digests one, further changes merge into the next. For each peer and type the
// server remembers what was sent, what was accepted, and the text of the last
// rejection.
package xds
