package s3

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"

	"keybridge/extproc/grant"
)

var update = flag.Bool("update", false, "write testdata/operations.md")

// elsewhere are actions that the SDK does not send to an endpoint of one's own.
var elsewhere = []string{"ListDirectoryBuckets"}

// TestActions holds the table against the SDK, whose operations are generated from
// the service's own model: every action of Amazon S3 is a row of the table and the
// SDK's request for it is that row, or the request is refused. testdata/operations.md
// says so to readers.
func TestActions(t *testing.T) {
	rows := map[string]*operation{}
	for i := range operations {
		rows[operations[i].name] = &operations[i]
	}
	var refused []string
	actions := sdkActions()
	for _, action := range actions {
		row := rows[action]
		if row == nil && slices.Contains(elsewhere, action) {
			refused = append(refused, fmt.Sprintf("| %s | served at a host of its own |", action))
			continue
		}
		o, f := matched(t, action)
		switch {
		case row != nil && o != row:
			t.Errorf("the SDK's %s is not taken for that: %v %v", action, o, f)
		case row == nil && o != nil:
			t.Errorf("%s is taken for %s", action, o.name)
		case row == nil:
			refused = append(refused, fmt.Sprintf("| %s | %d %s |", action, f.status, f.code))
		}
	}
	for name := range rows {
		if !slices.Contains(actions, name) {
			t.Errorf("%s is no action of the SDK", name)
		}
	}
	golden := filepath.Join("testdata", "operations.md")
	got := document(refused)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not the table; write it with -update: %s", golden, diff)
	}
}

// sdkActions are the operations of the SDK's client: methods that take a context, an
// input and options.
func sdkActions() (names []string) {
	client := reflect.TypeFor[*awss3.Client]()
	for i := range client.NumMethod() {
		m := client.Method(i)
		if m.Type.NumIn() == 4 && m.Type.IsVariadic() && m.Type.In(1) == reflect.TypeFor[context.Context]() {
			names = append(names, m.Name)
		}
	}
	return names
}

// matched finds the operation that the SDK's request for an action is.
func matched(t *testing.T, action string) (*operation, *failure) {
	t.Helper()
	sent := sdkRequest(action)
	if sent == nil {
		t.Fatalf("the SDK sends nothing for %s", action)
	}
	var s scratch
	for name, values := range sent.Header {
		for _, v := range values {
			s.found.note(strings.ToLower(name), v)
		}
	}
	var ok bool
	if s.target, ok = parsePath(sent.URL.EscapedPath(), &s.path); !ok {
		t.Fatalf("%s: path %s", action, sent.URL.EscapedPath())
	}
	if f := s.query.parse(sent.URL.RawQuery); f != nil {
		t.Fatalf("%s: query %s", action, sent.URL.RawQuery)
	}
	if s.found.unsupported {
		return nil, &failHeader
	}
	return match(sent.Method, &s.target, &s.query, s.found.copySource.lines > 0)
}

var errSeen = errors.New("seen")

// sdkRequest is what the SDK sends for an action on bucket and key.
func sdkRequest(action string) (sent *http.Request) {
	client := awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://h"), UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("k", "s", ""),
		HTTPClient: doer(func(r *http.Request) (*http.Response, error) {
			sent = r
			return nil, errSeen
		}),
		APIOptions: []func(*middleware.Stack) error{func(s *middleware.Stack) error {
			_, _ = s.Initialize.Remove("OperationInputValidation") // most members are of the body
			return nil
		}},
	})
	method := reflect.ValueOf(client).MethodByName(action)
	input := reflect.New(method.Type().In(1).Elem())
	for name, value := range map[string]any{
		"Bucket": "bucket", "Key": "key", "UploadId": "u", "Id": "i", "CopySource": "bucket/other", "RenameSource": "other",
		"AnnotationName": "a", "RequestRoute": "r", "RequestToken": "t", "PartNumber": int32(1),
	} {
		if f := input.Elem().FieldByName(name); f.IsValid() {
			p := reflect.New(f.Type().Elem())
			p.Elem().Set(reflect.ValueOf(value))
			f.Set(p)
		}
	}
	method.Call([]reflect.Value{reflect.ValueOf(context.Background()), input})
	return sent
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// document is the table for readers.
func document(refused []string) string {
	var b strings.Builder
	b.WriteString(`# S3 operations and who may call them

Made from the table in operations.go by ` + "`go test ./extproc/s3 -run TestActions -update`" + `; the test
holds both against every action of aws-sdk-go-v2, which is generated from the service's model.
Source: Amazon S3 API Reference, "Actions", Amazon S3: the action of the name in the first
column, its method, sub-resource and URI request parameters.

*configuration*: ADMIN keys, where the connector has allowBucketConfiguration. So has every
operation with a header that publishes or locks (x-amz-acl, x-amz-grant-*, x-amz-object-lock-*,
x-amz-bypass-governance-retention, x-amz-website-redirect-location, x-amz-mfa, x-amz-object-ownership).
*account*: ADMIN keys, where the bucket is an account connector's. Repositories without one
answer ListBuckets themselves.

Where the repository is limited to a folder of the bucket, keys and sources of copies are inside it,
ListObjects, ListObjectsV2, ListObjectVersions and ListMultipartUploads have it for a prefix, or a longer one,
and the keys of DeleteObjects are read in the body. HeadBucket and GetBucketLocation stay; every other
operation on the bucket is refused.

| action | request | READ | WRITE | ADMIN |
|---|---|---|---|---|
`)
	for i := range operations {
		o := &operations[i]
		at := "/bucket"
		switch {
		case o.service:
			at = "/"
		case o.object:
			at = "/bucket/key"
		}
		var query []string
		for p := params(1); p <= pXID; p <<= 1 {
			if o.must&p != 0 {
				query = append(query, parameterNames[p])
			}
		}
		if len(query) > 0 {
			at += "?" + strings.Join(query, "&")
		}
		if o.copies {
			at += ", x-amz-copy-source"
		}
		may := func(a grant.Access) string {
			switch {
			case o.config && a == grant.AccessAdmin:
				return "configuration"
			case o.named != nil && a == grant.AccessAdmin:
				return "account"
			case o.config || o.named != nil || !o.allows(a):
				return ""
			}
			return "yes"
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s | %s |\n", o.name, o.method, at, may(grant.AccessRead), may(grant.AccessWrite), may(grant.AccessAdmin))
	}
	b.WriteString("\n## Not on the table\n\nEvery other request is refused, these actions of Amazon S3 among them.\n\n| action | answer |\n|---|---|\n")
	b.WriteString(strings.Join(refused, "\n") + "\n")
	return b.String()
}

// parameterNames is parameter the other way round.
var parameterNames = func() map[params]string {
	names := map[params]string{}
	for _, n := range []string{
		"acl", "accelerate", "analytics", "attributes", "cors", "delete", "encryption", "id", "intelligent-tiering", "inventory", "legal-hold",
		"lifecycle", "list-type", "location", "logging", "metrics", "notification", "object-lock", "ownershipControls", "partNumber", "policy",
		"policyStatus", "publicAccessBlock", "replication", "requestPayment", "retention", "tagging", "uploadId", "uploads", "versioning",
		"versions", "website",
	} {
		names[parameter([]byte(n))] = n
	}
	return names
}()
