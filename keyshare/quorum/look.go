package quorum

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
)

// Look asks every keeper of cfg once whether it could release its share now, and
// takes none. The word is the keeper's own: only a share itself proves it.
func Look(ctx context.Context, cfg Config) []KeeperReport {
	ctx, cancel := context.WithTimeout(ctx, orElse(cfg.Timeout, defaultTimeout))
	defer cancel()
	m := cfg.Trust.Manifest()
	out := make([]KeeperReport, 0, len(cfg.Keepers))
	var mu sync.Mutex
	var looks sync.WaitGroup
	for name, addr := range cfg.Keepers {
		looks.Go(func() {
			r := KeeperReport{Keeper: name, State: StateUnknown, Detail: noSuchKeeper}
			if _, ok := m.Keeper(name); ok {
				h := &handshake{config: identity.ClientTLS(cfg.Identity, cfg.Trust, identity.RoleKeeper, name)}
				r.State, r.Detail = judge(h.call(addr, func(c release.KeeperClient) error {
					res, err := c.Status(ctx, &release.StatusRequest{})
					if err != nil {
						return err
					}
					return holding(res, m)
				}))
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, r)
		})
	}
	looks.Wait()
	slices.SortFunc(out, func(a, b KeeperReport) int { return strings.Compare(a.Keeper, b.Keeper) })
	return out
}

// holding refuses, as the keeper would a request now, if its share is not of the
// manifest in force and is not about to be.
func holding(s *release.StatusResponse, m *keyshare.Manifest) error {
	switch {
	case s.GetProblem() != "":
		return status.Error(codes.FailedPrecondition, s.GetProblem())
	case s.GetHoldsShare() && s.GetSet() == m.Set && s.GetEpoch() == m.Epoch, s.GetStagedSet() == m.Set && s.GetStagedEpoch() == m.Epoch:
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "it holds no share of set %s epoch %d", m.Set, m.Epoch)
}
