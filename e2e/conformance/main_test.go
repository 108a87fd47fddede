package conformance_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

// domain is the host whose subdomains are buckets at the gateway.
const domain = "s3.test"

func TestMain(m *testing.M) {
	if socket := os.Getenv(adminSocket); socket != "" {
		os.Exit(askAdmin(socket, os.Args[1:]))
	}
	code := m.Run()
	if err := house.close(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the gateway:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// house is the gateway that all tests share, once one of them has asked for it.
var house struct {
	gateway
	once sync.Once
	err  error
}

// gateway is a `keybridge dev` with a tenant.
type gateway struct {
	*stack.Stack
	tenant *stack.Tenant
	dir    string
	output *os.File
}

func shared(t *testing.T) *gateway {
	t.Helper()
	house.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		house.err = house.start(ctx)
	})
	if house.err != nil {
		t.Fatal(house.err)
	}
	return &house.gateway
}

func (g *gateway) start(ctx context.Context) (err error) {
	// Below the system's temporary folder for its short name: a unix socket's path has 107 bytes.
	if g.dir, err = os.MkdirTemp("", "kb-"); err != nil {
		return err
	}
	binary, err := keybridge(ctx, g.dir)
	if err != nil {
		return err
	}
	if g.output, err = os.Create(filepath.Join(g.dir, "dev.log")); err != nil {
		return err
	}
	if g.Stack, err = stack.Start(stack.Config{Binary: binary, Dir: filepath.Join(g.dir, "state"), S3Domains: []string{domain}, Output: g.output}); err != nil {
		return err
	}
	endpoints, err := g.Ready(ctx)
	if err != nil {
		log, _ := os.ReadFile(g.output.Name())
		return fmt.Errorf("%w\n%s", err, log)
	}
	g.tenant, err = g.Tenant(ctx, endpoints, "conformance")
	return err
}

// keybridge is $KEYBRIDGE_BIN, or built here as the Makefile builds it.
func keybridge(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv("KEYBRIDGE_BIN"); path != "" {
		return filepath.Abs(path)
	}
	root, err := provider.ModuleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "keybridge")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/keybridge")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOEXPERIMENT=runtimesecret", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building keybridge: %w\n%s", err, out)
	}
	return path, nil
}

func (g *gateway) close() error {
	var errs []error
	if g.Stack != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		errs = append(errs, g.Stop(ctx))
	}
	if g.output != nil {
		errs = append(errs, g.output.Close())
	}
	if g.dir != "" {
		errs = append(errs, os.RemoveAll(g.dir))
	}
	return errors.Join(errs...)
}

// account makes a connector of a whole account that allows configuration, and an ADMIN
// key for it. The connector's credential may be one that does not work yet.
func (g *gateway) account(ctx context.Context, at place) (connector string, key stack.Key, err error) {
	if connector, err = g.tenant.CreateBucket(ctx, client.BucketSpec{
		WorkspaceID: g.tenant.Workspace, Name: rand.Text(), Bucket: "*", Endpoint: at.url, Region: provider.Region,
		Key: at.access, Secret: client.Secret(at.secret), AllowBucketConfiguration: true, SkipValidation: true,
	}); err != nil {
		return "", key, err
	}
	repository, err := g.tenant.Repository(ctx, rand.Text(), []string{connector}, nil)
	if err != nil {
		return "", key, err
	}
	key, err = g.tenant.StorageKey(ctx, repository, "admin", "ADMIN")
	return connector, key, err
}

// serves waits until a key reaches its provider, which has no bucket of that name; the
// bridge itself forbids it as long as it does not have the connector.
func (g *gateway) serves(ctx context.Context, key stack.Key) error {
	c, name := sdk("http://"+g.S3, key.Key, key.Secret), "there-is-none"
	return g.Wait(ctx, func() error {
		_, err := c.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
		if none := new(types.NotFound); errors.As(err, &none) {
			return nil
		}
		return fmt.Errorf("HeadBucket: %w", err)
	})
}

func sdk(url, access, secret string) *s3.Client {
	return s3.New(s3.Options{
		Region: provider.Region, BaseEndpoint: &url, UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
}
