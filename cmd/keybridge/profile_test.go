package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

// profiled runs the command line with a bridge that can write profiles: at SIGUSR1 it
// writes what it has allocated so far to allocs.0 in dir and starts a CPU profile,
// which ends at SIGUSR2, with allocs.1. The benchmark builds this package's test binary
// for it (`go test -c`), as what is shipped must not be able to.
func profiled(dir string) {
	if len(os.Args) > 1 && os.Args[1] == "bridge" {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
		go func() {
			for s := range signals {
				if err := profile(dir, s == syscall.SIGUSR1); err != nil {
					panic(err)
				}
			}
		}()
	}
	main()
}

// profile leaves each file under its name once it is complete.
func profile(dir string, start bool) error {
	name := "allocs.1"
	if start {
		name = "allocs.0"
	} else {
		pprof.StopCPUProfile()
		if err := os.Rename(filepath.Join(dir, "cpu.new"), filepath.Join(dir, "cpu")); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "allocs.new"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.Lookup("allocs").WriteTo(f, 0); err != nil {
		return err
	}
	if start {
		c, err := os.Create(filepath.Join(dir, "cpu.new")) // open until the profile ends
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(c); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}
