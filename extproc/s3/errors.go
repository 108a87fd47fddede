package s3

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf8"

	"keybridge/extproc"
)

// failure is one way to refuse a request: code, status and message as in "Error
// responses" of the Amazon S3 API Reference, and where that has none, as the service
// answers. Nothing in a failure depends on what the key may not see.
type failure struct {
	code    string
	status  int
	message string
	reason  string // for metrics and logs
}

// because is f with a message that goes on.
func (f *failure) because(why string) *failure {
	again := *f
	again.message += why
	return &again
}

var (
	failSealed = failure{
		"ServiceUnavailable", 503,
		"This gateway is sealed or stopping and cannot serve requests now. Please try again later.", "sealed",
	}
	// What a provider refuses is the bridge's credential, and SDKs drop their own on a 403.
	failOurs = failure{
		"ServiceUnavailable", 503,
		"This gateway's own access to the storage provider is refused. Your access key is fine. Please try again later, or tell whoever runs the gateway.", "provider_auth",
	}
	failUnreadable = failure{
		"ServiceUnavailable", 503,
		"The storage provider answered with an error that this gateway cannot read and does not pass on. Please try again later, or tell whoever runs the gateway.", "provider_unreadable",
	}
	failAnonymous = failure{"AccessDenied", 403, "Access Denied.", "anonymous"}
	failQueryAuth = failure{
		"AuthorizationQueryParametersError", 400,
		"Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.", "malformed_query_auth",
	}
	failQueryAlgorithm = failure{
		"AuthorizationQueryParametersError", 400,
		"X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256 and AWS4-ECDSA-P256-SHA256\"", "malformed_query_auth",
	}
	failQuerySigV4A = failure{
		"AuthorizationQueryParametersError", 400,
		"X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"", "sigv4a",
	}
	failQueryCredential = failure{"AuthorizationQueryParametersError", 400, "Error parsing the X-Amz-Credential parameter; ", "malformed_query_auth"}
	failQueryNumber     = failure{"AuthorizationQueryParametersError", 400, "X-Amz-Expires should be a number", "query_expires"}
	failQueryNegative   = failure{"AuthorizationQueryParametersError", 400, "X-Amz-Expires must be non-negative", "query_expires"}
	failQueryExpires    = failure{
		"AuthorizationQueryParametersError", 400,
		"X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds", "query_expires",
	}
	failQueryDate = failure{
		"AuthorizationQueryParametersError", 400,
		"X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"", "query_date",
	}
	failQueryDay      = failure{"AuthorizationQueryParametersError", 400, "Invalid credential date ", "query_date"}
	failToken         = failure{"InvalidToken", 400, "The provided token is malformed or otherwise invalid.", "query_token"}
	failExpired       = failure{"AccessDenied", 403, "Request has expired.", "expired"}
	failNotYetValid   = failure{"AccessDenied", 403, "Request is not yet valid", "not_yet_valid"}
	failQueryHeader   = failure{"InvalidArgument", 400, "A header in the query string has an invalid value, or is repeated as a header.", "query_header"}
	failTwoMechanisms = failure{
		"InvalidArgument", 400,
		"Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified", "two_mechanisms",
	}
	failAuthHeader      = failure{"InvalidArgument", 400, "Authorization header is invalid -- one and only one ' ' (space) required.", "unsupported_auth"}
	failUnsupportedAuth = failure{"InvalidArgument", 400, "Unsupported Authorization Type", "unsupported_auth"}
	failSigV2           = failure{
		"InvalidRequest", 400,
		"The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.", "sigv2",
	}
	failSigV4A = failure{
		"NotImplemented", 501,
		"AWS4-ECDSA-P256-SHA256 signatures are not implemented. Please use AWS4-HMAC-SHA256.", "sigv4a",
	}
	failMalformed  = failure{"AuthorizationHeaderMalformed", 400, "The authorization header is malformed; ", "malformed_auth"}
	failScopeDate  = failure{"AuthorizationHeaderMalformed", 400, "The authorization header is malformed; The authorization header is malformed; Invalid credential date. Date is not the same as X-Amz-Date.", "scope_date"}
	failUnknownKey = failure{
		"InvalidAccessKeyId", 403,
		"The AWS Access Key Id you provided does not exist in our records.", "unknown_key",
	}
	failDate = failure{
		"AccessDenied", 403,
		"AWS authentication requires a valid Date or x-amz-date header.", "no_date",
	}
	failSkew      = failure{"RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large.", "skew"}
	failSignature = failure{
		"SignatureDoesNotMatch", 403,
		"The request signature we calculated does not match the signature you provided. Check your key and signing method.", "bad_signature",
	}
	failNotSigned = failure{"AccessDenied", 403, "There were headers present in the request which were not signed", "headers_not_signed"}
	failNoHash    = failure{"InvalidRequest", 400, "Missing required header for this request: x-amz-content-sha256", "no_payload_hash"}
	failHash      = failure{
		"InvalidArgument", 400,
		"x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER or a valid sha256 value.", "payload_hash",
	}
	failStreaming    = failure{"NotImplemented", 501, "This form of streaming is not implemented. Sign with AWS4-HMAC-SHA256, and a streamed body in the Authorization header.", "streaming"}
	failNoLength     = failure{"MissingContentLength", 411, "You must provide the x-amz-decoded-content-length HTTP header.", "no_decoded_length"}
	failLength       = failure{"InvalidArgument", 400, "x-amz-decoded-content-length is not a number of bytes.", "decoded_length"}
	failIncomplete   = failure{"IncompleteBody", 400, "The request body terminated unexpectedly", "malformed_chunks"}
	failChunksLength = failure{
		"IncompleteBody", 400,
		"You did not provide the number of bytes specified by the Content-Length HTTP header", "chunks_length",
	}
	failChunkSize     = failure{"InvalidChunkSizeError", 403, "Only the last chunk is allowed to have a size less than 8192 bytes", "chunk_size"}
	failChunkTooLarge = failure{"InvalidRequest", 400, "A signed chunk of more than 8388608 bytes is not supported here.", "chunk_too_large"}
	failTrailerName   = failure{"InvalidRequest", 400, "The value specified in the x-amz-trailer header is not supported", "trailer_name"}
	failTrailer       = failure{
		"MalformedTrailerError", 400,
		"The request contained trailing data that was not well-formed or did not conform to our published schema.", "malformed_trailer",
	}
	failURI          = failure{"InvalidURI", 400, "Couldn't parse the specified URI.", "invalid_uri"}
	failClimbs       = failure{"400", 400, "Bad Request", "climbing_key"} // as S3 has it, without a code
	failRepeated     = failure{"InvalidArgument", 400, "A query parameter or header that may be given once was repeated.", "repeated"}
	failTooMany      = failure{"RequestHeaderSectionTooLarge", 400, "Your request header section exceeds the maximum allowed size.", "too_many"}
	failTooLong      = failure{"RequestHeaderSectionTooLarge", 400, "Your request header section exceeds the maximum allowed size.", "too_long"}
	failArgument     = failure{"InvalidArgument", 400, "A query parameter is missing or has an invalid value.", "argument"}
	failHeader       = failure{"NotImplemented", 501, "A header you provided implies functionality that is not implemented.", "unknown_header"}
	failParameter    = failure{"NotImplemented", 501, "A query parameter you provided implies functionality that is not implemented.", "unknown_parameter"}
	failOperation    = failure{"NotImplemented", 501, "This operation is not implemented.", "unknown_operation"}
	failCopy         = failure{"InvalidRequest", 400, "A header of a copy was provided without x-amz-copy-source.", "copy_without_source"}
	failCopySource   = failure{"InvalidArgument", 400, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey", "copy_source"}
	failCopyEncoding = failure{"InvalidArgument", 400, "Invalid copy source encoding", "copy_source"}
	failCopyBucket   = failure{"InvalidArgument", 400, "Invalid copy source bucket name", "copy_source"}
	failCopyKey      = failure{"InvalidArgument", 400, "Invalid copy source object key", "copy_source"}
	failCopyAcross   = failure{"NotImplemented", 501, "Source and destination of this copy are not served with one credential of one storage provider, which would have to make it. Download the object and upload it instead.", "copy_across"}
	failNoUpload     = failure{"InvalidArgument", 400, "This operation does not accept partNumber without uploadId", "unknown_operation"}
	failNotCopy      = failure{"InvalidArgument", 400, "You can only specify a copy source header for copy requests.", "unknown_operation"}
	failUploadsKey   = failure{"InvalidRequest", 400, "Key is not expected for the GET method ?uploads subresource", "unknown_operation"}
	failVersions     = failure{"InvalidRequest", 400, "There is no such thing as the ?versions sub-resource for a key", "unknown_operation"}
	failBucketName   = failure{"InvalidBucketName", 400, "The specified bucket is not valid.", "bucket_name"}
	failMethod       = failure{"MethodNotAllowed", 405, "The specified method is not allowed against this resource.", "method"}
	failOwned        = failure{
		"BucketAlreadyOwnedByYou", 409,
		"Your previous request to create the named bucket succeeded and you already own it.", "bucket_owned",
	}
	failDelete = failure{
		"NotImplemented", 501,
		"With this key the body of DeleteObjects must be plain UTF-8: no chunks, trailer, content encoding or other charset.", "delete_encoding",
	}
	failXML      = failure{"MalformedXML", 400, "The XML you provided was not well-formed or did not validate against our published schema", "malformed_xml"}
	failMismatch = failure{"XAmzContentSHA256Mismatch", 400, "The provided 'x-amz-content-sha256' header does not match what was computed.", "payload_mismatch"}
	failTooLarge = failure{"MaxMessageLengthExceeded", 400, "Your request was too large.", "body_too_large"}
	failTooSlow  = failure{
		"RequestTimeout", 400,
		"Your socket connection to the server was not read from or written to within the timeout period.", "body_too_slow",
	}
	failBucket    = failure{"AccessDenied", 403, "Access Denied.", "foreign_bucket"}
	failFolder    = failure{"AccessDenied", 403, "Access Denied.", "outside_folder"}
	failForbidden = failure{"AccessDenied", 403, "Access Denied.", "forbidden"}
)

// maxDetail bounds how much of what a client sent an error repeats in one element.
const maxDetail = 512

// maxResource bounds how much of a path an error repeats. A key has up to 1,024 bytes.
const maxResource = 4 << 10

// answer writes f as S3 does: XML, or nothing but the status for HEAD. Details are
// further elements, name and value in turn.
func (f *failure) answer(r *extproc.Request, details ...string) *extproc.Error {
	request := requestID()
	e := &extproc.Error{
		Status:      f.status,
		ContentType: "application/xml",
		Headers:     []extproc.Header{{Name: "x-amz-request-id", Value: request}},
		Reason:      f.reason,
	}
	if r != nil && r.Method == "HEAD" {
		return e
	}
	path := ""
	if r != nil {
		path, _, _ = cut(r.Path)
		path = path[:min(len(path), maxResource)]
	}
	b := make([]byte, 0, 256+len(f.message)+len(path))
	b = append(b, `<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>"...)
	b = append(append(b, f.code...), "</Code><Message>"...)
	b = append(appendXML(b, f.message), "</Message>"...)
	for i := 0; i+1 < len(details); i += 2 {
		b = append(append(append(b, '<'), details[i]...), '>')
		b = appendXML(b, details[i+1][:min(len(details[i+1]), maxDetail)])
		b = append(append(append(b, "</"...), details[i]...), '>')
	}
	b = append(appendXML(append(b, "<Resource>"...), path), "</Resource><RequestId>"...)
	e.Body = append(append(b, request...), "</RequestId></Error>"...)
	return e
}

// requestID names an answer; it protects nothing.
func requestID() string {
	var id [16]byte
	n := rand.Uint64() //nolint:gosec // as said above
	for i := range id {
		id[i] = "0123456789ABCDEF"[n>>(60-4*i)&15]
	}
	return string(id[:])
}

// appendXML writes s as XML text. Controls are not repeated, nor what is not UTF-8.
func appendXML(b []byte, s string) []byte {
	text := utf8.ValidString(s) && !strings.ContainsAny(s, "\ufffe\uffff")
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '&':
			b = append(b, "&amp;"...)
		case c == '<':
			b = append(b, "&lt;"...)
		case c == '>':
			b = append(b, "&gt;"...)
		case c == '"':
			b = append(b, "&quot;"...)
		case c < ' ' && c != '\t' || c == 0x7f || c > 0x7f && !text:
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return b
}

// refuse answers f with the elements that S3 adds. What they repeat, the client sent.
func (s *scratch) refuse(f *failure, a *authorization, r *extproc.Request) *extproc.Error {
	switch f {
	case &failUnknownKey:
		return f.answer(r, "AWSAccessKeyId", a.key)
	case &failAuthHeader, &failUnsupportedAuth:
		// Of a header that is no signature, no more than is too short for a secret.
		value, _, _ := strings.Cut(s.found.authorization.value, " ")
		if len(value) > maxMechanism {
			return f.answer(r)
		}
		return argument(f, r, "Authorization", value)
	case &failEnclosure:
		return f.answer(r, "Condition", "Bucket POST must be of the enclosure-type multipart/form-data")
	case &failHash:
		return argument(f, r, payloadHeader, s.found.payload.value)
	case &failNoUpload:
		return argument(f, r, "partNumber", "partNumber")
	case &failCopyKey:
		_, key, _ := splitSource(s.found.copySource.value)
		return argument(f, r, copySource, key)
	case &failNotCopy, &failCopySource, &failCopyEncoding, &failCopyBucket:
		return argument(f, r, copySource, s.found.copySource.value)
	case &failNotSigned:
		return f.answer(r, "HeadersNotSigned", s.notSigned(r.Headers()))
	case &failTooLong:
		return f.answer(r, "MaxSizeAllowed", strconv.Itoa(maxHeaderBytes))
	case &failMethod:
		return f.answer(r, "Method", r.Method, "ResourceType", s.resource(r))
	}
	return f.answer(r)
}

// maxMechanism bounds what an error repeats of an Authorization header.
const maxMechanism = 32

func argument(f *failure, r *extproc.Request, name, value string) *extproc.Error {
	return f.answer(r, "ArgumentName", name, "ArgumentValue", value)
}

// resource is what S3 calls the resource of a method that is not allowed.
func (s *scratch) resource(r *extproc.Request) string {
	switch {
	case s.target.bucket == "" || r.Method == "POST":
		return "SERVICE"
	case s.target.key == "":
		return "BUCKET"
	case len(s.query.params) > 0:
		return "UPLOAD"
	}
	return "OBJECT"
}

// outlived adds the elements by which a client can tell when its URL ended.
func outlived(r *extproc.Request, a *authorization, end, now string) *extproc.Error {
	return failExpired.answer(r, "X-Amz-Expires", strconv.FormatInt(int64(a.expires.Seconds()), 10), "Expires", end, "ServerTime", now)
}

// skewed adds the elements by which a client can tell how wrong its clock is.
func skewed(r *extproc.Request, sent, now string) *extproc.Error {
	return failSkew.answer(r, "RequestTime", sent, "ServerTime", now,
		"MaxAllowedSkewMilliseconds", strconv.FormatInt(maxSkew.Milliseconds(), 10))
}
