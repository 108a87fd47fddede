// Package conformance holds the gateway against what clients and servers of S3 mean by
// it: versitygw's own suite, and client programs whose outcome must be the same
// directly at a server and through the gateway. conformance.md beside this folder lists
// what was run and each case that is not the same, with the reason.
//
// `make conformance` runs all of it, `make test` what -short leaves.
package conformance
