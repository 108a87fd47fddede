package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// grace is how long a process may take to stop before it is killed.
const grace = 10 * time.Second

// process is one that the benchmark started.
type process struct {
	name string
	pid  int
	stop func()
}

// start runs a command until stop; what it prints goes to a file below dir.
func start(dir, name string, env []string, binary string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		// The signal comes when the thread that started the child ends (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // stop ends it by a signal
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &process{name: name, pid: cmd.Process.Pid}
	p.stop = func() {
		_ = syscall.Kill(-p.pid, syscall.SIGTERM) // fails only when it has ended
		select {
		case <-done:
		case <-time.After(grace):
			_ = syscall.Kill(-p.pid, syscall.SIGKILL)
			<-done
		}
	}
	return p, nil
}

// tree is a process and all below it.
func tree(root int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parent := map[int]int{}
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (comm) state ppid …, and comm may hold anything (proc(5)).
		rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		ppid, err2 := strconv.Atoi(rest[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		parent[pid] = ppid
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		for pid, ppid := range parent {
			if ppid == all[i] {
				all = append(all, pid)
			}
		}
	}
	return all, nil
}
