package bridge_test

import (
	"os"
	"path/filepath"
	"sync"

	"keybridge/keyshare"
	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/seal"
)

// house is what one ceremony has made: keepers on disk and identities. Tests live
// in it one after the other, because RSA keys take long to make.
type house struct {
	dir         string
	keeperDirs  []string
	keeperLocks []keeper.Lock
	made        *ceremony.InitResult
	sealing     *seal.PublicKey
	identities  map[identity.Role]*identity.Identity
}

// found is removed by TestMain.
var found = sync.OnceValues(func() (_ *house, err error) {
	h := &house{identities: map[identity.Role]*identity.Identity{}}
	if h.dir, err = os.MkdirTemp("", "kb-house-"); err != nil {
		return h, err
	}
	cfg := ceremony.InitConfig{Threshold: 2}
	for _, name := range []string{"keeper-1", "keeper-2", "keeper-3"} {
		dir, file := filepath.Join(h.dir, name), filepath.Join(h.dir, name+".lock")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return h, err
		}
		if err := keeper.CreateKeyFile(file); err != nil {
			return h, err
		}
		lock, err := keeper.KeyFileLock(file)
		if err != nil {
			return h, err
		}
		e, err := keeper.Enrol(dir, name, lock)
		if err != nil {
			return h, err
		}
		cfg.Keepers = append(cfg.Keepers, e)
		h.keeperDirs, h.keeperLocks = append(h.keeperDirs, dir), append(h.keeperLocks, lock)
	}
	for _, role := range []identity.Role{identity.RoleBridge, identity.RoleControl} {
		id, err := identity.Create(filepath.Join(h.dir, string(role)+".key"), role, string(role)+"-1")
		if err != nil {
			return h, err
		}
		e, err := id.Enrolment(nil)
		if err != nil {
			return h, err
		}
		h.identities[role] = id
		if role == identity.RoleBridge {
			cfg.Bridges = append(cfg.Bridges, e)
		} else {
			cfg.ControlPlanes = append(cfg.ControlPlanes, e)
		}
	}
	if h.made, err = ceremony.Init(cfg); err != nil {
		return h, err
	}
	m, err := keyshare.Verify(h.made.RootPublic, h.made.Manifest)
	if err != nil {
		return h, err
	}
	if h.sealing, err = seal.ParsePublicKey([]byte(m.CurrentSealingKey().PEM)); err != nil {
		return h, err
	}
	for i, e := range cfg.Keepers {
		if err := keeper.Accept(h.keeperDirs[i], h.keeperLocks[i], h.made.RootPublic, h.made.Manifest, h.made.Deliveries[e.Name]); err != nil {
			return h, err
		}
	}
	return h, nil
})
