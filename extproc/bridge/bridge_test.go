package bridge_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/seal"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

func TestMain(m *testing.M) {
	if _, err := lockedmem.Harden(true); err != nil {
		panic(err)
	}
	code := m.Run()
	if h, _ := found(); h != nil && os.RemoveAll(h.dir) != nil {
		code = 1
	}
	os.Exit(code)
}

const keyID = "AKIDEXAMPLE000000001"

// one is a workspace with one S3 connector, repository and key.
type one struct {
	workspace, connector, repository, key string
}

// addOne makes a working chain at the control plane.
func (w *world) addOne(t *testing.T) one {
	t.Helper()
	o := one{uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()}
	w.put(t, o.credential("https", "s3.example.com", 443, 1))
	w.put(t, w.sealedKey(o, 1))
	w.setConnector(o, o.connector)
	w.setRepository(o)
	return o
}

func (o one) credential(scheme, host string, port uint16, version uint64) sealRequest {
	return sealRequest{
		record: &link.Record{Type: seal.TypeCredential, Id: o.connector, Workspace: o.workspace},
		header: seal.Header{
			Format: seal.Format, Workspace: o.workspace, Type: seal.TypeCredential, Record: o.connector, Version: version,
			Binding: seal.Binding{Use: seal.UseS3, Key: "AKPROVIDER", Scheme: scheme, Host: host, Port: port, Scope: "photos"},
		},
		secret: "provider-secret",
	}
}

func (w *world) sealedKey(o one, version uint64) sealRequest {
	return sealRequest{
		record: &link.Record{Type: seal.TypeRepositoryKey, Id: o.key, Workspace: o.workspace, Access: link.Access_READ},
		header: seal.Header{
			Format: seal.Format, Workspace: o.workspace, Type: seal.TypeRepositoryKey, Record: o.key, Version: version,
			Binding: seal.Binding{Use: seal.UseS3Key, Key: keyID, Repository: o.repository},
		},
		secret: "repository-secret",
	}
}

// setConnector configures the connector of o to use a credential.
func (w *world) setConnector(o one, credential string) {
	w.resources.set(o.workspace+"/"+o.connector, &configv1.Connector{
		Id: o.connector, Workspace: o.workspace, Name: "photos", Provider: configv1.Provider_PROVIDER_S3,
		Bucket: "photos", Region: "us-east-1", CredentialId: credential,
	})
}

func (w *world) setRepository(o one) {
	w.resources.set(o.workspace+"/"+o.repository, &configv1.Repository{
		Id: o.repository, Workspace: o.workspace, Name: "web",
		Storage: []*configv1.Repository_Storage{{ConnectorId: o.connector}},
	})
}

func TestServesWhatItOpened(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.start(t)
	key := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	c := key.Repository().Buckets["photos"].Connector
	if c == nil || c.Authority != "s3.example.com" || c.Cluster == "" {
		t.Fatalf("connector = %+v", c)
	}
	// The index is published first; the status follows it.
	w.await(t, func() bool { return w.bridge.Status().Keys == 1 })
	if got := w.bridge.Status(); got.State != "ready" || len(got.Problems) != 0 {
		t.Errorf("status = %+v", got)
	}
	w.stop(t)
	if w.live.Load() != nil {
		t.Error("a stopped bridge still answers for keys")
	}
}

func TestRevokedKeyGoes(t *testing.T) {
	w := newWorld(t)
	o := w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	r := w.sealedKey(o, 1)
	r.record.State = link.State_DELETED
	w.put(t, r)
	w.awaitKey(t, func(k *grant.Key) bool { return k == nil })
}

func TestDisabledKeyComesBackWithoutBeingOpenedAgain(t *testing.T) {
	w := newWorld(t)
	o := w.addOne(t)
	w.start(t)
	before := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	rec := w.source.latest(o.key)
	rec.State = link.State_DISABLED
	w.source.put(rec)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Disabled })
	rec = w.source.latest(o.key)
	rec.State = link.State_ACTIVE
	w.source.put(rec)
	after := w.awaitKey(t, func(k *grant.Key) bool { return k != nil && !k.Disabled })
	if before.Secret != after.Secret {
		t.Error("an unchanged secret was opened again")
	}
}

func TestBindingMovesTheConnector(t *testing.T) {
	w := newWorld(t)
	o := w.addOne(t)
	w.start(t)
	at := func(authority string) func(*grant.Key) bool {
		return func(k *grant.Key) bool {
			return k != nil && k.Repository().Buckets["photos"].Connector != nil && k.Repository().Buckets["photos"].Authority == authority
		}
	}
	old := w.awaitKey(t, at("s3.example.com")).Repository().Buckets["photos"].Cluster
	w.put(t, o.credential("https", "s3.other.example", 8443, 2))
	moved := w.awaitKey(t, at("s3.other.example:8443")).Repository().Buckets["photos"].Cluster
	if old == moved {
		t.Error("two endpoints share a cluster")
	}
	if !w.envoy.has(moved) {
		t.Error("the index names a cluster that Envoy was not given")
	}
}

// What a hostile database or control plane may try: each is left out, named, and harms nothing else.
func TestLeftOutAndNamed(t *testing.T) {
	tests := []struct {
		name   string
		attack func(t *testing.T, w *world, o one)
		gone   func(k *grant.Key) bool
		named  string // in Status.Problems or the log
	}{
		{
			name: "ciphertext of another record",
			attack: func(_ *testing.T, w *world, o one) {
				other := w.source.latest(o.connector)
				mine := w.source.latest(o.key)
				mine.Sealed = other.Sealed
				w.source.put(mine)
			},
			gone:  func(k *grant.Key) bool { return k == nil },
			named: "sealed for credential",
		},
		{
			name: "tampered ciphertext",
			attack: func(_ *testing.T, w *world, o one) {
				rec := w.source.latest(o.key)
				rec.Sealed = slices.Clone(rec.Sealed)
				rec.Sealed[len(rec.Sealed)-1] ^= 1
				w.source.put(rec)
			},
			gone:  func(k *grant.Key) bool { return k == nil },
			named: "record refused",
		},
		{
			name: "older secret version",
			attack: func(t *testing.T, w *world, o one) {
				w.put(t, w.sealedKey(o, 3))
				w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Secret.Version() == 3 })
				w.put(t, w.sealedKey(o, 2))
			},
			gone:  func(k *grant.Key) bool { return k == nil },
			named: "older secret version",
		},
		{
			name: "endpoint that the operator does not allow",
			attack: func(t *testing.T, w *world, o one) {
				w.put(t, o.credential("http", "169.254.169.254", 80, 2))
			},
			gone:  func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector == nil },
			named: "--allow-endpoint",
		},
		{
			name: "session token that would be two headers",
			attack: func(t *testing.T, w *world, o one) {
				r := o.credential("https", "s3.example.com", 443, 2)
				r.secret += "\x00token\r\nx-amz-acl: public-read"
				w.put(t, r)
			},
			gone:  func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector == nil },
			named: "record refused",
		},
		{
			name: "credential of another workspace",
			attack: func(t *testing.T, w *world, o one) {
				foreign := one{uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()}
				w.put(t, foreign.credential("https", "s3.example.com", 443, 1))
				w.setConnector(o, foreign.connector)
			},
			gone:  func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector == nil },
			named: "workspace",
		},
		{
			name: "another CA than the bound one",
			attack: func(_ *testing.T, w *world, o one) {
				w.resources.set(o.workspace+"/"+o.connector, &configv1.Connector{
					Id: o.connector, Workspace: o.workspace, Name: "photos", Provider: configv1.Provider_PROVIDER_S3,
					Bucket: "photos", CredentialId: o.connector, CaCertificates: []byte("-----BEGIN CERTIFICATE-----\n"),
				})
			},
			gone:  func(k *grant.Key) bool { return k != nil && k.Repository().Buckets["photos"].Connector == nil },
			named: "CA certificates",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.addOne(t)
			w.start(t)
			w.awaitKey(t, func(k *grant.Key) bool {
				return k != nil && k.Repository().Buckets["photos"].Connector != nil
			})
			tt.attack(t, w, o)
			w.awaitKey(t, tt.gone)
			w.await(t, func() bool {
				return strings.Contains(strings.Join(w.bridge.Status().Problems, "\n")+w.log.String(), tt.named)
			})
		})
	}
}

func TestLastGoodStateOnlyForSoLong(t *testing.T) {
	w := newWorld(t)
	w.maxStale = 200 * time.Millisecond
	w.addOne(t)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	w.control.Stop()
	w.await(t, func() bool { return w.live.Load() == nil && w.bridge.State() == bridge.Stale })
}

func TestWaitsForKeepers(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.keepers[0]()
	w.keepers[1]()
	w.start(t)
	w.await(t, func() bool {
		return slices.ContainsFunc(w.bridge.Status().Keepers, func(k quorum.KeeperReport) bool { return k.State == "unreachable" })
	})
	if w.bridge.State() == bridge.Ready || w.live.Load() != nil {
		t.Fatal("ready without a quorum")
	}
	w.serveKeeper(t, 0)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
}
