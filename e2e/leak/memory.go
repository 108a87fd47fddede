package leak

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Found says how often something occurs in a process's memory.
type Found struct {
	Locked, Unlocked int
	Where            []string // mappings that are not locked, as in smaps
}

// Memory counts each needle in what a process can read and has not mapped from a
// file to read only. proc is its folder in /proc, or that of one of its threads: as
// /proc/PID/mem does, it needs root and CAP_SYS_PTRACE if the process is not dumpable.
//
// Memory is looked at while the process goes on, so a hit may be gone by now.
func Memory(proc string, needles map[string][]byte) (map[string]Found, error) {
	mappings, err := readMappings(filepath.Join(proc, "smaps"))
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(filepath.Join(proc, "mem"))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	longest := 1
	for _, n := range needles {
		longest = max(longest, len(n))
	}
	found := make(map[string]Found, len(needles))
	read := uint64(0)
	const step = 1 << 20
	buf := make([]byte, step+longest-1)
	for _, m := range mappings {
		for at := m.from; at < m.to; at += step {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), m.to-at)], int64(at))
			if err != nil && !errors.Is(err, io.EOF) && n == 0 {
				break // [vvar], or unmapped meanwhile
			}
			read += uint64(n)
			for name, needle := range needles {
				if hits := count(buf[:n], needle, step); hits > 0 {
					f := found[name]
					if m.locked {
						f.Locked += hits
					} else {
						f.Unlocked += hits
						f.Where = append(f.Where, m.name)
					}
					found[name] = f
				}
			}
		}
	}
	if read < 1<<20 {
		return nil, fmt.Errorf("leak: only %d bytes of %s could be read", read, proc)
	}
	return found, nil
}

// count counts the needles that start in the first step bytes.
func count(b, needle []byte, step int) (hits int) {
	for at := 0; ; hits++ {
		i := bytes.Index(b[at:], needle)
		if i < 0 || at+i >= step {
			return hits
		}
		at += i + 1
	}
}

type mapped struct {
	from, to uint64
	locked   bool
	name     string
}

func readMappings(path string) ([]mapped, error) {
	smaps, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []mapped
	var next mapped
	var perms, offset, device, inode string
	for line := range strings.Lines(string(smaps)) {
		line = strings.TrimSpace(line)
		var from, to uint64
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %s", &from, &to, &perms, &offset, &device, &inode); n == 6 {
			next = mapped{from: from, to: to, name: line}
		}
		flags, ok := strings.CutPrefix(line, "VmFlags:")
		if !ok || perms[0] != 'r' || inode != "0" && perms[1] != 'w' {
			continue
		}
		next.locked = strings.Contains(flags+" ", " lo ")
		all = append(all, next)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("leak: %s shows no memory", path)
	}
	return all, nil
}
