package bridge

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"keybridge/keyshare/seal"
	"keybridge/keyshare/unseal"
	"keybridge/xds/link"
)

const (
	// maxWraps bounds the wraps that wait for the control plane. What is dropped costs
	// one RSA operation at the next start.
	maxWraps = 1 << 16
	// wrapsEvery lets wraps come together in one call.
	wrapsEvery = 250 * time.Millisecond
	// linkPatience bounds one call, and linkAttempts how often it is made.
	linkPatience = 10 * time.Second
	linkAttempts = 3
	// rotateEvery is how often records under another sealing key than the current one are
	// looked for when nothing says that there are any.
	rotateEvery = 10 * time.Minute
	// rotateAgain is the pause when that failed, or when a new sealing key could not be had
	// for a while: keepers bound how often they are asked.
	rotateAgain = time.Minute
)

// wraps waits for the control plane to take them.
type wraps struct {
	mu   sync.Mutex
	list []*link.Rewrapped
	wake chan struct{} // capacity 1
}

func (w *wraps) add(in *link.Record, version uint64, wrap *seal.Wrap) {
	w.mu.Lock()
	if len(w.list) < maxWraps {
		w.list = append(w.list, rewrapped(in, version, wrap))
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func rewrapped(in *link.Record, version uint64, wrap *seal.Wrap) *link.Rewrapped {
	return &link.Rewrapped{
		Type: in.Type, Id: in.Id, Version: version,
		Suite: uint32(wrap.Suite), KeyId: wrap.KeyID, Value: wrap.Value,
	}
}

func (w *wraps) take() (out []*link.Rewrapped) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.list), link.MaxRewraps)
	out = w.list[:n:n]
	if w.list = w.list[n:]; len(w.list) == 0 {
		w.list = nil
	}
	return out
}

// submitWraps gives the control plane what the first opens have made, so that the next
// start needs no RSA. Service does not depend on it.
func (b *Bridge) submitWraps(ctx context.Context) error {
	client := link.NewLinkClient(b.cfg.Control)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.wraps.wake:
		}
		if !pause(ctx, wrapsEvery) {
			return ctx.Err()
		}
		for {
			batch := b.wraps.take()
			if len(batch) == 0 {
				break
			}
			err := retry(ctx, func(ctx context.Context) error {
				_, err := client.Rewrap(ctx, &link.RewrapRequest{Records: batch})
				return err
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				b.cfg.Logger.Warn("second wraps dropped: the control plane did not take them", "records", len(batch), "error", err)
			}
		}
	}
}

// retry makes a call up to linkAttempts times.
func retry(ctx context.Context, call func(context.Context) error) (err error) {
	for range linkAttempts {
		limited, cancel := context.WithTimeout(ctx, linkPatience)
		err = call(limited)
		cancel()
		if err == nil || !pause(ctx, retryEvery) {
			return err
		}
	}
	return err
}

// takeSuspect waits for records whose second wrap did not open; nil once closed or ctx has ended.
func (r *records) takeSuspect(ctx context.Context) []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.await(ctx, &r.suspect) {
		return nil
	}
	n := min(len(r.suspect), link.MaxRewraps)
	jobs := r.suspect[:n:n]
	r.suspect = r.suspect[n:]
	return jobs
}

var errNoOriginal = errors.New("its second wrap does not open, and the control plane has no original of it")

// fetchOriginals has suspect records opened by their RSA wrap, and so adopted anew.
func (b *Bridge) fetchOriginals(ctx context.Context) error {
	client, r := link.NewLinkClient(b.cfg.Control), b.records
	for {
		jobs := r.takeSuspect(ctx)
		if jobs == nil {
			return ctx.Err()
		}
		request := &link.OriginalsRequest{}
		for _, j := range jobs {
			request.Records = append(request.Records, &link.RecordRef{Type: j.in.Type, Id: j.in.Id})
		}
		var answer *link.OriginalsResponse
		err := retry(ctx, func(ctx context.Context) (err error) {
			answer, err = client.Originals(ctx, request)
			return err
		})
		for _, in := range answer.GetRecords() {
			for _, j := range jobs {
				if j.in.Id != in.Id || j.in.Type != in.Type {
					continue
				}
				// The very record: whatever else has changed comes with the feed.
				if s, err := parse(in); err == nil && s.Key.Suite == seal.SuiteRSA3072 && bodyOf(s) == j.body {
					j.sealed = append(j.sealed, s)
				}
			}
		}
		for _, j := range jobs {
			switch {
			case len(j.sealed) > 0:
				r.hand(&r.slow, j)
			case err != nil: // asked again when the feed is back
				r.park(j)
				r.finish([]outcome{{job: j, err: err}})
			default:
				r.finish([]outcome{{job: j, err: errNoOriginal}})
			}
		}
	}
}

// followKeys takes up new sealing keys, and re-wraps records that are sealed to older ones.
func (b *Bridge) followKeys(ctx context.Context) error {
	var done string // the sealing key that everything was found sealed to
	for {
		changed := b.cfg.Trust.Changed()
		if b.missingKey() {
			if err := b.takeUpKeys(ctx); err != nil {
				return err
			}
		}
		if current := b.cfg.Trust.Manifest().CurrentSealingKey(); current.ID != done {
			if err := b.rewrapOutdated(ctx, current.ID, current.PEM); err == nil {
				done = current.ID
			} else if ctx.Err() != nil {
				return ctx.Err()
			} else {
				done = ""
				b.cfg.Logger.Warn("records under older sealing keys are left", "error", err)
			}
		}
		wait := rotateEvery
		if done == "" {
			wait = rotateAgain
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
			done = ""
		}
	}
}

// missingKey says whether the manifest has a sealing key that the keyring lacks.
func (b *Bridge) missingKey() bool {
	held := b.keyring.Load().SealingKeys()
	for _, k := range b.cfg.Trust.Manifest().SealingKeys {
		if !slices.Contains(held, k.ID) {
			return true
		}
	}
	return false
}

// takeUpKeys unseals once more, and puts the newer keyring in the place of the old one.
func (b *Bridge) takeUpKeys(ctx context.Context) error {
	b.cfg.Logger.Info("unsealing again: the manifest has a sealing key that the keyring lacks")
	var reported string
	for wait := retryEvery; b.missingKey(); wait = min(2*wait, rotateAgain) {
		keyring, err := b.tryUnseal(ctx, "new sealing key")
		if err == nil {
			err = b.setKeyring(keyring)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && err.Error() != reported {
			reported = err.Error()
			b.cfg.Logger.Warn("not unsealed again yet", "reason", reported)
		}
		if (err != nil || b.missingKey()) && !pause(ctx, wait) {
			return ctx.Err()
		}
	}
	b.records.unpark()
	b.tell()
	return nil
}

// setKeyring puts a keyring in force and forgets the one before.
func (b *Bridge) setKeyring(k *unseal.Keyring) error {
	keys, err := k.RecordKeys(b.arena)
	if err != nil {
		k.Purge()
		return err
	}
	oldKeys, old := b.recordKeys.Swap(keys), b.keyring.Swap(k)
	if old != nil {
		old.Purge()
		oldKeys.Free()
	}
	return nil
}

// dropKeyring forgets it; nobody opens records any more.
func (b *Bridge) dropKeyring() {
	if k := b.keyring.Swap(nil); k != nil {
		k.Purge()
		b.recordKeys.Swap(nil).Free()
	}
}

// rewrapOutdated wraps what is sealed to older keys under the current one, as long as
// the control plane has such records for this bridge.
func (b *Bridge) rewrapOutdated(ctx context.Context, id, pem string) error {
	to, err := seal.ParsePublicKey([]byte(pem))
	if err != nil {
		return err
	}
	client, total := link.NewLinkClient(b.cfg.Control), 0
	for {
		var answer *link.OriginalsResponse
		if err := retry(ctx, func(ctx context.Context) (err error) {
			answer, err = client.Originals(ctx, &link.OriginalsRequest{})
			return err
		}); err != nil {
			return err
		}
		if len(answer.Records) == 0 {
			if total > 0 {
				b.cfg.Logger.Info("records re-wrapped", "records", total, "key", id)
			}
			return nil
		}
		batch, err := b.rewrapBatch(ctx, answer.Records, to)
		if err != nil {
			return err
		}
		if err := retry(ctx, func(ctx context.Context) error {
			_, err := client.Rewrap(ctx, &link.RewrapRequest{Records: batch})
			return err
		}); err != nil {
			return err
		}
		total += len(batch)
	}
}

// rewrapBatch is one core's work at a time: requests come first.
func (b *Bridge) rewrapBatch(ctx context.Context, in []*link.Record, to *seal.PublicKey) (out []*link.Rewrapped, err error) {
	err = b.keyring.Load().Window(ctx, func(w *unseal.Window) error {
		for _, rec := range in {
			s, err := parse(rec)
			if err == nil {
				var wrap *seal.Wrap
				if wrap, err = w.Rewrap(s, to); err == nil {
					out = append(out, rewrapped(rec, s.Header.Version, wrap))
				}
			}
			if ctx.Err() != nil || errors.Is(err, unseal.ErrPurged) {
				return err
			}
			if err != nil { // it is asked for again with the next pass
				b.cfg.Logger.Error("record not re-wrapped", "type", rec.Type, "record", rec.Id, "error", err)
			}
		}
		return nil
	})
	return out, err
}
