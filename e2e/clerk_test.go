package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"keybridge/e2e/stack"
	"keybridge/store/api/client"
	"keybridge/store/audit"
)

// clerk makes repository keys and deletes every second one, again and again, and remembers
// what the admin API has acknowledged: that is what must be in the store, whatever happens.
type clerk struct {
	f    *faults
	name string // of all keys, before a number
	stop func() // after the change that is under way
	done sync.WaitGroup

	mu       sync.Mutex
	made     int
	there    map[string]string // acknowledged and not deleted: id by name
	gone     map[string]bool   // deleted, and acknowledged: by name
	unknown  map[string]bool   // what became of these was not heard, by name
	refusals map[string]int    // by error_code; "" for no answer
}

func (f *faults) startClerk(t *testing.T) *clerk {
	t.Helper()
	stopped, stop := context.WithCancel(t.Context())
	c := &clerk{f: f, name: t.Name(), stop: stop, there: map[string]string{}, gone: map[string]bool{}, unknown: map[string]bool{}, refusals: map[string]int{}}
	t.Cleanup(func() { stop(); c.done.Wait() })
	c.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond) // slower than the limit for a token
		defer tick.Stop()
		for n := 0; stopped.Err() == nil; n++ {
			c.change(context.WithoutCancel(stopped), fmt.Sprintf("%s %d", c.name, n), n%2 == 1)
			<-tick.C
		}
	})
	return c
}

// change makes a key and may delete it again.
func (c *clerk) change(ctx context.Context, name string, again bool) {
	key, err := c.f.tenant.StorageKey(ctx, c.f.repository, name, "READ")
	if !c.heard(name, err) {
		return
	}
	c.f.secrets.Add("secret of a clerk's key", key.Secret)
	c.mu.Lock()
	c.made++
	c.there[name] = key.ID
	c.mu.Unlock()
	if !again {
		return
	}
	if err := c.f.tenant.DeleteStorageKey(ctx, c.f.repository, key.ID); c.heard(name, err) {
		c.mu.Lock()
		delete(c.there, name)
		c.gone[name] = true
		c.mu.Unlock()
	} else if c.unknown[name] {
		delete(c.there, name)
	}
}

// heard says whether a change was acknowledged, and notes why not.
func (c *clerk) heard(name string, err error) bool {
	if err == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var refusal *client.Error
	if errors.As(err, &refusal) {
		c.refusals[refusal.Code]++
		return false
	}
	c.refusals[""]++
	if !errors.Is(err, syscall.ECONNREFUSED) {
		c.unknown[name] = true
	}
	return false
}

// refused waits until a change was refused for a reason, several times.
func (c *clerk) refused(t *testing.T, code string) {
	t.Helper()
	c.until(t, "refusals "+code, func() bool { return c.refusals[code] >= 5 })
}

// goesOn waits until more changes are made.
func (c *clerk) goesOn(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	made := c.made
	c.mu.Unlock()
	c.until(t, "more changes", func() bool { return c.made >= made+5 })
}

func (c *clerk) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	c.f.until(t, what, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !holds() {
			return fmt.Errorf("%d made, refused %v %w", c.made, c.refusals, errNotYet)
		}
		return nil
	})
}

// end stops the clerk and holds store and audit log against what it knows. The codes are
// those of the refusals that there may have been.
func (c *clerk) end(t *testing.T, codes ...string) {
	t.Helper()
	c.stop()
	c.done.Wait()
	for _, code := range codes {
		delete(c.refusals, code)
	}
	if len(c.refusals) > 0 {
		t.Errorf("changes were refused: %v", c.refusals)
	}
	keys, err := c.f.tenant.StorageKeys(t.Context(), c.f.repository)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for _, k := range keys {
		id, known := c.there[k.Name]
		switch {
		case c.gone[k.Name]:
			t.Errorf("the key %q was deleted and is there", k.Name)
		case known && id != k.ID:
			t.Errorf("the key %q is another", k.Name)
		}
		if strings.HasPrefix(k.Name, c.name) {
			stored[k.ID] = true
		}
	}
	for name, id := range c.there {
		if !stored[id] {
			t.Errorf("the key %q was made and is not there", name)
		}
	}
	t.Logf("%d keys made, %d deleted, of %d it was not heard", c.made, len(c.gone), len(c.unknown))
	c.audited(t, stored)
}

// audited wants an audit log that verifies and says of every key what the store says. It may
// say more of those of which the clerk has not heard: a line is written before its change, and
// the process may not have lived to make that.
func (c *clerk) audited(t *testing.T, stored map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.f.Dir, "control", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(bytes.NewReader(text)); err != nil {
		t.Error("the audit log: ", err)
	}
	names, there := map[string]string{}, map[string]bool{} // by id, as the log has it
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var e struct {
			Context, ContextID, Event string
			Data                      struct{ Name, Event string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Context != "key" {
			continue
		}
		if e.Event == "created" && strings.HasPrefix(e.Data.Name, c.name) {
			names[e.ContextID] = e.Data.Name
		}
		// Of a change that failed it says which.
		there[e.ContextID] = e.Event == "created" || e.Event == "failed" && e.Data.Event == "deleted"
	}
	for id, name := range names {
		if there[id] != stored[id] && !c.unknown[name] {
			t.Errorf("the audit log says of the key %q that it is there: %v; it is: %v", name, there[id], stored[id])
		}
		delete(stored, id)
	}
	for id := range stored {
		t.Errorf("the audit log does not tell of key %s, which is there", id)
	}
}

// sound wants the store's file whole, to the last page; its control plane is not running.
func (f *faults) sound(t *testing.T) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(f.Dir, "control", "keybridge.db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db.Close)
	if err := db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error("the store's file: ", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// killControl kills the control plane in the midst of changes, looks at what that leaves,
// and starts it again.
func (f *faults) killControl(t *testing.T) {
	t.Helper()
	f.kill(t, stack.Control)
	f.sound(t)
	f.starts(t, stack.Control)
}
