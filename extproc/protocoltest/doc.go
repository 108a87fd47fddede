// Package protocoltest is the conformance suite that every protocol runs, and the
// world that it runs in: two workspaces with real credentials in locked memory,
// connectors, repositories and keys of every state.
//
// It holds a protocol to what DESIGN §5.4 promises of all of them: who has no
// valid key for exactly this target gets an error in the protocol's own form and
// nothing is decided; who has one gets a decision that carries the provider's
// credential and nothing of the repository key.
package protocoltest
