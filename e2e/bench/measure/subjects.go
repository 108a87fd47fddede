package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
)

// subject is one configuration under one kind of request.
type subject struct {
	name             string
	envoy, processor int // process ids; 0: there is none
	make             func(context.Context) (request, error)
	// status and authorization are what a request must come to at the provider that
	// looks at it: versitygw, which knows the provider's credential alone, or the
	// recorder.
	status        int
	authorization string
}

// subjects are what is compared, those of one kind beside each other.
func (h *house) subjects() []*subject {
	s3At := func(address string) func(context.Context) (request, error) {
		return func(ctx context.Context) (request, error) { return h.getObject(ctx, "http://"+address) }
	}
	chatAt := func(address string) func(context.Context) (request, error) {
		return func(context.Context) (request, error) { return h.chat("http://"+address, h.chatKey), nil }
	}
	trimmed := func(url string) string { return strings.TrimPrefix(url, "http://") }
	client := "Bearer " + h.chatKey
	return []*subject{
		{"s3-plain", h.envoy.pid, 0, s3At(h.ports["plain"]), http.StatusForbidden, ""},
		{"s3-native", h.envoy.pid, 0, s3At(h.ports["native"]), http.StatusOK, ""},
		{"s3-noop", h.envoy.pid, h.noop.pid, s3At(h.ports["noop"]), http.StatusForbidden, ""},
		{"s3-keybridge", h.kbEnvoy, h.kbBridge, s3At(trimmed(h.endpoints.S3)), http.StatusOK, ""},
		{"ai-plain", h.envoy.pid, 0, chatAt(h.ports["plain"]), http.StatusOK, client},
		{"ai-noop", h.envoy.pid, h.noop.pid, chatAt(h.ports["noop"]), http.StatusOK, client},
		{"ai-noop-forward-rules", h.envoy.pid, h.noop.pid, chatAt(h.ports["noop_forward_rules"]), http.StatusOK, client},
		{"ai-keybridge", h.kbEnvoy, h.kbBridge, chatAt(trimmed(h.endpoints.AI)), http.StatusOK, "Bearer " + h.aiKey},
	}
}

// getObject is the request that the AWS SDK makes, signed with the repository key at
// this moment: it is valid for 15 minutes.
func (h *house) getObject(ctx context.Context, url string) (request, error) {
	var made *http.Request
	c := s3.New(s3.Options{
		Region: provider.Region, BaseEndpoint: &url, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(h.key.Key, h.key.Secret, ""),
		HTTPClient: client(func(r *http.Request) (*http.Response, error) {
			made = r
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}}, nil
		}),
	})
	if _, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(object)}); err != nil {
		return request{}, err
	}
	q := request{method: made.Method, url: made.URL.String()}
	for name, values := range made.Header {
		for _, v := range values {
			q.header = append(q.header, [2]string{name, v})
		}
	}
	return q, nil
}

type client func(*http.Request) (*http.Response, error)

func (c client) Do(r *http.Request) (*http.Response, error) { return c(r) }

// chat is the request that OpenAI's client for Python, version 3.54, makes.
func (h *house) chat(url, key string) request {
	return request{
		method: http.MethodPost, url: url + "/v1/chat/completions",
		header: [][2]string{
			{"Accept-Encoding", "gzip, deflate"},
			{"Connection", "keep-alive"},
			{"authorization", "Bearer " + key},
			{"accept", "application/json"},
			{"content-type", "application/json"},
			{"user-agent", "OpenAI/Python 3.54.0"},
			{"x-stainless-lang", "python"},
			{"x-stainless-package-version", "3.54.0"},
			{"x-stainless-os", "Linux"},
			{"x-stainless-arch", "x64"},
			{"x-stainless-runtime", "CPython"},
			{"x-stainless-runtime-version", "3.11.7"},
			{"x-stainless-async", "false"},
			{"x-stainless-retry-count", "0"},
			{"x-stainless-read-timeout", "600"},
		},
		body: `{"messages":[{"role":"system","content":"You answer in few words."},{"role":"user","content":"What does a small request cost?"}],"model":"small"}`,
	}
}

// chatAnswer is what the provider says.
var chatAnswer = `{"id":"chatcmpl-1","object":"chat.completion","created":1767225600,"model":"small","choices":[{"index":0,"message":{"role":"assistant","content":"` +
	strings.Repeat("Small answers cost little. ", 12) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":60,"total_tokens":72}}`

// check sends one request of each subject to a server that looks at it: what is to be
// timed must do what it is there for.
func (h *house) check(ctx context.Context, subjects []*subject) error {
	for _, s := range subjects {
		q, err := s.make(ctx)
		if err != nil {
			return err
		}
		for end := time.Now().Add(settled); ; { // what was just made is on its way to the bridge
			if err = s.check(ctx, q); err == nil || time.Now().After(end) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("%s does not do what it is there for: %w", s.name, err)
		}
	}
	return nil
}

// settled is how long a configuration may take until it is in force.
const settled = 10 * time.Second

func (s *subject) check(ctx context.Context, q request) error {
	req, err := q.http(ctx)
	if err != nil {
		return err
	}
	req.Header.Set("x-bench-check", "s3")
	if s.authorization != "" {
		req.Header.Set("x-bench-check", "ai")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != s.status {
		return fmt.Errorf("%s instead of %d: %s", res.Status, s.status, body)
	}
	if s.authorization == "" {
		if s.status == http.StatusForbidden && !strings.Contains(string(body), "InvalidAccessKeyId") {
			return fmt.Errorf("the provider did not see the client's key: %s", body)
		}
		return nil
	}
	var seen struct{ Header http.Header }
	if err := json.Unmarshal(body, &seen); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if got := seen.Header["Authorization"]; len(got) != 1 || got[0] != s.authorization {
		return fmt.Errorf("the provider saw %d authorization headers, or another", len(got))
	}
	return nil
}

func (h *house) putDirect(ctx context.Context) error {
	_, err := h.s3.Direct().PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String(object), Body: strings.NewReader("checked")})
	return err
}
