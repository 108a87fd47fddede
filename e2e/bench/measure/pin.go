package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"keybridge/e2e/proc"
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
		threads, err := proc.Threads(pid)
		if err != nil {
			return err
		}
		for _, id := range threads {
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("process %d: core %d: %w", pid, core, err)
			}
		}
	}
	return nil
}
