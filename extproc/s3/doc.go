// Package s3 is the Amazon S3 protocol: it verifies a request that an application
// signed with a repository key, checks what the key may do, and signs the request
// for the provider with the connector's credential. The body passes untouched.
//
// What it takes, and nothing else: header authentication with Signature Version 4
// (AWS4-HMAC-SHA256), path-style addressing, and in x-amz-content-sha256
// UNSIGNED-PAYLOAD, the hash of the body, or STREAMING-UNSIGNED-PAYLOAD-TRAILER.
// The hash is signed again as the client stated it, so that the provider holds
// the body against it. Presigned URLs, signed chunks, SigV2, SigV4A, forms,
// virtual-host addressing and copies are refused in S3's own words.
//
// # The same request on both sides
//
// The path is decoded once and encoded once, and never normalised: what was
// authorised is the key that the provider acts on, byte for byte. Where the client
// spelt path or query in another way than AWS's canonical one ("Create a signed
// AWS API request", UriEncode), the provider is sent the canonical spelling, so
// that no two readings are left: an encoded slash becomes a slash, a raw semicolon
// becomes %3B, a plus in the query %20. Keys whose ".." segments would climb out
// of the bucket are refused, as Amazon S3 does ("Naming Amazon S3 objects").
//
// Every x-amz-* header must be signed by the client and be on the list in
// headers.go, because signing it again would otherwise vouch for what somebody
// added on the way. A sub-resource or query parameter must be on the list of the
// operation (operations.go), and only one operation can match.
//
// Towards the provider host and x-amz-* alone are signed; Envoy and the network
// may change other headers. The client's Authorization, x-amz-date and
// x-amz-security-token never get there, nor do x-* headers of other vendors, which
// some S3-compatible stores obey (x-goog-copy-source, cf-create-bucket-if-missing).
//
// # Access
//
// READ keys read, WRITE keys write and delete (S3 cannot overwrite-protect without
// versioning, so that a right to write without the right to delete would be one in
// name only) and may make the calls that an upload needs, ADMIN keys do both. Bucket
// configuration, ACLs and the headers that publish or lock an object need ADMIN and
// a connector that allows it. A bucket outside the repository answers as a
// forbidden operation does, so that nothing shows which buckets exist.
package s3
