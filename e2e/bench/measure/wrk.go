package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"keybridge/e2e/provider"
)

// request is what the load generator sends again and again.
type request struct {
	method, url string
	header      [][2]string
	body        string
}

// driven is what wrk measured.
type driven struct {
	Requests int64 `json:"requests"`
	Micros   int64 `json:"duration"`
	P50      int64 `json:"p50"`
	P99      int64 `json:"p99"`
	Errors   int64 `json:"errors"`
}

func (l driven) rps() float64 { return float64(l.Requests) / (float64(l.Micros) / 1e6) }

// http is the request for Go's client.
func (q request) http(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, q.url, strings.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	for _, h := range q.header {
		req.Header.Set(h[0], h[1])
	}
	return req, nil
}

// script has no function that wrk would call for each request: it then sends the
// one that it has made at the start (wrk, SCRIPTING).
func (q request) script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wrk.method = %s\n", strconv.Quote(q.method))
	for _, h := range q.header {
		fmt.Fprintf(&b, "wrk.headers[%s] = %s\n", strconv.Quote(h[0]), strconv.Quote(h[1]))
	}
	if q.body != "" {
		fmt.Fprintf(&b, "wrk.body = %s\n", strconv.Quote(q.body))
	}
	b.WriteString(`done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\nresult {"requests":%d,"duration":%d,"p50":%d,"p99":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
`)
	return b.String()
}

// drive sends q over so many connections. An answer that is not a 2xx, and any
// other error, is an error: what is wrong must not be timed.
func drive(ctx context.Context, dir string, q request, connections int, d time.Duration) (driven, error) {
	wrk, err := provider.FromDistribution("wrk")
	if err != nil {
		return driven{}, err
	}
	script := filepath.Join(dir, "request.lua")
	if err := os.WriteFile(script, []byte(q.script()), 0o600); err != nil {
		return driven{}, err
	}
	cmd := exec.CommandContext(ctx, wrk, "-t1", "-c"+strconv.Itoa(connections), "-d"+strconv.Itoa(int(d.Seconds())), "-s", script, q.url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return driven{}, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	_, result, ok := strings.Cut(string(out), "\nresult ")
	var l driven
	if !ok || json.Unmarshal([]byte(result), &l) != nil {
		return driven{}, fmt.Errorf("wrk printed no result:\n%s", out)
	}
	if l.Errors != 0 || l.Requests == 0 {
		return driven{}, fmt.Errorf("wrk: %d of %d requests failed:\n%s", l.Errors, l.Requests, out)
	}
	return l, nil
}
