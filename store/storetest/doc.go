// Package storetest is the conformance suite of store.Store: every driver runs
// it against the real thing.
package storetest
