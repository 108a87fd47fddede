package quorum

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
)

// State is what came of asking one keeper.
type State string

// The states of a keeper. All but StateGood are tried again.
const (
	StateGood        State = "good"        // its share is genuine
	StateBad         State = "bad"         // its share is not the one that the manifest gave it, or its answer is not genuine
	StateRefused     State = "refused"     // it answered, with a refusal
	StateUntrusted   State = "untrusted"   // who answers there is not this keeper, by the manifest
	StateUnreachable State = "unreachable" // nobody answers there
	StateUnknown     State = "unknown"     // the manifest has no keeper of this name
)

// defaultTimeout bounds one request.
const defaultTimeout = 10 * time.Second

const noSuchKeeper = "the manifest has no keeper of this name"

// KeeperReport says what came of asking one keeper once.
type KeeperReport struct {
	Keeper string `json:"keeper"`
	State  State  `json:"state"`
	// Detail is for people: the reason, never any part of a share.
	Detail string `json:"detail,omitempty"`
}

// Config says whom to ask and as whom.
type Config struct {
	// Identity is the bridge's own, or an operator's session.
	Identity *identity.Identity
	// Trust holds at least one manifest. Newer ones from keepers are added to it.
	Trust *identity.Trust
	// Keepers maps their names to host:port.
	Keepers map[string]string
	// Reason goes into the keepers' audit logs, e.g. "startup".
	Reason string
	// Report, if set, is told of every answer, one call at a time.
	Report func(KeeperReport)
	// MinPause and MaxPause bound the pause before a keeper is asked again; it
	// doubles from one to the other. Zero: 250 ms and 15 s.
	MinPause, MaxPause time.Duration
	// Timeout bounds one request. Zero: 10 s.
	Timeout time.Duration
}

// Error says why no U was recovered, keeper by keeper. It wraps the context's
// error and, for bad shares, their *keyshare.ShareError.
type Error struct {
	// Good shares of Threshold were there when it ended.
	Good, Threshold int
	// Keepers holds the last report of each, by name.
	Keepers []KeeperReport
	causes  []error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "unseal: %d good shares of %d needed", e.Good, e.Threshold)
	for _, k := range e.Keepers {
		fmt.Fprintf(&b, "; keeper %s: %s", k.Keeper, k.State)
		if k.Detail != "" {
			fmt.Fprintf(&b, " (%s)", k.Detail)
		}
	}
	return b.String()
}

func (e *Error) Unwrap() []error { return e.causes }

// Unseal recovers U and calls use with it once. The slice is in locked memory and
// is gone when use returns; use must not keep it. Unseal returns what use returned,
// an *Error if ctx ended first, or an error that asking again cannot mend.
//
// In use, Trust.Manifest is of the set and epoch that U belongs to, unless another
// goroutine has updated it meanwhile; opening the keyring, which is bound to both,
// then fails.
func Unseal(ctx context.Context, cfg Config, use func(u []byte) error) error {
	c, err := newCollector(cfg)
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	defer c.arena.Purge()
	if err := c.collect(ctx); err != nil {
		return err
	}
	u, err := c.combine()
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	return use(u.Bytes())
}

// collector gathers shares. Only the goroutine that runs collect touches it, but
// for arena, which is safe for concurrent use.
type collector struct {
	cfg      Config
	arena    *lockedmem.Arena
	manifest *keyshare.Manifest // that the shares were checked against
	shares   map[string]lockedmem.Secret
	last     map[string]answer
}

// answer is what one request to one keeper gave.
type answer struct {
	KeeperReport
	err   error            // behind Detail
	share lockedmem.Secret // for StateGood
	set   string           // of share
	epoch uint64
}

func newCollector(cfg Config) (*collector, error) {
	cfg.MinPause = orElse(cfg.MinPause, 250*time.Millisecond)
	cfg.MaxPause = max(orElse(cfg.MaxPause, 15*time.Second), cfg.MinPause)
	cfg.Timeout = orElse(cfg.Timeout, defaultTimeout)
	if cfg.Report == nil {
		cfg.Report = func(KeeperReport) {}
	}
	m := cfg.Trust.Manifest()
	if m == nil {
		return nil, errors.New("no manifest: a bridge is given one when it is enrolled")
	}
	if len(cfg.Keepers) < m.Threshold {
		return nil, fmt.Errorf("%d keeper addresses configured, the manifest needs %d shares", len(cfg.Keepers), m.Threshold)
	}
	arena, err := lockedmem.NewArena()
	if err != nil {
		return nil, err
	}
	return &collector{
		cfg: cfg, arena: arena, manifest: m,
		shares: make(map[string]lockedmem.Secret), last: make(map[string]answer),
	}, nil
}

func orElse(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// collect runs one asker per keeper until there are enough good shares, and waits
// for all of them to end.
func (c *collector) collect(ctx context.Context) error {
	asking, stop := context.WithCancel(ctx)
	var askers sync.WaitGroup
	defer askers.Wait()
	defer stop()

	answers := make(chan answer)
	retry := make(map[string]chan struct{}, len(c.cfg.Keepers))
	for name, addr := range c.cfg.Keepers {
		a := &asker{cfg: &c.cfg, arena: c.arena, name: name, addr: addr}
		again := make(chan struct{}, 1)
		retry[name] = again
		askers.Go(func() { a.run(asking, answers, again) })
	}
	for {
		var a answer
		select {
		case a = <-answers:
		case <-ctx.Done():
			return c.failure(ctx.Err())
		}
		if c.outdated() {
			// The shares so far are of an epoch that is over: ask everybody anew, now.
			for name, again := range retry {
				c.arena.Free(c.shares[name])
				delete(c.shares, name)
				poke(again)
			}
		}
		if a.State == StateGood && (a.set != c.manifest.Set || a.epoch != c.manifest.Epoch) {
			// Overtaken on its way here by a newer manifest from another keeper.
			c.arena.Free(a.share)
			poke(retry[a.Keeper])
			continue
		}
		c.last[a.Keeper] = a
		c.cfg.Report(a.KeeperReport)
		if a.State == StateGood {
			c.arena.Free(c.shares[a.Keeper]) // asked twice when the epoch changed under way
			c.shares[a.Keeper] = a.share
		}
		// Refused as nobody that it knows, and nobody by our own manifest either: it has
		// been told now that we were removed, and asking again is of no use.
		removed := status.Code(a.err) == codes.PermissionDenied && !enrolled(c.manifest, c.cfg.Identity)
		if len(c.shares) < c.manifest.Threshold && !removed {
			continue
		}
		if !enrolled(c.manifest, c.cfg.Identity) {
			return fmt.Errorf("unseal: %s with key %s: %w", c.cfg.Identity, c.cfg.Identity.Fingerprint(), identity.ErrNotEnrolled)
		}
		return nil
	}
}

// poke wakes an asker; one poke that it has not seen yet is enough.
func poke(again chan<- struct{}) {
	select {
	case again <- struct{}{}:
	default:
	}
}

// outdated takes up the manifest in force and reports whether the shares collected
// so far are not of its epoch any more.
func (c *collector) outdated() bool {
	old := c.manifest
	c.manifest = c.cfg.Trust.Manifest()
	return c.manifest.Set != old.Set || c.manifest.Epoch != old.Epoch
}

// enrolled says whether id may have U. An operator's session is not in the manifest:
// its certificate decides, at the keepers.
func enrolled(m *keyshare.Manifest, id *identity.Identity) bool {
	return id.Role() == identity.RoleOperator || slices.ContainsFunc(m.Bridges, func(b keyshare.Bridge) bool {
		return b.Name == id.Name() && b.Is(id.Fingerprint())
	})
}

// combine makes U of a threshold of shares and recognises it by the check value.
func (c *collector) combine() (u lockedmem.Secret, err error) {
	names := slices.Sorted(maps.Keys(c.shares))[:c.manifest.Threshold]
	lockedmem.Do(func() {
		shares := make([]keyshare.Share, len(names))
		for i, name := range names {
			shares[i] = c.shares[name].Bytes()
		}
		var raw, check []byte
		if raw, err = keyshare.Combine(shares); err != nil {
			return
		}
		defer lockedmem.Wipe(raw)
		if check, err = keyshare.CheckValue(raw, c.manifest.Set, c.manifest.Epoch); err != nil {
			return
		}
		if !hmac.Equal(check, c.manifest.Check) {
			// Every share was recognised, so it is the manifest that contradicts itself.
			err = errors.New("the shares are genuine but do not give the unseal key that the manifest describes")
			return
		}
		u, err = c.arena.Copy(raw)
	})
	for name, s := range c.shares {
		c.arena.Free(s)
		delete(c.shares, name)
	}
	return u, err
}

func (c *collector) failure(cause error) error {
	e := &Error{Good: len(c.shares), Threshold: c.manifest.Threshold, causes: []error{cause}}
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Keepers)) {
		a, ok := c.last[name]
		if !ok {
			a = answer{KeeperReport: KeeperReport{Keeper: name, State: StateUnreachable, Detail: "no answer yet"}}
		}
		e.Keepers = append(e.Keepers, a.KeeperReport)
		if a.err != nil {
			e.causes = append(e.causes, a.err)
		}
	}
	return e
}
