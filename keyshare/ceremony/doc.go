// Package ceremony holds the operator's acts on key custody.
//
// Init makes a new share set from the enrolments of its keepers, bridges and control
// planes: the operator root, the unseal key U, the keyring under U, one sealed share
// for each keeper, and the signed manifest that describes it all. It needs neither
// network nor files: the caller carries the results to where they belong.
//
// Operator changes a custody that is in use, over a Custodian (the control plane) and
// Keepers. Rekey makes a new U, share set and epoch; RotateKey and Prune change the
// keyring under the same U; Enrol and Revoke change the manifest alone; Verify only
// looks.
//
// # One commit
//
// Everything before Custodian.Commit is staged beside what is in force and can be
// thrown away: the control plane keeps the keyring to come, each keeper its share to
// come, under a manifest that nobody has signed yet. The manifest is signed last, and
// Commit is one compare-and-swap of it. Everything after Commit tells: a keeper that
// adopts the manifest takes its staged share and never releases the old one again;
// once n-t+1 keepers of the old set have acknowledged, which leaves fewer than t that
// could, the old shares are erased. Whoever is not told by the operator is told by a
// bridge, which brings the manifest in force when it asks for a share.
//
// So a ceremony may be stopped anywhere, and its verb run again: before the commit it
// starts over, after it it finishes telling. A keeper that has left is known only from
// the manifest before, which is why a caller saves Trust's manifest last. One ceremony
// at a time: a second one takes the staged keyring away from the first, which then
// cannot commit.
//
// # Secrets
//
// U, U' and the shares exist only inside a function, in lockedmem.Do and locked memory,
// and are wiped before it returns, also when it fails. Every share set is rehearsed
// before it leaves: U is recovered from the first t and the last t of its shares, and
// opens the keyring. What travels is no secret: the keyring is ciphertext under U, and
// each delivery opens only with its keeper's enrolled key.
package ceremony
