package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keybridge/e2e/leak"
	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

const (
	bucket      = "photos"  // of the repository
	otherBucket = "private" // of another repository of the same workspace
	present     = "present" // a key that exists in both buckets
)

// config says what is special about a world.
type config struct {
	logLevel string
	dns      string // server for names of providers; empty for the host's
}

// world is a stack between recorded clients and recorded providers, with a
// tenant in it:
//
//	SDK → front (Recorder) → Envoy → back (Recorder) → versitygw, OpenAI
//
// Repository keys are forbidden behind Envoy, provider credentials before it.
type world struct {
	*stack.Stack
	dir       string   // holds the stack's state and
	output    *os.File // what keybridge dev prints
	endpoints stack.Endpoints

	s3 *provider.S3     // with its recorder
	ai *provider.OpenAI // with its recorder
	// What clients talk to.
	frontS3, frontAI *provider.Recorder

	secrets     leak.Set // everything that must be in no file, log, command line or environment
	behindEnvoy leak.Set
	beforeEnvoy leak.Set

	admin, read, write stack.Key // of the repository with bucket
	aiKey              string    // of the repository with one AI connector
	severalKey         string    // of the repository with two
	tenant             *stack.Tenant
	repository         string // record id
}

func newWorld(ctx context.Context, c config) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	// Below the system's temporary folder for its short name: a unix socket's path has 107 bytes.
	if w.dir, err = os.MkdirTemp("", "kb-"); err != nil {
		return nil, err
	}
	if w.s3, err = provider.StartS3(ctx, provider.S3Config{Recorder: provider.RecorderConfig{Forbidden: &w.behindEnvoy}}); err != nil {
		return nil, err
	}
	if w.ai, err = provider.StartOpenAI(provider.OpenAIConfig{Recorder: provider.RecorderConfig{Forbidden: &w.behindEnvoy}}); err != nil {
		return nil, err
	}
	if w.output, err = os.Create(filepath.Join(w.dir, "dev.log")); err != nil {
		return nil, err
	}
	// What its processes write elsewhere is to be found below dir, too.
	var env []string
	for _, name := range []string{"TMPDIR", "HOME"} {
		path := filepath.Join(w.dir, strings.ToLower(name))
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		env = append(env, name+"="+path)
	}
	if w.Stack, err = stack.Start(stack.Config{
		Binary: binary, Dir: filepath.Join(w.dir, "state"), LogLevel: c.logLevel, DNS: c.dns, Output: w.output, S3Domains: []string{"localhost"},
		Env: append(os.Environ(), env...),
	}); err != nil {
		return nil, err
	}
	if w.endpoints, err = w.Ready(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, w.logs())
	}
	if err := w.fronts(); err != nil {
		return nil, err
	}
	if err := w.populate(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, w.logs())
	}
	w.forbid()
	if err := w.serving(ctx); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, w.logs())
	}
	return w, nil
}

func (w *world) fronts() (err error) {
	to := func(address string) provider.RecorderConfig {
		return provider.RecorderConfig{Forbidden: &w.beforeEnvoy, Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}}
	}
	if w.frontS3, err = provider.Record(to(w.S3)); err != nil {
		return err
	}
	w.frontAI, err = provider.Record(to(w.AI))
	return err
}

// populate makes what a tenant has.
func (w *world) populate(ctx context.Context) error {
	token, err := w.AdminToken()
	if err != nil {
		return err
	}
	for _, b := range []string{bucket, otherBucket} {
		if err := w.s3.MakeBucket(ctx, b); err != nil {
			return err
		}
		if err := w.putDirect(ctx, b, present, "hello from "+b); err != nil {
			return err
		}
	}
	t, err := w.Tenant(ctx, w.endpoints, "acme")
	if err != nil {
		return err
	}
	w.tenant = t
	w.secrets.Add("admin token", token)
	ids := map[string]string{}
	for name, b := range map[string]string{"photos": bucket, "private": otherBucket} {
		if ids[name], err = t.Bucket(ctx, stack.Bucket{Name: name, Bucket: b, Endpoint: w.s3.URL(), Region: provider.Region, Key: w.s3.Access, Secret: w.s3.Secret}); err != nil {
			return err
		}
	}
	for _, name := range []string{"models", "more models"} {
		if ids[name], err = t.LLM(ctx, stack.LLM{Name: name, Endpoint: w.ai.Endpoint(), Secret: w.ai.Key}); err != nil {
			return err
		}
	}
	repo, err := t.Repository(ctx, "app", []string{ids["photos"]}, []string{ids["models"]})
	if err != nil {
		return err
	}
	several, err := t.Repository(ctx, "several", []string{ids["private"]}, []string{ids["models"], ids["more models"]})
	if err != nil {
		return err
	}
	w.repository = repo
	for access, key := range map[string]*stack.Key{"ADMIN": &w.admin, "READ": &w.read, "WRITE": &w.write} {
		if *key, err = t.StorageKey(ctx, repo, strings.ToLower(access), access); err != nil {
			return err
		}
	}
	ai, err := t.AIKey(ctx, repo, "ai")
	if err != nil {
		return err
	}
	w.aiKey = ai.Secret
	if ai, err = t.AIKey(ctx, several, "ai"); err != nil {
		return err
	}
	w.severalKey = ai.Secret
	return nil
}

// forbid tells the recorders and the scan what must not be where.
func (w *world) forbid() {
	add := func(name, secret string, sets ...*leak.Set) {
		for _, s := range sets {
			s.Add(name, secret)
		}
	}
	for name, k := range map[string]stack.Key{"ADMIN": w.admin, "READ": w.read, "WRITE": w.write} {
		add("secret of the "+name+" key", k.Secret, &w.behindEnvoy, &w.secrets)
		add("id of the "+name+" key", k.Key, &w.behindEnvoy)
	}
	add("AI key", w.aiKey, &w.behindEnvoy, &w.secrets)
	add("other AI key", w.severalKey, &w.behindEnvoy, &w.secrets)
	add("provider's S3 secret", w.s3.Secret, &w.behindEnvoy, &w.beforeEnvoy, &w.secrets)
	add("provider's S3 access key id", w.s3.Access, &w.beforeEnvoy)
	add("provider's AI key", w.ai.Key, &w.beforeEnvoy, &w.secrets)
}

// serving waits until what was made last works, and so everything does.
func (w *world) serving(ctx context.Context) error {
	return w.Wait(ctx, func() error {
		for key, path := range map[string]string{w.aiKey: "/v1/models", w.severalKey: "/connectors/more%20models/v1/models"} {
			if res, err := w.askAI(ctx, http.MethodGet, path, "", key); err != nil || res.status != http.StatusOK {
				return fmt.Errorf("GET %s: %v %w", path, res, errors.Join(err, errNotYet))
			}
		}
		for _, k := range []stack.Key{w.admin, w.read} {
			q := s3Request{method: http.MethodHead, path: "/" + bucket + "/" + present, key: k}
			if res, err := w.askS3(ctx, q); err != nil || res.status != http.StatusOK {
				return fmt.Errorf("HEAD: %v %w", res, errors.Join(err, errNotYet))
			}
		}
		q := s3Request{method: http.MethodPut, path: "/" + bucket + "/serving", key: w.write, body: "x"}
		if res, err := w.askS3(ctx, q); err != nil || res.status != http.StatusOK {
			return fmt.Errorf("PUT: %v %w", res, errors.Join(err, errNotYet))
		}
		return nil
	})
}

// attach has a test look at empty recorders, and fail if a secret passed one of
// them while it ran.
func (w *world) attach(t *testing.T) {
	t.Helper()
	w.reset()
	t.Cleanup(func() {
		for where, r := range map[string]*provider.Recorder{
			"S3 provider": w.s3.Recorder, "AI provider": w.ai.Recorder, "S3 client": w.frontS3, "AI client": w.frontAI,
		} {
			for _, l := range r.Leaks() {
				t.Errorf("%s at the %s", l, where)
			}
			for _, q := range r.Requests() {
				if q.Malformed != "" {
					t.Errorf("no HTTP at the %s: %s", where, q.Malformed)
				}
			}
		}
		for _, q := range slices.Concat(w.s3.Requests(), w.ai.Requests()) {
			for _, f := range q.Header {
				if strings.HasPrefix(strings.ToLower(f.Name), "x-keybridge-") {
					t.Errorf("%s at the provider: %s", f.Name, q.Line())
				}
			}
		}
		if t.Failed() {
			t.Log(w.logs())
		}
	})
}

func (w *world) reset() {
	for _, r := range []*provider.Recorder{w.s3.Recorder, w.ai.Recorder, w.frontS3, w.frontAI} {
		r.Reset()
	}
}

// atProviders are the requests that the providers have seen, as lines.
func (w *world) atProviders() []string {
	var lines []string
	for _, q := range slices.Concat(w.s3.Requests(), w.ai.Requests()) {
		lines = append(lines, q.Line())
	}
	return lines
}

// logs is the end of each process's log.
func (w *world) logs() string {
	files, _ := filepath.Glob(filepath.Join(w.dir, "state", "logs", "*.log"))
	files = append(files, filepath.Join(w.dir, "dev.log"))
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(f), strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	return b.String()
}

func (w *world) close() error {
	var errs []error
	if w.Stack != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		errs = append(errs, w.Stop(ctx))
	}
	for _, r := range []*provider.Recorder{w.frontS3, w.frontAI} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	if w.s3 != nil {
		errs = append(errs, w.s3.Close())
	}
	if w.ai != nil {
		errs = append(errs, w.ai.Close())
	}
	if w.output != nil {
		errs = append(errs, w.output.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
