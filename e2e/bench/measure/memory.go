package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"keybridge/e2e/proc"
)

const concurrent = 64

// growth is what they make of the bridge's memory, in MiB: resident before, how much
// more at most, and the Go heap in use before and after.
type growth struct {
	Uploads    int     `json:"uploads"`
	Size       int     `json:"size_mib"`
	Before     float64 `json:"before_mib"`
	Growth     float64 `json:"growth_mib"`
	HeapBefore float64 `json:"heap_before_mib"`
	HeapAfter  float64 `json:"heap_after_mib"`
	Rate       float64 `json:"mib_per_s"`
}

// memory measures by how much the bridge grows while 64 bodies of signed chunks, of
// 256 MiB each, pass it at once.
func (h *house) memory(ctx context.Context, size int) (*growth, error) {
	u, err := h.chunkedUpload(ctx, h.endpoints.S3+"/"+uploads+"/"+object, "concurrent", int64(size)<<20)
	if err != nil {
		return nil, err
	}
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrent}}
	// A bridge that has just started has not used its code and its heap yet.
	if _, err := u.send(ctx, c); err != nil {
		return nil, err
	}
	before, err := proc.Resident(h.kbBridge)
	if err != nil {
		return nil, err
	}
	heapBefore, err := h.heap(ctx)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	errs := make([]error, concurrent)
	start := time.Now()
	for i := range concurrent {
		wg.Go(func() { _, errs[i] = u.send(ctx, c) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	peak := before
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
		}
		now, err := proc.Resident(h.kbBridge)
		if err != nil {
			return nil, err
		}
		peak = max(peak, now)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	took := time.Since(start)
	heapAfter, err := h.heap(ctx)
	if err != nil {
		return nil, err
	}
	return &growth{
		Uploads: concurrent, Size: size,
		Before: round(mib(before), 1), Growth: round(mib(peak-before), 1),
		HeapBefore: round(mib(heapBefore), 1), HeapAfter: round(mib(heapAfter), 1),
		Rate: round(float64(concurrent*size)/took.Seconds(), 0),
	}, nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// heap is the bridge's Go heap in use, by its metrics.
func (h *house) heap(ctx context.Context) (int64, error) {
	text, err := get(ctx, h.endpoints.Health+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "go_memstats_heap_inuse_bytes "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int64(n), err
		}
	}
	return 0, errors.New("the bridge's metrics do not tell its heap")
}
