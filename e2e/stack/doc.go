// Package stack runs `keybridge dev`, all of Keybridge on one machine as separate
// processes, for the end-to-end tests and the demo, and sets up what a tenant has:
// connectors, a repository and its keys.
//
// It uses what an operator has: the command line, the state folder, process ids,
// the admin API. Nothing of Keybridge runs inside the caller.
package stack
