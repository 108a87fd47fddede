package ceremony_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
)

// verb is a ceremony as a command makes it, and what it is to come to.
type verb struct {
	name string
	run  func(ctx context.Context, h *house, o *ceremony.Operator) (*ceremony.Outcome, error)
	want func(m *keyshare.Manifest) error
	// sets says that it makes a new share set, after which the old one is dead.
	sets bool
	// victims are the keepers, by index, that TestKillAKeeper kills: those that are
	// treated in another way than by the other verbs.
	victims []int
}

func verbs() []verb {
	rekey := func(name, keepers string, victims []int, change func(h *house) ceremony.Change) verb {
		return verb{
			name: name, sets: true, victims: victims,
			run: func(ctx context.Context, h *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
				c := change(h)
				c.Verb = name
				return o.Rekey(ctx, c)
			},
			want: func(m *keyshare.Manifest) error {
				got := ""
				for _, k := range m.Keepers {
					got += k.Name[len("keeper-"):]
				}
				if m.Epoch != 2 || got != keepers {
					return fmt.Errorf("epoch %d with keepers %s, want 2 with %s", m.Epoch, got, keepers)
				}
				return nil
			},
		}
	}
	return []verb{
		rekey("rekey", "123", []int{0, 1, 2}, func(*house) ceremony.Change { return ceremony.Change{} }),
		rekey("keeper add", "1234", nil, func(h *house) ceremony.Change {
			return ceremony.Change{Add: []identity.Enrolment{h.spare}, Threshold: 3}
		}),
		rekey("keeper remove", "12", []int{2}, func(*house) ceremony.Change { return ceremony.Change{Remove: []string{"keeper-3"}} }),
		rekey("keeper replace", "124", []int{2, 3}, func(h *house) ceremony.Change {
			return ceremony.Change{Add: []identity.Enrolment{h.spare}, Remove: []string{"keeper-3"}}
		}),
		{
			name: "bridge enrol", victims: []int{0},
			run: func(ctx context.Context, h *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
				e, err := h.second()
				if err != nil {
					return nil, err
				}
				return o.Enrol(ctx, ceremony.Enrolling{Enrolment: e})
			},
			want: func(m *keyshare.Manifest) error {
				if len(m.Bridges) != 2 || m.Version != 2 {
					return fmt.Errorf("%d bridges in version %d", len(m.Bridges), m.Version)
				}
				return nil
			},
		},
		{
			name: "keeper enrol", victims: []int{0, 1},
			run: func(ctx context.Context, h *house, o *ceremony.Operator) (*ceremony.Outcome, error) {
				e, err := h.next()
				if err != nil {
					return nil, err
				}
				return o.Enrol(ctx, ceremony.Enrolling{Enrolment: e})
			},
			want: func(m *keyshare.Manifest) error {
				if k := m.Keepers[0]; m.Version != 2 || k.Next == "" || k.Next == k.SPKI {
					return fmt.Errorf("keeper-1 has key %s, next %q in version %d", k.SPKI, k.Next, m.Version)
				}
				return nil
			},
		},
	}
}

// second is the enrolment of another bridge, the same at each call.
func (h *house) second() (identity.Enrolment, error) {
	path := h.keepers[0].Config.Dir + "-bridge-2.key"
	id, err := identity.Load(path)
	if err != nil {
		if id, err = identity.Create(path, identity.RoleBridge, "bridge-2"); err != nil {
			return identity.Enrolment{}, err
		}
	}
	return id.Enrolment(nil)
}

// next is the enrolment of keeper-1's next key, the same at each call.
func (h *house) next() (identity.Enrolment, error) {
	if h.nextKey.Name != "" {
		return h.nextKey, nil
	}
	id, err := identity.Load(filepath.Join(h.keepers[0].Config.Dir, "identity.key"))
	if err != nil {
		return h.nextKey, err
	}
	if id, err = id.Next(); err != nil {
		return h.nextKey, err
	}
	m, err := keyshare.Verify(h.result.RootPublic, h.result.Manifest)
	if err != nil {
		return h.nextKey, err
	}
	h.nextKey, err = id.Enrolment(m.Keepers[0].Recipient)
	return h.nextKey, err
}

// finish runs a verb again if the first run did not come to its end, as its outcome
// and error tell, and checks everything that then holds.
func (h *house) finish(t *testing.T, v verb, out *ceremony.Outcome, err error) {
	t.Helper()
	if err != nil || len(out.Unfinished)+len(out.Untold) != 0 {
		if out, err = v.run(t.Context(), h, h.operator(t, nil)); err != nil {
			t.Fatalf("the second run: %v", err)
		}
		if len(out.Unfinished)+len(out.Untold) != 0 {
			t.Errorf("unfinished after the second run: %v, %v", out.Unfinished, out.Untold)
		}
	}
	m := h.inForce(t)
	if err := v.want(m); err != nil {
		t.Error(err)
	}
	if out.Version != m.Version || out.Epoch != m.Epoch {
		t.Errorf("it says version %d epoch %d, in force is version %d epoch %d", out.Version, out.Epoch, m.Version, m.Epoch)
	}
	h.opens(t)
	if v.sets {
		h.dead(t)
	}
}

// rehearse runs a verb without a kill and returns its steps.
func rehearse(t *testing.T, v verb) (steps []ceremony.Step) {
	t.Helper()
	h := newHouse(t, 3, 2)
	out, err := v.run(t.Context(), h, h.operator(t, func(s ceremony.Step) error {
		steps = append(steps, s)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Unfinished) != 0 || out.Resumed {
		t.Errorf("a run without a kill: resumed %v, unfinished %v", out.Resumed, out.Unfinished)
	}
	if err := v.want(h.inForce(t)); err != nil {
		t.Error(err)
	}
	h.opens(t)
	if v.sets {
		h.dead(t)
	}
	return steps
}

// changes says that a step changes something at a keeper or the control plane: a kill
// after one that does not finds everything as a kill before it does.
func changes(s ceremony.Step) bool {
	switch s.Step {
	case "custody", "status", "unseal", "check", "sign":
		return false
	}
	return true
}

// asks says that a step speaks to the control plane.
func asks(s ceremony.Step) bool {
	return s.Step == "custody" || s.Step == "stage keyring" || s.Step == "commit"
}

func label(i int, s ceremony.Step) string { return fmt.Sprintf("%02d %s %s", i, s.Step, s.Keeper) }

var errKilled = errors.New("killed")

// The operator's command is killed after each of its steps that changes something.
func TestKillTheOperator(t *testing.T) {
	for _, v := range verbs() {
		t.Run(v.name, func(t *testing.T) {
			steps := rehearse(t, v)
			for i, step := range steps {
				if i > 0 && !changes(steps[i-1]) {
					continue
				}
				t.Run(label(i, step), func(t *testing.T) {
					t.Parallel()
					h, n := newHouse(t, 3, 2), 0
					out, err := v.run(t.Context(), h, h.operator(t, func(ceremony.Step) error {
						if n++; n > i {
							return errKilled
						}
						return nil
					}))
					if !errors.Is(err, errKilled) {
						t.Fatalf("the first run: %v", err)
					}
					h.opens(t)
					h.finish(t, v, out, err)
				})
			}
		})
	}
}

// Each keeper is killed at each step, and started again once the command has ended.
func TestKillAKeeper(t *testing.T) {
	for _, v := range verbs() {
		t.Run(v.name, func(t *testing.T) {
			for i, step := range rehearse(t, v) {
				if step.Step == "status" || step.Step == "sign" {
					continue // as before what precedes or follows it
				}
				for _, k := range v.victims {
					t.Run(label(i, step)+" "+keeperName(k), func(t *testing.T) {
						t.Parallel()
						h, n := newHouse(t, 3, 2), 0
						ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
						defer cancel()
						out, err := v.run(ctx, h, h.operator(t, func(ceremony.Step) error {
							if n++; n == i+1 {
								h.keepers[k].Stop()
							}
							return nil
						}))
						if m := h.inForce(t); m.Version > 1 && err != nil {
							t.Errorf("in force, and yet: %v", err)
						} else if m.Version == 1 && err == nil {
							t.Errorf("not in force, and yet: %+v", out)
						}
						if m := h.inForce(t); m.Threshold == 2 {
							if _, holds := m.Keeper(keeperName(k)); !holds || m.Shares > 2 {
								h.opens(t) // without the one that is down
							}
						}
						h.keepers[k].Start(t)
						h.opens(t)
						h.finish(t, v, out, err)
					})
				}
			}
		})
	}
}

// The control plane is killed at each step that needs it, and before and after it has taken the
// commit; it comes back with what is on its disk.
func TestKillTheControlPlane(t *testing.T) {
	for _, v := range verbs() {
		t.Run(v.name, func(t *testing.T) {
			kill := func(t *testing.T, arrange func(h *house) func(ceremony.Step) error) {
				t.Parallel()
				h := newHouse(t, 3, 2)
				out, err := v.run(t.Context(), h, h.operator(t, arrange(h)))
				if err != nil && !errors.Is(err, errDown) {
					t.Errorf("the first run: %v", err)
				}
				h.down, h.die = false, ""
				h.opens(t)
				h.finish(t, v, out, err)
			}
			for i, step := range rehearse(t, v) {
				if !asks(step) {
					continue
				}
				t.Run(label(i, step), func(t *testing.T) {
					n := 0
					kill(t, func(h *house) func(ceremony.Step) error {
						return func(ceremony.Step) error {
							n++
							h.down = n > i
							return nil
						}
					})
				})
			}
			for _, when := range []string{"before", "after"} {
				t.Run(when+" the change", func(t *testing.T) {
					kill(t, func(h *house) func(ceremony.Step) error {
						h.die = when
						return nil
					})
				})
			}
		})
	}
}
