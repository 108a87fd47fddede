package ceremony_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
)

// rotate lists keeper-1's next key, or ends the one before it.
func (h *house) rotate(t *testing.T, only bool, progress func(ceremony.Step) error) (*ceremony.Outcome, error) {
	t.Helper()
	e, err := h.next()
	fatal(t, err)
	return h.operator(t, progress).Enrol(t.Context(), ceremony.Enrolling{Enrolment: e, Only: only})
}

// rotates is rotate, of what must come to its end.
func (h *house) rotates(t *testing.T, only bool) *ceremony.Outcome {
	t.Helper()
	out, err := h.rotate(t, only, nil)
	fatal(t, err)
	if len(out.Unfinished) != 0 {
		t.Errorf("unfinished: %v", out.Unfinished)
	}
	h.wantKeys(t, !only, true)
	return out
}

// wantKeys wants keeper-1 listed with one of its two keys, or with both.
func (h *house) wantKeys(t *testing.T, old, next bool) {
	t.Helper()
	first, err := keyshare.Verify(h.result.RootPublic, h.result.Manifest)
	fatal(t, err)
	k, was := h.inForce(t).Keepers[0], first.Keepers[0]
	if k.Is(was.SPKI) != old || k.Is(h.nextKey.Fingerprint()) != next {
		t.Errorf("keeper-1 is listed with %s and %q", k.SPKI, k.Next)
	}
	if k.X != was.X || !bytes.Equal(k.ShareKey, was.ShareKey) || !bytes.Equal(k.Recipient, was.Recipient) {
		t.Error("its share is another one")
	}
}

// uses says whether keeper-1 answers under its next key.
func (h *house) uses(t *testing.T) error {
	t.Helper()
	o := h.operator(t, nil)
	o.Keepers.Expect(keyshare.Keeper{Name: "keeper-1", SPKI: h.nextKey.Fingerprint()})
	_, err := o.Keepers.Status(t.Context(), "keeper-1")
	return err
}

// A keeper that runs is given another key: first beside the old one, then alone. It
// releases its share under either, to bridges that start.
func TestKeeperTakesItsNextKey(t *testing.T) {
	h := newHouse(t, 3, 2)
	k := h.keepers[0]
	if _, err := h.rotate(t, true, nil); err == nil || !strings.Contains(err.Error(), "list it first") {
		t.Errorf("the old key ended at once: %v", err)
	}
	h.rotates(t, false)
	if err := h.uses(t); err != nil {
		t.Error(err)
	}
	h.opens(t)

	// Without the file it goes by the old key, which is accepted still and cannot end.
	next := filepath.Join(k.Config.Dir, "identity.next.key")
	k.Stop()
	fatal(t, os.Rename(next, next+".away"))
	k.Start(t)
	h.opens(t)
	if out, err := h.rotate(t, true, nil); !errors.Is(err, identity.ErrNotEnrolled) || !strings.Contains(err.Error(), "one that stays") {
		t.Errorf("its next key is away: %+v, %v", out, err)
	}
	h.wantKeys(t, true, true)
	k.Stop()
	fatal(t, os.Rename(next+".away", next))
	k.Start(t)

	if out := h.rotates(t, false); !out.Resumed || out.Version != 2 {
		t.Errorf("listed again: %+v", out)
	}

	h.rotates(t, true)
	h.opens(t)
	if out := h.rotates(t, true); !out.Resumed || out.Version != 3 {
		t.Errorf("ended again: %+v", out)
	}
	k.Stop()
	k.Start(t)
	h.opens(t)
	if _, err := os.Stat(next); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next key has not taken the old one's file: %v", err)
	}
	if _, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "rekey"}); err != nil {
		t.Error(err)
	}
	h.opens(t)
}

// The command that ends the old key is killed before each of its steps, or a keeper is.
func TestEndOfAKeyKilled(t *testing.T) {
	begin := func(t *testing.T) *house {
		t.Helper()
		h := newHouse(t, 3, 2)
		h.rotates(t, false)
		return h
	}
	finish := func(t *testing.T, h *house) {
		t.Helper()
		h.opens(t)
		if out := h.rotates(t, true); out.Version != 3 {
			t.Errorf("%+v", out)
		}
		if err := h.uses(t); err != nil {
			t.Error(err)
		}
		h.opens(t)
	}
	var steps []ceremony.Step
	if _, err := begin(t).rotate(t, true, func(s ceremony.Step) error { steps = append(steps, s); return nil }); err != nil {
		t.Fatal(err)
	}
	for i, step := range steps {
		t.Run(label(i, step), func(t *testing.T) {
			t.Parallel()
			h, n := begin(t), 0
			if _, err := h.rotate(t, true, func(ceremony.Step) error {
				if n++; n > i {
					return errKilled
				}
				return nil
			}); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			finish(t, h)
		})
		for _, k := range []int{0, 1} {
			t.Run(label(i, step)+" "+keeperName(k), func(t *testing.T) {
				t.Parallel()
				h, n := begin(t), 0
				out, err := h.rotate(t, true, func(ceremony.Step) error {
					if n++; n == i+1 {
						h.keepers[k].Stop()
					}
					return nil
				})
				if m := h.inForce(t); (m.Version == 3) != (err == nil) {
					t.Errorf("version %d is in force: %+v, %v", m.Version, out, err)
				}
				h.opens(t)
				h.keepers[k].Start(t)
				finish(t, h)
			})
		}
	}
}

func TestKeeperEnrolRefuses(t *testing.T) {
	h := newHouse(t, 3, 2)
	of := func(i int) *identity.Identity {
		t.Helper()
		id, err := identity.Load(filepath.Join(h.keepers[i].Config.Dir, "identity.key"))
		fatal(t, err)
		return id
	}
	enrolment := func(id *identity.Identity, recipient []byte) identity.Enrolment {
		t.Helper()
		e, err := id.Enrolment(recipient)
		fatal(t, err)
		return e
	}
	recipient := func(i int) []byte { return h.inForce(t).Keepers[i].Recipient }
	first, second := enrolment(of(0), recipient(0)), enrolment(of(1), recipient(1))
	next, err := h.next()
	fatal(t, err)
	nextOf1, err := of(0).Next()
	fatal(t, err)
	forged := second
	forged.Name = "keeper-1"
	stranger := renamed(t, h)
	past := time.Now().Add(-time.Hour)
	refuses := func(name string, e ceremony.Enrolling, want string) {
		t.Helper()
		before := h.manifest
		if _, err := h.operator(t, nil).Enrol(t.Context(), e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
		if !bytes.Equal(h.manifest, before) {
			t.Errorf("%s: something is in force", name)
		}
	}
	refuses("a keeper that is not listed", ceremony.Enrolling{Enrolment: h.spare}, "keeper add")
	refuses("another keeper's, renamed", ceremony.Enrolling{Enrolment: forged}, "signature")
	refuses("made elsewhere", ceremony.Enrolling{Enrolment: stranger}, "does not replace")
	refuses("with another recipient", ceremony.Enrolling{Enrolment: enrolment(nextOf1, h.spare.Recipient)}, "keeper replace")
	refuses("ended before it begins", ceremony.Enrolling{Enrolment: next, NotAfter: &past}, "is past")

	// Another keeper's own changes nothing.
	if out, err := h.operator(t, nil).Enrol(t.Context(), ceremony.Enrolling{Enrolment: second}); err != nil || !out.Resumed || out.Version != 1 {
		t.Errorf("another keeper's: %+v, %v", out, err)
	}

	h.rotates(t, false)
	refuses("the key that the keeper uses no more, alone", ceremony.Enrolling{Enrolment: first, Only: true}, "one that stays")
	h.rotates(t, true)
	refuses("the key before, replayed", ceremony.Enrolling{Enrolment: first}, "does not replace")
	third, err := of(0).Next()
	fatal(t, err)
	if _, err := h.operator(t, nil).Enrol(t.Context(), ceremony.Enrolling{Enrolment: enrolment(third, recipient(0))}); err != nil {
		t.Fatal(err)
	}
	// The keeper uses the third, whose file is then lost.
	fatal(t, os.Remove(filepath.Join(h.keepers[0].Config.Dir, "identity.next.key")))
	fourth, err := of(0).Next()
	fatal(t, err)
	refuses("in place of the one that the keeper uses", ceremony.Enrolling{Enrolment: enrolment(fourth, recipient(0))}, "one that stays")
	h.keepers[0].Stop()
	h.keepers[0].Start(t)
	if out, err := h.operator(t, nil).Enrol(t.Context(), ceremony.Enrolling{Enrolment: enrolment(fourth, recipient(0))}); err != nil || len(out.Unfinished) != 0 {
		t.Errorf("in place of one that is lost: %+v, %v", out, err)
	}
	h.opens(t)
	refuses("the key before, beside a next one", ceremony.Enrolling{Enrolment: first}, "does not replace")
}

// A keeper's enrolment that has ended is given a new end, with the key that it has.
func TestKeeperEnrolmentEnded(t *testing.T) {
	h := newHouse(t, 3, 2)
	m := h.inForce(t)
	end := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	m.Version, m.Keepers[0].NotAfter = 2, &end
	signed, err := keyshare.Sign(h.result.RootPrivate, m)
	fatal(t, err)
	h.manifest, err = json.Marshal(signed)
	fatal(t, err)

	o := h.operator(t, nil)
	_, err = o.Trust.Update(h.manifest)
	fatal(t, err)
	if _, err := o.Keepers.Status(t.Context(), "keeper-1"); !errors.Is(err, identity.ErrNotEnrolled) {
		t.Errorf("its enrolment has ended, and yet: %v", err)
	}
	id, err := identity.Load(filepath.Join(h.keepers[0].Config.Dir, "identity.key"))
	fatal(t, err)
	e, err := id.Enrolment(m.Keepers[0].Recipient)
	fatal(t, err)
	until := time.Now().Add(24 * time.Hour)
	out, err := h.operator(t, nil).Enrol(t.Context(), ceremony.Enrolling{Enrolment: e, NotAfter: &until})
	if err != nil || out.Version != 3 || len(out.Unfinished) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	h.opens(t)
}

// A keeper that leaves while its key is replaced is told so.
func TestKeeperLeavesBetweenTwoKeys(t *testing.T) {
	h := newHouse(t, 3, 2)
	h.rotates(t, false)
	out, err := h.operator(t, nil).Rekey(t.Context(), ceremony.Change{Verb: "keeper remove", Remove: []string{"keeper-1"}})
	if err != nil || len(out.Unfinished)+len(out.Untold) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	h.opens(t)
	h.dead(t)
}
