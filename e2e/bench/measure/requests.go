package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"keybridge/e2e/proc"
)

// row is a line of bench.json.
type row struct {
	Name         string  `json:"name"`
	Connections  int     `json:"connections"`
	RPS          float64 `json:"rps"`
	P50          float64 `json:"p50_us"`
	P99          float64 `json:"p99_us"`
	EnvoyCPU     float64 `json:"envoy_cpu_us"`
	ProcessorCPU float64 `json:"processor_cpu_us"`
}

func (r row) cpu() float64 { return r.EnvoyCPU + r.ProcessorCPU }

var connections = []int{1, 16}

// measured is all rounds of one subject with so many connections.
type measured struct {
	name        string
	connections int
	rounds      []row
}

// median is the median of each column.
func (m *measured) median() row {
	column := func(f func(row) float64) float64 {
		var v []float64
		for _, r := range m.rounds {
			v = append(v, f(r))
		}
		return median(v)
	}
	return row{
		m.name, m.connections,
		column(func(r row) float64 { return r.RPS }), column(func(r row) float64 { return r.P50 }), column(func(r row) float64 { return r.P99 }),
		column(func(r row) float64 { return r.EnvoyCPU }), column(func(r row) float64 { return r.ProcessorCPU }),
	}
}

func median[T cmp.Ordered](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// requests measures small requests.
func (h *house) requests(ctx context.Context, o options, subjects []*subject) ([]*measured, error) {
	if err := h.check(ctx, subjects); err != nil {
		return nil, err
	}
	var all []*measured
	for _, s := range subjects {
		for _, n := range connections {
			all = append(all, &measured{name: s.name, connections: n})
		}
		if _, err := h.time(ctx, s, 16, time.Second); err != nil { // pools and caches fill
			return nil, err
		}
	}
	for round := range o.rounds {
		for i, s := range subjects {
			for j, n := range connections {
				r, err := h.time(ctx, s, n, time.Duration(o.seconds)*time.Second)
				if err != nil {
					return nil, err
				}
				m := all[i*len(connections)+j]
				m.rounds = append(m.rounds, r)
				fmt.Fprintf(os.Stderr, "round %d %-22s %2d  %7.0f/s  p50 %4.0f  p99 %5.0f  Envoy %5.1f  processor %5.1f µs\n", round+1, s.name, n, r.RPS, r.P50, r.P99, r.EnvoyCPU, r.ProcessorCPU)
			}
		}
	}
	return all, nil
}

// time measures a subject once.
func (h *house) time(ctx context.Context, s *subject, connections int, d time.Duration) (row, error) {
	q, err := s.make(ctx)
	if err != nil {
		return row{}, err
	}
	pids := []int{s.envoy}
	if s.processor != 0 {
		pids = append(pids, s.processor)
	}
	var before, after []time.Duration
	read := func(into *[]time.Duration) error {
		for _, pid := range pids {
			t, err := proc.CPU(pid)
			if err != nil {
				return err
			}
			*into = append(*into, t)
		}
		return nil
	}
	answered, err := h.answered(ctx)
	if err != nil {
		return row{}, err
	}
	if err := read(&before); err != nil {
		return row{}, err
	}
	l, err := drive(ctx, h.dir, q, connections, d)
	if err != nil {
		return row{}, fmt.Errorf("%s: %w", s.name, err)
	}
	if err := read(&after); err != nil {
		return row{}, err
	}
	now, err := h.answered(ctx)
	if err != nil {
		return row{}, err
	}
	if now-answered < l.Requests {
		return row{}, fmt.Errorf("%s: the provider saw only %d of %d requests", s.name, now-answered, l.Requests)
	}
	r := row{Name: s.name, Connections: connections, RPS: l.rps(), P50: float64(l.P50), P99: float64(l.P99)}
	micros := func(i int) float64 { return float64(after[i]-before[i]) / 1e3 / float64(l.Requests) }
	if r.EnvoyCPU = micros(0); len(pids) > 1 {
		r.ProcessorCPU = micros(1)
	}
	return r, nil
}

// handled is in what nginx's stub_status says: accepted and handled connections, and requests.
var handled = regexp.MustCompile(`\n \d+ \d+ (\d+)`)

// answered is how many requests the provider of small requests has had.
func (h *house) answered(ctx context.Context) (int64, error) {
	text, err := get(ctx, "http://"+h.small+"/count")
	if err != nil {
		return 0, err
	}
	m := handled.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("stub_status says %q", text)
	}
	return strconv.ParseInt(m[1], 10, 64)
}

// ratio is the median over rounds of what two subjects measured beside each other.
func ratio(all []*measured, a, b string, connections int, f func(row) float64) float64 {
	find := func(name string) []row {
		i := slices.IndexFunc(all, func(m *measured) bool { return m.name == name && m.connections == connections })
		return all[i].rounds
	}
	x, y := find(a), find(b)
	var v []float64
	for i := range x {
		v = append(v, f(x[i])/f(y[i]))
	}
	return median(v)
}
