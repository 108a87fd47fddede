// Package credential holds one opened secret, a provider credential or a
// repository key, in locked memory together with the sealed header that says
// where it may be used.
//
// A Credential never gives its binding up to a record beside it: what the header
// says is what holds. It prints, logs and marshals as nothing.
//
// An S3 credential may have a session token, sealed with its secret (see
// [seal.WithToken]). It has a place of its own in locked memory, [Credential.Token].
//
// For AWS Signature Version 4 the secret and the keys derived from it do not
// leave the package at all: [Credential.Sign] computes the signature, wipes what
// it used, and keeps derived keys only in the arena, in a small cache per
// credential that is read without a lock.
package credential
