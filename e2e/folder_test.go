package e2e_test

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	gocmp "github.com/google/go-cmp/cmp"

	"keybridge/e2e/provider"
	"keybridge/store/api/client"
)

// The buckets of a repository that is limited to a folder in each, and what others
// have in them.
const (
	teamBucket, teamFolder   = "folder-team", "team a/ü/"
	inboxBucket, inboxFolder = "folder-inbox", "in/2026/"
)

var others = map[string][]string{
	teamBucket:  {"other", "team a/other", "team a/ü2/other", "zz/other", "team b/ü/other"},
	inboxBucket: {"other", "in/2025/other", "in/20266", "out/2026/other"},
}

// folders makes a repository of two buckets, limited to a folder in each, with what
// others have beside, and keys of it.
func (w *world) folders(t *testing.T) clientKeys {
	t.Helper()
	ctx := t.Context()
	for bucket, keys := range others {
		if err := w.s3.MakeBucket(ctx, bucket); err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			if err := w.putDirect(ctx, bucket, key, "of others"); err != nil {
				t.Fatal(err)
			}
		}
	}
	id, err := w.tenant.CreateBucket(ctx, client.BucketSpec{
		WorkspaceID: w.tenant.Workspace, Name: rand.Text(), Bucket: teamBucket, Endpoint: w.s3.URL(), Region: provider.Region,
		Key: w.s3.Access, Secret: client.Secret(w.s3.Secret), AllowBucketConfiguration: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.limitedKeys(t, client.RepoBucket{ID: id, Folder: teamFolder}, client.RepoBucket{ID: w.connector(t, inboxBucket), Folder: inboxFolder})
}

// othersAreThere wants what others have as it was, and nothing else beside the folders.
func (w *world) othersAreThere(t *testing.T) {
	t.Helper()
	for bucket, folder := range map[string]string{teamBucket: teamFolder, inboxBucket: inboxFolder} {
		list, err := w.s3.Direct().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, o := range list.Contents {
			if key := aws.ToString(o.Key); !strings.HasPrefix(key, folder) {
				left = append(left, key)
				w.wantObjectIn(t, bucket, key, []byte("of others"))
			}
		}
		want := slices.Clone(others[bucket])
		slices.Sort(want)
		slices.Sort(left)
		if diff := gocmp.Diff(want, left); diff != "" {
			t.Errorf("beside the folder of %s: %s", bucket, diff)
		}
	}
}

// TestS3FolderByGoSDK: everything that an application does works inside its folder, and
// lists show nothing else.
func TestS3FolderByGoSDK(t *testing.T) {
	w := shared(t)
	k := w.folders(t)
	ctx, c := t.Context(), w.s3SDK(k.admin)
	team, inbox := aws.String(teamBucket), aws.String(inboxBucket)
	keys := []string{"a", "b & <c>.txt", "sub/'d'\"", "sub/deeper/.e", "x=1;y"}
	for i := range keys {
		keys[i] = teamFolder + keys[i]
		if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: team, Key: &keys[i], Body: strings.NewReader("mine")}); err != nil {
			t.Fatal("put: ", err)
		}
		w.wantObjectIn(t, teamBucket, keys[i], []byte("mine"))
	}
	slices.Sort(keys)
	get, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: team, Key: &keys[0]})
	if err != nil || string(readAll(t, get.Body)) != "mine" {
		t.Fatal("get: ", err)
	}
	if _, err := c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: team}); err != nil {
		t.Error("head of the bucket: ", err)
	}
	if _, err := c.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: team}); err != nil {
		t.Error("location: ", err)
	}

	t.Run("lists", func(t *testing.T) {
		var got []string
		pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: team, MaxKeys: aws.Int32(2)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				got = append(got, aws.ToString(o.Key))
			}
		}
		if diff := gocmp.Diff(keys, got); diff != "" {
			t.Error("in pages: ", diff)
		}
		one, err := c.ListObjects(ctx, &s3.ListObjectsInput{Bucket: team, Prefix: aws.String("")})
		if err != nil || len(one.Contents) != len(keys) || aws.ToString(one.Prefix) != teamFolder {
			t.Errorf("first version: %+v, %v", one, err)
		}
		one, err = c.ListObjects(ctx, &s3.ListObjectsInput{Bucket: team, Marker: one.Contents[3].Key})
		if err != nil || len(one.Contents) != 1 || aws.ToString(one.Contents[0].Key) != keys[4] {
			t.Errorf("after a marker: %+v, %v", one, err)
		}
		by, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: team, Delimiter: aws.String("/")})
		if err != nil || len(by.Contents) != 3 || len(by.CommonPrefixes) != 1 || aws.ToString(by.CommonPrefixes[0].Prefix) != teamFolder+"sub/" {
			t.Errorf("by directories: %+v, %v", by, err)
		}
		sub, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: team, Prefix: aws.String(teamFolder + "sub/"), StartAfter: &keys[0]})
		if err != nil || len(sub.Contents) != 2 {
			t.Errorf("of a directory: %+v, %v", sub, err)
		}
		versions, err := c.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: team})
		if err != nil || len(versions.Versions) != len(keys) {
			t.Errorf("of versions: %+v, %v", versions, err)
		}
		w.ownersAreKeyIDs(t)
	})

	t.Run("parts", func(t *testing.T) {
		const size = 12 << 20
		body := make([]byte, size)
		_, _ = rand.Read(body)
		key := teamFolder + "big"
		//nolint:staticcheck // as in TestS3MultipartByGoSDK
		if _, err := manager.NewUploader(c).Upload(ctx, &s3.PutObjectInput{Bucket: team, Key: &key, Body: bytes.NewReader(body)}); err != nil {
			t.Fatal(err)
		}
		w.wantObjectIn(t, teamBucket, key, body)
		up, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: inbox, Key: aws.String(inboxFolder + "copied")})
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := w.s3.Direct().CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: inbox, Key: aws.String("in/2025/theirs")})
		if err != nil {
			t.Fatal(err)
		}
		part, err := c.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: inbox, Key: up.Key, UploadId: up.UploadId, PartNumber: aws.Int32(1), CopySource: aws.String(teamBucket + "/team%20a/%C3%BC/big"),
		})
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: inbox})
		if err != nil || len(list.Uploads) != 1 || aws.ToString(list.Uploads[0].UploadId) != aws.ToString(up.UploadId) {
			t.Errorf("uploads: %+v, %v", list, err)
		}
		if parts, err := c.ListParts(ctx, &s3.ListPartsInput{Bucket: inbox, Key: up.Key, UploadId: up.UploadId}); err != nil || len(parts.Parts) != 1 {
			t.Errorf("parts: %+v, %v", parts, err)
		}
		_, err = c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: inbox, Key: up.Key, UploadId: up.UploadId,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: part.CopyPartResult.ETag}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.wantObjectIn(t, inboxBucket, inboxFolder+"copied", body)
		w.ownersAreKeyIDs(t)
		if _, err := w.s3.Direct().AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: inbox, Key: foreign.Key, UploadId: foreign.UploadId}); err != nil {
			t.Error(err)
		}
	})

	t.Run("copy", func(t *testing.T) {
		from := teamBucket + "/team%20a/%C3%BC/a"
		if _, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: inbox, Key: aws.String(inboxFolder + "a"), CopySource: &from}); err != nil {
			t.Fatal(err)
		}
		w.wantObjectIn(t, inboxBucket, inboxFolder+"a", []byte("mine"))
	})

	t.Run("delete", func(t *testing.T) {
		w.reset()
		var objects []types.ObjectIdentifier
		for i := range keys {
			objects = append(objects, types.ObjectIdentifier{Key: &keys[i]})
		}
		objects = append(objects, types.ObjectIdentifier{Key: aws.String(teamFolder + "big")}, types.ObjectIdentifier{Key: aws.String(teamFolder + "never there")})
		out, err := w.s3SDK(k.write).DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: team, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(false)}})
		if err != nil || len(out.Errors) != 0 || len(out.Deleted) != len(objects) {
			t.Fatalf("%+v, %v", out, err)
		}
		sent, got := w.frontS3.Requests(), w.s3.Requests()
		if len(sent) != 1 || len(got) != 1 || got[0].Chunked || got[0].Body != sent[0].Body || got[0].Body == 0 {
			t.Errorf("sent %+v, at the provider %+v", sent, got)
		}
		if list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: team}); err != nil || len(list.Contents) != 0 {
			t.Errorf("left: %+v, %v", list, err)
		}
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: inbox, Key: aws.String(inboxFolder + "copied")}); err != nil {
			t.Error(err)
		}
	})

	t.Run("delete a thousand", func(t *testing.T) {
		var objects []types.ObjectIdentifier
		for i := range 1000 {
			key := fmt.Sprintf("%s%s/%04d", teamFolder, strings.Repeat("long&", 150), i)
			objects = append(objects, types.ObjectIdentifier{Key: &key})
		}
		in := &s3.DeleteObjectsInput{Bucket: team, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)}}
		if out, err := c.DeleteObjects(ctx, in); err != nil || len(out.Errors) != 0 {
			t.Errorf("%+v, %v", out, err)
		}
	})
	w.othersAreThere(t)
}

// TestS3FolderRefusals: every way out is refused without a call to the provider.
func TestS3FolderRefusals(t *testing.T) {
	w := shared(t)
	k := w.folders(t)
	const in, folder = "/" + teamBucket + "/team%20a/%C3%BC/", "team%20a%2F%C3%BC%2F"
	for key, body := range map[string]string{"mine": "mine", "sub/mine": "mine"} {
		if err := w.putDirect(t.Context(), teamBucket, teamFolder+key, body); err != nil {
			t.Fatal(err)
		}
	}
	get, put, post, del := http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete
	list := func(query string) s3Request { return s3Request{method: get, path: "/" + teamBucket + "?" + query} }
	copies := func(from string) s3Request {
		return s3Request{method: put, path: in + "copy", header: []string{"X-Amz-Copy-Source", from}}
	}
	deletes := func(body string, header ...string) s3Request {
		return s3Request{method: post, path: "/" + teamBucket + "?delete=", body: body, header: header}
	}
	document := func(keys ...string) string {
		return `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>` + strings.Join(keys, "</Key></Object><Object><Key>") + "</Key></Object></Delete>"
	}
	inside := document(teamFolder + "mine")
	with := func(q s3Request, change func(*s3Request)) s3Request {
		change(&q)
		return q
	}
	const denied, malformed = "AccessDenied", "MalformedXML"
	for _, c := range []struct {
		name string
		q    s3Request
		code string
	}{
		{"a key of others", s3Request{method: get, path: "/" + teamBucket + "/other"}, denied},
		{"a key of others, put", s3Request{method: put, path: "/" + teamBucket + "/other", body: "x"}, denied},
		{"a key of others, deleted", s3Request{method: del, path: "/" + teamBucket + "/other"}, denied},
		{"a folder that begins alike", s3Request{method: get, path: "/" + teamBucket + "/team%20a/%C3%BC2/other"}, denied},
		{"the parent", s3Request{method: get, path: "/" + teamBucket + "/team%20a/other"}, denied},
		{"the folder itself", s3Request{method: del, path: in}, denied},
		{"the folder's name", s3Request{method: get, path: strings.TrimSuffix(in, "/")}, denied},
		{"the other bucket's folder", s3Request{method: get, path: "/" + teamBucket + "/in/2026/x"}, denied},
		{"this folder in the other bucket", s3Request{method: get, path: "/" + inboxBucket + "/team%20a/%C3%BC/mine"}, denied},
		{"climbing out", s3Request{method: get, path: in + "../other"}, denied},
		{"climbing out from deeper", s3Request{method: get, path: in + "sub/../../other"}, denied},
		{"a dot", s3Request{method: get, path: in + "./mine"}, denied},
		{"two slashes", s3Request{method: get, path: in + "/mine"}, denied},
		{"backslashes", s3Request{method: get, path: in + "..%5C..%5Cother"}, denied},
		{"a zero byte", s3Request{method: get, path: in + "mine%00"}, denied},
		{"an overlong dot", s3Request{method: get, path: in + "%C0%AE%C0%AE/other"}, denied},
		{"presigned", s3Request{method: get, path: "/" + teamBucket + "/other", presign: true}, denied},
		{"tags", s3Request{method: get, path: "/" + teamBucket + "/other?tagging="}, denied},
		{"an upload", s3Request{method: post, path: "/" + teamBucket + "/other?uploads="}, denied},
		{"a part", s3Request{method: put, path: "/" + teamBucket + "/other?partNumber=1&uploadId=u", body: "x"}, denied},
		{"parts", s3Request{method: get, path: "/" + teamBucket + "/other?uploadId=u"}, denied},
		{"the end of an upload", s3Request{method: post, path: "/" + teamBucket + "/other?uploadId=u", body: "x"}, denied},

		{"another prefix", list("prefix=other"), denied},
		{"a shorter prefix", list("list-type=2&prefix=team%20a%2F"), denied},
		{"the folder without its slash", list("list-type=2&prefix=team%20a%2F%C3%BC"), denied},
		{"a prefix that climbs out", list("list-type=2&prefix=" + folder + "..%2F..%2F"), denied},
		{"a prefix of versions", list("prefix=other&versions="), denied},
		{"a prefix of uploads", list("prefix=other&uploads="), denied},
		{"a marker", list("marker=other"), denied},
		{"a start", list("list-type=2&start-after=other"), denied},
		{"presigned list", with(list("list-type=2&prefix=other"), func(q *s3Request) { q.presign = true }), denied},
		{"configuration", list("policy="), denied},
		{"configuration, put", s3Request{method: put, path: "/" + teamBucket + "?policy=", body: "{}"}, denied},
		{"versioning", list("versioning="), denied},
		{"the ACL", list("acl="), denied},
		{"deleting the bucket", s3Request{method: del, path: "/" + teamBucket}, denied},
		{"making the bucket", s3Request{method: put, path: "/" + teamBucket}, "BucketAlreadyOwnedByYou"},

		{"copy of a key of others", copies(teamBucket + "/other"), denied},
		{"copy from beside the other folder", copies(inboxBucket + "/in/2025/other"), denied},
		{"copy from what begins alike", copies(inboxBucket + "/in/20266"), denied},
		{"copy that climbs out", copies(inboxBucket + "/in/2026/../2025/other"), denied},
		{"copy that climbs out, escaped", copies(inboxBucket + "/in%2F2026%2F%2E%2E%2F2025%2Fother"), denied},
		{"copy to beside the folder", s3Request{method: put, path: "/" + teamBucket + "/copy", header: []string{"X-Amz-Copy-Source", teamBucket + "/team%20a/%C3%BC/mine"}}, denied},
		{"copy of a part", with(copies(teamBucket+"/other"), func(q *s3Request) { q.path += "?partNumber=1&uploadId=u" }), denied},

		{"delete of others", deletes(document("other")), denied},
		{"delete of one of others", deletes(document(teamFolder+"mine", "other", teamFolder+"sub/mine")), denied},
		{"delete that climbs out", deletes(document(teamFolder + "&#46;./other")), denied},
		{"delete, unsigned body", with(deletes(document("other")), func(q *s3Request) { q.hash = "UNSIGNED-PAYLOAD" }), denied},
		{"delete, presigned", with(deletes(document("other")), func(q *s3Request) { q.presign = true }), denied},
		{"delete, no length", with(deletes(document("other")), func(q *s3Request) { q.chunked = true }), denied},
		{"delete, DOCTYPE", deletes(`<!DOCTYPE Delete [<!ENTITY k "other">]>` + document(teamFolder+"&k;")), malformed},
		{"delete, UTF-16", deletes(utf16(inside)), malformed},
		{"delete, declared as UTF-16", deletes(`<?xml version="1.0" encoding="UTF-16"?>` + inside), malformed},
		{"delete, byte order mark", deletes("\ufeff" + inside), malformed},
		{"delete, comment in a key", deletes(document(teamFolder + "<!-- -->mine")), malformed},
		{"delete, CDATA", deletes(document("<![CDATA[" + teamFolder + "mine]]>")), malformed},
		{"delete, two keys", deletes(document(teamFolder + "mine</Key><Key>other")), malformed},
		{"delete, space after a key", deletes(document(teamFolder + "sub/.. ")), malformed},
		{"delete, second document", deletes(inside + document("other")), malformed},
		{"delete, no body", deletes(""), malformed},
		{"delete, 1,001 keys", deletes(document(slices.Repeat([]string{teamFolder + "mine"}, 1001)...)), malformed},
		{"delete, another body than was signed", with(deletes(inside), func(q *s3Request) { q.hash = strings.Repeat("0", 64) }), "XAmzContentSHA256Mismatch"},
		{"delete, too large", deletes(inside + strings.Repeat(" ", 2<<20)), "MaxMessageLengthExceeded"},
		{"delete, too large, no length", with(deletes(inside+strings.Repeat(" ", 3<<20)), func(q *s3Request) { q.chunked, q.hash = true, "UNSIGNED-PAYLOAD" }), "MaxMessageLengthExceeded"},
		{"delete, compressed", deletes(inside, "Content-Encoding", "gzip"), "NotImplemented"},
		{"delete, UTF-7", deletes(inside, "Content-Type", "text/xml; charset=utf-7"), "NotImplemented"},
		{"delete in chunks", with(deletes("0\r\n\r\n", "Content-Encoding", "aws-chunked", "X-Amz-Decoded-Content-Length", "0"), func(q *s3Request) {
			q.hash = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
		}), "NotImplemented"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.reset()
			q := c.q
			q.key = k.admin
			a, err := w.askS3(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			status := map[string]int{denied: 403, "BucketAlreadyOwnedByYou": 409, "NotImplemented": 501}
			wantS3Error(t, a, cmp.Or(status[c.code], 400), c.code)
			w.barrier(t)
		})
	}
	w.othersAreThere(t)
	w.wantObjectIn(t, teamBucket, teamFolder+"mine", []byte("mine"))
	w.wantObjectIn(t, teamBucket, teamFolder+"sub/mine", []byte("mine"))
	good := document(teamFolder+"mine", teamFolder+"sub/mine")
	sum := md5.Sum([]byte(good))
	q := deletes(good, "Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
	q.key = k.admin
	if a, err := w.askS3(t.Context(), q); err != nil || a.status != 200 || strings.Count(a.body, "<Deleted>") != 2 {
		t.Errorf("the same request without a fault: %v, %v", a, err)
	}
}

func utf16(s string) string {
	b := []byte{0xff, 0xfe}
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return string(b)
}
