package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// run does the parts and keeps, of what it does not measure, what the files say.
func run(ctx context.Context, o options) (err error) {
	if o.does("requests") || o.does("uploads") || o.does("memory") {
		if err := runBench(ctx, o); err != nil {
			return err
		}
	}
	if o.does("profiles") {
		if err := profiles(ctx, o); err != nil {
			return err
		}
	}
	if o.does("peers") {
		return runPeers(ctx, o)
	}
	return nil
}

func runBench(ctx context.Context, o options) (err error) {
	doc, more := document{Ratios: map[string]float64{}}, bodies{}
	docPath, morePath := filepath.Join(o.out, "bench.json"), filepath.Join(o.out, "e2e", "bench", "bodies.json")
	if err := errors.Join(load(docPath, &doc), load(morePath, &more)); err != nil {
		return err
	}
	h, err := newHouse(ctx, o.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.pin(); err != nil {
		return err
	}
	if o.does("requests") {
		subjects := slices.DeleteFunc(h.subjects(), func(s *subject) bool { return !strings.Contains(s.name, o.only) })
		all, err := h.requests(ctx, o, subjects)
		if err != nil {
			return err
		}
		doc.Rows = nil
		for _, m := range all {
			doc.Rows = append(doc.Rows, m.median().rounded())
		}
		if o.only == "" {
			requestRatios(all, doc.Ratios)
		}
	}
	if o.does("uploads") {
		if more.Uploads, err = h.uploads(ctx, o, doc.Ratios); err != nil {
			return err
		}
	}
	if o.does("memory") {
		if more.Memory, err = h.memory(ctx, o.mib); err != nil {
			return err
		}
	}
	doc.print(os.Stdout)
	more.print(os.Stdout)
	if o.only != "" {
		return nil
	}
	return errors.Join(save(docPath, &doc), save(morePath, &more))
}
