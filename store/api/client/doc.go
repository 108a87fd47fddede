// Package client talks to the admin API and seals provider secrets before they
// leave the process, so that the control plane never sees one in clear.
//
// Sealing is only as good as the key that is sealed to, and that comes from the
// control plane: give [Options] a VerifySealingKey that checks the manifest
// against the operator root which the caller pins. What a secret is bound to
// (endpoint, CA, bucket) is decided here, from what the caller asked for; the
// server's idea of default endpoints is not used.
package client
