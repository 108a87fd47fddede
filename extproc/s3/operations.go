package s3

import "keybridge/extproc/grant"

// params is a set of query parameters.
type params uint64

// The query parameters that some operation below takes.
const (
	pACL params = 1 << iota
	pAccelerate
	pAnalytics
	pAttributes
	pContinuationToken
	pCors
	pDelete
	pDelimiter
	pEncodingType
	pEncryption
	pFetchOwner
	pID
	pIntelligentTiering
	pInventory
	pKeyMarker
	pLegalHold
	pLifecycle
	pListType
	pLocation
	pLogging
	pMarker
	pMaxKeys
	pMaxParts
	pMaxUploads
	pMetrics
	pNotification
	pObjectLock
	pOwnershipControls
	pPartNumber
	pPartNumberMarker
	pPolicy
	pPolicyStatus
	pPrefix
	pPublicAccessBlock
	pReplication
	pRequestPayment
	pResponseCacheControl
	pResponseContentDisposition
	pResponseContentEncoding
	pResponseContentLanguage
	pResponseContentType
	pResponseExpires
	pRetention
	pStartAfter
	pTagging
	pUploadID
	pUploadIDMarker
	pUploads
	pVersionID
	pVersionIDMarker
	pVersioning
	pVersions
	pWebsite
	pXID
)

const (
	pResponse = pResponseCacheControl | pResponseContentDisposition | pResponseContentEncoding |
		pResponseContentLanguage | pResponseContentType | pResponseExpires
	pListing = pPrefix | pDelimiter | pEncodingType
)

// parameter finds a query parameter by its encoded name, 0 if it is not on the list.
// Names are case-sensitive in S3.
func parameter(name []byte) params {
	switch string(name) {
	case "acl":
		return pACL
	case "accelerate":
		return pAccelerate
	case "analytics":
		return pAnalytics
	case "attributes":
		return pAttributes
	case "continuation-token":
		return pContinuationToken
	case "cors":
		return pCors
	case "delete":
		return pDelete
	case "delimiter":
		return pDelimiter
	case "encoding-type":
		return pEncodingType
	case "encryption":
		return pEncryption
	case "fetch-owner":
		return pFetchOwner
	case "id":
		return pID
	case "intelligent-tiering":
		return pIntelligentTiering
	case "inventory":
		return pInventory
	case "key-marker":
		return pKeyMarker
	case "legal-hold":
		return pLegalHold
	case "lifecycle":
		return pLifecycle
	case "list-type":
		return pListType
	case "location":
		return pLocation
	case "logging":
		return pLogging
	case "marker":
		return pMarker
	case "max-keys":
		return pMaxKeys
	case "max-parts":
		return pMaxParts
	case "max-uploads":
		return pMaxUploads
	case "metrics":
		return pMetrics
	case "notification":
		return pNotification
	case "object-lock":
		return pObjectLock
	case "ownershipControls":
		return pOwnershipControls
	case "partNumber":
		return pPartNumber
	case "part-number-marker":
		return pPartNumberMarker
	case "policy":
		return pPolicy
	case "policyStatus":
		return pPolicyStatus
	case "prefix":
		return pPrefix
	case "publicAccessBlock":
		return pPublicAccessBlock
	case "replication":
		return pReplication
	case "requestPayment":
		return pRequestPayment
	case "response-cache-control":
		return pResponseCacheControl
	case "response-content-disposition":
		return pResponseContentDisposition
	case "response-content-encoding":
		return pResponseContentEncoding
	case "response-content-language":
		return pResponseContentLanguage
	case "response-content-type":
		return pResponseContentType
	case "response-expires":
		return pResponseExpires
	case "retention":
		return pRetention
	case "start-after":
		return pStartAfter
	case "tagging":
		return pTagging
	case "uploadId":
		return pUploadID
	case "upload-id-marker":
		return pUploadIDMarker
	case "uploads":
		return pUploads
	case "versionId":
		return pVersionID
	case "version-id-marker":
		return pVersionIDMarker
	case "versioning":
		return pVersioning
	case "versions":
		return pVersions
	case "website":
		return pWebsite
	case "x-id":
		return pXID
	}
	return 0
}

// operation is one row of the table: a request is this operation if method and
// level are the same, it has every parameter of must, and no other than those of may.
type operation struct {
	name   string
	method string
	object bool // on a key, otherwise on a bucket
	must   params
	may    params
	// by lists the accesses of which one is enough.
	by grant.Access
	// config needs ADMIN and a connector that allows bucket configuration.
	config bool
	// refuse answers instead, once the key's access was checked.
	refuse *failure
}

const (
	read   = grant.AccessRead
	write  = grant.AccessWrite
	either = grant.AccessRead | grant.AccessWrite
)

// operations is the allow-list. Source: Amazon S3 API Reference, "Actions", Amazon
// S3, each action's request syntax (method, sub-resource, URI request parameters).
// SDKs add x-id=<action>, which S3 ignores. HEAD of an object is a read, though some
// tools follow an upload with one: it shows metadata.
var operations = []operation{
	{name: "GetObject", method: "GET", object: true, may: pVersionID | pPartNumber | pResponse, by: read},
	{name: "HeadObject", method: "HEAD", object: true, may: pVersionID | pPartNumber | pResponse, by: read},
	{name: "PutObject", method: "PUT", object: true, by: write},
	{name: "UploadPart", method: "PUT", object: true, must: pUploadID | pPartNumber, by: write},
	{name: "ListObjectsV2", method: "GET", must: pListType, may: pListing | pContinuationToken | pStartAfter | pFetchOwner | pMaxKeys, by: read},
	{name: "ListObjects", method: "GET", may: pListing | pMarker | pMaxKeys, by: read},
	{name: "DeleteObject", method: "DELETE", object: true, may: pVersionID, by: write},
	{name: "DeleteObjects", method: "POST", must: pDelete, by: write},
	{name: "CreateMultipartUpload", method: "POST", object: true, must: pUploads, by: write},
	{name: "CompleteMultipartUpload", method: "POST", object: true, must: pUploadID, by: write},
	{name: "AbortMultipartUpload", method: "DELETE", object: true, must: pUploadID, by: write},
	{name: "HeadBucket", method: "HEAD", by: either},
	{name: "GetBucketLocation", method: "GET", must: pLocation, by: either},
	{name: "ListParts", method: "GET", object: true, must: pUploadID, may: pMaxParts | pPartNumberMarker, by: either},
	{name: "ListMultipartUploads", method: "GET", must: pUploads, may: pListing | pKeyMarker | pUploadIDMarker | pMaxUploads, by: either},
	{name: "ListObjectVersions", method: "GET", must: pVersions, may: pListing | pKeyMarker | pVersionIDMarker | pMaxKeys, by: read},
	{name: "GetObjectAttributes", method: "GET", object: true, must: pAttributes, may: pVersionID, by: read},
	{name: "GetObjectTagging", method: "GET", object: true, must: pTagging, may: pVersionID, by: read},
	{name: "PutObjectTagging", method: "PUT", object: true, must: pTagging, may: pVersionID, by: write},
	{name: "DeleteObjectTagging", method: "DELETE", object: true, must: pTagging, may: pVersionID, by: write},

	// A client that makes sure of its bucket before an upload learns that it is there.
	{name: "CreateBucket", method: "PUT", by: write, refuse: &failOwned},
	{name: "DeleteBucket", method: "DELETE", by: write, refuse: &failForbidden},

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
	{name: "Get/ListBucketAnalyticsConfiguration", method: "GET", must: pAnalytics, may: pID | pContinuationToken, config: true},
	{name: "PutBucketAnalyticsConfiguration", method: "PUT", must: pAnalytics | pID, config: true},
	{name: "DeleteBucketAnalyticsConfiguration", method: "DELETE", must: pAnalytics | pID, config: true},
	{name: "GetBucketCors", method: "GET", must: pCors, config: true},
	{name: "PutBucketCors", method: "PUT", must: pCors, config: true},
	{name: "DeleteBucketCors", method: "DELETE", must: pCors, config: true},
	{name: "GetBucketEncryption", method: "GET", must: pEncryption, config: true},
	{name: "PutBucketEncryption", method: "PUT", must: pEncryption, config: true},
	{name: "DeleteBucketEncryption", method: "DELETE", must: pEncryption, config: true},
	{name: "Get/ListBucketIntelligentTieringConfiguration", method: "GET", must: pIntelligentTiering, may: pID | pContinuationToken, config: true},
	{name: "PutBucketIntelligentTieringConfiguration", method: "PUT", must: pIntelligentTiering | pID, config: true},
	{name: "DeleteBucketIntelligentTieringConfiguration", method: "DELETE", must: pIntelligentTiering | pID, config: true},
	{name: "Get/ListBucketInventoryConfiguration", method: "GET", must: pInventory, may: pID | pContinuationToken, config: true},
	{name: "PutBucketInventoryConfiguration", method: "PUT", must: pInventory | pID, config: true},
	{name: "DeleteBucketInventoryConfiguration", method: "DELETE", must: pInventory | pID, config: true},
	{name: "GetBucketLifecycleConfiguration", method: "GET", must: pLifecycle, config: true},
	{name: "PutBucketLifecycleConfiguration", method: "PUT", must: pLifecycle, config: true},
	{name: "DeleteBucketLifecycle", method: "DELETE", must: pLifecycle, config: true},
	{name: "GetBucketLogging", method: "GET", must: pLogging, config: true},
	{name: "PutBucketLogging", method: "PUT", must: pLogging, config: true},
	{name: "Get/ListBucketMetricsConfiguration", method: "GET", must: pMetrics, may: pID | pContinuationToken, config: true},
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
func match(method string, t *target, q *query) (*operation, *failure) {
	switch method {
	case "GET", "HEAD", "PUT", "POST", "DELETE":
	default:
		return nil, &failMethod
	}
	if t.bucket == "" {
		if method == "GET" {
			return nil, &failListBuckets
		}
		return nil, &failMethod
	}
	var have params
	for i := range q.params {
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
		if have&o.must == o.must && have&^(o.must|o.may) == 0 && o.object == object && o.method == method {
			return o, nil
		}
	}
	return nil, &failOperation
}
