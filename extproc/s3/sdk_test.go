package s3_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/smithy-go/encoding/httpbinding"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

const (
	workspace = "0a4f1b2c-0000-4000-8000-000000000001"
	front     = "gateway.example:8443"
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	unsigned  = "UNSIGNED-PAYLOAD"
)

var now = protocoltest.Now

// call is a request before it is signed.
type call struct {
	method string
	path   string // escaped
	query  string
	header http.Header
	length int64
	hash   string // empty: UNSIGNED-PAYLOAD
	region string // empty: us-east-1
	at     time.Time
	host   string
}

// sign signs c as aws-sdk-go-v2's S3 client does and returns it as Envoy hands it on.
func (c call) sign(t testing.TB, k protocoltest.Key) *extproc.Request {
	t.Helper()
	if c.hash == "" {
		c.hash = unsigned
	}
	if c.region == "" {
		c.region = "us-east-1"
	}
	if c.at.IsZero() {
		c.at = now
	}
	if c.host == "" {
		c.host = front
	}
	header := c.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("X-Amz-Content-Sha256", c.hash)
	r := &http.Request{
		Method: c.method, Host: c.host, Header: header, ContentLength: c.length,
		URL: &url.URL{Scheme: "http", Host: c.host, Opaque: "//" + c.host + c.path, RawQuery: c.query},
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	credentials := aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}
	if err := signer.SignHTTP(context.Background(), credentials, r, c.hash, "s3", c.region, c.at); err != nil {
		t.Fatal(err)
	}
	path := c.path
	if c.query != "" {
		path += "?" + c.query
	}
	return c.envoy(path, r.Header)
}

// envoy is the request as Envoy hands it on.
func (c call) envoy(path string, header http.Header) *extproc.Request {
	lines := []extproc.Header{
		{Name: ":method", Value: c.method}, {Name: ":path", Value: path},
		{Name: ":authority", Value: c.host}, {Name: ":scheme", Value: "http"},
	}
	if c.length > 0 {
		lines = append(lines, extproc.Header{Name: "content-length", Value: strconv.FormatInt(c.length, 10)})
	}
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, v := range header[name] {
			// HTTP codecs remove space around values (RFC 9110 §5.5).
			lines = append(lines, extproc.Header{Name: name, Value: strings.Trim(v, " \t")})
		}
	}
	lines = append(lines, extproc.Header{Name: "x-forwarded-proto", Value: "http"},
		extproc.Header{Name: "x-request-id", Value: "5c0c59b7-1c0c-9f0b-8c0a-3b0a2c1d4e5f"})
	return extproc.NewRequest(c.length == 0, lines...)
}

// presign makes a presigned URL as aws-sdk-go-v2 does, and the request of a client
// that only has the URL and the headers that it was told to send.
func (c call) presign(t testing.TB, k protocoltest.Key, expires time.Duration) *extproc.Request {
	t.Helper()
	return c.presignRaw(t, k, strconv.FormatInt(int64(expires/time.Second), 10))
}

func (c call) presignRaw(t testing.TB, k protocoltest.Key, expires string) *extproc.Request {
	t.Helper()
	hash := c.hash
	if hash == "" {
		hash = unsigned
	}
	if c.region == "" {
		c.region = "us-east-1"
	}
	if c.at.IsZero() {
		c.at = now
	}
	if c.host == "" {
		c.host = front
	}
	header := c.header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if c.hash != "" {
		header.Set("X-Amz-Content-Sha256", c.hash)
	}
	r := &http.Request{
		Method: c.method, Host: c.host, Header: header, ContentLength: c.length,
		URL: &url.URL{Scheme: "http", Host: c.host, Opaque: "//" + c.host + c.path, RawQuery: strings.Trim(c.query+"&X-Amz-Expires="+expires, "&")},
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	credentials := aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}
	signed, told, err := signer.PresignHTTP(context.Background(), credentials, r, hash, "s3", c.region, c.at)
	if err != nil {
		t.Fatal(err)
	}
	told.Del("Host")
	told.Del("Content-Length")
	return c.envoy(strings.TrimPrefix(signed, "http://"+c.host), told)
}

// stage is a protocol with keys of each access to the bucket "photos", another
// bucket "papers" of the same repository that allows configuration, and one beside it.
type stage struct {
	*protocoltest.World
	*s3.Protocol
	read, write, admin protocoltest.Key
	token              string // session token of all provider credentials, if any
}

func newStage(t testing.TB) *stage {
	t.Helper()
	return newStageOf(t, "")
}

// newStageOf is newStage with temporary provider credentials.
func newStageOf(t testing.TB, token string) *stage {
	t.Helper()
	w := protocoltest.NewWorld(t)
	temporary := func(in *grant.ConnectorInput, h *seal.Header) {
		if token != "" {
			in.Credential = w.Credential(*h, seal.WithToken([]byte(protocoltest.ProviderSecret(in.Name)), []byte(token)))
		}
	}
	w.Bucket(workspace, "photos", temporary)
	w.Bucket(workspace, "papers", func(in *grant.ConnectorInput, h *seal.Header) {
		in.AllowBucketConfiguration = true
		temporary(in, h)
	})
	w.Bucket(workspace, "secret", temporary)
	w.Repository(workspace, "repository", false, "photos", "papers")
	s := &stage{token: token, World: w, Protocol: s3.New(&w.Live, s3.Options{Domains: []string{"gateway.example"}})}
	s.read = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessRead, nil)
	s.write = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessWrite, nil)
	s.admin = w.Key(workspace, "repository", grant.UseStorageKey, grant.AccessAdmin, nil)
	w.Publish()
	return s
}

func TestConformance(t *testing.T) {
	protocoltest.Run(t, protocoltest.Suite{
		New: func(live *grant.Live) extproc.Protocol { return s3.New(live, s3.Options{}) },
		Use: grant.UseStorageKey,
		Request: func(at time.Time, k protocoltest.Key, target string, more ...extproc.Header) *extproc.Request {
			r := call{method: "GET", path: "/" + target + "/key", at: at}.sign(t, k)
			return with(r, more...)
		},
	})
}

// with adds header lines to a signed request.
func with(r *extproc.Request, more ...extproc.Header) *extproc.Request {
	lines := []extproc.Header{
		{Name: ":method", Value: r.Method}, {Name: ":path", Value: r.Path},
		{Name: ":authority", Value: r.Authority}, {Name: ":scheme", Value: r.Scheme},
	}
	return extproc.NewRequest(r.EndOfStream, append(append(lines, r.Headers()...), more...)...)
}

// provider plays the provider: it takes the request as Envoy would forward it and
// wants the signature that aws-sdk-go-v2 makes of host and x-amz-* with the
// provider's credential.
func provider(t testing.TB, r *extproc.Request, d *extproc.Decision, bucket string) {
	t.Helper()
	providerOf(t, r, d, bucket, "")
}

// providerOf is provider where the credential has a session token, which is then to be
// the only one.
func providerOf(t testing.TB, r *extproc.Request, d *extproc.Decision, bucket, token string) {
	t.Helper()
	header := http.Header{}
	for _, h := range r.Headers() {
		if !slices.Contains(d.Remove, h.Name) {
			header.Add(h.Name, h.Value)
		}
	}
	for _, h := range d.Set {
		header.Set(h.Name, h.Value)
	}
	got := header.Get("Authorization")
	tokens := header.Values("X-Amz-Security-Token")
	if token == "" && len(tokens) > 0 || token != "" && !slices.Equal(tokens, []string{token}) {
		t.Errorf("session tokens %q reach the provider, want %q", tokens, token)
	}
	if token != "" && slices.Contains(d.Remove, "x-amz-security-token") {
		t.Error("the provider's session token is set and removed")
	}
	if date := header.Get("X-Amz-Date"); date != now.Format("20060102T150405Z") {
		t.Errorf("x-amz-date %q", date)
	}
	for name := range header {
		if !strings.HasPrefix(name, "X-Amz-") || name == "X-Amz-Date" {
			delete(header, name)
		}
	}
	path := d.Path
	if path == "" {
		path = r.Path
	}
	uri, query, _ := strings.Cut(path, "?")
	again := &http.Request{
		Method: r.Method, Host: d.Authority, Header: header,
		URL: &url.URL{Scheme: "https", Host: d.Authority, Opaque: "//" + d.Authority + uri, RawQuery: query},
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	credentials := aws.Credentials{AccessKeyID: protocoltest.ProviderKey(bucket), SecretAccessKey: protocoltest.ProviderSecret(bucket), SessionToken: token}
	if err := signer.SignHTTP(context.Background(), credentials, again, header.Get("X-Amz-Content-Sha256"), "s3", "eu-central-1", now); err != nil {
		t.Fatal(err)
	}
	if want := again.Header.Get("Authorization"); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%s %s\n got %s\nwant %s", r.Method, path, got, want)
	}
}

// TestSDKSignatures is the property: whatever the SDK's signer signs verifies, and
// what goes on is what the SDK's signer would have signed for the provider.
func TestSDKSignatures(t *testing.T) {
	t.Run("static", func(t *testing.T) { newStage(t).properties(t) })
	t.Run("temporary", func(t *testing.T) { newStageOf(t, sessionToken).properties(t) })
}

func (s *stage) properties(t *testing.T) {
	for name, sign := range map[string]func(*rand.Rand, call) *extproc.Request{
		"header": func(_ *rand.Rand, c call) *extproc.Request { return c.sign(t, s.admin) },
		"presigned": func(rnd *rand.Rand, c call) *extproc.Request {
			c.at = now.Add(-time.Duration(rnd.IntN(86400)) * time.Second)
			c.hash = pick(rnd, "", "", unsigned, emptyHash)
			return c.presign(t, s.admin, time.Duration(86400+rnd.IntN(518401))*time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) { s.property(t, sign) })
	}
}

func (s *stage) property(t *testing.T, sign func(*rand.Rand, call) *extproc.Request) {
	rnd := rand.New(rand.NewPCG(1, 2))
	refused, passed := map[string]int{}, 0
	for range 4000 {
		c := randomCall(rnd)
		if rnd.IntN(3) == 0 { // virtual-host style: the same request, with its bucket in the host
			c.host = "papers." + front
			if c.path = strings.TrimPrefix(c.path, "/papers"); c.path == "" {
				c.path = "/"
			}
		}
		r := sign(rnd, c)
		d, e := s.Decide(now, r)
		if e == nil {
			passed++
			providerOf(t, r, d, "papers", s.token)
			path, _, _ := strings.Cut(r.Path, "?")
			if d.Path != "" {
				path, _, _ = strings.Cut(d.Path, "?")
			}
			if want := "/papers" + strings.TrimSuffix(strings.TrimPrefix(c.path, "/papers"), "/"); strings.TrimSuffix(path, "/") != want {
				t.Fatalf("%s %s goes to %s, want %s", c.host, c.path, path, want)
			}
			continue
		}
		refused[e.Reason]++
		switch e.Reason {
		case "unknown_operation", "unknown_parameter", "repeated", "argument", "bucket_owned", "forbidden", "method":
		default: // anything else was decided before or by the signature
			t.Fatalf("%s: %s %s?%s\n%v", e.Reason, c.method, c.path, c.query, c.header)
		}
	}
	if passed < 1000 {
		t.Errorf("only %d of the requests are allowed operations; refused: %v", passed, refused)
	}
}

func randomCall(rnd *rand.Rand) call {
	c := call{
		method: pick(rnd, "GET", "GET", "PUT", "HEAD", "POST", "DELETE"),
		path:   "/papers",
		header: http.Header{},
		hash:   pick(rnd, unsigned, emptyHash, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
		region: pick(rnd, "us-east-1", "eu-central-1", "auto", "x"),
		at:     now.Add(time.Duration(rnd.IntN(1800)-900) * time.Second),
		host:   pick(rnd, front, "localhost", "127.0.0.1:9000", "[::1]:9000", "s3.example:443"),
	}
	if rnd.IntN(4) > 0 {
		c.path += "/" + httpbinding.EscapePath(randomKey(rnd), false)
	}
	query := url.Values{}
	switch rnd.IntN(8) {
	case 0, 1:
		query.Set(pick(rnd, "uploads", "uploadId", "acl", "tagging", "versions", "location", "delete", "policy"), pick(rnd, "", randomText(rnd)))
	case 2:
		query.Set("list-type", "2")
		query.Set("prefix", randomText(rnd))
		query.Set("delimiter", "/")
		query.Set("continuation-token", randomText(rnd))
	case 3:
		query.Set("uploadId", randomText(rnd))
		query.Set("partNumber", strconv.Itoa(rnd.IntN(10000)))
	case 4:
		query.Set("response-content-type", randomText(rnd))
		query.Set("versionId", randomText(rnd))
		query.Set("x-id", "GetObject")
	case 5:
		query[randomText(rnd)+"?"] = []string{randomText(rnd), ""}
	}
	// As the SDK's serialisers write it, and as the signer leaves it.
	c.query = strings.ReplaceAll(query.Encode(), "+", "%20")
	if c.method == "PUT" {
		c.length = rnd.Int64N(1 << 40)
		c.header.Set("Content-Type", randomText(rnd))
	}
	for range rnd.IntN(4) {
		name := pick(rnd, "X-Amz-Meta-Title", "X-Amz-Meta-B", "Range", "Accept-Encoding", "Cache-Control", "X-Amz-Checksum-Crc32", "Content-Md5", "If-Match")
		for range 1 + rnd.IntN(2) {
			c.header.Add(name, randomText(rnd))
		}
	}
	if rnd.IntN(8) == 0 {
		c.header.Set("X-Amz-Acl", "private")
	}
	if rnd.IntN(8) == 0 {
		c.header.Set("X-Amz-Security-Token", "session")
	}
	return c
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// randomKey is an object key of odd bytes that stays in its bucket.
func randomKey(rnd *rand.Rand) string {
	parts := []string{"a", "//", "/", ".", "%", "%2F", "+", " ", "ü", "\xff", "~", "*", "'", "(", "&", "=", "?", "#", ";", ":", "@", "$", ",", "\\", "\"", "<", "\x01", "\x7f", "日本"}
	var b strings.Builder
	b.WriteString("k")
	for range rnd.IntN(12) {
		b.WriteString(pick(rnd, parts...))
		if strings.HasSuffix(b.String(), "..") {
			b.WriteString("x")
		}
	}
	return b.String()
}

// randomText is a header or query value.
func randomText(rnd *rand.Rand) string {
	parts := []string{"a", "Z", "  ", " ", "/", "=", "&", "+", "%", "é", ",", ";", "\"", "~", "-", "0"}
	b := "v"
	for range rnd.IntN(10) {
		b += pick(rnd, parts...)
	}
	return b
}

// TestEveryByte: every byte in a key, in a query value and, where HTTP takes it, in a
// header, at every operation that takes them: what the SDK's signer signs verifies, and
// what goes on is what it would have signed for the provider.
func TestEveryByte(t *testing.T) {
	s := newStage(t)
	try := func(name string, r *extproc.Request) {
		t.Helper()
		d, e := s.Decide(now, r)
		if e != nil {
			t.Errorf("%s: %s\n%s", name, e.Body, r.Path)
			return
		}
		provider(t, r, d, "papers")
	}
	for b := range 256 {
		c := byte(b)
		key := httpbinding.EscapePath("k"+string([]byte{c})+"k", false)
		value := "v" + string([]byte{c}) + "v"
		query := func(name string) string { return name + "=" + httpbinding.EscapePath(value, true) }
		calls := map[string]call{
			"get":       {method: "GET", path: "/papers/" + key, query: query("versionId")},
			"head":      {method: "HEAD", path: "/papers/" + key},
			"put":       {method: "PUT", path: "/papers/" + key, length: 1, hash: emptyHash},
			"trailer":   {method: "PUT", path: "/papers/" + key, length: 1, hash: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
			"part":      {method: "PUT", path: "/papers/" + key, query: "partNumber=1&" + query("uploadId"), length: 1},
			"delete":    {method: "DELETE", path: "/papers/" + key},
			"begin":     {method: "POST", path: "/papers/" + key, query: "uploads="},
			"list":      {method: "GET", path: "/papers", query: "list-type=2&" + query("prefix")},
			"copy":      {method: "PUT", path: "/papers/copy", header: http.Header{"X-Amz-Copy-Source": {"papers/" + key}}},
			"configure": {method: "PUT", path: "/papers", query: "policy="},
		}
		if c >= ' ' && c != 0x7f { // what HTTP takes (RFC 9110 §5.5)
			calls["metadata"] = call{method: "PUT", path: "/papers/k", header: http.Header{"X-Amz-Meta-A": {value}, "Range": {value}, "Cache-Control": {value, value}}}
		}
		for name, c := range calls {
			try(fmt.Sprintf("%s %#x", name, b), c.sign(t, s.admin))
			if name != "trailer" { // in a URL there is no header that announces it
				try(fmt.Sprintf("presigned %s %#x", name, b), c.presign(t, s.admin, time.Hour))
			}
		}
	}
}
