package bridge_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"keybridge/extproc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

// open lets a request in whose path is the id of a key.
type open struct{ live *grant.Live }

func (open) Name() string                { return "open" }
func (open) Unavailable() *extproc.Error { return &extproc.Error{Status: 503, Reason: "sealed"} }
func (p open) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	k := p.live.Load().Lookup(r.Path[1:])
	if k == nil || !k.Valid(now) {
		return nil, &extproc.Error{Status: 403, Reason: "key"}
	}
	d := r.Decision()
	d.Cluster, d.Authority, d.Key = "c", "a", k.Record()
	return d, nil
}

// request is an open request; the error is how it ended.
func (w *world) request(t *testing.T, keyID string) (ended <-chan error) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(w.dir, "extproc.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("s3"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := extprocv3.NewExternalProcessorClient(conn).Process(ctx)
	must(t, err)
	m := &corev3.HeaderMap{}
	for name, value := range map[string]string{":method": "GET", ":path": "/" + keyID, ":authority": "x", ":scheme": "http"} {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	must(t, stream.Send(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: &extprocv3.HttpHeaders{Headers: m, EndOfStream: true},
	}}))
	answer, err := stream.Recv()
	must(t, err)
	if answer.GetRequestHeaders() == nil {
		t.Fatalf("not let in: %v", answer)
	}
	out := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		out <- err
	}()
	return out
}

// another adds a second key to the repository of o.
func (w *world) another(t *testing.T, o one, keyID string) sealRequest {
	t.Helper()
	r := w.sealedKey(o, 1)
	r.record.Id = uuid.NewString()
	r.header.Record, r.header.Binding.Key = r.record.Id, keyID
	w.put(t, r)
	return r
}

func TestRevocationEndsOpenRequests(t *testing.T) {
	const other = "AKIDEXAMPLE000000002"
	for _, test := range []struct {
		name   string
		revoke func(t *testing.T, w *world, o one)
		both   bool // also requests of the repository's other key
	}{
		{"deleted", func(_ *testing.T, w *world, o one) {
			r := w.source.latest(o.key)
			r.State, r.Sealed = link.State_DELETED, nil
			w.source.put(r)
		}, false},
		{"disabled", func(_ *testing.T, w *world, o one) {
			r := w.source.latest(o.key)
			r.State = link.State_DISABLED
			w.source.put(r)
		}, false},
		{"expired", func(_ *testing.T, w *world, o one) {
			r := w.source.latest(o.key)
			r.Expires = time.Now().Unix() + 1 // within a second, on time
			w.source.put(r)
		}, false},
		{"repository disabled", func(_ *testing.T, w *world, o one) {
			w.resources.set(o.workspace+"/"+o.repository, &configv1.Repository{
				Id: o.repository, Workspace: o.workspace, Name: "web", Disabled: true,
				Storage: []*configv1.Repository_Storage{{ConnectorId: o.connector}},
			})
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.adjust = func(cfg *bridge.Config) {
				cfg.Protocols = map[string]extproc.Protocol{"s3": open{w.live}}
			}
			o := w.addOne(t)
			w.another(t, o, other)
			w.start(t)
			w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
			mine, others := w.request(t, keyID), w.request(t, other)
			test.revoke(t, w, o)
			select {
			case err := <-mine:
				if err == nil {
					t.Error("it ended as if it were complete")
				}
			case <-time.After(patience):
				t.Fatal("the request of the revoked key goes on")
			}
			if test.both {
				if <-others == nil {
					t.Error("it ended as if it were complete")
				}
				return
			}
			// What was published ended nothing of the other key; it is still let in, too.
			select {
			case err := <-others:
				t.Errorf("the request of the other key ended: %v", err)
			default:
			}
			w.request(t, other)
		})
	}
}

// The end of a key is on time without anything arriving, and follows a change of that time.
func TestExpiryMoves(t *testing.T) {
	w := newWorld(t)
	w.adjust = func(cfg *bridge.Config) {
		cfg.Protocols = map[string]extproc.Protocol{"s3": open{w.live}}
	}
	o := w.addOne(t)
	r := w.source.latest(o.key)
	r.Expires = time.Now().Add(time.Hour).Unix()
	w.source.put(r)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil && !k.Expires().IsZero() })
	ended := w.request(t, keyID)
	at := time.Now().Unix() + 1
	r.Expires = at
	w.source.put(r)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended as if it were complete")
		}
	case <-time.After(patience):
		t.Fatal("the request outlives its key")
	}
	// Had the change not moved the end, it would be an hour off.
	if early := time.Until(time.Unix(at, 0)); early > 0 {
		t.Errorf("it ended %v before its key", early)
	}
}

// A wall clock that is set ahead, which no timer notices, ends what has expired by it
// within a minute; and what counts how long the control plane is away does not see it.
func TestWallClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		at := <-bridge.NextLook(now, now.Add(24*time.Hour))
		if took := at.Sub(now); took > time.Minute {
			t.Errorf("the next look is %v later", took)
		}
	})
	w := newWorld(t)
	w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	w.control.Stop()
	w.await(t, func() bool { return w.bridge.AwaySince() != nil })
	// Time.String: a monotonic reading shows as m=.
	if since := w.bridge.AwaySince().String(); !strings.Contains(since, " m=") {
		t.Errorf("the control plane is away since %s of the wall clock", since)
	}
}
