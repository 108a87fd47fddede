//go:build !race

package bench_test

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	bigendian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"keybridge/e2e/proc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/quorum"
	"keybridge/keyshare/seal"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
)

const (
	scaleWorkspace    = "5b0c62a2-4c0f-4a83-9e3e-0a1b53a1d001"
	scaleRepositories = 1000
)

func scaleUUID(kind, i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, i) }

// scale is one bridge of this process, real keepers, and a control plane that reads its
// records from a file, so that what it keeps in memory is not counted as the bridge's.
type scale struct {
	site   *keepertest.Site
	pub    *seal.PublicKey
	record []byte // the keyring's record key
	file   string
	count  int
	cfg    bridge.Config
	live   *grant.Live
}

func newScale(b testing.TB) *scale {
	b.Helper()
	s := &scale{site: keepertest.New(b, 3, 2), live: &grant.Live{}}
	signed := s.site.Sign(b, func(m *keyshare.Manifest) {
		for i := range m.Bridges {
			m.Bridges[i].Workspaces = []string{link.AllWorkspaces}
		}
	})
	trust := s.site.Trust(b)
	_, err := trust.Update(signed)
	must(b, err)
	for _, k := range s.site.Keepers {
		_, err := k.Start(b).Trust().Update(signed)
		must(b, err)
	}
	s.pub, err = seal.ParsePublicKey([]byte(trust.Manifest().CurrentSealingKey().PEM))
	must(b, err)
	dir := shortDir(b)
	s.file = filepath.Join(dir, "records")

	ads, err := xds.NewServer(xds.Config{
		Types:     xds.BridgeTypes(),
		Authorize: func(context.Context) (string, string, error) { return s.site.Bridge.Name(), "all", nil },
	})
	must(b, err)
	repositories := map[string]proto.Message{}
	for i := range scaleRepositories {
		id := scaleUUID(1, i)
		repositories[scaleWorkspace+"/"+id] = &configv1.Repository{Id: id, Workspace: scaleWorkspace, Name: fmt.Sprint("r", i)}
	}
	repositoryURL := "type.googleapis.com/" + string((&configv1.Repository{}).ProtoReflect().Descriptor().FullName())
	for _, url := range xds.BridgeTypes() {
		in := map[string]proto.Message{}
		if url == repositoryURL {
			in = repositories
		}
		_, err := ads.Set("all", url, in)
		must(b, err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(s.site.Control, trust, identity.RoleBridge))))
	ads.Register(server)
	link.RegisterLinkServer(server, link.NewServer(&fileSource{scale: s, manifest: signed}, link.NewHub(slog.New(slog.DiscardHandler)), trust.Peer))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	go func() { _ = server.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(
		credentials.NewTLS(identity.ClientTLS(s.site.Bridge, trust, identity.RoleControl, ""))))
	must(b, err)
	b.Cleanup(func() { conn.Close(); ads.Close(); server.Stop() })
	s.cfg = bridge.Config{
		Identity: s.site.Bridge, Trust: trust, Control: conn, Keepers: s.site.Addrs(), Live: s.live,
		Dir: filepath.Join(dir, "b"), EnvoyUID: os.Getuid(), SystemRoots: s.file, MaxStale: time.Hour,
		Logger: slog.New(slog.DiscardHandler),
	}
	must(b, os.WriteFile(s.file, nil, 0o600))
	return s
}

// learnRecordKey opens the keyring as its package comment describes it: the one record
// key is what a keyring made by init ends in.
func (s *scale) learnRecordKey(b testing.TB) {
	b.Helper()
	m := s.cfg.Trust.Manifest()
	must(b, quorum.Unseal(b.Context(), quorum.Config{
		Identity: s.cfg.Identity, Trust: s.cfg.Trust, Keepers: s.cfg.Keepers, Reason: "startup",
	}, func(u []byte) error {
		str := func(to []byte, s string) []byte {
			return append(bigendian.BigEndian.AppendUint16(to, uint16(len(s))), s...)
		}
		body := s.site.Keyring[len(str(nil, "keybridge keyring"))+2:]
		aad := bigendian.BigEndian.AppendUint64(str(str(nil, "keybridge keyring v1"), m.Set), m.Epoch)
		plain, err := gcmOf(u).Open(nil, body[:12], body[12:], aad)
		if err == nil {
			s.record = plain[len(plain)-32:]
		}
		return err
	}))
}

func gcmOf(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

func (s *scale) header(kind string, i int) seal.Header {
	h := seal.Header{Format: seal.Format, Workspace: scaleWorkspace, Type: kind, Record: scaleUUID(2, i), Version: 1}
	if kind == seal.TypeCredential {
		h.Binding = seal.Binding{Use: seal.UseS3, Key: fmt.Sprintf("AKPR%016X", i), Scheme: "https", Host: "s3.example.com", Port: 443, Scope: "*"}
	} else {
		h.Binding = seal.Binding{Use: seal.UseS3Key, Key: fmt.Sprintf("AKID%016X", i), Repository: scaleUUID(1, i%scaleRepositories)}
	}
	return h
}

// adopted is a record with its second wrap, made without RSA.
func (s *scale) adopted(h seal.Header, secret []byte) *seal.Sealed {
	random := make([]byte, 32+12+12)
	_, _ = rand.Read(random)
	dek, iv, nonce := random[:32], random[32:44], random[44:]
	canonical, id := h.Canonical(), seal.RecordKeyID(1)
	body := gcmOf(dek).Seal(nil, iv, secret, canonical)
	n := len(secret)
	return &seal.Sealed{
		Header: h, IV: iv, AuthTag: body[n:], Message: body[:n:n],
		Key: seal.Wrap{Suite: seal.SuiteRecordKey, KeyID: id, Value: gcmOf(s.record).Seal(nonce, nonce, dek, seal.Label(canonical, seal.SuiteRecordKey, id))},
	}
}

// write makes the n records that the control plane serves, keys but where credential says so.
func (s *scale) write(b testing.TB, n int, credential func(i int) bool, sealed func(h seal.Header, secret []byte) *seal.Sealed) {
	b.Helper()
	f, err := os.Create(s.file)
	must(b, err)
	w := bufio.NewWriterSize(f, 1<<20)
	secret := []byte("wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00") // 40 bytes, as S3's
	for i := range n {
		kind := seal.TypeRepositoryKey
		if credential(i) {
			kind = seal.TypeCredential
		}
		h := s.header(kind, i)
		raw, err := sealed(h, secret).MarshalBinary()
		must(b, err)
		line, err := proto.Marshal(&link.Record{Type: kind, Id: h.Record, Workspace: h.Workspace, Revision: 1, Access: link.Access_READ, Sealed: raw})
		must(b, err)
		_, err = w.Write(append(bigendian.BigEndian.AppendUint32(nil, uint32(len(line))), line...))
		must(b, err)
	}
	must(b, errors.Join(w.Flush(), f.Close()))
	s.count = n
}

// fileSource serves the file, whose records are one revision.
type fileSource struct {
	link.Wraps
	*scale
	manifest []byte
}

func (f *fileSource) Custody(context.Context) (manifest, keyring []byte, err error) {
	return f.manifest, f.site.Keyring, nil
}
func (f *fileSource) Revision(context.Context) (uint64, error) { return 1, nil }
func (f *fileSource) Rewrap(_ context.Context, in []link.Rewrap, _ func(string) bool) (int, error) {
	return len(in), nil
}
func (f *fileSource) SealingKey(context.Context) (string, error) { return f.pub.ID(), nil }
func (f *fileSource) Outdated(context.Context, *link.RecordRef, func(string) bool) ([]*link.Record, *link.RecordRef, error) {
	return nil, nil, nil
}

func (f *fileSource) Watch(ctx context.Context, from uint64) iter.Seq2[link.Batch, error] {
	return func(yield func(link.Batch, error) bool) {
		if from == 0 && !f.replay(yield) {
			return
		}
		<-ctx.Done()
		yield(link.Batch{}, ctx.Err())
	}
}

func (f *fileSource) replay(yield func(link.Batch, error) bool) bool {
	file, err := os.Open(f.file)
	if err != nil {
		return yield(link.Batch{}, err)
	}
	defer file.Close()
	r, size := bufio.NewReaderSize(file, 1<<20), make([]byte, 4)
	batch := link.Batch{}
	for {
		if _, err := io.ReadFull(r, size); err != nil {
			batch.Revision = 1
			return yield(batch, nil)
		}
		line := make([]byte, bigendian.BigEndian.Uint32(size))
		rec := &link.Record{}
		if _, err := io.ReadFull(r, line); err != nil || proto.Unmarshal(line, rec) != nil {
			return yield(link.Batch{}, io.ErrUnexpectedEOF)
		}
		if batch.Records = append(batch.Records, rec); len(batch.Records) == 512 {
			if !yield(batch, nil) {
				return false
			}
			batch = link.Batch{}
		}
	}
}

// run starts the bridge, says how long it took to be ready, and leaves it running
// until after is done.
func (s *scale) run(b testing.TB, after func()) time.Duration {
	b.Helper()
	br, err := bridge.New(s.cfg)
	must(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	start, worked := time.Now(), cpu(b)
	go func() { done <- br.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for br.State() != bridge.Ready {
		if time.Since(start) > 10*time.Minute {
			b.Fatalf("not ready: %+v", br.Status())
		}
		<-tick.C
	}
	took := time.Since(start)
	// Of this process, which is the control plane and three keepers, too.
	b.(*testing.B).ReportMetric((cpu(b) - worked).Seconds(), "cpu-s")
	if after != nil {
		after()
	}
	cancel()
	must(b, <-done)
	return took
}

// cpu is the time that this process has had on all cores.
func cpu(b testing.TB) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is what the kernel counts, once nothing is left to be collected.
func resident(b testing.TB) int64 {
	b.Helper()
	debug.FreeOSMemory()
	n, err := proc.Resident(os.Getpid())
	must(b, err)
	return n
}

// BenchmarkReadyKeepers is from nothing to ready with three keepers and no record.
func BenchmarkReadyKeepers(b *testing.B) {
	for b.Loop() {
		s := newScale(b)
		b.ReportMetric(s.run(b, nil).Seconds(), "s-to-ready")
	}
}

func BenchmarkReady100kAdopted(b *testing.B) {
	for b.Loop() {
		s := newScale(b)
		s.learnRecordKey(b)
		s.write(b, 100_000, func(i int) bool { return i%2 == 0 }, s.adopted)
		b.ReportMetric(s.run(b, nil).Seconds(), "s-to-ready")
	}
}

func BenchmarkReady1MKeys(b *testing.B) {
	for b.Loop() {
		s := newScale(b)
		s.learnRecordKey(b)
		s.write(b, 1_000_000, func(int) bool { return false }, s.adopted)
		before := resident(b)
		took := s.run(b, func() {
			if n := s.live.Load().Len(); n != s.count {
				b.Fatalf("%d keys", n)
			}
			b.ReportMetric(float64(resident(b)-before)/float64(s.count), "resident-B/key")
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/float64(s.count), "heap-B/key")
		})
		b.ReportMetric(took.Seconds(), "s-to-ready")
	}
}

// BenchmarkFirstOpens compares the RSA opens of a first start with what the cores do
// when they do nothing else, in the same run.
func BenchmarkFirstOpens(b *testing.B) {
	const n = 2000
	for b.Loop() {
		s := newScale(b)
		s.write(b, n, func(int) bool { return false }, func(h seal.Header, secret []byte) *seal.Sealed {
			sealed, err := seal.Seal(s.pub, h, secret)
			must(b, err)
			return sealed
		})
		idle := cpu(b)
		raw := rawOpens(b, n)
		started := cpu(b)
		took := s.run(b, nil)
		ended := cpu(b)
		again := rawOpens(b, n)
		twice := cpu(b) - ended + started - idle
		// On a machine that does other things, too, this is the ratio to look at.
		b.ReportMetric(50*float64(twice)/float64(ended-started), "%-of-raw-cpu")
		// A bridge that stops wipes the locked memory of the process, its keepers' too.
		took -= newScale(b).run(b, nil)
		opens, could := n/took.Seconds(), 2*n/(raw+again).Seconds()
		b.ReportMetric(opens, "opens/s")
		b.ReportMetric(could, "raw-opens/s")
		b.ReportMetric(100*opens/could, "%-of-raw")
	}
}

// rawOpens is how long all cores take for n RSA operations.
func rawOpens(b testing.TB, n int) time.Duration {
	b.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	must(b, err)
	wrap, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, make([]byte, 32), nil)
	must(b, err)
	jobs := make(chan struct{}, n)
	for range n {
		jobs <- struct{}{}
	}
	close(jobs)
	var workers sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for range jobs {
				if _, err := rsa.DecryptOAEP(sha256.New(), nil, key, wrap, nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	workers.Wait()
	return time.Since(start)
}
