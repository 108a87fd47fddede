package main

import (
	"context"
	"errors"
	"fmt"
)

func run(ctx context.Context, o options) (err error) {
	h, err := newHouse(ctx, o.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	all, err := h.requests(ctx, o, h.subjects())
	if err != nil {
		return err
	}
	for _, m := range all {
		r := m.median()
		fmt.Printf("%-22s %2d  %7.0f/s  p50 %4.0f  p99 %5.0f  Envoy %5.1f  processor %5.1f  sum %5.1f µs\n", r.Name, r.Connections, r.RPS, r.P50, r.P99, r.EnvoyCPU, r.ProcessorCPU, r.cpu())
	}
	p50 := func(r row) float64 { return r.P50 }
	fmt.Printf("s3_cpu_vs_noop %.3f\nai_cpu_vs_noop %.3f\nai_cpu_vs_noop_forward_rules %.3f\ns3_p50_vs_noop %.3f\nai_p50_vs_noop %.3f\n",
		ratio(all, "s3-keybridge", "s3-noop", 16, row.cpu), ratio(all, "ai-keybridge", "ai-noop", 16, row.cpu),
		ratio(all, "ai-keybridge", "ai-noop-forward-rules", 16, row.cpu),
		ratio(all, "s3-keybridge", "s3-noop", 1, p50), ratio(all, "ai-keybridge", "ai-noop", 1, p50))
	return nil
}
