package s3

import (
	"net/netip"
	"strings"

	"keybridge/extproc/grant"
)

const copySource = "x-amz-copy-source"

// authoriseCopy holds the source of a copy against the key's repository, and notes
// the one spelling of it that the provider gets.
//
// The provider reads the source with the destination's credential, so both connectors
// must be one account: otherwise the copy would need a credential outside of what it
// is bound to, and more often than not the provider could not make it anyway.
func (s *scratch) authoriseCopy(repository *grant.Repository, to *grant.Connector) *failure {
	bucket, key, ok := s.parseCopySource(s.found.copySource.value)
	if !ok {
		return copyMistake(s.found.copySource.value)
	}
	from, folder := repository.Storage(bucket)
	switch {
	case from == nil && !bucketLike(bucket):
		return &failCopyBucket
	case from == nil:
		return &failBucket
	case folder != "" && !inFolder(folder, key):
		return &failFolder
	case from != to && !from.SameAccount(to):
		return &failCopyAcross
	}
	return nil
}

// parseCopySource reads x-amz-copy-source: bucket/key, with a slash before it or not,
// percent-encoded, then ?versionId=… or nothing ("CopyObject", Amazon S3 API
// Reference). A plus means a space, as S3 reads it. Access points (arn:…) have no
// bucket that could be looked up. The canonical spelling is left in s.source.
func (s *scratch) parseCopySource(raw string) (bucket, key string, ok bool) {
	path, version, versioned := strings.Cut(raw, "?")
	from := len(s.text)
	if s.text, ok = appendUnescaped(s.text, path); !ok {
		return "", "", false
	}
	decoded := strings.TrimPrefix(view(s.text[from:]), "/")
	bucket, key, _ = strings.Cut(decoded, "/")
	if bucket == "" || bucket == "." || bucket == ".." || key == "" || !staysInside(key) {
		return "", "", false
	}
	b := s.source[:0]
	for i := 0; i < len(decoded); i++ {
		b = encode(b, decoded[i], false)
	}
	if versioned {
		id, found := strings.CutPrefix(version, "versionId=")
		found = found && strings.IndexByte(id, '&') < 0 && strings.IndexByte(id, '?') < 0
		from = len(s.text)
		if s.text, ok = appendUnescaped(s.text, id); !ok || !found || id == "" {
			return "", "", false
		}
		b = append(b, "?versionId="...)
		for _, c := range s.text[from:] {
			b = encode(b, c, true)
		}
	}
	s.source = b
	return bucket, key, true
}

// appendUnescaped decodes s, whose plus signs are spaces, and refuses what no URL holds.
// Not everybody escapes what a path may hold as it is: rclone leaves & and = raw.
func appendUnescaped(b []byte, s string) ([]byte, bool) {
	for s != "" {
		c, n, ok := next(s)
		switch {
		case !ok && (s[0] == ' ' || s[0] == '#'): // a header may have them
			c, n = s[0], 1
		case !ok:
			return b, false
		case n == 1 && c == '+':
			c = ' '
		}
		b = append(b, c)
		s = s[n:]
	}
	return b, true
}

// copyMistake says what is wrong with a source that cannot be read.
func copyMistake(raw string) *failure {
	bucket, key, ok := splitSource(raw)
	switch {
	case !ok:
		return &failCopyEncoding
	case !bucketLike(bucket):
		return &failCopyBucket
	case key == "" || !staysInside(key):
		return &failCopyKey
	}
	return &failCopySource
}

// splitSource is what a source means, for what is said of one that is refused.
func splitSource(raw string) (bucket, key string, ok bool) {
	path, _, _ := strings.Cut(raw, "?")
	decoded, ok := appendUnescaped(nil, path)
	bucket, key, _ = strings.Cut(strings.TrimPrefix(string(decoded), "/"), "/")
	return bucket, key, ok
}

// bucketLike takes what some provider may call a bucket: what S3 once allowed in
// us-east-1 ("Bucket naming rules", Amazon S3 User Guide), but for addresses.
func bucketLike(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !unreserved[c] || c == '~' {
			return false
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil && s != "" && s != "." && s != ".."
}
