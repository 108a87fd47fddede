// Package keyshare holds the arithmetic and the documents of key custody: how
// the unseal key U is split among keepers, and the manifest, signed offline,
// that says who they are.
//
// U is 32 random bytes. Split makes n shares of it by Shamir's scheme over
// GF(2^8) (github.com/hashicorp/vault/shamir), any t of which give U back and
// any t-1 of which say nothing about it. A share is 33 bytes: 32 values of the
// polynomials, then the coordinate x at which they were taken. x is public and
// never 0, because the value at 0 is U itself.
//
// Shamir's scheme has no integrity: Combine of t well-formed shares always
// yields 32 bytes, right or wrong. So the ceremony that splits U derives an
// Ed25519 key from every share and publishes the public halves in the manifest.
// Manifest.CheckShare recomputes that key and thereby *names* a keeper that
// answers with a wrong share before it can spoil the result. Publishing the key
// costs nothing: a share has 256 bits of entropy, so its derived key cannot be
// guessed back, and t-1 shares leave every other share uniform.
//
// The Manifest is signed by the operator root, an Ed25519 key that stays
// offline and whose public half every process has as configuration. It is the
// only source of trust: a TLS peer, a sealing key or a share is genuine because
// the newest manifest says so, not because a database or the control plane does.
// A manifest carries two counters. Epoch counts share sets: it rises when U is
// replaced (rekey), and everything derived from a share is bound to it. Version
// counts signed documents: it rises with every change, such as the enrolment or
// removal of a bridge, which leaves the shares alone. The newest manifest is the
// one with the highest version.
//
// The package does no I/O and keeps no secret: every slice that holds U or a
// share belongs to the caller, who runs these functions where stray copies are
// erased (lockedmem.Do) and wipes what they return.
package keyshare
