package bridge

import (
	"context"

	"golang.org/x/sync/errgroup"

	"keybridge/keyshare/lockedmem"
)

// group is an errgroup whose goroutines, should one panic, leave no secret behind.
type group struct{ *errgroup.Group }

func newGroup(ctx context.Context) (group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return group{g}, ctx
}

func (g group) Go(f func() error) { g.Group.Go(lockedmem.Guard(f)) }
