// Package proc reads what the kernel tells of other processes (proc(5)).
package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the time that processes have had on all cores, by their CPU clocks, which
// count nanoseconds: /proc/PID/stat counts hundredths of a second
// (clock_getcpuclockid(3); the clock's number is the kernel's CPUCLOCK_SCHED).
func CPU(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// Resident is the memory of a process that is in RAM, in bytes. One that has ended and
// was not waited for has none.
func Resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err == nil && pages == 0 {
		err = fmt.Errorf("process %d has ended", pid)
	}
	return pages * int64(os.Getpagesize()), err
}

// Threads are the ids of a process's threads now: none, if it has ended.
func Threads(pid int) (all []int, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		id, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, nil
}
