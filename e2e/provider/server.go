package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Server is an S3 server and its root credential: one of the other kinds than
// versitygw, on TCP and without a Recorder.
type Server struct {
	URL, Access, Secret string

	dir string
	*process
}

// Close ends a server that this package started.
func (s *Server) Close() error { return s.stop() }

// StartMinIO starts MinIO, whose executable is in .tools/bin.
func StartMinIO(ctx context.Context) (*Server, error) {
	s, ports, err := newServer(1)
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + address(ports[0])
	env := []string{"MINIO_ROOT_USER=" + s.Access, "MINIO_ROOT_PASSWORD=" + s.Secret, "MINIO_REGION=" + Region, "MINIO_BROWSER=off", "MINIO_UPDATE=off"}
	return s.start(ctx, filepath.Join("bin", "minio"), env, "server", "--quiet", "--address", address(ports[0]), filepath.Join(s.dir, "objects"))
}

// StartSeaweedFS starts SeaweedFS, all of it in one process; its executable is in
// .tools/conformance/bin.
func StartSeaweedFS(ctx context.Context) (*Server, error) {
	s, ports, err := newServer(9)
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + address(ports[0])
	type credential struct {
		AccessKey string `json:"accessKey"`
		SecretKey string `json:"secretKey"`
	}
	type identity struct {
		Name        string       `json:"name"`
		Credentials []credential `json:"credentials"`
		Actions     []string     `json:"actions"`
	}
	b, err := json.Marshal(map[string][]identity{"identities": {{"root", []credential{{s.Access, s.Secret}}, []string{"Admin", "Read", "Write", "List", "Tagging"}}}})
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "s3.json")
	if err := errors.Join(os.WriteFile(config, b, 0o600), os.Mkdir(filepath.Join(s.dir, "objects"), 0o700)); err != nil {
		return nil, err
	}
	args := []string{
		"-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=" + filepath.Join(s.dir, "objects"), "-master.telemetry=false",
		"-master.volumeSizeLimitMB=64", "-volume.max=100", "-s3", "-s3.config=" + config, "-s3.allowDeleteBucketNotEmpty=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
		"-filer.localSocket=" + filepath.Join(s.dir, "filer.sock"), "-s3.localSocket=" + filepath.Join(s.dir, "s3.sock"),
	}
	for i, name := range []string{"s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "volume.port.public"} {
		args = append(args, "-"+name+"="+strconv.Itoa(ports[i]))
	}
	return s.start(ctx, filepath.Join("conformance", "bin", "weed"), nil, args...)
}

// newServer makes a folder and a credential, and finds free ports.
func newServer(n int) (*Server, []int, error) {
	s := &Server{}
	s.Access, s.Secret = newCredential()
	var err error
	if s.dir, err = os.MkdirTemp("", "kb-s3-"); err != nil {
		return nil, nil, err
	}
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		defer l.Close() // held until all are known, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return s, ports, nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// start starts the program and waits until it answers ListBuckets.
func (s *Server) start(ctx context.Context, tool string, env []string, args ...string) (_ *Server, err error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(root, ".tools", tool)
	if !isFile(binary) {
		return nil, fmt.Errorf("%s is not installed: run `make conformance`", binary)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+s.dir, "TMPDIR="+s.dir)
	if s.process, err = launch(cmd, s.dir, 5*time.Second); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	c := sdk(s.URL, s.Access, s.Secret, http.DefaultClient)
	for {
		// A bucket, since SeaweedFS lists before it can make any.
		err := makeBucket(ctx, c, "ready")
		if err == nil {
			return removeBucket(ctx, c, "ready")
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended at once:\n%s", s.log)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.log)
		case <-tick.C:
		}
	}
}
