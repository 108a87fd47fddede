// Package keeper is the share holder: a small server that keeps one share of the
// unseal key and releases it to enrolled bridges.
//
// # State
//
// A keeper owns one directory:
//
//	identity.key      its Ed25519 identity (package identity)
//	identity.next.key the one that is to replace it, while it does
//	enrolment.key.age the HPKE private key that its share is delivered to
//	share.age         its share
//	share.json        the newest signed manifest that describes that share
//	staged.age        a share of a set that is not in force yet
//	retired-N.age     its share of epoch N, which is over, until it is erased
//	retired-N.json    the last signed manifest that described it
//	manifest.json     the newest signed manifest that it has seen
//	audit.log         what it did with its shares
//
// The .age files are encrypted (filippo.io/age) under a passphrase or a key file,
// the Lock, so that a copy of the directory, a backup or a stolen disk is not a
// share. While a keeper runs its shares are in locked memory.
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
// An operator in a ceremony (identity.NewOperatorSession) is released the share by
// the same steps; the audit line then names operator/NAME. A Policy may refuse what
// the manifest allows.
//
// # Ceremonies
//
// A new share set comes in four steps, each a call of its own:
//
//  1. Stage: the operator hands over the share under a manifest that nobody has
//     signed yet, of the next epoch. It is put beside the held one. Nothing changes.
//  2. Adopt: whoever is enrolled brings the signed manifest, which proves itself. A
//     bridge does it with each request, so a keeper that missed the end of a ceremony
//     catches up by itself. The manifest is put in force, the held share set aside as
//     retired-N and never released again, the staged share promoted if it is the one
//     that the manifest gives to this keeper. The keeper acknowledges with its
//     signature that it releases no other share from now on. A keeper that the
//     manifest leaves out acknowledges too: it holds none.
//  3. Retire: the operator brings acknowledgements. Once n-t+1 keepers of the old set
//     (by the manifest of that set, with its n and t) are on the manifest in force,
//     fewer than t can be left on the old one: the retired share is overwritten and
//     unlinked.
//  4. Prove, at any time: the keeper signs a nonce with the key derived from its share.
//
// The commit is the saving of manifest.json. What has to follow is found out from the
// files alone (settle), at start and at each call, so that a keeper that is killed
// between any two steps, or given the manifest as a file, arrives at the same state.
// Every step has its audit line first.
//
// # What it does not promise
//
// A keeper cannot know what a bridge does with the share. Root on the keeper's
// host can read the share while the keeper runs. The audit log shows tampering
// with any line but the last ones cut off while the keeper was stopped; send the
// head that is logged with every release to another machine to see that too.
package keeper
