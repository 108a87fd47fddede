package s3

// params is a set of query parameters.
type params uint64

// The query parameters that some operation below takes.
const (
	pACL params = 1 << iota
	pAccelerate
	pAnalytics
	pAttributes
	pBucketRegion
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
	pMaxBuckets
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
	case "bucket-region":
		return pBucketRegion
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
	case "max-buckets":
		return pMaxBuckets
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
