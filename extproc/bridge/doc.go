// Package bridge assembles the one process that holds plaintext: it collects the
// unseal key from keepers, opens the sealed records of its workspaces into
// locked memory, serves ext_proc to its Envoy, and is that Envoy's ADS server.
//
// A bridge is sealed until a threshold of keepers has released shares, then
// unsealing, syncing (records and typed resources arrive) and ready. While it is
// not ready every request is refused in its protocol's own words. A ready bridge
// needs neither keepers nor, for Config.MaxStale, the control plane. One that the
// manifest does not list any more, or whose enrolment has ended, seals itself, and
// unseals again once it is listed again.
//
// What Envoy may reach is rendered from the bindings inside the records that
// this bridge opened, never from a connector record alone: a connector that
// names a host other than its credential's binding is left out and reported.
//
// It also asks each connector's provider, once in a while, whether it serves, and
// what models it has; and it makes such calls for the control plane, with
// credentials that are not stored yet, too. Those calls go where a binding says and
// the operator allows, also after the name was resolved, follow no redirect, and
// leave nothing of a secret in what is reported.
//
// Order on change: new clusters are pushed and ACKed by Envoy, then the index of
// keys is swapped, then, after a drain, old clusters and credentials go. A
// revocation needs no cluster and is swapped at once.
package bridge
