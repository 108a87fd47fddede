package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// clientBuckets are the buckets of the repository that client programs get.
var clientBuckets = []string{"clients-a", "clients-b"}

// clientKeys are keys of one repository.
type clientKeys struct {
	repository         string // record id
	admin, read, write stack.Key
}

// clients makes a repository of clientBuckets, each with a connector of its own and
// the same provider credential.
func (w *world) clients(t *testing.T) clientKeys {
	t.Helper()
	var ids []string
	for _, b := range clientBuckets {
		if err := w.s3.MakeBucket(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, w.connector(t, b))
	}
	return w.repositoryKeys(t, ids...)
}

// connector makes an S3 connector for a bucket, or for "*", with a name of its own.
func (w *world) connector(t *testing.T, bucket string) string {
	t.Helper()
	id, err := w.tenant.Bucket(t.Context(), stack.Bucket{
		Name: rand.Text(), Bucket: bucket, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// repositoryKeys makes a repository of connectors, and a key of each access that works.
func (w *world) repositoryKeys(t *testing.T, connectors ...string) (k clientKeys) {
	t.Helper()
	var buckets []client.RepoBucket
	for _, id := range connectors {
		buckets = append(buckets, client.RepoBucket{ID: id})
	}
	return w.limitedKeys(t, buckets...)
}

// limitedKeys is repositoryKeys of buckets that may be limited to folders.
func (w *world) limitedKeys(t *testing.T, buckets ...client.RepoBucket) (k clientKeys) {
	t.Helper()
	ctx := t.Context()
	repo, err := w.tenant.CreateRepo(ctx, client.RepoSpec{WorkspaceID: w.tenant.Workspace, Name: rand.Text(), Buckets: buckets})
	if err != nil {
		t.Fatal(err)
	}
	k.repository = repo
	for access, key := range map[string]*stack.Key{"ADMIN": &k.admin, "READ": &k.read, "WRITE": &k.write} {
		if *key, err = w.tenant.StorageKey(ctx, repo, strings.ToLower(access), access); err != nil {
			t.Fatal(err)
		}
		w.behindEnvoy.Add("secret of the clients' "+access+" key", key.Secret)
		w.behindEnvoy.Add("id of the clients' "+access+" key", key.Key)
		w.secrets.Add("secret of the clients' "+access+" key", key.Secret)
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = w.Wait(wait, func() error {
		for _, key := range []stack.Key{k.admin, k.read} {
			if a, err := w.askS3(wait, s3Request{method: http.MethodGet, path: "/", key: key}); err != nil || a.status != http.StatusOK {
				return fmt.Errorf("ListBuckets: %v %w", a, errors.Join(err, errNotYet))
			}
		}
		// A WRITE key that the bridge knows may not list; one that it does not know is unknown.
		if a, err := w.askS3(wait, s3Request{method: http.MethodGet, path: "/", key: k.write}); err != nil || !strings.Contains(a.body, "<Code>AccessDenied</Code>") {
			return fmt.Errorf("ListBuckets: %v %w", a, errors.Join(err, errNotYet))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.reset()
	return k
}

// tools is the folder of Python packages and the programs that came with them.
func tools(t *testing.T) string {
	t.Helper()
	dir, err := libraries("py", "boto3", "bin/aws", "bin/rclone")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// program runs client programs as a user would, with nothing from this machine's
// configuration.
type program struct {
	t       *testing.T
	command []string
	env     []string
	dir     string
}

func (p program) run(args ...string) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	all := slices.Concat(p.command, args)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// ok runs what must succeed and returns what it printed.
func (p program) ok(args ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func environment(home string, more ...string) []string {
	return append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}, more...)
}

// aws is the AWS CLI with a key. It presigns with SigV4 at an endpoint of ours only if
// its configuration says so.
func (w *world) aws(t *testing.T, key stack.Key) program {
	t.Helper()
	home, libs := t.TempDir(), tools(t)
	config := "[default]\nregion = " + provider.Region + "\ns3 =\n  signature_version = s3v4\n  addressing_style = path\n"
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return program{
		t, []string{"python3", filepath.Join(libs, "bin", "aws"), "--endpoint-url", w.frontS3.URL()},
		environment(home, "PYTHONPATH="+libs, "AWS_CONFIG_FILE="+filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
			"AWS_MAX_ATTEMPTS=1", "AWS_PAGER=", "AWS_ACCESS_KEY_ID="+key.Key, "AWS_SECRET_ACCESS_KEY="+key.Secret), home,
	}
}

// rclone is rclone with a key, as its remote "kb".
func (w *world) rclone(t *testing.T, key stack.Key) program {
	t.Helper()
	home := t.TempDir()
	return program{
		t, []string{filepath.Join(tools(t), "bin", "rclone"), "--retries", "1", "--low-level-retries", "1"},
		environment(home, "RCLONE_CONFIG=", "RCLONE_CONFIG_KB_TYPE=s3", "RCLONE_CONFIG_KB_PROVIDER=Other", "RCLONE_CONFIG_KB_ENDPOINT="+w.frontS3.URL(),
			"RCLONE_CONFIG_KB_REGION="+provider.Region, "RCLONE_CONFIG_KB_ACCESS_KEY_ID="+key.Key, "RCLONE_CONFIG_KB_SECRET_ACCESS_KEY="+key.Secret), home,
	}
}

// folder makes files with odd names and sizes in a new folder.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"a.txt": 10, "empty": 0, "sub/ü €+=&'()~!$.txt": 5000, "sub/deep/big.bin": 9 << 20} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		body := make([]byte, size)
		_, _ = rand.Read(body)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantSameFiles(t *testing.T, want, got string) {
	t.Helper()
	if diff := cmp.Diff(files(t, want), files(t, got)); diff != "" {
		t.Error(diff)
	}
}

func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = body
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestS3FormsByBoto3: presigned URLs, virtual-host style, copies and ListBuckets.
func TestS3FormsByBoto3(t *testing.T) {
	w := shared(t)
	k := w.clients(t)
	libs := tools(t)
	p := program{t, []string{"python3"}, environment(t.TempDir(), "PYTHONPATH="+libs, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_ACCESS_KEY_ID="+k.admin.Key, "AWS_SECRET_ACCESS_KEY="+k.admin.Secret), ""}
	out := p.ok("testdata/s3_boto3_forms.py", w.frontS3.URL(), clientBuckets[0], clientBuckets[1], otherBucket, "forms/")
	var want []string
	for _, style := range []string{"path", "virtual"} {
		for _, step := range []string{
			"presigned put", "presigned get", "presigned head", "presigned parts", "presigned, tampered", "presigned, too long", "presigned delete",
			"put and get", "copy to another bucket", "copy onto itself", "copy in parts", "copy from a foreign bucket", "list",
		} {
			want = append(want, style+": "+step)
		}
	}
	want = append(want, "list buckets", "list buckets in pages")
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(out), "\n")); diff != "" {
		t.Error(diff)
	}
	for _, q := range w.s3.Requests() {
		if strings.Contains(strings.ToLower(q.Target), "x-amz-") {
			t.Errorf("the client's query authentication reached the provider: %s", q.Line())
		}
	}
}

// TestS3ByAWSCLI: aws s3 and s3api, unmodified.
func TestS3ByAWSCLI(t *testing.T) {
	w := shared(t)
	k := w.clients(t)
	local := folder(t)
	aws := w.aws(t, k.admin)
	root := "s3://" + clientBuckets[0] + "/awscli/"

	aws.ok("s3", "cp", filepath.Join(local, "a.txt"), root+"one.txt")
	if got, want := aws.ok("s3", "cp", root+"one.txt", "-"), files(t, local)["a.txt"]; got != string(want) {
		t.Errorf("cp to stdout: %q", got)
	}
	aws.ok("s3", "sync", local, root+"tree/")
	back := t.TempDir()
	aws.ok("s3", "sync", root+"tree/", back)
	wantSameFiles(t, local, back)
	if out := aws.ok("s3", "ls", root, "--recursive"); strings.Count(out, "\n") != 5 || !strings.Contains(out, "awscli/tree/sub/ü €+=&'()~!$.txt") {
		t.Errorf("ls: %s", out)
	}
	if out := aws.ok("s3", "ls"); !strings.Contains(out, clientBuckets[0]) || !strings.Contains(out, clientBuckets[1]) || strings.Contains(out, otherBucket) {
		t.Errorf("ls of buckets: %s", out)
	}
	aws.ok("s3", "cp", root+"tree/", "s3://"+clientBuckets[1]+"/awscli/copied/", "--recursive")
	aws.ok("s3", "mv", root+"one.txt", root+"moved.txt")
	for name, body := range files(t, local) {
		w.wantObjectIn(t, clientBuckets[1], "awscli/copied/"+name, body)
	}
	url := strings.TrimSpace(aws.ok("s3", "presign", root+"moved.txt", "--expires-in", "60"))
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := ask(q); err != nil || a.status != http.StatusOK || a.body != string(files(t, local)["a.txt"]) {
		t.Errorf("presign: %v %v", a, err)
	}
	if out := aws.ok("s3api", "head-object", "--bucket", clientBuckets[0], "--key", "awscli/tree/sub/deep/big.bin"); !strings.Contains(out, `"ContentLength": 9437184`) {
		t.Errorf("head-object: %s", out)
	}
	aws.ok("s3", "rm", "s3://"+clientBuckets[0]+"/awscli/", "--recursive")
	if out, err := aws.run("s3", "ls", root, "--recursive"); out != "" {
		t.Errorf("left: %s, %v", out, err)
	}
	if _, err := aws.run("s3", "ls", "s3://"+otherBucket); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("foreign bucket: %v", err)
	}

	// A WRITE key uploads, in one part and in several, and reads nothing.
	write := w.aws(t, k.write)
	write.ok("s3", "cp", local, root+"written/", "--recursive")
	if _, err := write.run("s3", "cp", root+"written/a.txt", "-"); err == nil {
		t.Error("a WRITE key reads")
	}
	// A READ key reads and lists, and writes nothing.
	read := w.aws(t, k.read)
	if got := read.ok("s3", "cp", root+"written/a.txt", "-"); got != string(files(t, local)["a.txt"]) {
		t.Errorf("a READ key reads %q", got)
	}
	if _, err := read.run("s3", "cp", filepath.Join(local, "a.txt"), root+"written/a.txt"); err == nil {
		t.Error("a READ key writes")
	}
}

func (w *world) wantObjectIn(t *testing.T, bucket, key string, body []byte) {
	t.Helper()
	out, err := w.s3.Direct().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return
	}
	if got := readAll(t, out.Body); !bytes.Equal(got, body) {
		t.Errorf("%s holds %d bytes", key, len(got))
	}
}

// TestS3ByRclone: copy, sync, check, ls, unmodified.
func TestS3ByRclone(t *testing.T) {
	w := shared(t)
	k := w.clients(t)
	local := folder(t)
	rclone := w.rclone(t, k.admin)
	root := "kb:" + clientBuckets[0] + "/rclone"

	parts := []string{"--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"}
	rclone.ok(slices.Concat([]string{"copy", local, root}, parts)...)
	rclone.ok("check", local, root, "--download")
	rclone.ok("check", local, root)
	back := t.TempDir()
	rclone.ok("copy", root, back)
	wantSameFiles(t, local, back)
	if out := rclone.ok("ls", root); strings.Count(out, "\n") != 4 || !strings.Contains(out, "9437184 sub/deep/big.bin") {
		t.Errorf("ls: %s", out)
	}
	if out := rclone.ok("lsd", "kb:"); strings.Count(out, "\n") != 2 || !strings.Contains(out, clientBuckets[1]) {
		t.Errorf("lsd: %s", out)
	}
	if got := rclone.ok("cat", root+"/a.txt"); got != string(files(t, local)["a.txt"]) {
		t.Errorf("cat: %q", got)
	}
	// Copies within the provider, also in parts.
	other := "kb:" + clientBuckets[1] + "/rclone"
	rclone.ok("copy", root, other, "--s3-copy-cutoff", "5M", "--s3-chunk-size", "5M")
	rclone.ok("check", local, other, "--download")
	if err := os.Remove(filepath.Join(local, "a.txt")); err != nil {
		t.Fatal(err)
	}
	rclone.ok(slices.Concat([]string{"sync", local, root}, parts)...)
	rclone.ok("check", local, root)
	url := strings.TrimSpace(rclone.ok("link", root+"/empty", "--expire", "60s"))
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := ask(q); err != nil || a.status != http.StatusOK || a.body != "" {
		t.Errorf("link: %v %v", a, err)
	}
	rclone.ok("purge", root)
	rclone.ok("purge", other)

	w.ownersAreKeyIDs(t)

	// A WRITE key uploads if rclone is told not to look, and reads nothing.
	write := w.rclone(t, k.write)
	write.ok(slices.Concat([]string{"copy", local, root + "/", "--no-check-dest", "--s3-no-head"}, parts)...)
	if _, err := write.run("cat", root+"/empty"); err == nil {
		t.Error("a WRITE key reads")
	}
	read := w.rclone(t, k.read)
	read.ok("check", local, root, "--download")
	if _, err := read.run("copy", local, other); err == nil {
		t.Error("a READ key writes")
	}
	w.ownersAreKeyIDs(t)
}

// ownersAreKeyIDs has the recorder forget what versitygw tells in ListBuckets and the
// first version of ListObjects: who owns things, which it calls by their access key
// id. Answers of the provider pass untouched. Nothing else may have been told.
func (w *world) ownersAreKeyIDs(t *testing.T) {
	t.Helper()
	for _, l := range w.frontS3.Leaks() {
		if !strings.Contains(fmt.Sprint(l), "provider's S3 access key id") {
			t.Error(l)
		}
	}
	w.frontS3.Reset()
}

// TestS3Account: a connector of a whole account makes, lists and deletes buckets.
func TestS3Account(t *testing.T) {
	w := shared(t)
	k := w.repositoryKeys(t, w.connector(t, "*"))
	ctx, c := t.Context(), w.s3SDK(k.admin)
	name := "made-" + strings.ToLower(rand.Text()[:12])
	if _, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal("create: ", err)
	}
	body := []byte("in a bucket of its own")
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: &name, Key: aws.String("k"), Body: bytes.NewReader(body)}); err != nil {
		t.Fatal("put: ", err)
	}
	if _, err := c.CopyObject(ctx, &s3.CopyObjectInput{Bucket: &name, Key: aws.String("copy"), CopySource: aws.String(bucket + "/" + present)}); err != nil {
		t.Fatal("copy: ", err)
	}
	for who, key := range map[string]stack.Key{"ADMIN": k.admin, "READ": k.read} {
		list, err := w.s3SDK(key).ListBuckets(ctx, &s3.ListBucketsInput{})
		if err != nil {
			t.Fatal("list: ", err)
		}
		var names []string
		for _, b := range list.Buckets {
			names = append(names, aws.ToString(b.Name))
		}
		if !slices.Contains(names, name) || !slices.Contains(names, bucket) {
			t.Errorf("%s key lists %v", who, names)
		}
	}
	w.ownersAreKeyIDs(t)
	for who, key := range map[string]stack.Key{"WRITE": k.write, "READ": k.read} {
		if _, err := w.s3SDK(key).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(name + "2")}); err == nil {
			t.Errorf("%s key creates a bucket", who)
		}
		if _, err := w.s3SDK(key).DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name}); err == nil {
			t.Errorf("%s key deletes a bucket", who)
		}
	}
	for _, k := range []string{"k", "copy"} {
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &name, Key: &k}); err != nil {
			t.Error("delete: ", err)
		}
	}
	if _, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name}); err != nil {
		t.Error("delete bucket: ", err)
	}
}
