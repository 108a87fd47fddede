// Package ceremony holds the operator's acts on key custody. Each is a function
// without network or files: the caller brings the documents, carries the results
// to where they belong, and may do so on a machine that is connected to nothing.
//
// Init makes a new share set from the enrolments of its keepers, bridges and
// control planes: the operator root, the unseal key U, the keyring under U, one
// sealed share for each keeper, and the signed manifest that describes it all.
//
// U and the shares exist only inside Init, in lockedmem.Do and locked memory, and
// are wiped before it returns, also when it fails. Nothing that it returns but the
// root's private key is secret: the keyring is ciphertext under U, each delivery
// opens only with its keeper's enrolled key.
package ceremony
