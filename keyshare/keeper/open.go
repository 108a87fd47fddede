package keeper

// Open decrypts what Save wrote. Call it inside lockedmem.Do and wipe what it returns.
func (l Lock) Open(path string) ([]byte, error) { return l.load(path) }
