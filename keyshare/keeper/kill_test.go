package keeper_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/keeper/keepertest"
	"keybridge/keyshare/release"
)

// snapshot is a keeper's directory as a kill after a durable step would leave it.
type snapshot struct {
	after string
	dir   string
}

// recorder copies a keeper's directory after each durable step. A step that the
// process does not survive is one whose successors never happen: the copy.
type recorder struct {
	t     *testing.T
	dir   string // of the keeper
	to    string
	taken []snapshot
}

func record(t *testing.T, c *keeper.Config) *recorder {
	r := &recorder{t: t, dir: c.Dir, to: t.TempDir()}
	keeper.SetStep(c, r.take)
	return r
}

func (r *recorder) take(after string) {
	to := filepath.Join(r.to, fmt.Sprint(len(r.taken)))
	err := errors.Join(os.Mkdir(to, 0o700), os.CopyFS(to, os.DirFS(r.dir)))
	files, err2 := filepath.Glob(filepath.Join(to, "*"))
	err = errors.Join(err, err2)
	for _, f := range files {
		err = errors.Join(err, os.Chmod(f, 0o600)) // CopyFS is subject to the umask
	}
	if err != nil {
		r.t.Errorf("after %q: %v", after, err)
		return
	}
	r.taken = append(r.taken, snapshot{after, to})
}

// world is one keeper's part in a rekey of three keepers, of which two must answer.
type world struct {
	site     *keepertest.Site
	operator *identity.Identity
	keeper   *keepertest.Keeper
	first    *keyshare.Manifest
	next     *keepertest.Set
	acks     []*release.Acknowledgement
	// was and is say whether the keeper has a share of the first set and of the next.
	was, is bool
}

func newWorld(t *testing.T, was, is bool) *world {
	t.Helper()
	s := keepertest.New(t, 3, 2)
	w := &world{site: s, operator: s.Operator(t), keeper: s.Keepers[0], first: s.Trust(t).Manifest(), was: was, is: is}
	holders := s.Keepers
	switch {
	case !was:
		w.keeper = s.Keeper(t, "keeper-4")
		w.keeper.Config.Root = s.Root
		holders = append(holders[:2:2], w.keeper)
	case !is:
		holders = holders[1:]
	}
	w.next = s.Rekey(t, nil, 2, holders...)
	for _, k := range s.Keepers[1:] {
		id, err := identity.Load(filepath.Join(k.Config.Dir, "identity.key"))
		if err != nil {
			t.Fatal(err)
		}
		a := &release.Acknowledgement{Keeper: id.Fingerprint(), PublicKey: id.PublicKey(), Set: w.next.Manifest.Set, Epoch: 2, Version: 2}
		a.Signature = id.Sign(release.AcknowledgementDomain, a.Transcript())
		w.acks = append(w.acks, a)
	}
	return w
}

func (w *world) visit(t *testing.T, k *keepertest.Keeper, m *keyshare.Manifest) *visit {
	t.Helper()
	trust := w.site.Trust(t)
	if !w.was {
		if _, err := trust.Update(w.next.Signed); err != nil {
			t.Fatal(err)
		}
	}
	v := visitTrusting(t, w.site, trust, w.operator, k).under(m)
	v.keeper, _ = m.Keeper(k.Name)
	v.keeper.SPKI = k.Enrolled.Fingerprint()
	return v
}

// ceremony is what an operator's command does with this keeper, from the start and
// whatever has happened already.
func (w *world) ceremony(t *testing.T, k *keepertest.Keeper) {
	t.Helper()
	v := w.visit(t, k, w.next.Manifest)
	v.keeper.Name = k.Name
	adopted := string(v.status().GetManifest()) == string(w.next.Signed)
	if w.is && !adopted {
		if err := v.stage(w.next); err != nil {
			t.Fatalf("stage: %v", err)
		}
	}
	if _, err := v.adopt(w.next.Signed); err != nil {
		t.Fatalf("adopt: %v", err)
	}
	if _, err := v.retire(w.acks...); err != nil {
		t.Fatalf("retire: %v", err)
	}
}

// check starts a keeper in a directory that a kill left. It must have the share of the
// manifest in force, no other may come out, and the ceremony, run again, must end.
// The directories that kills of this keeper leave are checked too, but not theirs.
func (w *world) check(t *testing.T, at snapshot, again bool) {
	t.Helper()
	k := *w.keeper
	k.Config.Dir = at.dir
	var r *recorder
	if again {
		r = record(t, &k.Config)
	}
	k.Start(t)
	defer k.Stop()
	st := w.visit(t, &k, w.first).status()
	old, new := w.visit(t, &k, w.first).opens(), w.visit(t, &k, w.next.Manifest).opens()
	switch string(st.GetManifest()) {
	case string(w.site.Manifest):
		if (old == nil) != w.was || new == nil {
			t.Errorf("under the first manifest: its share: %v; the next: %v", old, new)
		}
	case string(w.next.Signed):
		if old == nil || (new == nil) != w.is {
			t.Errorf("under the next manifest: the first share: %v; its own: %v", old, new)
		}
	default:
		if old == nil || new == nil || w.was {
			t.Errorf("under no manifest: %v; %v", old, new)
		}
	}
	w.ceremony(t, &k)
	if w.is {
		want(t, &k, "share.age", "share.json")
		if err := w.visit(t, &k, w.next.Manifest).opens(); err != nil {
			t.Errorf("at the end: %v", err)
		}
	} else {
		want(t, &k)
	}
	auditLines(t, &k)
	k.Stop()
	if again {
		for _, next := range r.taken {
			t.Run("then after "+next.after, func(t *testing.T) { w.check(t, next, false) })
		}
	}
}

// A keeper is killed after each durable step of a rekey, and its successor again after
// each of its own.
func TestKilledAtEveryStep(t *testing.T) {
	for _, tt := range []struct {
		name    string
		was, is bool
		steps   []string
	}{
		{"stays", true, true, []string{
			"audit stage", "write staged.age",
			"audit adopt", "write manifest.json",
			"audit over", "write retired-1.json", "rename share.age", "audit promote", "rename staged.age", "write share.json",
			"audit erase", "overwrite retired-1.age", "remove retired-1.age", "remove retired-1.json",
		}},
		{"leaves", true, false, []string{
			"audit adopt", "write manifest.json", "audit over", "write retired-1.json", "rename share.age", "remove share.json",
			"audit erase", "overwrite retired-1.age", "remove retired-1.age", "remove retired-1.json",
		}},
		{"joins", false, true, []string{
			"audit stage", "write staged.age", "audit adopt", "write manifest.json",
			"audit promote", "rename staged.age", "write share.json",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.was, tt.is)
			k := *w.keeper
			r := record(t, &k.Config)
			k.Start(t)
			w.ceremony(t, &k)
			k.Stop()
			var steps []string
			for _, s := range r.taken {
				steps = append(steps, s.after)
			}
			steps = slices.DeleteFunc(steps, func(s string) bool { return s == "audit release" })
			if !slices.Equal(steps, tt.steps) {
				t.Errorf("the steps are\n%q, want\n%q", steps, tt.steps)
			}
			for _, s := range r.taken {
				t.Run("after "+s.after, func(t *testing.T) { w.check(t, s, true) })
			}
		})
	}
}
