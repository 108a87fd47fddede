// Package s3 is the Amazon S3 protocol: it verifies a request that an application
// signed with a repository key, checks what the key may do, and signs the request
// for the provider with the connector's credential. The body passes untouched and
// unseen, but for signed chunks, browser forms and DeleteObjects in a folder.
//
// What it takes, and nothing else: Signature Version 4 (AWS4-HMAC-SHA256) in the
// Authorization header or in the query of a presigned URL, with the bucket in the path
// or in the host, and in x-amz-content-sha256 UNSIGNED-PAYLOAD, the hash of the body,
// or STREAMING-UNSIGNED-PAYLOAD-TRAILER. The hash is signed again as the client stated
// it, so that the provider holds the body against it. Signed chunks are in chunks.go,
// forms below. SigV2 and SigV4A are refused in S3's own words.
//
// # Presigned URLs
//
// A presigned URL is verified by the rules of a signed header, and is valid from its
// date for the 1 to 604,800 seconds that it says, whatever the skew at its end. What
// goes to the provider has no query authentication left: it is signed in the header,
// over UNSIGNED-PAYLOAD or the hash that the URL's signer signed. X-Amz-* parameters
// that SDKs hoist out of the headers go back there, held to the same list. A parameter
// that is on neither list is refused, and so is a request with both authentications.
//
// # Forms
//
// An upload by HTML form ("POST Object") is signed over a policy that names the
// credential, so it cannot pass as it is. It is held as a whole, up to 2 MiB, refused
// for what its fields say before its file has come, authorised as the PutObject that it
// is, and made anew: fields, file and the conditions of the policy as the client spelt
// them, credential, date and signature the connector's. The provider holds the form
// against the policy. What comes after the file does not reach it. As the provider is
// asked last, nobody invites a form with 100 Continue: curl waits for it for a second.
//
// # The bucket in the host
//
// With Options.Domains, BUCKET.DOMAIN[:port] names the bucket and the client signs the
// path without it; the provider is asked in path style. At a domain itself and at
// every other host, the path names the bucket.
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
// Where the provider's credential is a temporary one, its own session token is sent and
// signed in x-amz-security-token.
//
// # Access
//
// operations.go is the table, testdata/operations.md the same for readers. READ keys
// read, WRITE keys write and delete (S3 cannot overwrite-protect without versioning,
// so that a right to write without the right to delete would be one in name only) and
// may make the calls that an upload needs, ADMIN keys do both. Bucket configuration,
// ACLs and the headers that publish or lock an object need ADMIN and a connector that
// allows it. A bucket outside the repository answers as a forbidden operation does, so
// that nothing shows which buckets exist.
//
// The calls that an upload needs are HeadBucket, GetBucketLocation, ListParts,
// ListMultipartUploads and those that write. HeadObject is none of them: the AWS SDKs
// and `aws s3 cp` upload without. rclone looks at objects before and after it sends
// them, and with a WRITE key is told not to, as under an S3 policy of s3:PutObject
// alone (tried in e2e, with a slash after the destination, or else it looks whether that
// is an object): --no-check-dest --s3-no-head, and where the bucket is an account
// connector's, --s3-no-check-bucket.
//
// A copy reads its source and writes its destination, so it needs ADMIN. Its source is
// held against the repository like any bucket, and sent on in one spelling; source and
// destination must be one provider account (grant.Connector.SameAccount), because the
// provider reads the one with the credential of the other.
//
// # Folders
//
// Where a repository is limited to a folder of a bucket (grant.Bucket), keys begin with
// it, and the source of a copy with the folder of its own bucket. A key with ".", ".."
// or empty segments, control characters, or bytes that are not UTF-8 is refused there:
// some providers collapse or resolve these, so that the key that they act on would not
// be the one that was held to the folder. A backslash counts as a slash for that. A key
// may end in one slash, but for the folder's own.
//
// Lists without a prefix get the folder for one, signed for the provider; a longer
// prefix goes on as it is, and whatever else is given for a prefix or a marker is
// refused. The bucket's configuration is refused, also where the connector allows it;
// HeadBucket and GetBucketLocation say nothing of keys. All of this answers as a bucket
// outside the repository does.
//
// The keys of DeleteObjects are in its body, so there, and nowhere else, the body is
// read before the provider is asked (delete.go): all of it, up to 2 MiB, held against
// its signed hash. The provider then reads the same bytes with a parser of its own, so
// that nothing is taken that two parsers might read in two ways (deletexml.go). One key
// outside refuses the whole request.
//
// What stays outside of all keys is the provider's word: that a listing keeps to its
// prefix, and an upload id to its key.
//
// # The provider's errors
//
// They pass as they come, but for those about the signature that was put on here, which
// repeat what was signed and would have an SDK drop a key that is fine: see Review. The
// client gets 503 ServiceUnavailable, which SDKs retry. An answer to HEAD has no body to
// tell the one from the other; it passes unless the credential is known to be refused.
// Errors within a 200 (CopyObject, CompleteMultipartUpload) come after the provider has
// accepted the signature, and pass.
//
// # Buckets
//
// ListBuckets is answered here, with the buckets of the repository. A repository with
// an account connector (bucket "*") passes it on instead; there any bucket of the
// account is the repository's, and ADMIN keys create and delete buckets. Buckets with
// a connector of their own come first, and are never created or deleted.
package s3
