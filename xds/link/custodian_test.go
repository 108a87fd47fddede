package link_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/xds/link"
)

// safe keeps custody in memory, and what happened in order.
type safe struct {
	kept    link.Kept
	records []*link.BackupRecord
	events  []string
	deaf    error // of the audit log
	race    func()
}

func (s *safe) Kept(context.Context) (*link.Kept, error) { k := s.kept; return &k, nil }

func (s *safe) Keep(_ context.Context, next *link.Kept) error {
	if s.race != nil {
		s.race()
	}
	if next.Version != s.kept.Version {
		return link.ErrChanged
	}
	s.kept = *next
	s.kept.Version++
	s.events = append(s.events, "kept")
	return nil
}

func (s *safe) Sealed(context.Context) (map[string]uint64, error) {
	return map[string]uint64{"key": 3}, nil
}

func (s *safe) Records(context.Context) iter.Seq2[*link.BackupRecord, error] {
	return func(yield func(*link.BackupRecord, error) bool) {
		for _, r := range s.records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *safe) Restore(_ context.Context, r *link.BackupRecord) (bool, error) {
	for _, old := range s.records {
		if bytes.Equal(old.Record, r.Record) {
			return false, nil
		}
	}
	s.records = append(s.records, r)
	return true, nil
}

func (s *safe) Custody(r *link.BackupRecord) (*link.Kept, bool, error) {
	manifest, keyring, ok := strings.Cut(string(r.Record), "\n")
	return &link.Kept{Manifest: []byte(manifest), Keyring: []byte(keyring)}, r.Kind == "custody" && ok, nil
}

func (s *safe) Audit(_ context.Context, operator, event string, _ map[string]any) error {
	if s.deaf == nil {
		s.events = append(s.events, operator+" "+event)
	}
	return s.deaf
}

func operatorPeer(context.Context) (identity.Peer, error) {
	return identity.Peer{Role: identity.RoleOperator, Name: "alice"}, nil
}

func dialCustodian(t *testing.T, site *keepertest.Site, s *safe, peer func(context.Context) (identity.Peer, error)) link.CustodianClient {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	link.RegisterCustodianServer(server, link.NewCustodian(site.Root, s, link.NewHub(slog.New(slog.DiscardHandler)), peer))
	go func() { _ = server.Serve(lis) }() // ends with Stop
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop() })
	return link.NewCustodianClient(conn)
}

func TestCustodianIsForOperators(t *testing.T) {
	site := keepertest.New(t, 2, 2)
	s := &safe{kept: link.Kept{Version: 1, Manifest: site.Manifest, Keyring: site.Keyring}}
	for _, role := range []identity.Role{identity.RoleBridge, identity.RoleKeeper, identity.RoleControl} {
		c := dialCustodian(t, site, s, func(context.Context) (identity.Peer, error) { return identity.Peer{Role: role, Name: "x"}, nil })
		backup, err := c.Backup(t.Context(), &link.BackupRequest{})
		if err == nil {
			_, err = backup.Recv()
		}
		errs := []error{err}
		_, err = c.Custody(t.Context(), &link.CustodianRequest{})
		errs = append(errs, err)
		_, err = c.Stage(t.Context(), &link.StageKeyringRequest{Keyring: []byte("x")})
		errs = append(errs, err)
		_, err = c.Commit(t.Context(), &link.CommitRequest{Manifest: site.Manifest, Verb: "x"})
		errs = append(errs, err)
		restore, err := c.Restore(t.Context())
		if err == nil {
			_, err = restore.CloseAndRecv()
		}
		for i, err := range append(errs, err) {
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s, call %d: %v", role, i, err)
			}
		}
	}
	if len(s.events) != 0 {
		t.Error(s.events)
	}
	// And an operator gets nothing of what is for bridges.
	if _, err := dial(t, &source{}, operatorPeer).Custody(t.Context(), &link.CustodyRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator as a bridge: %v", err)
	}
}

func TestCommit(t *testing.T) {
	site := keepertest.New(t, 2, 2)
	next := []byte("another keyring")
	sum := sha256.Sum256(next)
	renew := func(m *keyshare.Manifest) { m.KeyringDigest = sum[:] }
	revoke := func(m *keyshare.Manifest) { m.Bridges = nil }
	foreign := keepertest.New(t, 2, 2)
	for _, tt := range []struct {
		name     string
		staged   [][]byte
		manifest []byte
		verb     string
		deaf     error
		race     bool
		want     codes.Code
		events   []string
		keyring  []byte
	}{
		{name: "revocation", staged: [][]byte{next}, manifest: site.Sign(t, revoke), verb: "bridge revoke", events: []string{"alice bridge revoke", "kept"}, keyring: site.Keyring},
		{name: "staged keyring", staged: [][]byte{next}, manifest: site.Sign(t, renew), verb: "rekey", events: []string{"alice rekey", "kept"}, keyring: next},
		{name: "keyring that is not staged", manifest: site.Sign(t, renew), verb: "rekey", want: codes.FailedPrecondition},
		{name: "the same again", manifest: site.Manifest, verb: "init"},
		{name: "version that does not follow", manifest: site.Sign(t, func(m *keyshare.Manifest) { m.Version = 3 }), verb: "rekey", want: codes.FailedPrecondition},
		{name: "another root", manifest: foreign.Sign(t, revoke), verb: "rekey", want: codes.FailedPrecondition},
		{name: "no manifest", manifest: []byte("{}"), verb: "rekey", want: codes.FailedPrecondition},
		{name: "no verb", manifest: site.Sign(t, revoke), want: codes.InvalidArgument},
		{name: "no audit", manifest: site.Sign(t, revoke), verb: "x", deaf: errors.New("disk full"), want: codes.Unavailable},
		{name: "another commit meanwhile", manifest: site.Sign(t, revoke), verb: "x", race: true, want: codes.Aborted, events: []string{"alice x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &safe{kept: link.Kept{Version: 7, Manifest: site.Manifest, Keyring: site.Keyring, Staged: tt.staged}, deaf: tt.deaf}
			if tt.race {
				s.race = func() { s.kept.Version++ }
			}
			c := dialCustodian(t, site, s, operatorPeer)
			_, err := c.Commit(t.Context(), &link.CommitRequest{Manifest: tt.manifest, Verb: tt.verb})
			if status.Code(err) != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(tt.events, s.events); diff != "" {
				t.Error(diff)
			}
			if tt.keyring == nil {
				if !bytes.Equal(s.kept.Manifest, site.Manifest) || !bytes.Equal(s.kept.Keyring, site.Keyring) {
					t.Error("something was changed")
				}
				return
			}
			if !bytes.Equal(s.kept.Manifest, tt.manifest) || !bytes.Equal(s.kept.Keyring, tt.keyring) || s.kept.Staged != nil {
				t.Errorf("version %d has keyring %q and %d staged", s.kept.Version, s.kept.Keyring, len(s.kept.Staged))
			}
			// The answer was lost, and the operator asks again.
			if _, err := c.Commit(t.Context(), &link.CommitRequest{Manifest: tt.manifest, Verb: tt.verb}); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tt.events, s.events); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStageReplaces(t *testing.T) {
	site := keepertest.New(t, 2, 2)
	s := &safe{kept: link.Kept{Version: 1, Manifest: site.Manifest, Keyring: site.Keyring}}
	c := dialCustodian(t, site, s, operatorPeer)
	for _, keyring := range []string{"first", "first", "second"} {
		if _, err := c.Stage(t.Context(), &link.StageKeyringRequest{Keyring: []byte(keyring)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Stage(t.Context(), &link.StageKeyringRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an empty keyring: %v", err)
	}
	st, err := c.Custody(t.Context(), &link.CustodianRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(st.Keyring, site.Keyring) || len(st.Staged) != 1 || string(st.Staged[0]) != "second" || st.Records["key"] != 3 {
		t.Errorf("custody: %d staged, %v", len(st.Staged), st.Records)
	}
	if diff := cmp.Diff([]string{"alice keyring staged", "kept", "alice keyring staged", "kept"}, s.events); diff != "" {
		t.Error(diff)
	}
}

func TestRestore(t *testing.T) {
	site := keepertest.New(t, 2, 2)
	newer := site.Sign(t, func(m *keyshare.Manifest) { m.Bridges = nil })
	foreign := keepertest.New(t, 2, 2)
	record := func(kind string, parts ...[]byte) *link.BackupRecord {
		return &link.BackupRecord{Kind: kind, Record: bytes.Join(parts, []byte("\n"))}
	}
	for _, tt := range []struct {
		name            string
		inForce, backup []byte
		keyring         []byte // of the backup
		want            codes.Code
		restored, kept  uint64
		after           []byte
	}{
		{"an older custody", newer, site.Manifest, site.Keyring, codes.OK, 1, 2, newer},
		{"the same custody", site.Manifest, site.Manifest, site.Keyring, codes.OK, 1, 2, site.Manifest},
		{"a newer custody", site.Manifest, newer, site.Keyring, codes.OK, 2, 1, newer},
		{"a newer custody with another keyring", site.Manifest, newer, []byte("x"), codes.FailedPrecondition, 0, 0, site.Manifest},
		{"a custody of another root", site.Manifest, foreign.Manifest, foreign.Keyring, codes.FailedPrecondition, 0, 0, site.Manifest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &safe{kept: link.Kept{Version: 1, Manifest: tt.inForce, Keyring: site.Keyring}, records: []*link.BackupRecord{record("workspace", []byte("old"))}}
			c := dialCustodian(t, site, s, operatorPeer)
			stream, err := c.Restore(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*link.BackupRecord{record("custody", tt.backup, tt.keyring), record("workspace", []byte("old")), record("workspace", []byte("lost"))} {
				if err := stream.Send(r); err != nil {
					break // CloseAndRecv says why
				}
			}
			res, err := stream.CloseAndRecv()
			if status.Code(err) != tt.want || res.GetRestored() != tt.restored || res.GetKept() != tt.kept {
				t.Errorf("%d restored, %d kept, %v", res.GetRestored(), res.GetKept(), err)
			}
			if !bytes.Equal(s.kept.Manifest, tt.after) {
				t.Error("another manifest is in force")
			}
		})
	}
}
