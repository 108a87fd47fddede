package bridge

import (
	"context"

	"keybridge/keyshare/quorum"
)

// lookAtKeepers keeps what is reported of the keepers current while none is needed,
// so that it shows when the next start would fail.
func (b *Bridge) lookAtKeepers(ctx context.Context) error {
	for pause(ctx, b.cfg.LookEvery) {
		for _, r := range quorum.Look(ctx, quorum.Config{Identity: b.cfg.Identity, Trust: b.cfg.Trust, Keepers: b.cfg.Keepers}) {
			if ctx.Err() != nil {
				break // cut off by the end, not by the keeper
			}
			b.mu.Lock()
			proved := b.keepers[r.Keeper].State
			b.mu.Unlock()
			// Its own word does not clear a keeper whose share was seen to be wrong.
			if r.State == quorum.StateGood && proved == quorum.StateBad {
				continue
			}
			b.keeperReport(r)
		}
	}
	return ctx.Err()
}
