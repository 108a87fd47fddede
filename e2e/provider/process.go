package provider

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is a server's, with a folder that goes with it.
type process struct {
	log    *output
	exited chan struct{}
	// stop ends it, by force if it takes longer than it was given, and removes the folder.
	stop func() error
}

func launch(cmd *exec.Cmd, dir string, grace time.Duration) (*process, error) {
	p := &process{log: &output{}, exited: make(chan struct{})}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err), os.RemoveAll(dir))
	}
	go func() { _ = cmd.Wait(); close(p.exited) }()
	p.stop = sync.OnceValue(func() error {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-p.exited:
		case <-time.After(grace):
			_ = cmd.Process.Kill()
			<-p.exited
		}
		return os.RemoveAll(dir)
	})
	return p, nil
}

// newCredential is an access key id and a secret.
func newCredential() (access, secret string) {
	return "PROVIDER" + rand.Text()[:12], rand.Text() + rand.Text()[:14]
}

// FromDistribution finds a program that comes from the distribution: in PATH, or where
// `make` unpacks it for those who may not install.
func FromDistribution(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if root, err := ModuleRoot(); err == nil {
		for _, dir := range []string{"bin", "sbin"} {
			path := filepath.Join(root, ".tools", "debian", "usr", dir, name)
			if isFile(path) {
				return path, nil
			}
		}
	}
	return "", errors.New(name + " is not installed: install your distribution's package, or run `make bench`, which unpacks it on Debian")
}
