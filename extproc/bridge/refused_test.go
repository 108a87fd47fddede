package bridge_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"keybridge/e2e/provider"
	"keybridge/extproc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
	"keybridge/xds/link"
)

// reviews has the bridge probe and review.
func reviews(w *world) {
	probing(w)
	probes := w.adjust
	w.adjust = func(cfg *bridge.Config) {
		probes(cfg)
		cfg.Protocols = map[string]extproc.Protocol{"s3": s3.New(w.live, s3.Options{}), "ai": llm.New(w.live)}
	}
}

// review shows the bridge an answer as Envoy does, and returns the status and body that
// the client gets instead; 0 if the answer passes.
func (w *world) review(t *testing.T, authority, cluster, method, path, authorization string, status int, body string) (int, string) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(w.dir, "extproc.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := extprocv3.NewExternalProcessorClient(conn).Process(ctx)
	must(t, err)
	attributes, err := structpb.NewStruct(map[string]any{
		"xds.cluster_name": cluster, "request.method": method, "request.path": path, "request.headers['authorization']": authorization,
	})
	must(t, err)
	config := &extprocv3.ProtocolConfiguration{}
	if authority == "s3" {
		config.ResponseBodyMode = extprocfilterv3.ProcessingMode_BUFFERED
	}
	must(t, stream.Send(&extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers:     &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":status", RawValue: []byte(fmt.Sprint(status))}}},
			EndOfStream: body == "",
		}},
		Attributes: map[string]*structpb.Struct{"envoy.filters.http.ext_proc": attributes}, ProtocolConfig: config,
	}))
	answer, err := stream.Recv()
	must(t, err)
	if answer.GetResponseHeaders() != nil && body != "" && authority == "s3" {
		must(t, stream.Send(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
			ResponseBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: true},
		}}))
		answer, err = stream.Recv()
		must(t, err)
	}
	r := answer.GetImmediateResponse()
	return int(r.GetStatus().GetCode()), string(r.GetBody())
}

// clusterOf waits for the cluster of a repository's AI connector or its bucket "photos".
func (w *world) clusterOf(t *testing.T) string {
	t.Helper()
	k := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	if ai := k.Repository().AI; len(ai) > 0 {
		return ai[0].Cluster
	}
	return k.Repository().Buckets["photos"].Cluster
}

const authFailures = "keybridge_provider_auth_failures_total "

// A provider that refuses requests is asked at once whether it is the credential; the
// status is what it then says.
func TestRefusedRequests(t *testing.T) {
	server, err := provider.StartOpenAI(provider.AIConfig{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	w := newWorld(t)
	reviews(w)
	o := w.addAI(t, server.Endpoint(), server.Key)
	w.start(t)
	cluster := w.clusterOf(t)
	w.await(t, func() bool { s := w.status(o.connector); return s != nil && s.Online })
	start, asked := time.Now(), len(server.Probes())
	refuse := func(cluster, key string) {
		t.Helper()
		if status, body := w.review(t, "ai", cluster, "POST", "/v1/chat/completions", "Bearer "+key, 401, "leak "+key); status != 503 || strings.Contains(body, key) {
			t.Errorf("the client gets %d %s", status, body)
		}
	}
	refuse(cluster, server.Key)
	w.await(t, func() bool { return len(server.Probes()) > asked })
	for range 20 { // asked no more often for that
		refuse(cluster, server.Key)
	}
	// Others' trouble is not this connector's.
	refuse("ep-other", server.Key)
	refuse(cluster, "sk-somebody-elses-key")
	if n, most := len(server.Probes())-asked, 1+int(time.Since(start)/(10*time.Second)); n > most {
		t.Errorf("the provider was asked %d times, want at most %d", n, most)
	}
	if n := w.numbers(t)[authFailures+"unauthorized ai"]; n != 23 {
		t.Errorf("counted %v: %v", n, w.numbers(t))
	}
	if n := strings.Count(w.log.String(), "refuses the credential of a connector"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if !strings.Contains(w.log.String(), o.connector) || strings.Contains(w.log.String(), server.Key) {
		t.Errorf("the log says: %s", w.log)
	}
	if s := w.status(o.connector); !s.Online {
		t.Errorf("status %v, though the provider said that all is well", s)
	}
}

// Answers to HEAD say nothing: they pass until it is known that the credential is
// refused, and again when it is not any more.
func TestRefusedHead(t *testing.T) {
	server := startS3(t, "photos")
	w := newWorld(t)
	reviews(w)
	o := w.addOne(t)
	credential := func(secret string, version uint64) {
		r := o.credential("http", "127.0.0.1", 0, version)
		to := at(seal.UseS3, server.URL())
		r.header.Binding.Key, r.header.Binding.Port, r.secret = server.Access, to.Port, secret
		w.put(t, r)
	}
	credential(server.Secret, 1)
	w.start(t)
	cluster := w.clusterOf(t)
	shows := func(online bool) *link.ConnectorStatus {
		t.Helper()
		w.await(t, func() bool { s := w.status(o.connector); return s != nil && s.Online == online })
		return w.status(o.connector)
	}
	shows(true)
	authorization := "AWS4-HMAC-SHA256 Credential=" + server.Access + "/20261125/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=0"
	head := func() int {
		t.Helper()
		status, _ := w.review(t, "s3", cluster, "HEAD", "/photos/k", authorization, 403, "")
		return status
	}
	asked := len(server.Probes())
	if status := head(); status != 0 {
		t.Errorf("HEAD is answered with %d", status)
	}
	w.await(t, func() bool { return len(server.Probes()) > asked }) // it may have been one
	if n := w.numbers(t)[authFailures+"no_body s3"]; n != 0 {
		t.Errorf("counted %v", n)
	}
	if strings.Contains(w.log.String(), "refuses the credential") {
		t.Errorf("the log says: %s", w.log)
	}

	credential("another-secret", 2)
	if s := shows(false); !strings.Contains(s.Message, "SignatureDoesNotMatch") {
		t.Errorf("status %v", s)
	}
	if status := head(); status != 503 {
		t.Errorf("HEAD is answered with %d while the credential is refused", status)
	}
	denied := "<Error><Code>AccessDenied</Code></Error>"
	if status, _ := w.review(t, "s3", cluster, "GET", "/photos/k", authorization, 403, denied); status != 0 {
		t.Errorf("AccessDenied is answered with %d", status)
	}
	if n := w.numbers(t)[authFailures+"no_body s3"]; n != 1 {
		t.Errorf("counted %v", n)
	}

	credential(server.Secret, 3)
	shows(true)
	if status := head(); status != 0 {
		t.Errorf("HEAD is answered with %d", status)
	}
}
