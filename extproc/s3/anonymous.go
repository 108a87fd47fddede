package s3

import (
	"strings"

	"keybridge/extproc"
)

var (
	failAnonymousCall = failure{"AccessDenied", 403, "Anonymous users cannot invoke this API. Please authenticate.", "anonymous"}

	// failAnonymousTo are the answers to operations that S3 has more to say of.
	failAnonymousTo = map[string]*failure{
		"CreateBucket":                  &failAnonymousCall,
		"PutBucketAcl":                  &failAnonymousCall,
		"PutObjectAcl":                  &failAnonymousCall,
		"CopyObject":                    {"AccessDenied", 403, "Anonymous users cannot copy objects. Please authenticate.", "anonymous"},
		"CreateMultipartUpload":         {"AccessDenied", 403, "Anonymous users cannot initiate multipart uploads. Please authenticate.", "anonymous"},
		"GetBucketOwnershipControls":    &failAnonymousGetOwnership,
		"PutBucketOwnershipControls":    &failAnonymousPutOwnership,
		"DeleteBucketOwnershipControls": &failAnonymousPutOwnership,
	}
	failAnonymousGetOwnership = failure{"AccessDenied", 403, "s3:GetBucketOwnershipControls does not support Anonymous requests!", "anonymous"}
	failAnonymousPutOwnership = failure{"AccessDenied", 403, "s3:PutBucketOwnershipControls does not support Anonymous requests!", "anonymous"}

	failAnonymousOverride = failure{"InvalidRequest", 400, "Request specific response headers cannot be used for anonymous GET requests.", "anonymous"}
	failAnonymousChunks   = failure{
		"InvalidRequest", 400,
		"Anonymous requests don't support this x-amz-content-sha256 value. Please use UNSIGNED-PAYLOAD or STREAMING-UNSIGNED-PAYLOAD-TRAILER.", "anonymous",
	}
)

// anonymous refuses a request that nobody signed, in the words that S3 has for what it
// would be. It looks at nothing but the request: there are no public buckets here, since
// without a key there is no repository in which a bucket is anybody's.
func (p *Protocol) anonymous(s *scratch, r *extproc.Request) *failure {
	_, query, _ := cut(r.Path)
	bucket, virtual := p.domains.bucket(r.Authority)
	if s.query.parse(query) != nil || s.parse(r, bucket, virtual) != nil {
		return &failAnonymous
	}
	if r.Method == "POST" && query == "" && s.target.bucket != "" && s.target.key == "" {
		return &failEnclosure // it could be nothing but a form
	}
	if strings.HasPrefix(s.found.payload.value, "STREAMING-AWS4-") {
		return &failAnonymousChunks
	}
	var have params
	for i := range s.query.params {
		if string(s.query.name(i)) == "select" { // SelectObjectContent, which is no operation here
			return &failAnonymousCall
		}
		have |= parameter(s.query.name(i))
	}
	if have&pResponse != 0 {
		return &failAnonymousOverride
	}
	o, f := match(r.Method, &s.target, &s.query, s.found.copySource.lines > 0)
	switch f {
	case nil:
		if f = failAnonymousTo[o.name]; f != nil {
			return f
		}
	case &failMethod, &failNoUpload, &failNotCopy, &failUploadsKey, &failVersions:
		return f
	}
	return &failAnonymous
}
