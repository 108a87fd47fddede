package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// document is bench.json.
type document struct {
	Rows   []row              `json:"rows"`
	Ratios map[string]float64 `json:"ratios"`
}

// bodies is bodies.json: what is measured of uploads beside their ratios.
type bodies struct {
	Uploads []uploadRow `json:"uploads"`
	Memory  *growth     `json:"memory"`
}

// bars are what DESIGN.md and the issue of the benchmark ask of the ratios: at most,
// and for uploads at least.
var bars = []struct {
	name    string
	bar     float64
	atLeast bool
}{
	{"s3_cpu_vs_noop", 1.10, false},
	{"ai_cpu_vs_noop", 1.00, false},
	{"ai_cpu_vs_noop_forward_rules", math.Inf(1), false},
	{"s3_p50_vs_noop", 1.10, false},
	{"ai_p50_vs_noop", 1.10, false},
	{"upload_vs_envoy", 0.97, true},
	{"chunked_vs_duplex_echo", 0.6, true},
}

// load reads a file that an earlier run wrote; nothing is fine.
func load(path string, into any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// save writes it with rounded numbers.
func save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func round(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

func (r row) rounded() row {
	r.RPS, r.P50, r.P99 = round(r.RPS, 0), round(r.P50, 0), round(r.P99, 0)
	r.EnvoyCPU, r.ProcessorCPU = round(r.EnvoyCPU, 1), round(r.ProcessorCPU, 1)
	return r
}

// requestRatios are those of small requests: CPU with 16 connections, where it is what
// limits, and the wait with one, where nothing else is waited for.
func requestRatios(all []*measured, into map[string]float64) {
	p50 := func(r row) float64 { return r.P50 }
	into["s3_cpu_vs_noop"] = round(ratio(all, "s3-keybridge", "s3-noop", 16, row.cpu), 3)
	into["ai_cpu_vs_noop"] = round(ratio(all, "ai-keybridge", "ai-noop", 16, row.cpu), 3)
	into["ai_cpu_vs_noop_forward_rules"] = round(ratio(all, "ai-keybridge", "ai-noop-forward-rules", 16, row.cpu), 3)
	into["s3_p50_vs_noop"] = round(ratio(all, "s3-keybridge", "s3-noop", 1, p50), 3)
	into["ai_p50_vs_noop"] = round(ratio(all, "ai-keybridge", "ai-noop", 1, p50), 3)
}

// print writes the tables as the README has them.
func (d *document) print(w io.Writer) {
	printRows(w, d.Rows)
	fmt.Fprint(w, "\n| ratio | measured | bar |\n|---|---|---|\n")
	for _, b := range bars {
		v, measured := d.Ratios[b.name]
		if !measured {
			continue
		}
		bar := "–"
		switch {
		case b.atLeast:
			bar = fmt.Sprintf("≥ %.2f", b.bar)
		case !math.IsInf(b.bar, 1):
			bar = fmt.Sprintf("≤ %.2f", b.bar)
		}
		fmt.Fprintf(w, "| `%s` | %.3f | %s |\n", b.name, v, bar)
	}
}

func printRows(w io.Writer, rows []row) {
	fmt.Fprint(w, "\n| configuration | connections | requests/s | p50 µs | p99 µs | CPU µs: Envoy + processor |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		cpu := fmt.Sprintf("%.1f", r.EnvoyCPU)
		if r.ProcessorCPU > 0 {
			cpu += fmt.Sprintf(" + %.1f", r.ProcessorCPU)
		}
		fmt.Fprintf(w, "| %s | %d | %.0f | %.0f | %.0f | %s |\n", r.Name, r.Connections, r.RPS, r.P50, r.P99, cpu)
	}
}

func (b *bodies) print(w io.Writer) {
	if len(b.Uploads) > 0 {
		fmt.Fprint(w, "\n| upload | MiB/s | CPU ms: Envoy + processor |\n|---|---|---|\n")
		for _, u := range b.Uploads {
			fmt.Fprintf(w, "| %s | %.0f | %.0f + %.1f |\n", u.Name, u.Rate, u.EnvoyCPU, u.ProcessorCPU)
		}
	}
	if m := b.Memory; m != nil {
		fmt.Fprintf(w, "\n%d bodies of signed chunks of %d MiB at once: the bridge grows by %.1f MiB (bar 32) from %.1f; %.0f MiB/s.\n",
			m.Uploads, m.Size, m.Growth, m.Before, m.Rate)
	}
}
