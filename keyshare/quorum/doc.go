// Package quorum recovers the unseal key U from the keepers.
//
// Unseal asks every keeper at once, over mutual TLS, by the release protocol of
// package keeper. Each answer is judged by itself: it must open under the fresh
// key made for that one request, and Manifest.CheckShare must recognise it as that
// keeper's share. So a wrong share never reaches the combination; its keeper is
// named instead, in a Report and in the error. As soon as a threshold of genuine
// shares is there they are combined, the result is compared with the manifest's
// check value, and U is lent to the caller in locked memory.
//
// Until then Unseal keeps asking the keepers that have not given a good share,
// with a growing pause, until its context ends: keepers are machines that people
// unlock one after the other, and a bridge that waits needs no attention.
//
// A keeper also answers with the newest signed manifest that it knows. A newer one
// is adopted through identity.Trust, so that a bridge whose own copy, or whose
// store, was rolled back learns of it from any one keeper; shares of an older
// epoch collected so far are thrown away then. A bridge that finds itself removed
// stops.
//
// U exists in this process from the combination until the caller's function
// returns. Shares, U and every intermediate are made inside lockedmem.Do and kept
// in a lockedmem.Arena that is purged at the end.
package quorum
