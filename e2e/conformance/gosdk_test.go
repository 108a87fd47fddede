package conformance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// goSDK calls what the others cannot say: versions, attributes, every checksum.
func goSDK(t *testing.T, at place) (outcomes []string) {
	ctx, c := t.Context(), sdk(at.url, at.access, at.secret)
	bucket, key := aws.String("conformance-go"), aws.String("dir/.b/ü €+%2F=&'()*~!$;:@,.txt")
	body, big := content(100_000), content(9<<20)
	do := func(name string, call func() (any, error)) {
		v, err := call()
		var api smithy.APIError
		var answer *smithyhttp.ResponseError
		switch {
		case errors.As(err, &api) && errors.As(err, &answer):
			outcomes = append(outcomes, fmt.Sprintf("%s: %s %d", name, api.ErrorCode(), answer.HTTPStatusCode()))
		case err != nil:
			outcomes = append(outcomes, fmt.Sprintf("%s: %T", name, err))
		default:
			outcomes = append(outcomes, fmt.Sprintf("%s: %v", name, v))
		}
	}
	digest := func(r io.Reader) (any, error) {
		b, err := io.ReadAll(r)
		return fmt.Sprintf("%d bytes, %.8x", len(b), sha256.Sum256(b)), err
	}
	get := func(in s3.GetObjectInput) func() (any, error) {
		return func() (any, error) {
			in.Bucket = bucket
			out, err := c.GetObject(ctx, &in)
			if err != nil {
				return nil, err
			}
			defer out.Body.Close()
			sum, err := digest(out.Body)
			return []any{sum, aws.ToString(out.ContentType), out.Metadata, aws.ToString(out.ContentRange), aws.ToString(out.ETag)}, err
		}
	}
	list := func() (any, error) {
		var keys []string
		pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: bucket, MaxKeys: aws.Int32(3)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			for _, o := range page.Contents {
				keys = append(keys, fmt.Sprint(aws.ToString(o.Key), " ", aws.ToInt64(o.Size), " ", aws.ToString(o.ETag)))
			}
		}
		return strings.Join(keys, "\n"), nil
	}
	url := func(method, url string, err error, body []byte) (any, error) {
		if err != nil {
			return nil, err
		}
		return fetchURL(ctx, method, url, body)
	}
	signer := s3.NewPresignClient(c)

	do("no such bucket", list)
	do("make bucket", func() (any, error) {
		_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
		return nil, err
	})
	do("put", func() (any, error) {
		out, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(body), ContentType: aws.String("text/x-odd"), Metadata: map[string]string{"note": "from go"}})
		return aws.ToString(out.ETag), err
	})
	do("put, unsigned", func() (any, error) {
		out, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("unsigned"), Body: bytes.NewReader(body)}, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
		return aws.ToString(out.ETag), err
	})
	do("put of nothing", func() (any, error) {
		out, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("empty")})
		return aws.ToString(out.ETag), err
	})
	for _, a := range []types.ChecksumAlgorithm{types.ChecksumAlgorithmCrc32, types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmCrc64nvme, types.ChecksumAlgorithmSha1, types.ChecksumAlgorithmSha256} {
		do("put with "+string(a), func() (any, error) {
			out, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("sum/" + string(a)), Body: bytes.NewReader(body), ChecksumAlgorithm: a})
			if err != nil {
				return nil, err
			}
			head, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: aws.String("sum/" + string(a)), ChecksumMode: types.ChecksumModeEnabled})
			if err != nil {
				return nil, err
			}
			sums := []*string{head.ChecksumCRC32, head.ChecksumCRC32C, head.ChecksumCRC64NVME, head.ChecksumSHA1, head.ChecksumSHA256}
			i := slices.IndexFunc(sums, func(s *string) bool { return s != nil })
			if i < 0 {
				return aws.ToString(out.ETag), nil
			}
			return aws.ToString(out.ETag) + " " + *sums[i], nil
		})
	}
	do("put of what is there already", func() (any, error) {
		_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("empty"), IfNoneMatch: aws.String("*")})
		return nil, err
	})
	do("upload in parts", func() (any, error) {
		//nolint:staticcheck // its successor is young; this one is what applications use
		out, err := manager.NewUploader(c, func(u *manager.Uploader) { u.PartSize = 5 << 20 }).Upload(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("big"), Body: bytes.NewReader(big)})
		if err != nil {
			return nil, err
		}
		return len(out.CompletedParts), nil
	})
	do("get", get(s3.GetObjectInput{Key: key}))
	do("get of big", get(s3.GetObjectInput{Key: aws.String("big")}))
	do("range", get(s3.GetObjectInput{Key: key, Range: aws.String("bytes=-100")}))
	do("range beyond", get(s3.GetObjectInput{Key: key, Range: aws.String("bytes=200000-")}))
	do("part 2", get(s3.GetObjectInput{Key: aws.String("big"), PartNumber: aws.Int32(2)}))
	do("another etag", get(s3.GetObjectInput{Key: key, IfMatch: aws.String(`"x"`)}))
	do("other content type", get(s3.GetObjectInput{Key: key, ResponseContentType: aws.String("text/other")}))
	do("get of nothing", get(s3.GetObjectInput{Key: aws.String("missing")}))
	do("attributes", func() (any, error) {
		out, err := c.GetObjectAttributes(ctx, &s3.GetObjectAttributesInput{Bucket: bucket, Key: key, ObjectAttributes: []types.ObjectAttributes{types.ObjectAttributesObjectSize, types.ObjectAttributesEtag}})
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(aws.ToInt64(out.ObjectSize), aws.ToString(out.ETag)), nil
	})
	do("copy with other metadata", func() (any, error) {
		_, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: bucket, Key: aws.String("copied"), CopySource: aws.String("conformance-go/unsigned"), MetadataDirective: types.MetadataDirectiveReplace, Metadata: map[string]string{"a": "b"}})
		if err != nil {
			return nil, err
		}
		return get(s3.GetObjectInput{Key: aws.String("copied")})()
	})
	do("tags", func() (any, error) {
		in := &types.Tagging{TagSet: []types.Tag{{Key: aws.String("a"), Value: aws.String("b c")}}}
		if _, err := c.PutObjectTagging(ctx, &s3.PutObjectTaggingInput{Bucket: bucket, Key: key, Tagging: in}); err != nil {
			return nil, err
		}
		out, err := c.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: bucket, Key: key})
		if err != nil || len(out.TagSet) != 1 {
			return nil, err
		}
		return *out.TagSet[0].Key + "=" + *out.TagSet[0].Value, nil
	})
	do("list", list)
	do("presigned get", func() (any, error) {
		q, err := signer.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
		return url(http.MethodGet, q.URL, err, nil)
	})
	do("presigned put", func() (any, error) {
		q, err := signer.PresignPutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("by url")})
		return url(http.MethodPut, q.URL, err, []byte("by url"))
	})
	do("versions", func() (any, error) {
		if _, err := c.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{Bucket: bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled}}); err != nil {
			return nil, err
		}
		for _, text := range []string{"one", "two"} {
			if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("versioned"), Body: strings.NewReader(text)}); err != nil {
				return nil, err
			}
		}
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: aws.String("versioned")}); err != nil {
			return nil, err
		}
		out, err := c.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: bucket, Prefix: aws.String("versioned")})
		if err != nil {
			return nil, err
		}
		for _, v := range out.Versions {
			old, err := get(s3.GetObjectInput{Key: v.Key, VersionId: v.VersionId})()
			outcomes = append(outcomes, fmt.Sprint(old, err))
			if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: v.Key, VersionId: v.VersionId}); err != nil {
				return nil, err
			}
		}
		for _, v := range out.DeleteMarkers {
			if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: v.Key, VersionId: v.VersionId}); err != nil {
				return nil, err
			}
		}
		return fmt.Sprint(len(out.Versions), len(out.DeleteMarkers)), nil
	})
	do("delete all", func() (any, error) {
		out, err := c.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: bucket})
		if err != nil {
			return nil, err
		}
		var all []types.ObjectIdentifier
		for _, v := range out.Versions {
			all = append(all, types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
		}
		gone, err := c.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: all}})
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(len(gone.Deleted), len(gone.Errors)), nil
	})
	do("left", list)
	do("remove bucket", func() (any, error) {
		_, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: bucket})
		return nil, err
	})
	do("remove it again", func() (any, error) {
		_, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: bucket})
		return nil, err
	})
	return outcomes
}

func fetchURL(ctx context.Context, method, url string, body []byte) (any, error) {
	q, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%d, %d bytes, %.8x", res.StatusCode, len(b), sha256.Sum256(b)), err
}
