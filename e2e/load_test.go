package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// unhurried is an HTTP client of an application that keeps its connections, over
// HTTP/1.1 or over HTTP/2 with prior knowledge. It sends no body before it is invited,
// where it asks for that.
func unhurried(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: protocols, DisableCompression: true, ExpectContinueTimeout: time.Hour}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// s3At is an S3 client as s3SDK, straight to Envoy.
func (w *world) s3At(c *http.Client, key stack.Key) *s3.Client {
	return s3.New(s3.Options{
		Region: provider.Region, BaseEndpoint: aws.String(w.endpoints.S3), UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(key.Key, key.Secret, ""), HTTPClient: c,
	})
}

// openaiAt is an OpenAI client straight to Envoy.
func (w *world) openaiAt(c *http.Client, key string) *openai.Client {
	config := openai.DefaultConfig(key)
	config.BaseURL = w.endpoints.AI + "/v1"
	config.HTTPClient = c
	return openai.NewClientWithConfig(config)
}

// load is applications at work, each with a key that nobody touches: whatever
// else happens, every request of theirs succeeds.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup
	made atomic.Int64

	mu     sync.Mutex
	failed []string
}

// startLoad starts two S3 and two AI applications, one of each over HTTP/2.
func (w *world) startLoad(t *testing.T) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	t.Cleanup(func() { cancel(); l.done.Wait() })
	for i, http2 := range []bool{false, true} {
		c := unhurried(t, http2)
		l.work(ctx, fmt.Sprintf("S3 application %d", i), w.s3Work(w.s3At(c, w.admin), fmt.Sprintf("load-%d-", i)))
		l.work(ctx, fmt.Sprintf("AI application %d", i), aiWork(w.openaiAt(c, w.aiKey)))
	}
	return l
}

// work repeats a round of requests until ctx ends. A round says how many it made.
func (l *load) work(ctx context.Context, who string, round func(context.Context) (int, error)) {
	l.done.Go(func() {
		for ctx.Err() == nil {
			n, err := round(ctx)
			l.made.Add(int64(n))
			if err != nil && ctx.Err() == nil {
				l.mu.Lock()
				l.failed = append(l.failed, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), who, err))
				l.mu.Unlock()
			}
		}
	})
}

// end stops the load and fails the test for each request that did not succeed.
func (l *load) end(t *testing.T, what string) {
	t.Helper()
	l.stop()
	l.done.Wait()
	for i, f := range l.failed {
		if i == 20 {
			t.Errorf("… %d more", len(l.failed)-i)
			break
		}
		t.Error(f)
	}
	if n := l.made.Load(); n < 100 {
		t.Errorf("only %d requests while %s", n, what)
	} else {
		t.Logf("%d requests while %s", n, what)
	}
}

func (w *world) s3Work(c *s3.Client, prefix string) func(context.Context) (int, error) {
	body := strings.Repeat("x", 50_000)
	return func(ctx context.Context) (n int, err error) {
		b, k := aws.String(bucket), aws.String(prefix+"object")
		for _, op := range []func() error{
			func() error {
				_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: k, Body: strings.NewReader(body)})
				return err
			},
			func() error {
				_, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b, Key: k})
				return err
			},
			func() error {
				out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: b, Key: k})
				if err != nil {
					return err
				}
				defer out.Body.Close()
				got, err := io.ReadAll(out.Body)
				if err == nil && string(got) != body {
					err = fmt.Errorf("read %d bytes that were not written", len(got))
				}
				return err
			},
			func() error {
				_, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: b, Prefix: aws.String(prefix)})
				return err
			},
			func() error {
				_, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b, Key: k})
				return err
			},
		} {
			if err := op(); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
}

func aiWork(c *openai.Client) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		answer, err := c.CreateChatCompletion(ctx, chat("work"))
		if err == nil && answer.Choices[0].Message.Content != "You said: work" {
			err = fmt.Errorf("answer %q", answer.Choices[0].Message.Content)
		}
		if err != nil {
			return 0, fmt.Errorf("chat: %w", err)
		}
		text, err := streamed(ctx, c, "one two three")
		if err == nil && text != "You said: one two three" {
			err = fmt.Errorf("stream %q", text)
		}
		if err != nil {
			return 1, fmt.Errorf("stream: %w", err)
		}
		return 2, nil
	}
}

func streamed(ctx context.Context, c *openai.Client, words string) (string, error) {
	stream, err := c.CreateChatCompletionStream(ctx, chat(words))
	if err != nil {
		return "", err
	}
	defer func() { _ = stream.Close() }()
	var text strings.Builder
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text.String(), nil
		}
		if err != nil {
			return text.String(), err
		}
		for _, choice := range e.Choices {
			text.WriteString(choice.Delta.Content)
		}
	}
}

// download reads an object slowly for as long as a test runs.
type download struct {
	body io.ReadCloser
	read int
}

const downloadSize = 16 << 20

// startDownload makes an object too large for the buffers on its way and begins to read it.
func (w *world) startDownload(t *testing.T) *download {
	t.Helper()
	if err := w.putDirect(t.Context(), bucket, "large", strings.Repeat("0123456789abcdef", downloadSize/16)); err != nil {
		t.Fatal(err)
	}
	out, err := w.s3At(unhurried(t, false), w.read).GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String("large")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Body.Close() })
	d := &download{body: out.Body}
	d.more(t)
	return d
}

// more reads a little of the object.
func (d *download) more(t *testing.T) {
	t.Helper()
	n, err := io.ReadFull(d.body, make([]byte, 64<<10))
	d.read += n
	if err != nil {
		t.Fatalf("the open download ended after %d bytes: %v", d.read, err)
	}
}

// end reads what is left.
func (d *download) end(t *testing.T) {
	t.Helper()
	n, err := io.Copy(io.Discard, d.body)
	if d.read += int(n); err != nil || d.read != downloadSize {
		t.Errorf("the open download ended after %d of %d bytes: %v", d.read, downloadSize, err)
	}
}
