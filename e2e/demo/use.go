package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
)

const (
	object = "hello.txt"
	text   = "Hello from an application that has never seen the provider's key.\n"
)

func heading(title string) { fmt.Printf("\n%s\n", title) }

func tick(format string, args ...any) { fmt.Printf("  ✓ "+format+"\n", args...) }

// use is the application: it has repository keys and two URLs.
func (h *house) use(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	heading("An application, with repository keys only")
	frontS3, err := h.front(h.stack.S3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, frontS3.Close()) }()
	frontAI, err := h.front(h.stack.AI)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, frontAI.Close()) }()

	storage := s3.New(s3.Options{
		Region: provider.Region, BaseEndpoint: aws.String(frontS3.URL()), UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(h.storage.Key, h.storage.Secret, ""),
	})
	config := openai.DefaultConfig(h.model.Secret)
	config.BaseURL = frontAI.URL() + "/v1"
	model := openai.NewClientWithConfig(config)

	// A new key takes a moment to reach the bridge.
	if err := h.stack.Wait(ctx, func() error {
		_, err := storage.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(bucket)})
		if err == nil {
			_, err = model.ListModels(ctx)
		}
		return err
	}); err != nil {
		return fmt.Errorf("the new keys do not work: %w", err)
	}
	h.s3.Reset()
	h.ai.Reset()
	if err := objects(ctx, storage); err != nil {
		return err
	}
	if err := chat(ctx, model); err != nil {
		return err
	}
	if l := append(frontS3.Leaks(), frontAI.Leaks()...); len(l) > 0 {
		return fmt.Errorf("the application saw: %s", strings.Join(l, ", "))
	}
	return nil
}

func objects(ctx context.Context, c *s3.Client) error {
	begin := time.Now()
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(object), Body: strings.NewReader(text)}); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	tick("aws-sdk-go-v2  put   s3://%s/%s, %d bytes (%s)", bucket, object, len(text), since(begin))
	begin = time.Now()
	out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(object)})
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if string(b) != text {
		return fmt.Errorf("get: %q came back", b)
	}
	tick("               get   the same %d bytes (%s)", len(b), since(begin))
	begin = time.Now()
	list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(list.Contents) == 0 {
		return errors.New("list: empty")
	}
	tick("               list  %d object(s) (%s)", len(list.Contents), since(begin))
	return nil
}

func chat(ctx context.Context, c *openai.Client) error {
	begin := time.Now()
	stream, err := c.CreateChatCompletionStream(ctx, openai.ChatCompletionRequest{
		Model:    provider.Models[0],
		Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: "who holds the key?"}},
	})
	if err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	defer func() { _ = stream.Close() }()
	var words strings.Builder
	events, first := 0, ""
	for ; ; events++ {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("chat: %w", err)
		}
		if first == "" {
			first = since(begin)
		}
		for _, choice := range e.Choices {
			words.WriteString(choice.Delta.Content)
		}
	}
	if words.String() != "You said: who holds the key?" {
		return fmt.Errorf("chat: %q came back", words.String())
	}
	tick("go-openai      chat  %q, streamed in %d events, the first after %s", words.String(), events, first)
	return nil
}

func since(t time.Time) string { return time.Since(t).Round(100 * time.Microsecond).String() }

// account shows what the providers saw.
func (h *house) account() error {
	heading("What the providers saw")
	if l := append(h.s3.Leaks(), h.ai.Leaks()...); len(l) > 0 {
		return fmt.Errorf("the providers saw: %s", strings.Join(l, ", "))
	}
	requests := h.s3.Requests()
	signed := 0
	for _, q := range requests {
		if auth, one := q.Get("Authorization"); one && strings.Contains(auth, "Credential="+h.s3.Access+"/") {
			signed++
		}
	}
	if signed != len(requests) || signed != 3 {
		return fmt.Errorf("the S3 provider saw %d requests, %d of them signed with its key; 3 were made", len(requests), signed)
	}
	tick("versitygw      %d requests, %d signed with the provider's key %s, 0 with the repository's %s", len(requests), signed, short(h.s3.Access), short(h.storage.Key))
	requests = h.ai.Requests()
	right := 0
	for _, q := range requests {
		if auth, one := q.Get("Authorization"); one && auth == "Bearer "+h.ai.Key {
			right++
		}
	}
	if v := h.ai.Violations(); right != len(requests) || right != 1 || len(v) > 0 {
		return fmt.Errorf("the LLM provider saw %d requests, %d of them with its key; 1 was made; refused: %v", len(requests), right, v)
	}
	tick("LLM provider   %d request, %d with the provider's key %s, 0 with the repository's %s", len(requests), right, short(h.ai.Key), short(h.model.Secret))
	tick("every byte was looked at: no repository key went to a provider, no provider credential to the application")
	return nil
}

// short shows enough of a key to tell it from another.
func short(key string) string { return key[:8] + "…" }

// invite prints what to type. The repository's keys are for whoever runs the demo.
func (h *house) invite() {
	fmt.Printf(`
It stays up until Ctrl-C. In another terminal, with keys made for this run:

  export AWS_ACCESS_KEY_ID=%[1]s
  export AWS_SECRET_ACCESS_KEY=%[2]s
  export AWS_DEFAULT_REGION=%[3]s
  aws --endpoint-url %[4]s s3 cp README.md s3://%[5]s/
  aws --endpoint-url %[4]s s3 ls s3://%[5]s/

  curl --aws-sigv4 aws:amz:%[3]s:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' %[4]s/%[5]s/%[6]s

  curl -N %[7]s/v1/chat/completions -H 'Content-Type: application/json' \
    -H 'Authorization: Bearer %[8]s' \
    -d '{"model":"%[9]s","stream":true,"messages":[{"role":"user","content":"hello there"}]}'

  admin API  %[10]s  (token in %[11]s)
  state      %[12]s

`, h.storage.Key, h.storage.Secret, provider.Region, h.endpoints.S3, bucket, object,
		h.endpoints.AI, h.model.Secret, provider.Models[0], h.endpoints.Admin, h.endpoints.AdminTokenFile, h.state)
}
