package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// pin gives both Envoys a core of their own and everything else that was started, wrk to
// come included, another one. Left to the scheduler, runs of the same binary differ by a
// fifth, by who happens to share a core with whom (measured on two cores).
func (h *house) pin() error {
	if runtime.NumCPU() < 2 {
		return nil
	}
	all, err := tree(os.Getpid())
	if err != nil {
		return err
	}
	return errors.Join(keepOn(1, all...), keepOn(0, h.envoy.pid, h.kbEnvoy))
}

// keepOn keeps all threads of the processes, and what they start, on a core.
func keepOn(core int, pids ...int) error {
	var set unix.CPUSet
	set.Set(core)
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
		if err != nil {
			return err
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(filepath.Base(thread))
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("process %d: core %d: %w", pid, core, err)
			}
		}
	}
	return nil
}
