package e2e_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"github.com/sashabaranov/go-openai"

	"keybridge/e2e/provider"
)

// seen counts the responses of a client by what they were spoken in.
type seen struct {
	http.RoundTripper
	t    *testing.T
	want string
}

func (s seen) RoundTrip(q *http.Request) (*http.Response, error) {
	res, err := s.RoundTripper.RoundTrip(q)
	if err == nil && res.Proto != s.want {
		s.t.Errorf("%s %s was answered in %s, want %s", q.Method, q.URL, res.Proto, s.want)
	}
	return res, err
}

// overHTTP2 speaks HTTP/2 with prior knowledge and nothing else.
func overHTTP2(t *testing.T) *http.Client {
	c := unhurried(t, true)
	c.Transport = seen{c.Transport, t, "HTTP/2.0"}
	return c
}

func TestS3OverHTTP2(t *testing.T) {
	w := shared(t)
	ctx, c := t.Context(), w.s3At(overHTTP2(t), w.admin)
	const key = "http2/.b/..c/ü €+%2F=&'()*~!$;:@,.txt"
	body := make([]byte, 20<<20)
	_, _ = rand.Read(body)
	b, k := aws.String(bucket), aws.String(key)
	//nolint:staticcheck // its successor is young; this one is what applications use
	if _, err := manager.NewUploader(c).Upload(ctx, &s3.PutObjectInput{Bucket: b, Key: k, Body: bytes.NewReader(body)}); err != nil {
		t.Fatal("multipart: ", err)
	}
	get, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: b, Key: k})
	if err != nil {
		t.Fatal("get: ", err)
	}
	if !bytes.Equal(readAll(t, get.Body), body) {
		t.Error("get: not what was put")
	}
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{
		Bucket: b, Key: k, Body: bytes.NewReader(body[:3<<20]), Metadata: map[string]string{"note": "over http/2"},
	}); err != nil {
		t.Fatal("put: ", err)
	}
	part, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: b, Key: k, Range: aws.String("bytes=1000-1999")})
	if err != nil {
		t.Fatal("range: ", err)
	}
	if got := readAll(t, part.Body); !bytes.Equal(got, body[1000:2000]) || part.Metadata["note"] != "over http/2" {
		t.Errorf("range: %d bytes, %v", len(got), part.Metadata)
	}
	if _, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: aws.String("http2/empty"), Body: strings.NewReader("")}); err != nil {
		t.Error("put of nothing: ", err)
	}
	list, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: b, Prefix: aws.String("http2/")})
	if err != nil {
		t.Fatal("list: ", err)
	}
	var keys []string
	for _, o := range list.Contents {
		keys = append(keys, aws.ToString(o.Key))
	}
	if diff := cmp.Diff([]string{key, "http2/empty"}, keys); diff != "" {
		t.Error("list: ", diff)
	}
	for _, k := range keys {
		if _, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b, Key: aws.String(k)}); err != nil {
			t.Error("delete: ", err)
		}
	}
	// A refusal while the client is still sending: it reads the answer.
	_, err = w.s3At(overHTTP2(t), w.read).PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: k, Body: bytes.NewReader(body)})
	var refused smithy.APIError
	if !errors.As(err, &refused) || refused.ErrorCode() != "AccessDenied" {
		t.Errorf("READ key writing: %v", err)
	}
}

func TestAIOverHTTP2(t *testing.T) {
	w := shared(t)
	ctx, c := t.Context(), w.openaiAt(overHTTP2(t), w.aiKey)
	long := strings.Repeat("all work and no play ", 100_000) // 2 MB
	answer, err := c.CreateChatCompletion(ctx, chat(long))
	if err != nil || !strings.HasSuffix(answer.Choices[0].Message.Content, long) {
		t.Errorf("long chat: %v", err)
	}
	text, err := streamed(ctx, c, "one two three")
	if err != nil || text != "You said: one two three" {
		t.Errorf("stream: %q, %v", text, err)
	}
	// Many at once on one connection.
	errs := make(chan error)
	for i := range 50 {
		go func() {
			words := fmt.Sprint("request ", i)
			a, err := c.CreateChatCompletion(ctx, chat(words))
			if err == nil && a.Choices[0].Message.Content != "You said: "+words {
				err = fmt.Errorf("%s was answered %q", words, a.Choices[0].Message.Content)
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	_, err = w.openaiAt(overHTTP2(t), "kb-unknown").CreateChatCompletion(ctx, chat("hi"))
	var refused *openai.APIError
	if !errors.As(err, &refused) || refused.HTTPStatusCode != http.StatusUnauthorized {
		t.Errorf("unknown key: %v", err)
	}
	if _, err := c.CreateEmbeddings(ctx, openai.EmbeddingRequest{Model: openai.EmbeddingModel(provider.Models[1]), Input: []string{"a"}}); err != nil {
		t.Error("embeddings: ", err)
	}
	w.noViolations(t)
}
