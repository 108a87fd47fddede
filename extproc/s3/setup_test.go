package s3_test

import (
	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
)

func allowConfiguration(in *grant.ConnectorInput, _ *seal.Header) { in.AllowBucketConfiguration = true }
