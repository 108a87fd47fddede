// Package seal encrypts one version of one secret so that only a bridge holding
// the unsealed keyring can open it, and only for the use it was sealed for.
//
// A Header H names the record and carries its Binding: where the secret may be
// used. H is encoded canonically (length-prefixed) and authenticated twice: as
// additional data of the body, AES-256-GCM under a fresh 32-byte key (DEK), and,
// with suite and key id, as the OAEP label of the wrap of that DEK (RSA-OAEP
// with SHA-256, RFC 8017 §7.1). A DEK can so be re-wrapped without touching the
// body, and neither part can be moved to another record, version, workspace or
// binding.
//
// What is sealed, the payload, is the secret as it is. Temporary credentials of use "s3"
// are the secret, a NUL and the session token ([WithToken]); no secret has a NUL.
//
// Sealing authenticates nobody: whoever has the public key can seal.
package seal
