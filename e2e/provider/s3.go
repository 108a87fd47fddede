package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Region is the region of every S3 server that this package starts.
const Region = "us-east-1"

// S3Config configures an S3 server.
type S3Config struct {
	// Dir keeps the objects; empty for a temporary folder that Close removes.
	Dir string
	// Unversioned is a server that cannot keep versions.
	Unversioned bool
	// Access and Secret are the root credential; empty for a fresh one.
	Access, Secret string
	// Recorder settings; Dial is set by StartS3.
	Recorder RecorderConfig
}

// S3 is a running versitygw with a Recorder in front of it.
type S3 struct {
	*Recorder
	Access, Secret string

	socket string
	*process
}

// StartS3 starts versitygw with the posix backend and waits until it answers.
func StartS3(ctx context.Context, config S3Config) (_ *S3, err error) {
	binary, err := Versitygw()
	if err != nil {
		return nil, err
	}
	// The socket's path must fit in 108 bytes, so it never goes below Dir.
	scratch, err := os.MkdirTemp("", "kb-s3-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(scratch)
		}
	}()
	data := config.Dir
	if data == "" {
		data = scratch
	}
	s := &S3{
		Access: config.Access, Secret: config.Secret,
		socket: filepath.Join(scratch, "s3.sock"),
	}
	if s.Access == "" {
		s.Access, s.Secret = newCredential()
	}
	var dirs []string
	// The versioning folder's name must not start with the root's (PROVIDERS.md).
	for _, name := range []string{"objects", "iam", "versions"} {
		d, err := filepath.Abs(filepath.Join(data, name))
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	args := []string{"--port", s.socket, "--region", Region, "--iam-dir", dirs[1], "--keep-alive", "--quiet", "posix"}
	if !config.Unversioned {
		args = append(args, "--versioning-dir", dirs[2])
	}
	cmd := exec.Command(binary, append(args, dirs[0])...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.Access, "ROOT_SECRET_KEY="+s.Secret)
	if s.process, err = launch(cmd, scratch, 3*time.Second); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	config.Recorder.Dial = s.dial
	s.Recorder, err = Record(config.Recorder)
	return s, err
}

func (s *S3) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", s.socket)
}

// ready waits for an HTTP answer, whatever it says.
func (s *S3) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ready/", nil)
		if err != nil {
			return err
		}
		if res, err := s.direct().Do(req); err == nil {
			return res.Body.Close()
		}
		select {
		case <-s.exited:
			return fmt.Errorf("versitygw ended at once:\n%s", s.log)
		case <-ctx.Done():
			return fmt.Errorf("versitygw does not answer: %w\n%s", ctx.Err(), s.log)
		case <-tick.C:
		}
	}
}

func (s *S3) direct() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
		DisableKeepAlives: true,
	}}
}

// Direct is a client with the provider's own credential that passes neither
// Keybridge nor the Recorder: for what a test must prepare or look at.
func (s *S3) Direct() *s3.Client { return sdk("http://direct", s.Access, s.Secret, s.direct()) }

func sdk(url, access, secret string, c *http.Client) *s3.Client {
	return s3.New(s3.Options{
		Region: Region, BaseEndpoint: &url, UsePathStyle: true, HTTPClient: c,
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
}

// MakeBucket creates a bucket at the provider; one that is there already is
// fine, since the account has one owner.
func (s *S3) MakeBucket(ctx context.Context, name string) error {
	if err := makeBucket(ctx, s.Direct(), name); err != nil {
		return fmt.Errorf("versitygw: making bucket %s: %w", name, err)
	}
	return nil
}

func makeBucket(ctx context.Context, c *s3.Client, name string) error {
	if _, err := c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name}); err == nil {
		return nil
	}
	_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	return err
}

func removeBucket(ctx context.Context, c *s3.Client, name string) error {
	_, err := c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &name})
	return err
}

// Log is what the server has printed.
func (s *S3) Log() string { return s.log.String() }

// Close ends the recorder and the server.
func (s *S3) Close() error { return errors.Join(s.Recorder.Close(), s.stop()) }

// Versitygw finds the binary: $VERSITYGW, .tools/bin of this checkout, PATH.
func Versitygw() (string, error) {
	const how = "run `make tools`, or set VERSITYGW"
	if p := os.Getenv("VERSITYGW"); p != "" {
		if _, err := os.Stat(p); err != nil {
			return "", fmt.Errorf("VERSITYGW: %w; %s", err, how)
		}
		return p, nil
	}
	if root, err := ModuleRoot(); err == nil {
		if p := filepath.Join(root, ".tools", "bin", "versitygw"); isFile(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath("versitygw"); err == nil {
		return filepath.Abs(p)
	}
	return "", errors.New("versitygw is not installed: " + how)
}

// ModuleRoot is the folder of go.mod at or above the working directory: where
// .tools is.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if isFile(filepath.Join(dir, "go.mod")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod at or above the working directory")
		}
		dir = up
	}
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// output keeps the last part of what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	const keep = 64 << 10
	if o.buf.Len() > keep {
		o.buf.Next(o.buf.Len() - keep/2)
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
