package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"keybridge/store/api/client"
)

// TestS3FolderChanges: a folder is in force with the next request after the change;
// what runs meanwhile ends by itself, as where a repository loses a connector.
func TestS3FolderChanges(t *testing.T) {
	w := shared(t)
	k := w.folders(t)
	const size = 64 << 20 // more than all buffers on the way
	body := make([]byte, size)
	_, _ = rand.Read(body)
	if _, err := w.s3.Direct().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(inboxBucket), Key: aws.String(inboxFolder + "big"), Body: bytes.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
	if err := w.putDirect(t.Context(), inboxBucket, inboxFolder+"sub/k", "in the narrower folder"); err != nil {
		t.Fatal(err)
	}
	c := w.s3SDK(k.admin)
	open, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(inboxBucket), Key: aws.String(inboxFolder + "big")})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Body.Close()
	change := func(folder string) {
		t.Helper()
		repos, err := w.tenant.Repos(t.Context(), w.tenant.Workspace)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(repos, func(r client.Repo) bool { return r.ID == k.repository })
		u := client.RepoUpdate{Version: repos[i].Version}
		for _, b := range repos[i].Buckets {
			if b.Bucket.Bucket == inboxBucket {
				b.Folder = folder
			}
			u.Buckets = append(u.Buckets, b.RepoBucket)
		}
		if err := w.tenant.UpdateRepo(t.Context(), k.repository, u); err != nil {
			t.Fatal(err)
		}
	}
	head := func(key string) s3Request {
		return s3Request{method: http.MethodHead, path: "/" + inboxBucket + "/" + key, key: k.read}
	}
	answers := func(key string, status int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := w.Wait(ctx, func() error {
			if a, err := w.askS3(ctx, head(key)); err != nil || a.status != status {
				return fmt.Errorf("%s: %v, want %d: %w", key, a, status, errors.Join(err, errNotYet))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	answers(inboxFolder+"big", 200)
	change(inboxFolder + "sub/")
	answers(inboxFolder+"big", 403)
	answers(inboxFolder+"sub/k", 200)
	list, err := c.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(inboxBucket)})
	if err != nil || len(list.Contents) != 1 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if got, err := io.ReadAll(open.Body); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the running download: %d bytes, %v", len(got), err)
	}
	change("")
	answers("in/2025/other", 200)
	change("nobody/")
	answers("in/2025/other", 403)
	answers(inboxFolder+"sub/k", 403)
	if _, err := w.s3.Direct().DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: aws.String(inboxBucket), Delete: &types.Delete{Objects: []types.ObjectIdentifier{
		{Key: aws.String(inboxFolder + "big")}, {Key: aws.String(inboxFolder + "sub/k")},
	}}}); err != nil {
		t.Error(err)
	}
}

// TestS3FolderByPrograms: boto3, the AWS CLI and rclone, unmodified, inside a folder.
func TestS3FolderByPrograms(t *testing.T) {
	w := shared(t)
	k := w.folders(t)
	t.Run("boto3", func(t *testing.T) {
		out, err := python(t.Context(), []string{"AWS_ACCESS_KEY_ID=" + k.admin.Key, "AWS_SECRET_ACCESS_KEY=" + k.admin.Secret},
			"testdata/s3_boto3_folder.py", w.frontS3.URL(), teamBucket, teamFolder, inboxBucket, inboxFolder)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"put", "list", "list in pages", "list by directories", "multipart", "copy", "delete objects", "delete all", "outside", "delete outside", "copy outside"}
		if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out), "\n")); diff != "" {
			t.Error(diff)
		}
	})
	local := folder(t)
	t.Run("AWS CLI", func(t *testing.T) {
		aws := w.aws(t, k.admin)
		root := "s3://" + teamBucket + "/" + teamFolder
		aws.ok("s3", "sync", local, root+"tree/")
		back := t.TempDir()
		aws.ok("s3", "sync", "s3://"+teamBucket, back) // the bucket is the folder
		wantSameFiles(t, local, filepath.Join(back, teamFolder, "tree"))
		aws.ok("s3", "rm", "s3://"+teamBucket, "--recursive")
		if _, err := aws.run("s3", "cp", "s3://"+teamBucket+"/other", "-"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("outside: %v", err)
		}
	})
	t.Run("rclone", func(t *testing.T) {
		rclone := w.rclone(t, k.admin)
		root := "kb:" + teamBucket + "/" + teamFolder + "rclone"
		rclone.ok("copy", local, root, "--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M")
		rclone.ok("check", local, root, "--download")
		rclone.ok("sync", root, "kb:"+inboxBucket+"/"+inboxFolder+"copied", "--s3-copy-cutoff", "5M", "--s3-chunk-size", "5M")
		rclone.ok("check", local, "kb:"+inboxBucket+"/"+inboxFolder+"copied", "--download")
		rclone.ok("purge", root)
		rclone.ok("purge", "kb:"+inboxBucket+"/"+inboxFolder+"copied")
		if out, err := rclone.run("cat", "kb:"+teamBucket+"/other"); out != "" { // what it may not see is not there
			t.Errorf("outside: %s, %v", out, err)
		}
		if _, err := rclone.run("copyto", filepath.Join(local, "a.txt"), "kb:"+teamBucket+"/other"); err == nil {
			t.Error("rclone writes outside")
		}
		w.ownersAreKeyIDs(t)
	})
	w.othersAreThere(t)
}
