package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"keybridge/e2e/provider"
)

// profiles writes what the bridge spends its time and memory on under small requests,
// as text to e2e/bench. The binary is one that is made for this, and all else as it is
// when it is measured.
func profiles(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "kb-profile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := provider.ModuleRoot()
	if err != nil {
		return err
	}
	binary := filepath.Join(dir, "keybridge")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-o", binary, "./cmd/keybridge")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c: %w\n%s", err, out)
	}
	h, err := newHouse(ctx, binary, "KEYBRIDGE_PROFILE="+dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	for _, s := range h.subjects() {
		kind, ok := strings.CutSuffix(s.name, "-keybridge")
		if !ok {
			continue
		}
		if err := h.profile(ctx, s, dir, binary, filepath.Join(o.out, "e2e", "bench", "profile-"+kind), 4*time.Duration(o.seconds)*time.Second); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (h *house) profile(ctx context.Context, s *subject, dir, binary, out string, d time.Duration) error {
	if _, err := h.time(ctx, s, 16, time.Second); err != nil {
		return err
	}
	if err := h.signal(ctx, syscall.SIGUSR1, filepath.Join(dir, "allocs.0")); err != nil {
		return err
	}
	r, err := h.time(ctx, s, 16, d)
	if err != nil {
		return err
	}
	if err := h.signal(ctx, syscall.SIGUSR2, filepath.Join(dir, "allocs.1")); err != nil {
		return err
	}
	requests := r.RPS * d.Seconds()
	for name, args := range map[string][]string{
		"cpu":    {filepath.Join(dir, "cpu")},
		"allocs": {"-sample_index=alloc_objects", "-base", filepath.Join(dir, "allocs.0"), filepath.Join(dir, "allocs.1")},
	} {
		args = append([]string{"tool", "pprof", "-top", "-nodecount=60"}, args...)
		text, err := exec.CommandContext(ctx, "go", args...).Output()
		if err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
		// The first lines name a file that is gone.
		_, text2, _ := strings.Cut(string(text), "Type: ")
		text2 = fmt.Sprintf("%.0f requests (%s, 16 connections)\nType: %s", requests, s.name, text2)
		if err := os.WriteFile(out+"-"+name+".txt", []byte(text2), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(filepath.Join(dir, "allocs.0")), os.Remove(filepath.Join(dir, "allocs.1")))
}

// signal has the bridge do something, and waits for the file that it then leaves.
func (h *house) signal(ctx context.Context, s syscall.Signal, file string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := syscall.Kill(h.kbBridge, s); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the bridge wrote no %s: %w", filepath.Base(file), ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
