package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
	"keybridge/store/api/client"
)

const (
	// appears is how long what was made may take to work.
	appears = 5 * time.Second
	// refusedWithin is how long what was revoked may go on to work. The bar is 250 ms
	// at p99 (e2e/bench holds it); here all processes and the load share the machine.
	refusedWithin = time.Second
	// watched is how long it is then seen to be refused without exception.
	watched = 300 * time.Millisecond
)

// live is a world under load in which an operator changes things.
type live struct {
	*world
	t     *testing.T
	token string
	made  int
}

// TestLiveChange: connectors, credentials, repositories and keys are made, rotated,
// disabled, expired and deleted while applications work. None of their requests
// fails, and what was revoked is refused.
func TestLiveChange(t *testing.T) {
	w := start(t, config{})
	token, err := w.AdminToken()
	if err != nil {
		t.Fatal(err)
	}
	load, open := w.startLoad(t), w.startDownload(t)
	for _, change := range []struct {
		name string
		do   func(*live)
	}{
		{"storage: made, used, deleted", (*live).storageLife},
		{"AI: made, used, deleted", (*live).aiLife},
		{"key replaced", (*live).keyReplaced},
		{"key rotated", (*live).keyRotated},
		{"key disabled and enabled", (*live).keyDisabled},
		{"key expires", (*live).keyExpires},
		{"open requests end", (*live).openRequestsEnd},
		{"repository disabled and enabled", (*live).repositoryDisabled},
		{"repository loses a connector", (*live).repositoryShrinks},
		{"provider key rotated", (*live).providerKeyRotated},
		{"shared provider key rotated", (*live).sharedKeyRotated},
		{"bad endpoint", (*live).badEndpoint},
		{"bad name", (*live).badName},
		{"bad CA", (*live).badCA},
		{"bad credential", (*live).badCredential},
	} {
		t.Run(change.name, func(t *testing.T) {
			change.do(&live{world: w, t: t, token: token})
			open.more(t)
		})
	}
	open.end(t)
	load.end(t, "things changed")
}

// name is one that no other record has.
func (l *live) name(what string) string {
	l.made++
	return fmt.Sprintf("%s %s %d", strings.ReplaceAll(l.t.Name(), "/", " "), what, l.made)
}

func (l *live) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// admin makes one call of the admin API in plain words, as an operator with curl
// does, and returns the answer's fields.
func (l *live) admin(method, path string, body any) map[string]any {
	l.t.Helper()
	raw, err := json.Marshal(body)
	l.must(err)
	q, err := http.NewRequestWithContext(l.t.Context(), method, l.endpoints.Admin+path, bytes.NewReader(raw))
	l.must(err)
	q.Header.Set("Authorization", "Bearer "+l.token)
	q.Header.Set("Content-Type", "application/json")
	res, err := once.Do(q)
	l.must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	l.must(err)
	if res.StatusCode != http.StatusOK {
		l.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
	}
	var out map[string]any
	l.must(json.Unmarshal(text, &out))
	return out
}

// bucketConnector is a connector of bucket, whether a bridge can reach it or not.
func (l *live) bucketConnector(endpoint, key, secret, ca string) string {
	l.t.Helper()
	return l.admin(http.MethodPost, "/bucket?validate=false", map[string]any{
		"workspaceId": l.tenant.Workspace, "name": l.name("bucket"), "bucket": bucket, "storageType": "S3",
		"endpoint": endpoint, "region": provider.Region, "key": key, "secret": secret, "caCertificate": ca,
	})["bucketId"].(string)
}

func (l *live) llm(endpoint, secret, ca string) string {
	l.t.Helper()
	return l.admin(http.MethodPost, "/ai/llm?validate=false", map[string]any{
		"workspaceId": l.tenant.Workspace, "name": l.name("llm"), "aiType": "OTHER",
		"endpoint": endpoint, "secret": secret, "caCertificate": ca,
	})["aiLlmId"].(string)
}

func (l *live) goodBucket() string {
	return l.bucketConnector(l.s3.URL(), l.s3.Access, l.s3.Secret, "")
}
func (l *live) goodLLM() string { return l.llm(l.ai.Endpoint(), l.ai.Key, "") }

func (l *live) repo(buckets, llms []string) string {
	l.t.Helper()
	id, err := l.tenant.Repository(l.t.Context(), l.name("repository"), buckets, llms)
	l.must(err)
	return id
}

func (l *live) storageKey(repo string) stack.Key {
	l.t.Helper()
	k, err := l.tenant.StorageKey(l.t.Context(), repo, l.name("key"), "READ")
	l.must(err)
	return k
}

func (l *live) newAIKey(repo string) stack.Key {
	l.t.Helper()
	k, err := l.tenant.AIKey(l.t.Context(), repo, l.name("key"))
	l.must(err)
	return k
}

// try is one request of an application; it says with what status it ended.
type try func(context.Context) (answer, error)

func (l *live) reads(k stack.Key) try {
	return func(ctx context.Context) (answer, error) {
		return l.askS3(ctx, s3Request{method: http.MethodGet, path: "/" + bucket + "/" + present, key: k})
	}
}

func (l *live) embeds(k stack.Key) try {
	return func(ctx context.Context) (answer, error) {
		return l.askAI(ctx, http.MethodPost, "/v1/embeddings", `{"model":"`+provider.Models[1]+`","input":["a"]}`, k.Secret)
	}
}

// works waits until a request succeeds, and then wants it to go on so.
func (l *live) works(do try) {
	l.t.Helper()
	l.becomes(do, http.StatusOK, appears)
}

// stops wants a request to be refused soon and for good.
func (l *live) stops(do try, status int) {
	l.t.Helper()
	l.becomes(do, status, refusedWithin)
}

func (l *live) becomes(do try, status int, within time.Duration) {
	l.t.Helper()
	start := time.Now()
	var since time.Time
	for since.IsZero() || time.Since(since) < watched {
		a, err := do(l.t.Context())
		switch {
		case err == nil && a.status == status:
			if since.IsZero() {
				since = time.Now()
			}
		case !since.IsZero():
			l.t.Fatalf("%d at first, then %d %s, %v", status, a.status, a.body, err)
		case time.Since(start) > within:
			l.t.Fatalf("after %v: %d %s, %v; want %d", within, a.status, a.body, err, status)
		}
	}
}

func (l *live) storageLife() {
	c := l.goodBucket()
	r := l.repo([]string{c}, nil)
	k := l.storageKey(r)
	l.works(l.reads(k))
	l.must(l.tenant.DeleteStorageKey(l.t.Context(), r, k.ID))
	l.stops(l.reads(k), http.StatusForbidden)
	other := l.storageKey(r)
	l.works(l.reads(other))
	l.must(l.tenant.DeleteRepo(l.t.Context(), r))
	l.stops(l.reads(other), http.StatusForbidden)
	l.must(l.tenant.DeleteBucket(l.t.Context(), c))
}

func (l *live) aiLife() {
	c := l.goodLLM()
	r := l.repo(nil, []string{c})
	k := l.newAIKey(r)
	l.works(l.embeds(k))
	l.must(l.tenant.DeleteAIKey(l.t.Context(), r, k.ID))
	l.stops(l.embeds(k), http.StatusUnauthorized)
	other := l.newAIKey(r)
	l.works(l.embeds(other))
	l.must(l.tenant.DeleteRepo(l.t.Context(), r))
	l.stops(l.embeds(other), http.StatusUnauthorized)
	l.must(l.tenant.DeleteLLM(l.t.Context(), c))
}

// Old and new are valid side by side, then the old one alone stops.
func (l *live) keyReplaced() {
	old := l.storageKey(l.repository)
	l.works(l.reads(old))
	next := l.storageKey(l.repository)
	l.works(l.reads(next))
	l.works(l.reads(old))
	l.must(l.tenant.DeleteStorageKey(l.t.Context(), l.repository, old.ID))
	l.stops(l.reads(old), http.StatusForbidden)
	l.works(l.reads(next))
	l.must(l.tenant.DeleteStorageKey(l.t.Context(), l.repository, next.ID))
}

// Old and new are valid side by side for as long as the operator says.
func (l *live) keyRotated() {
	const overlap = 3 * time.Second
	rotate := func(kind string, k stack.Key, seconds int) stack.Key {
		out := l.admin(http.MethodPost, "/repo/"+l.repository+kind+"/"+k.ID+"/rotate", map[string]any{"overlapSeconds": seconds})
		next := stack.Key{ID: out["id"].(string), Key: out["key"].(string), Secret: out["secret"].(string)}
		l.behindEnvoy.Add("rotated key", next.Secret)
		return next
	}
	for _, c := range []struct {
		kind    string
		key     stack.Key
		do      func(stack.Key) try
		refused int
	}{
		{"/apikey", l.storageKey(l.repository), l.reads, http.StatusForbidden},
		{"/ai/apikey", l.newAIKey(l.repository), l.embeds, http.StatusUnauthorized},
	} {
		old := c.key
		l.works(c.do(old))
		end := time.Now().Add(overlap)
		next := rotate(c.kind, old, int(overlap/time.Second))
		l.works(c.do(next))
		l.works(c.do(old))
		l.becomes(c.do(old), c.refused, time.Until(end)+refusedWithin)
		l.works(c.do(next))
		last := rotate(c.kind, next, 0)
		l.stops(c.do(next), c.refused)
		l.works(c.do(last))
	}
}

func (l *live) keyDisabled() {
	s, a := l.storageKey(l.repository), l.newAIKey(l.repository)
	l.works(l.reads(s))
	l.works(l.embeds(a))
	disable := func(disabled bool) {
		l.admin(http.MethodPut, "/repo/"+l.repository+"/apikey/"+s.ID, map[string]any{"disabled": disabled})
		l.admin(http.MethodPut, "/repo/"+l.repository+"/ai/apikey/"+a.ID, map[string]any{"disabled": disabled})
	}
	disable(true)
	l.stops(l.reads(s), http.StatusForbidden)
	l.stops(l.embeds(a), http.StatusUnauthorized)
	disable(false)
	l.works(l.reads(s))
	l.works(l.embeds(a))
}

// What a key has begun ends with the key: a download, an upload, a chat.
func (l *live) openRequestsEnd() {
	slow, err := provider.StartOpenAI(provider.OpenAIConfig{Recorder: provider.RecorderConfig{Forbidden: &l.behindEnvoy}})
	l.must(err)
	l.t.Cleanup(func() { l.must(slow.Close()) })
	slow.Hold(func(hold context.Context, _ int) error {
		<-hold.Done()
		return hold.Err()
	})
	r := l.repo([]string{l.goodBucket()}, []string{l.llm(slow.Endpoint(), slow.Key, "")})
	issued, err := l.tenant.StorageKey(l.t.Context(), r, l.name("key"), "ADMIN")
	l.must(err)
	ai := l.newAIKey(r)
	l.works(l.reads(issued))
	l.works(l.embeds(ai))

	c := l.s3At(unhurried(l.t, false), issued)
	get, err := c.GetObject(l.t.Context(), &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String("large")})
	l.must(err)
	defer get.Body.Close()
	_, err = io.ReadFull(get.Body, make([]byte, 1<<10))
	l.must(err)
	stream, err := l.openaiAt(unhurried(l.t, true), ai.Secret).CreateChatCompletionStream(l.t.Context(), chat("one two three"))
	l.must(err)
	defer func() { _ = stream.Close() }()
	_, err = stream.Recv()
	l.must(err)
	rest, more := io.Pipe()
	defer func() { _ = more.Close() }()
	put := make(chan error, 1)
	whole := make([]byte, 1<<20)
	go func() { put <- l.upload(issued, "revoked", whole, rest) }()
	_, err = more.Write(whole[:1<<19])
	l.must(err)

	begin := time.Now()
	l.must(l.tenant.DeleteStorageKey(l.t.Context(), r, issued.ID))
	l.must(l.tenant.DeleteAIKey(l.t.Context(), r, ai.ID))
	ended := make(chan error, 3)
	over := func(what string, err error) {
		l.t.Logf("%s ended after %v: %v", what, time.Since(begin).Round(time.Millisecond), err)
		if err == nil || errors.Is(err, io.EOF) {
			ended <- fmt.Errorf("the %s came to a good end: %w", what, err)
			return
		}
		ended <- nil
	}
	go func() { _, err := io.Copy(io.Discard, get.Body); over("download", err) }()
	go func() { _, err := stream.Recv(); over("chat", err) }()
	go func() { over("upload", <-put) }()
	for range 3 {
		select {
		case err := <-ended:
			if err != nil {
				l.t.Error(err)
			}
		case <-time.After(5 * time.Second):
			l.t.Fatal("a request goes on without its key")
		}
	}
	// No byte passes any more, but a connection that is cut off over HTTP/1.1 closes a
	// second later (delayed_close_timeout of Envoy's connection manager).
	if took := time.Since(begin); took > refusedWithin+time.Second {
		l.t.Errorf("open requests ended after %v", took)
	}
	if h, err := l.s3.Direct().HeadObject(l.t.Context(), &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: aws.String("revoked")}); err == nil {
		l.t.Errorf("the upload that was cut off left an object of %d bytes", aws.ToInt64(h.ContentLength))
	}
}

// upload puts an object that is said to be `whole` and comes as it will; a status
// other than 200 is an error. The hash is signed: with UNSIGNED-PAYLOAD, versitygw
// keeps the half of an object whose connection was cut off.
func (l *live) upload(k stack.Key, object string, whole []byte, body io.ReadCloser) error {
	defer body.Close() // whoever writes to it is told
	q, err := http.NewRequestWithContext(l.t.Context(), http.MethodPut, l.endpoints.S3+"/"+bucket+"/"+object, body)
	if err != nil {
		return err
	}
	q.ContentLength = int64(len(whole))
	sum := sha256.Sum256(whole)
	hash := hex.EncodeToString(sum[:])
	q.Header.Set("X-Amz-Content-Sha256", hash)
	creds := aws.Credentials{AccessKeyID: k.Key, SecretAccessKey: k.Secret}
	if err := v4.NewSigner().SignHTTP(l.t.Context(), creds, q, hash, "s3", provider.Region, time.Now()); err != nil {
		return err
	}
	a, err := ask(q)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%d %s", a.status, a.body)
	}
	return err
}

func (l *live) keyExpires() {
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	issued, err := l.tenant.CreateStorageKey(l.t.Context(), l.repository, client.KeySpec{Name: l.name("key"), AccessType: "READ", ExpiresAt: &end})
	l.must(err)
	k := stack.Key{ID: issued.ID, Key: issued.Key, Secret: string(issued.Secret)}
	served := false
	for { // an expired key is refused to the moment: every bridge knows when
		before := time.Now()
		a, err := l.reads(k)(l.t.Context())
		l.must(err)
		switch served = served || a.status == http.StatusOK; {
		case a.status == http.StatusOK && before.After(end):
			l.t.Fatalf("served %v after the end", before.Sub(end))
		case a.status != http.StatusOK && served && time.Now().Before(end):
			l.t.Fatalf("%d %s, %v before the end", a.status, a.body, time.Until(end))
		case before.After(end.Add(watched)):
			if !served {
				l.t.Error("never worked")
			}
			return
		}
	}
}

func (l *live) repositoryDisabled() {
	r := l.repo([]string{l.goodBucket()}, []string{l.goodLLM()})
	s, a := l.storageKey(r), l.newAIKey(r)
	l.works(l.reads(s))
	l.works(l.embeds(a))
	for range 2 {
		l.must(l.tenant.SetRepoDisabled(l.t.Context(), r, true))
		l.stops(l.reads(s), http.StatusForbidden)
		l.stops(l.embeds(a), http.StatusUnauthorized)
		l.must(l.tenant.SetRepoDisabled(l.t.Context(), r, false))
		l.works(l.reads(s))
		l.works(l.embeds(a))
	}
}

func (l *live) repositoryShrinks() {
	c := l.goodBucket()
	r := l.repo([]string{c}, nil)
	k := l.storageKey(r)
	l.works(l.reads(k))
	l.admin(http.MethodPut, "/repo/"+r, map[string]any{"repoBuckets": []any{}})
	l.stops(l.reads(k), http.StatusForbidden)
	l.admin(http.MethodPut, "/repo/"+r, map[string]any{"repoBuckets": []any{map[string]any{"bucketId": c}}})
	l.works(l.reads(k))
}

// A connector moves to another provider, with its credential, without a request failing.
func (l *live) providerKeyRotated() {
	c := l.goodLLM()
	l.moves(c, func(endpoint, secret string) {
		l.admin(http.MethodPut, "/ai/llm/"+c, map[string]any{"endpoint": endpoint, "secret": secret})
	})
}

// So do all connectors of a shared credential.
func (l *live) sharedKeyRotated() {
	shared := l.admin(http.MethodPost, "/apikeys", map[string]any{
		"workspaceId": l.tenant.Workspace, "provider": "OTHER", "endpoint": l.ai.Endpoint(), "secret": l.ai.Key,
	})["apiKeyId"].(string)
	c := l.admin(http.MethodPost, "/ai/llm", map[string]any{
		"workspaceId": l.tenant.Workspace, "name": l.name("llm"), "aiType": "OTHER", "apiKeyUuid": shared,
	})["aiLlmId"].(string)
	l.moves(c, func(endpoint, secret string) {
		l.admin(http.MethodPut, "/apikeys/"+shared, map[string]any{"endpoint": endpoint, "secret": secret})
	})
}

// moves has an application use an AI connector while that changes its provider.
func (l *live) moves(connector string, move func(endpoint, secret string)) {
	l.t.Helper()
	second, err := provider.StartOpenAI(provider.OpenAIConfig{Recorder: provider.RecorderConfig{Forbidden: &l.behindEnvoy}})
	l.must(err)
	l.t.Cleanup(func() { l.must(second.Close()) })
	r := l.repo(nil, []string{connector})
	k := l.newAIKey(r)
	l.works(l.embeds(k))
	ctx, stop := context.WithCancel(l.t.Context())
	users := &load{stop: stop}
	users.work(ctx, "application of the connector", aiWork(l.openaiAt(unhurried(l.t, false), k.Secret)))
	for _, p := range []*provider.OpenAI{second, l.ai, second} {
		move(p.Endpoint(), p.Key)
		l.becomes(func(ctx context.Context) (answer, error) {
			second.Reset()
			a, err := l.embeds(k)(ctx)
			if here := len(second.Requests()) > 0; here != (p == second) {
				a.status = http.StatusAccepted // served by the one before, still
			}
			return a, err
		}, http.StatusOK, appears)
	}
	stop()
	users.done.Wait()
	for _, f := range users.failed {
		l.t.Error(f)
	}
}

// bad makes a connector of each kind that cannot work; requests for it are
// answered in the protocol's words, by `status`.
func (l *live) bad(s3Endpoint, aiEndpoint, secret, ca string, s3Status, aiStatus int) {
	l.t.Helper()
	b := l.bucketConnector(s3Endpoint, "KEYOFNOBODY", secret, ca)
	a := l.llm(aiEndpoint, secret, ca)
	r := l.repo([]string{b}, []string{a})
	s, k := l.storageKey(r), l.newAIKey(r)
	l.becomes(l.reads(s), s3Status, appears)
	l.becomes(l.embeds(k), aiStatus, appears)
	l.must(l.tenant.DeleteRepo(l.t.Context(), r))
	l.must(l.tenant.DeleteBucket(l.t.Context(), b))
	l.must(l.tenant.DeleteLLM(l.t.Context(), a))
}

func (l *live) badEndpoint() {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	l.must(free.Close()) // nobody listens there now
	at := "http://" + free.Addr().String()
	l.bad(at, at+"/v1", "secret-that-nobody-sees", "", 503, 503)
}

func (l *live) badName() {
	l.bad("https://does-not-exist.invalid", "https://does-not-exist.invalid/v1", "secret-that-nobody-sees", "", 503, 503)
}

func (l *live) badCA() {
	served, _, err := provider.Certificate("127.0.0.1")
	l.must(err)
	_, other, err := provider.Certificate("127.0.0.1")
	l.must(err)
	p, err := provider.StartOpenAI(provider.OpenAIConfig{Recorder: provider.RecorderConfig{TLS: served}})
	l.must(err)
	l.t.Cleanup(func() { l.must(p.Close()) })
	l.bad(p.URL(), p.Endpoint(), "secret-that-nobody-sees", string(other), 503, 503)
	if n := len(p.Requests()); n != 0 {
		l.t.Errorf("%d requests at a provider that is not the bound one", n)
	}
}

func (l *live) badCredential() {
	l.bad(l.s3.URL(), l.ai.Endpoint(), "secret-that-is-not-right", "", 503, 503) // which does not blame the key
}
