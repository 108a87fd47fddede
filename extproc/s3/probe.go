package s3

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"keybridge/extproc/credential"
	"keybridge/extproc/grant"
)

// Probe asks the connector's provider whether the credential reaches the bucket:
// HeadBucket, or ListBuckets for an account. A refusal of HeadBucket has no body
// (RFC 9110 §9.3.2), so the reason is then asked for by listing the bucket, which
// needs the same permission ("HeadBucket", Amazon S3 API Reference). The error is
// the provider's own words, or why it was not reached.
//
// The client decides which host is reached, and limits time and size.
func Probe(ctx context.Context, client *http.Client, c *grant.Connector) (grant.Probed, error) {
	scheme := c.Credential.Binding().Scheme
	sdk := s3.New(s3.Options{
		Region: c.Region, BaseEndpoint: aws.String(scheme + "://" + c.Authority), UsePathStyle: true,
		HTTPClient: client, Retryer: aws.NopRetryer{}, DisableS3ExpressSessionAuth: aws.Bool(true),
		HTTPSignerV4: (*probeSigner)(c.Credential),
		// What the SDK wants to see before it asks the signer, which has the secret.
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: c.Credential.Binding().Key, SecretAccessKey: "in the arena"}, nil
		}),
	})
	if c.Bucket == "*" {
		_, err := sdk.ListBuckets(ctx, &s3.ListBucketsInput{})
		return grant.Probed{Region: regionOf(err), Denied: denied(err)}, probeError(err, c.Region)
	}
	head, err := sdk.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &c.Bucket})
	if err == nil {
		return grant.Probed{Region: aws.ToString(head.BucketRegion)}, nil
	}
	region := regionOf(err)
	if status, _ := answerOf(err); status >= 400 {
		var said error
		if _, said = sdk.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &c.Bucket, MaxKeys: aws.Int32(1)}); said == nil {
			return grant.Probed{Region: region}, nil // a server without HeadBucket
		}
		err, region = said, cmp.Or(region, regionOf(said))
	}
	return grant.Probed{Region: region, Denied: denied(err)}, probeError(err, cmp.Or(region, c.Region))
}

// denied says whether an answer is one by which Review would know a refused credential.
func denied(err error) bool {
	status, _ := answerOf(err)
	var api smithy.APIError
	return status == http.StatusUnauthorized || errors.As(err, &api) && refusals[api.ErrorCode()]
}

// answerOf is the answer that the SDK made an error of; status 0 if there was none.
func answerOf(err error) (status int, header http.Header) {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil && answer.Response.Response != nil {
		return answer.Response.StatusCode, answer.Response.Header
	}
	return 0, nil
}

// regionOf is the region that a refusal names: in its header ("HeadBucket", Amazon
// S3 API Reference), or in the message of AuthorizationHeaderMalformed.
func regionOf(err error) string {
	if _, header := answerOf(err); header.Get("x-amz-bucket-region") != "" {
		return header.Get("x-amz-bucket-region")
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "AuthorizationHeaderMalformed" {
		// 'us-east-1' at AWS, "us-east-1" at others.
		if _, rest, ok := strings.Cut(api.ErrorMessage(), "expecting "); ok && rest != "" {
			region, _, _ := strings.Cut(strings.TrimLeft(rest, `'"`), rest[:1])
			return region
		}
	}
	return ""
}

// probeError keeps of the SDK's error what the provider said, or why it said nothing.
func probeError(err error, region string) error {
	if err == nil {
		return nil
	}
	var unreached *url.Error
	if errors.As(err, &unreached) {
		return unreached.Err
	}
	status, _ := answerOf(err)
	if status == 0 {
		return err
	}
	if 300 <= status && status < 400 {
		if named := regionOf(err); named != "" {
			return fmt.Errorf("the bucket is in region %s", region)
		}
		return fmt.Errorf("the provider redirects (HTTP %d), and redirects are not followed", status)
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorMessage() != "" {
		return fmt.Errorf("%s: %s", api.ErrorCode(), api.ErrorMessage())
	}
	return fmt.Errorf("HTTP %d %s", status, http.StatusText(status))
}

// probeSigner signs the SDK's requests without giving it the secret.
type probeSigner credential.Credential

// SignHTTP implements s3.HTTPSignerV4 for requests without a body to sign ("Create
// a signed AWS API request", IAM User Guide). It is not the request path's signer,
// which works on what a client signed before.
func (p *probeSigner) SignHTTP(_ context.Context, _ aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, _ ...func(*v4.SignerOptions)) error {
	c := (*credential.Credential)(p)
	stamp := at.UTC().Format("20060102T150405Z")
	r.Header.Set("X-Amz-Date", stamp)
	if token := c.Token().Bytes(); token != nil {
		r.Header.Set(sessionToken, string(token)) // net/http wants a string, as for a bearer token
	}
	r.URL.RawQuery = strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	host := cmp.Or(r.Host, r.URL.Host)
	names, lines := []string{"host"}, map[string]string{"host": host}
	for name, values := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") {
			names, lines[name] = append(names, name), strings.Join(values, ",")
		}
	}
	slices.Sort(names)
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	for _, name := range names {
		fmt.Fprintf(&canonical, "%s:%s\n", name, lines[name])
	}
	signed := strings.Join(names, ";")
	fmt.Fprintf(&canonical, "\n%s\n%s", signed, payloadHash)

	scope := credential.Scope{Day: stamp[:8], Region: region, Service: service}
	scopeText := scope.Day + "/" + region + "/" + service + "/aws4_request"
	digest := sha256.Sum256([]byte(canonical.String()))
	var mac [sha256.Size]byte
	if err := c.Sign(&mac, scope, []byte("AWS4-HMAC-SHA256\n"+stamp+"\n"+scopeText+"\n"+hex.EncodeToString(digest[:]))); err != nil {
		return err
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+c.Binding().Key+"/"+scopeText+
		",SignedHeaders="+signed+",Signature="+hex.EncodeToString(mac[:]))
	return nil
}
