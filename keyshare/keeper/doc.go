// Package keeper is the share holder: a small server that keeps one share of the
// unseal key and releases it to enrolled bridges.
//
// # State
//
// A keeper owns one directory:
//
//	identity.key      its Ed25519 identity (package identity)
//	enrolment.key.age the HPKE private key that its share is delivered to
//	share.age         its share
//	manifest.json     the newest signed manifest that it has seen
//	audit.log         what it did with the share
//
// The two .age files are encrypted (filippo.io/age) under a passphrase or a key
// file, the Lock, so that a copy of the directory, a backup or a stolen disk is
// not a share. While a keeper runs its share is in locked memory.
//
// Enrol makes the directory and the enrolment for the operator. The ceremony
// answers with the signed manifest and a delivery, which Accept checks and stores.
// New then serves.
//
// # Release
//
// A release is one stream over mutual TLS between enrolled identities:
//
//  1. The keeper sends a challenge of 32 random bytes.
//  2. The bridge answers with the set and epoch it wants, a fresh HPKE public key
//     and its reason, and signs all of it, the challenge and the keeper's key with
//     its enrolled identity (release.Transcript).
//  3. The keeper checks the peer again against the newest manifest, the signature
//     against the key of the TLS peer, and that its share is the one asked for.
//  4. It appends a line to its audit log and waits until the line is on disk. No
//     line, no release.
//  5. It sends the share, sealed to the fresh key with the transcript as HPKE info,
//     and its newest signed manifest.
//
// The signature is not redundant beside TLS: it makes the request something that
// the keeper can show afterwards, and it ends at the process that holds the
// identity, not at whatever terminated TLS. The challenge makes a recorded request
// useless, the keeper's key in the transcript makes it useless at another keeper,
// and the sealed answer is useless to anyone but the process that made the fresh
// key. A bridge that asks for another epoch is refused but still told the newest
// manifest, so that it can tell its own configuration is old.
//
// # What it does not promise
//
// A keeper cannot know what a bridge does with the share. Root on the keeper's
// host can read the share while the keeper runs. The audit log shows tampering
// with any line but the last ones cut off while the keeper was stopped; send the
// head that is logged with every release to another machine to see that too.
package keeper
