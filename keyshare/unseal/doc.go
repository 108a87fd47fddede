// Package unseal opens sealed records, in a bridge that has collected its shares
// and in a ceremony, and nowhere else: no package of the control plane may reach it.
//
// The private halves of the sealing keys live in the keyring. The store keeps it
// wrapped under the unseal key U, which exists only as shares: t of n shares
// without the keyring open nothing, nor does the keyring without them.
//
// [OpenKeyring] unwraps it once. From then on U is not needed; the keyring stays
// in a [lockedmem.Enclave] and is decrypted for the length of a [Keyring.Window]:
// at start-up one for all records, later one for each batch of new versions.
//
// # What is left behind
//
// Keys are parsed and used inside [lockedmem.Do]. With runtime/secret their
// copies on stacks and in registers are gone when a call returns, and those on
// the heap at the garbage collection after the window closes, which Window
// starts itself unless it did so moments ago; the runtime's own comes after two
// minutes at the latest. Without runtime/secret the Go heap keeps them until it
// happens to reuse the memory.
//
// # Formats
//
// Integers are big-endian; a string is its length in two bytes, then its bytes.
// The wrapped keyring is
//
//	string "keybridge keyring"
//	uint16 format, 1
//	12 bytes nonce
//	AES-256-GCM ciphertext and tag, under U
//
// whose additional data are
//
//	string "keybridge keyring v1"
//	string set
//	uint64 epoch
//
// and whose plaintext is
//
//	uint16 number of sealing keys, at least 1; then for each, by rising version:
//	    uint32 version, uint16 length, PKCS #8 (RFC 5958) of an RSA-3072 key in DER
//	uint16 number of record keys, at least 1; then for each, by rising version:
//	    uint32 version, 32 bytes
//
// Record keys re-wrap the keys of opened records, so that a restart needs no RSA
// operation for each. They are made with the keyring because adding one later
// takes a ceremony.
package unseal
