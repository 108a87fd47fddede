// Package store holds Keybridge's records: workspaces, connectors, sealed
// credentials, repositories, sealed repository keys, hashed admin tokens, the
// signed manifest and the wrapped keyring.
//
// Every write is a compare-and-swap on the record's version, and every batch of
// writes gets one store-wide, strictly growing revision, so that a watcher that
// knows a revision knows exactly what it has seen. What is stored can be
// destroyed or withheld by whoever holds the database, but not read: secrets
// are sealed (package keyshare/seal) before they come here.
package store
