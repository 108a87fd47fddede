package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"keybridge/e2e/provider"
	"keybridge/e2e/stack"
)

// adminSocket names the socket of an admin in the environment of the suite, whose
// ./versitygw is this test's executable.
const adminSocket = "CONFORMANCE_ADMIN"

// admin does what the suite asks of `versitygw admin`: at the server itself, since IAM
// is no part of S3. A user that it makes there becomes a connector with that user's
// credential and a repository key, and requests that the suite signs as that user are
// signed with this key: the bridge chooses what the ids and secrets of keys are.
type admin struct {
	gateway *gateway
	server  place
	root    stack.Key // that the suite runs with
	binary  string

	mu    sync.Mutex
	users map[string]stack.Key // by access key id at the server
}

type adminAnswer struct {
	Output string
	Code   int
}

// askAdmin is the other side: what the suite executes.
func askAdmin(socket string, args []string) int {
	c, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	var answer adminAnswer
	if err := errors.Join(json.NewEncoder(c).Encode(args), json.NewDecoder(c).Decode(&answer)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Print(answer.Output)
	return answer.Code
}

// serve answers at a socket until the test ends.
func (a *admin) serve(t *testing.T, socket string) {
	t.Helper()
	listen(t, "unix", socket, func(ctx context.Context, c net.Conn) {
		var args []string
		if json.NewDecoder(c).Decode(&args) == nil {
			_ = json.NewEncoder(c).Encode(a.run(ctx, args))
		}
	})
}

// run is given admin -a KEY -s SECRET -er ENDPOINT COMMAND [-a KEY -s SECRET -r ROLE].
func (a *admin) run(ctx context.Context, args []string) adminAnswer {
	if len(args) < 8 || args[0] != "admin" || args[1] != "-a" || args[5] != "-er" {
		return adminAnswer{fmt.Sprintf("unexpected: %q", args), 1}
	}
	args = slices.Clone(args)
	if args[2] == a.root.Key && args[4] == a.root.Secret {
		args[2], args[4] = a.server.access, a.server.secret
	}
	args[6] = a.server.url
	out, err := exec.CommandContext(ctx, a.binary, args...).CombinedOutput()
	if err == nil && args[7] == "create-user" && !bytes.Contains(out, []byte("XAdmin")) {
		err = a.adopt(ctx, args[9], args[11])
	}
	if err != nil {
		return adminAnswer{fmt.Sprintf("%s%v\n", out, err), 1}
	}
	return adminAnswer{string(out), 0}
}

func (a *admin) adopt(ctx context.Context, access, secret string) error {
	_, key, err := a.gateway.account(ctx, place{a.server.url, access, secret})
	if err != nil {
		return err
	}
	if err := a.gateway.serves(ctx, key); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users[access] = key
	return nil
}

func (a *admin) key(access string) (stack.Key, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.users[access]
	return k, ok
}

// front passes connections on to the gateway and changes nothing of them but the
// Authorization header of requests that a user signed. It returns its address.
func (a *admin) front(t *testing.T) string {
	t.Helper()
	return listen(t, "tcp", "127.0.0.1:0", func(ctx context.Context, c net.Conn) {
		up, err := new(net.Dialer).DialContext(ctx, "tcp", a.gateway.S3)
		if err != nil {
			return
		}
		defer up.Close()
		context.AfterFunc(ctx, func() { up.Close() })
		go func() {
			_, _ = io.Copy(c, up)
			c.Close()
		}()
		r := bufio.NewReaderSize(c, 256<<10)
		for a.pass(up, r) == nil {
		}
	})
}

// pass passes one request on.
func (a *admin) pass(to io.Writer, r *bufio.Reader) error {
	head, err := readHead(r)
	if err != nil {
		return err
	}
	q, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil || len(q.TransferEncoding) > 0 { // the rest of the connection as it is
		_, err = io.Copy(to, io.MultiReader(bytes.NewReader(head), r))
		return errors.Join(err, io.EOF)
	}
	_, credential, _ := strings.Cut(q.Header.Get("Authorization"), "Credential=")
	access, _, _ := strings.Cut(credential, "/")
	if key, ok := a.key(access); ok {
		old := q.Header.Get("Authorization")
		if renewed, err := sign(q, key); err == nil {
			head = bytes.Replace(head, []byte(old), []byte(renewed), 1)
		}
	}
	if _, err := to.Write(head); err != nil {
		return err
	}
	_, err = io.CopyN(to, r, max(0, q.ContentLength))
	return err
}

func readHead(r *bufio.Reader) ([]byte, error) {
	var head []byte
	for {
		line, err := r.ReadSlice('\n')
		if head = append(head, line...); err != nil {
			return nil, err
		}
		if len(line) <= 2 && len(head) > 2 {
			return head, nil
		}
	}
}

// sign is the Authorization header that the request would have, had key signed it: at
// the same time, over the same headers.
func sign(q *http.Request, key stack.Key) (string, error) {
	at, err := time.Parse("20060102T150405Z", q.Header.Get("X-Amz-Date"))
	if err != nil {
		return "", err
	}
	_, names, _ := strings.Cut(q.Header.Get("Authorization"), "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	path, query, _ := strings.Cut(q.RequestURI, "?")
	again := &http.Request{Method: q.Method, Host: q.Host, Header: http.Header{}, URL: &url.URL{Scheme: "http", Host: q.Host, Opaque: "//" + q.Host + path, RawQuery: query}}
	for name := range strings.SplitSeq(strings.TrimSpace(names), ";") {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = q.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = q.Header.Values(name)
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err = signer.SignHTTP(context.Background(), aws.Credentials{AccessKeyID: key.Key, SecretAccessKey: key.Secret}, again,
		q.Header.Get("X-Amz-Content-Sha256"), "s3", provider.Region, at)
	renewed := again.Header.Get("Authorization")
	_, scope, _ := strings.Cut(q.Header.Get("Authorization"), "/")
	scope, _, _ = strings.Cut(scope, ",")
	if !strings.Contains(renewed, "/"+scope+",") { // wrong on purpose, and to stay that
		_, rest, _ := strings.Cut(q.Header.Get("Authorization"), "/")
		renewed = "AWS4-HMAC-SHA256 Credential=" + key.Key + "/" + rest
	}
	return renewed, err
}

// listen handles connections until the test ends.
func listen(t *testing.T, network, address string, handle func(context.Context, net.Conn)) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				handle(ctx, c)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wait.Wait()
	})
	return l.Addr().String()
}

// shim makes ./versitygw of a folder what asks the admin.
func shim(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Symlink(self, filepath.Join(dir, "versitygw"))
}
