// Package grant answers, for a key id, what its holder may do: the immutable
// index repository key → repository → connector → credential, built from what a
// bridge received and opened.
//
// The index believes the headers that the secrets were sealed under, not the
// records beside them. One workspace must hold along the whole chain, a key
// belongs to the repository in its binding, and a connector's host, port and
// bucket or path are those in its credential's binding. What does not fit is left
// out and named in a [Problem]; it never blocks the rest.
//
// [Live] is the index that requests use. It is swapped whole; a look-up is one
// map access without a lock.
package grant
