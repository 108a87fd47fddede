package s3

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"maps"
	"slices"
	"strconv"
	"strings"

	"keybridge/extproc"
	"keybridge/extproc/grant"
)

// maxBuckets is the most that one answer lists, and the default ("ListBuckets",
// Amazon S3 API Reference).
const maxBuckets = 10_000

// noDate stands for when a bucket was made, which the bridge does not know. The AWS
// CLI and rclone fail on a bucket without one.
const noDate = "1970-01-01T00:00:00.000Z"

// listBuckets answers ListBuckets for a repository without an account connector: its
// buckets by name, not what else the providers' accounts hold.
func (s *scratch) listBuckets(repository *grant.Repository, r *extproc.Request) *extproc.Error {
	prefix, region, after, limit, ok := s.listing()
	if !ok {
		return failArgument.answer(r)
	}
	names := slices.Sorted(maps.Keys(repository.Buckets))
	names = slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasPrefix(n, prefix) || n <= after || (region != "" && repository.Buckets[n].Region != region)
	})
	token := ""
	if len(names) > limit {
		names = names[:limit]
		token = base64.RawURLEncoding.EncodeToString([]byte(names[limit-1]))
	}
	b := []byte(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>`)
	b = append(append(b, owner(repository)...), "</ID><DisplayName>"...)
	b = append(appendText(b, repository.Name), "</DisplayName></Owner><Buckets>"...)
	for _, n := range names {
		b = append(appendText(append(b, "<Bucket><Name>"...), n), "</Name><CreationDate>"+noDate+"</CreationDate><BucketRegion>"...)
		b = append(appendText(b, repository.Buckets[n].Region), "</BucketRegion></Bucket>"...)
	}
	b = append(b, "</Buckets>"...)
	if prefix != "" {
		b = append(appendText(append(b, "<Prefix>"...), prefix), "</Prefix>"...)
	}
	if token != "" {
		b = append(append(append(b, "<ContinuationToken>"...), token...), "</ContinuationToken>"...)
	}
	b = append(b, "</ListAllMyBucketsResult>"...)
	return &extproc.Error{
		Status:      200,
		ContentType: "application/xml",
		Headers:     []extproc.Header{{Name: "x-amz-request-id", Value: requestID()}},
		Body:        b,
		Reason:      "listed_buckets",
	}
}

// listing reads the parameters of ListBuckets.
func (s *scratch) listing() (prefix, region, after string, limit int, ok bool) {
	limit = maxBuckets
	for i := range s.query.params {
		if s.query.params[i].auth {
			continue
		}
		value := string(appendDecoded(nil, s.query.value(i)))
		switch parameter(s.query.name(i)) {
		case pPrefix:
			prefix = value
		case pBucketRegion:
			region = value
		case pContinuationToken:
			raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
			if err != nil || len(raw) == 0 || len(raw) > 255 {
				return "", "", "", 0, false
			}
			after = string(raw)
		case pMaxBuckets:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxBuckets || value[0] == '+' {
				return "", "", "", 0, false
			}
			limit = n
		}
	}
	return prefix, region, after, limit, true
}

// owner is an id as S3 has them, the same for every key of a repository. The
// repository's own id stays inside.
func owner(r *grant.Repository) string {
	sum := sha256.Sum256([]byte("keybridge bucket owner\n" + r.ID))
	return hex.EncodeToString(sum[:])
}

// appendText writes s as XML text; what XML cannot hold becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	var text strings.Builder
	_ = xml.EscapeText(&text, []byte(s)) // a strings.Builder takes everything
	return append(b, text.String()...)
}
