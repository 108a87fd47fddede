// Package identity says who a Keybridge process is and decides who its peers are.
//
// Every process makes an Ed25519 key once (Create) and hands the operator an
// Enrolment: role, name and public key, signed by that key. The operator compares
// its fingerprint over a channel of their own and signs a manifest that lists it.
// From then on a TLS peer is accepted because the SHA-256 of its
// SubjectPublicKeyInfo is enrolled, in the role and under the name that is
// expected, in the newest manifest; not because some CA signed a certificate.
// There is no CA, hence no CA key to steal and no issuance to audit, and removal
// from the manifest is revocation. Certificates are made in memory at start,
// signed by the very key they carry, and are only an envelope: they name the peer
// in a SPIFFE-style URI (spiffe://keybridge/<role>/<name>) for logs and tools, and
// their dates and signatures decide nothing. The TLS handshake itself proves that
// the peer has the private key (RFC 8446 §4.4.3, CertificateVerify).
//
// One peer is not enrolled: an operator at work. NewOperatorSession makes a fresh
// key for one run of a command, in a certificate that the operator root signs, with
// role and name in its URI and at most a day between its dates. Here, and only here,
// the certificate's signature and dates decide. Only what asks for RoleOperator
// accepts it, an enrolled key is never an operator's whatever its certificate says,
// and an operator's key is never enrolled. The root thereby signs two kinds of
// things, and neither can be taken for the other: what it signs of a manifest begins
// with "keybridge manifest v1\n", byte 0x6b, and what it signs of a certificate is the
// DER of a TBSCertificate, a SEQUENCE, byte 0x30 (RFC 5280 §4.1); Ed25519 signs the
// bytes as they are, so one signature never holds for both.
//
// Trust holds the newest manifest that verified under the operator root, and never
// goes back: an older one is refused, so a rolled-back store or a stale copy cannot
// re-admit a removed peer to a process that has seen the removal. Peers are checked
// at the handshake and again, by Trust.Peer, at each call, because a connection may
// outlive its enrolment.
//
// A connection made with Trust.Credentials moreover ends, streams and all, within
// 250 ms of the manifest that removes its peer, or of the end of the peer's enrolment
// (NotAfter) by this process's clock.
//
// A key is replaced while its process runs. Identity.Next makes the new key beside
// the old, and an enrolment that names the key it replaces. The operator lists it in
// the manifest as the next one (ceremony.Operator.Enrol), which is accepted like the
// first, and a process that follows its manifest (Identity.Follow) takes it into use
// when it sees that. The same again drops the old key.
//
// What it does not promise: a process that has never seen a newer manifest trusts
// the one it has. The root's public half must come from configuration; whoever
// sets it decides everything. Whoever sets the clock decides what has ended.
package identity
