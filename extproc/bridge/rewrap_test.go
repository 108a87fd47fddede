package bridge_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"keybridge/extproc/grant"
	"keybridge/keyshare/seal"
	"keybridge/xds/link"
)

// wrapping is what memory keeps of wraps; memory.mu guards it.
type wrapping struct {
	originals map[string][]byte // sealed as it was before a second wrap came, by type and id
	outdated  []string          // types and ids
	replaced  int
	rsa       []*link.Rewrapped
}

// Rewrap feeds second wraps as the control plane does.
func (m *memory) Rewrap(_ context.Context, in []link.Rewrap, allowed func(string) bool) (stored int, err error) {
	for _, w := range in {
		m.mu.Lock()
		rec := proto.CloneOf(m.records[w.Type+w.Id])
		if w.Suite == seal.SuiteRSA3072 {
			m.rsa = append(m.rsa, w.Rewrapped)
			m.outdated = nil
		}
		m.mu.Unlock()
		var s seal.Sealed
		if rec == nil || !allowed(rec.Workspace) || w.Suite != seal.SuiteRecordKey || s.UnmarshalBinary(rec.Sealed) != nil || s.Header.Version != w.Version {
			continue
		}
		m.mu.Lock()
		if s.Key.Suite == seal.SuiteRSA3072 {
			if m.originals == nil {
				m.originals = map[string][]byte{}
			}
			m.originals[w.Type+w.Id] = rec.Sealed
		} else if !w.Replace {
			m.mu.Unlock()
			continue
		} else {
			m.replaced++
		}
		m.mu.Unlock()
		s.Key = seal.Wrap{Suite: uint16(w.Suite), KeyID: w.KeyId, Value: w.Value}
		if rec.Sealed, err = s.MarshalBinary(); err != nil {
			return stored, err
		}
		m.put(rec)
		stored++
	}
	return stored, nil
}

func (m *memory) Originals(_ context.Context, refs []*link.RecordRef, allowed func(string) bool) (out []*link.Record, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range refs {
		rec := proto.CloneOf(m.records[ref.Type+ref.Id])
		if rec == nil || !allowed(rec.Workspace) {
			continue
		}
		if o := m.originals[ref.Type+ref.Id]; o != nil {
			rec.Sealed = o
		}
		out = append(out, rec)
	}
	return out, nil
}

func (m *memory) SealingKey(context.Context) (string, error) { return "current", nil }

func (m *memory) Outdated(_ context.Context, _ *link.RecordRef, allowed func(string) bool) (out []*link.Record, _ *link.RecordRef, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range m.outdated {
		if rec := m.records[key]; allowed(rec.Workspace) {
			out = append(out, proto.CloneOf(rec))
		}
	}
	return out, nil, nil
}

// suite is the suite of the wrap that the feed has of a record.
func (m *memory) suite(t *testing.T, id string) (s seal.Sealed) {
	t.Helper()
	must(t, s.UnmarshalBinary(m.latest(id).Sealed))
	return s
}

// end stops the bridge. It wipes all locked memory of the process, which it has to itself
// elsewhere: the keepers are started again.
func (w *world) end(t *testing.T) {
	t.Helper()
	w.stop(t)
	for i, stop := range w.keepers {
		stop()
		w.serveKeeper(t, i)
	}
}

// adoptAll runs a bridge until all records of o have a second wrap.
func (w *world) adoptAll(t *testing.T, o one) {
	t.Helper()
	w.start(t)
	first := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	w.await(t, func() bool {
		return w.source.suite(t, o.key).Key.Suite == seal.SuiteRecordKey && w.source.suite(t, o.connector).Key.Suite == seal.SuiteRecordKey
	})
	// What the feed brings back is open already.
	r := w.source.latest(o.key)
	r.Access = link.Access_ADMIN
	w.source.put(r)
	again := w.awaitKey(t, func(k *grant.Key) bool { return k != nil && k.Access == grant.AccessAdmin })
	if first.Secret != again.Secret {
		t.Error("a record was opened again because its wrap changed")
	}
	w.end(t)
}

func TestSecondStartNeedsNoRSA(t *testing.T) {
	w := newWorld(t)
	o := w.addOne(t)
	w.adoptAll(t, o)
	w.start(t)
	k := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	if got := string(k.Secret.Secret().Bytes()); got != "repository-secret" {
		t.Errorf("the secret is %q", got)
	}
	n := w.numbers(t)
	if opened, adopted := n["keybridge_bridge_record_opens_total opened"], n["keybridge_bridge_record_opens_total adopted"]; opened != 2 || adopted != 2 {
		t.Errorf("%v records opened, %v of them by their second wrap; want 2, 2", opened, adopted)
	}
}

// Whoever may write wraps can break them. It costs an RSA operation and is said aloud.
func TestBrokenSecondWraps(t *testing.T) {
	for name, breaks := range map[string]func(s *seal.Sealed){
		"altered":            func(s *seal.Sealed) { s.Key.Value[30] ^= 1 },
		"unknown record key": func(s *seal.Sealed) { s.Key.KeyID = "record-key-9" },
		"of nothing":         func(s *seal.Sealed) { s.Key.Value = bytes.Repeat([]byte{1}, 60) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.addOne(t)
			w.adoptAll(t, o)
			s := w.source.suite(t, o.key)
			breaks(&s)
			raw, err := s.MarshalBinary()
			must(t, err)
			r := w.source.latest(o.key)
			r.Sealed = raw
			w.source.put(r)
			w.start(t)
			k := w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
			if got := string(k.Secret.Secret().Bytes()); got != "repository-secret" {
				t.Errorf("the secret is %q", got)
			}
			w.await(t, func() bool {
				w.source.mu.Lock()
				defer w.source.mu.Unlock()
				return w.source.replaced == 1
			})
			if !strings.Contains(w.log.String(), "second wrap does not open") {
				t.Error("it was not said")
			}
			if s := w.source.suite(t, o.key); s.Key.KeyID != "record-key-1" || bytes.Equal(s.Key.Value, raw) {
				t.Errorf("wrap = %+v", s.Key)
			}
		})
	}
}

// An original that is another record, or an altered one, does not get in by that way.
func TestOriginalsAreHeldAgainstTheFeed(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, w *world, o one) []byte{
		"of another version": func(t *testing.T, w *world, o one) []byte {
			w2 := w.sealedKey(o, 9)
			s, err := seal.Seal(w.sealing, w2.header, []byte("another secret"))
			must(t, err)
			raw, err := s.MarshalBinary()
			must(t, err)
			return raw
		},
		"of the credential": func(_ *testing.T, w *world, o one) []byte { return w.source.originals[seal.TypeCredential+o.connector] },
		"none":              func(*testing.T, *world, one) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.addOne(t)
			w.adoptAll(t, o)
			s := w.source.suite(t, o.key)
			s.Key.Value[30] ^= 1
			raw, err := s.MarshalBinary()
			must(t, err)
			forged := forge(t, w, o)
			w.source.mu.Lock()
			w.source.originals[seal.TypeRepositoryKey+o.key] = forged
			w.source.mu.Unlock()
			r := w.source.latest(o.key)
			r.Sealed = raw
			w.source.put(r)
			w.start(t)
			w.awaitKey(t, func(k *grant.Key) bool { return k == nil })
			w.await(t, func() bool { return strings.Contains(w.log.String(), "record refused") })
		})
	}
}

// What is sealed to an older key is wrapped for the current one in the background.
func TestOutdatedAreRewrapped(t *testing.T) {
	w := newWorld(t)
	o := w.addOne(t)
	w.source.outdated = []string{seal.TypeRepositoryKey + o.key}
	before := w.source.suite(t, o.key)
	w.start(t)
	w.await(t, func() bool {
		w.source.mu.Lock()
		defer w.source.mu.Unlock()
		return len(w.source.rsa) > 0
	})
	got := w.source.rsa[0]
	if got.Id != o.key || got.Version != 1 || got.KeyId != w.sealing.ID() || bytes.Equal(got.Value, before.Key.Value) {
		t.Fatalf("rewrapped: %v", got)
	}
	// The new wrap opens.
	before.Key.Value = got.Value
	raw, err := before.MarshalBinary()
	must(t, err)
	r := w.source.latest(o.key)
	r.Sealed = raw
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
	w.end(t)
	w.source.put(r)
	w.start(t)
	w.awaitKey(t, func(k *grant.Key) bool { return k != nil })
}

// Reports say which manifest the bridge goes by, and what it can open.
func TestReportsItsKeys(t *testing.T) {
	w := newWorld(t)
	w.addOne(t)
	w.start(t)
	w.await(t, func() bool {
		for _, b := range w.hub.Bridges() {
			if b.Report.GetManifestVersion() == 1 && len(b.Report.GetSealingKeys()) == 1 && b.Report.SealingKeys[0] == w.sealing.ID() {
				return true
			}
		}
		return false
	})
}
