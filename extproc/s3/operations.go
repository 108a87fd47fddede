package s3

import "keybridge/extproc/grant"

// operation is one row of the table: a request is this operation if method, level
// and whether it copies are the same, it has every parameter of must, and no other
// than those of may.
type operation struct {
	name    string
	method  string
	service bool // on the service itself
	object  bool // on a key; neither: on a bucket
	copies  bool // names a source in x-amz-copy-source
	must    params
	may     params
	// by lists the accesses of which one is enough, or with all, of which none may lack.
	by  grant.Access
	all bool
	// config needs ADMIN and a connector that allows bucket configuration.
	config bool
	// keyless operations tell and change nothing of keys: the only ones on a bucket,
	// beside lists and DeleteObjects, where a repository is limited to a folder of it.
	keyless bool
	// named is the answer where the bucket has a connector of its own, once the key's
	// access was checked. An account connector lets ADMIN keys do it.
	named *failure
}

// allows says whether a key with access a may do it, configuration apart.
func (o *operation) allows(a grant.Access) bool {
	if o.all {
		return a.Allows(o.by)
	}
	return a&o.by != 0
}

const (
	read   = grant.AccessRead
	write  = grant.AccessWrite
	either = grant.AccessRead | grant.AccessWrite
)

// operations is the allow-list. Source: Amazon S3 API Reference, "Actions", Amazon
// S3, each action's request syntax (method, sub-resource, URI request parameters);
// testdata/operations.md is this table for readers, with every action that is not on
// it. SDKs add x-id=<action>, which S3 ignores.
//
// HEAD of an object is a read, for it shows metadata, as S3 itself asks for
// s3:GetObject. No upload needs it; what tools that look at the object before or
// after must be told is in the package comment. A copy reads and writes.
var operations = []operation{
	{name: "GetObject", method: "GET", object: true, may: pVersionID | pPartNumber | pResponse, by: read},
	{name: "HeadObject", method: "HEAD", object: true, may: pVersionID | pPartNumber | pResponse, by: read},
	{name: "PutObject", method: "PUT", object: true, by: write},
	{name: "CopyObject", method: "PUT", object: true, copies: true, by: either, all: true},
	{name: "UploadPart", method: "PUT", object: true, must: pUploadID | pPartNumber, by: write},
	{name: "UploadPartCopy", method: "PUT", object: true, copies: true, must: pUploadID | pPartNumber, by: either, all: true},
	{name: "ListObjectsV2", method: "GET", must: pListType, may: pListing | pContinuationToken | pStartAfter | pFetchOwner | pMaxKeys, by: read},
	{name: "ListObjects", method: "GET", may: pListing | pMarker | pMaxKeys, by: read},
	{name: "DeleteObject", method: "DELETE", object: true, may: pVersionID, by: write},
	{name: "DeleteObjects", method: "POST", must: pDelete, by: write},
	{name: "CreateMultipartUpload", method: "POST", object: true, must: pUploads, by: write},
	{name: "CompleteMultipartUpload", method: "POST", object: true, must: pUploadID, by: write},
	{name: "AbortMultipartUpload", method: "DELETE", object: true, must: pUploadID, by: write},
	{name: "HeadBucket", method: "HEAD", keyless: true, by: either},
	{name: "GetBucketLocation", method: "GET", must: pLocation, keyless: true, by: either},
	{name: "ListParts", method: "GET", object: true, must: pUploadID, may: pMaxParts | pPartNumberMarker, by: either},
	{name: "ListMultipartUploads", method: "GET", must: pUploads, may: pListing | pKeyMarker | pUploadIDMarker | pMaxUploads, by: either},
	{name: "ListObjectVersions", method: "GET", must: pVersions, may: pListing | pKeyMarker | pVersionIDMarker | pMaxKeys, by: read},
	{name: "GetObjectAttributes", method: "GET", object: true, must: pAttributes, may: pVersionID, by: read},
	{name: "GetObjectTagging", method: "GET", object: true, must: pTagging, may: pVersionID, by: read},
	{name: "PutObjectTagging", method: "PUT", object: true, must: pTagging, may: pVersionID, by: write},
	{name: "DeleteObjectTagging", method: "DELETE", object: true, must: pTagging, may: pVersionID, by: write},

	// A client that makes sure of its bucket before an upload learns that it is there.
	{name: "CreateBucket", method: "PUT", by: write, named: &failOwned},
	{name: "DeleteBucket", method: "DELETE", by: write, named: &failForbidden},
	{name: "ListBuckets", method: "GET", service: true, may: pPrefix | pContinuationToken | pMaxBuckets | pBucketRegion, by: read},

	{name: "GetObjectAcl", method: "GET", object: true, must: pACL, may: pVersionID, config: true},
	{name: "PutObjectAcl", method: "PUT", object: true, must: pACL, may: pVersionID, config: true},
	{name: "GetObjectLegalHold", method: "GET", object: true, must: pLegalHold, may: pVersionID, config: true},
	{name: "PutObjectLegalHold", method: "PUT", object: true, must: pLegalHold, may: pVersionID, config: true},
	{name: "GetObjectRetention", method: "GET", object: true, must: pRetention, may: pVersionID, config: true},
	{name: "PutObjectRetention", method: "PUT", object: true, must: pRetention, may: pVersionID, config: true},

	{name: "GetBucketAccelerateConfiguration", method: "GET", must: pAccelerate, config: true},
	{name: "PutBucketAccelerateConfiguration", method: "PUT", must: pAccelerate, config: true},
	{name: "GetBucketAcl", method: "GET", must: pACL, config: true},
	{name: "PutBucketAcl", method: "PUT", must: pACL, config: true},
	{name: "GetBucketAnalyticsConfiguration", method: "GET", must: pAnalytics | pID, config: true},
	{name: "ListBucketAnalyticsConfigurations", method: "GET", must: pAnalytics, may: pContinuationToken, config: true},
	{name: "PutBucketAnalyticsConfiguration", method: "PUT", must: pAnalytics | pID, config: true},
	{name: "DeleteBucketAnalyticsConfiguration", method: "DELETE", must: pAnalytics | pID, config: true},
	{name: "GetBucketCors", method: "GET", must: pCors, config: true},
	{name: "PutBucketCors", method: "PUT", must: pCors, config: true},
	{name: "DeleteBucketCors", method: "DELETE", must: pCors, config: true},
	{name: "GetBucketEncryption", method: "GET", must: pEncryption, config: true},
	{name: "PutBucketEncryption", method: "PUT", must: pEncryption, config: true},
	{name: "DeleteBucketEncryption", method: "DELETE", must: pEncryption, config: true},
	{name: "GetBucketIntelligentTieringConfiguration", method: "GET", must: pIntelligentTiering | pID, config: true},
	{name: "ListBucketIntelligentTieringConfigurations", method: "GET", must: pIntelligentTiering, may: pContinuationToken, config: true},
	{name: "PutBucketIntelligentTieringConfiguration", method: "PUT", must: pIntelligentTiering | pID, config: true},
	{name: "DeleteBucketIntelligentTieringConfiguration", method: "DELETE", must: pIntelligentTiering | pID, config: true},
	{name: "GetBucketInventoryConfiguration", method: "GET", must: pInventory | pID, config: true},
	{name: "ListBucketInventoryConfigurations", method: "GET", must: pInventory, may: pContinuationToken, config: true},
	{name: "PutBucketInventoryConfiguration", method: "PUT", must: pInventory | pID, config: true},
	{name: "DeleteBucketInventoryConfiguration", method: "DELETE", must: pInventory | pID, config: true},
	{name: "GetBucketLifecycleConfiguration", method: "GET", must: pLifecycle, config: true},
	{name: "PutBucketLifecycleConfiguration", method: "PUT", must: pLifecycle, config: true},
	{name: "DeleteBucketLifecycle", method: "DELETE", must: pLifecycle, config: true},
	{name: "GetBucketLogging", method: "GET", must: pLogging, config: true},
	{name: "PutBucketLogging", method: "PUT", must: pLogging, config: true},
	{name: "GetBucketMetricsConfiguration", method: "GET", must: pMetrics | pID, config: true},
	{name: "ListBucketMetricsConfigurations", method: "GET", must: pMetrics, may: pContinuationToken, config: true},
	{name: "PutBucketMetricsConfiguration", method: "PUT", must: pMetrics | pID, config: true},
	{name: "DeleteBucketMetricsConfiguration", method: "DELETE", must: pMetrics | pID, config: true},
	{name: "GetBucketNotificationConfiguration", method: "GET", must: pNotification, config: true},
	{name: "PutBucketNotificationConfiguration", method: "PUT", must: pNotification, config: true},
	{name: "GetObjectLockConfiguration", method: "GET", must: pObjectLock, config: true},
	{name: "PutObjectLockConfiguration", method: "PUT", must: pObjectLock, config: true},
	{name: "GetBucketOwnershipControls", method: "GET", must: pOwnershipControls, config: true},
	{name: "PutBucketOwnershipControls", method: "PUT", must: pOwnershipControls, config: true},
	{name: "DeleteBucketOwnershipControls", method: "DELETE", must: pOwnershipControls, config: true},
	{name: "GetBucketPolicy", method: "GET", must: pPolicy, config: true},
	{name: "PutBucketPolicy", method: "PUT", must: pPolicy, config: true},
	{name: "DeleteBucketPolicy", method: "DELETE", must: pPolicy, config: true},
	{name: "GetBucketPolicyStatus", method: "GET", must: pPolicyStatus, config: true},
	{name: "GetPublicAccessBlock", method: "GET", must: pPublicAccessBlock, config: true},
	{name: "PutPublicAccessBlock", method: "PUT", must: pPublicAccessBlock, config: true},
	{name: "DeletePublicAccessBlock", method: "DELETE", must: pPublicAccessBlock, config: true},
	{name: "GetBucketReplication", method: "GET", must: pReplication, config: true},
	{name: "PutBucketReplication", method: "PUT", must: pReplication, config: true},
	{name: "DeleteBucketReplication", method: "DELETE", must: pReplication, config: true},
	{name: "GetBucketRequestPayment", method: "GET", must: pRequestPayment, config: true},
	{name: "PutBucketRequestPayment", method: "PUT", must: pRequestPayment, config: true},
	{name: "GetBucketTagging", method: "GET", must: pTagging, config: true},
	{name: "PutBucketTagging", method: "PUT", must: pTagging, config: true},
	{name: "DeleteBucketTagging", method: "DELETE", must: pTagging, config: true},
	{name: "GetBucketVersioning", method: "GET", must: pVersioning, config: true},
	{name: "PutBucketVersioning", method: "PUT", must: pVersioning, config: true},
	{name: "GetBucketWebsite", method: "GET", must: pWebsite, config: true},
	{name: "PutBucketWebsite", method: "PUT", must: pWebsite, config: true},
	{name: "DeleteBucketWebsite", method: "DELETE", must: pWebsite, config: true},
}

// match finds the one operation that a request is, if it is any.
func match(method string, t *target, q *query, copies bool) (*operation, *failure) {
	switch method {
	case "GET", "HEAD", "PUT", "POST", "DELETE":
	default:
		return nil, &failMethod
	}
	service := t.bucket == ""
	if service && method != "GET" {
		return nil, &failMethod
	}
	var have params
	for i := range q.params {
		if q.params[i].auth {
			continue
		}
		p := parameter(q.name(i))
		switch {
		case p == 0:
			return nil, &failParameter
		case have&p != 0:
			return nil, &failRepeated
		case p == pListType && string(q.value(i)) != "2":
			return nil, &failArgument
		}
		have |= p
	}
	have &^= pXID
	object := t.key != ""
	for i := range operations {
		o := &operations[i]
		if have&o.must == o.must && have&^(o.must|o.may) == 0 && o.object == object && o.method == method &&
			o.copies == copies && o.service == service {
			return o, nil
		}
	}
	return nil, misfit(method, object, have, copies)
}

// misfit names the mistakes for which S3 has words of their own.
func misfit(method string, object bool, have params, copies bool) *failure {
	switch {
	case copies && method != "PUT":
		return &failNotCopy
	case !object:
		return &failOperation
	case method == "PUT" && have == pPartNumber:
		return &failNoUpload
	case method == "PUT" && have == pUploadID, method == "POST" && have == 0:
		return &failMethod
	case method == "GET" && have == pUploads:
		return &failUploadsKey
	case method == "GET" && have == pVersions:
		return &failVersions
	}
	return &failOperation
}
