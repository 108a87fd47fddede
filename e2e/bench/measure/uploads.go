package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"keybridge/e2e/proc"
	"keybridge/e2e/provider"
	"keybridge/extproc/protocoltest"
)

const (
	uploadSize = 1 << 30
	// chunkSize is that of the chunks which clients of MinIO's and Amazon's make: 64 KiB.
	chunkSize    = 64 << 10
	signedChunks = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
)

// upload is a PUT whose body is in a file, so that the kernel can send it and the
// client costs little beside what is measured.
type upload struct {
	url    string
	header http.Header
	file   string
	size   int64
}

// plainUpload signs a PUT of n bytes with UNSIGNED-PAYLOAD.
func (h *house) plainUpload(ctx context.Context, url, name string, n int64) (*upload, error) {
	u := &upload{url: url, file: filepath.Join(h.dir, name), size: n}
	f, err := os.Create(u.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := fillFile(f, n); err != nil {
		return nil, err
	}
	return u, h.sign(ctx, u, "UNSIGNED-PAYLOAD", nil)
}

// chunkedUpload signs n bytes in chunks. What was signed for one URL may be sent to
// another that does not look: the bytes are the same.
func (h *house) chunkedUpload(ctx context.Context, url, name string, n int64) (*upload, error) {
	u := &upload{url: url, file: filepath.Join(h.dir, name)}
	// A chunk is size ";chunk-signature=" 64 digits CRLF data CRLF (extproc/s3 has the source).
	overhead := func(size int64) int64 { return int64(len(strconv.FormatInt(size, 16))) + 17 + 64 + 4 }
	u.size = n/chunkSize*(chunkSize+overhead(chunkSize)) + overhead(0)
	if n%chunkSize != 0 {
		return nil, fmt.Errorf("%d bytes are not whole chunks", n)
	}
	extra := http.Header{
		"Content-Encoding":             {"aws-chunked"},
		"X-Amz-Decoded-Content-Length": {strconv.FormatInt(n, 10)},
	}
	if err := h.sign(ctx, u, signedChunks, extra); err != nil {
		return nil, err
	}
	_, seed, _ := strings.Cut(u.header.Get("Authorization"), "Signature=")
	chunks := protocoltest.Chunks{Secret: h.key.Secret, Date: u.header.Get("X-Amz-Date"), Region: provider.Region, Seed: seed}
	f, err := os.Create(u.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := strings.Repeat("0123456789abcdef", chunkSize/16)
	for range n / chunkSize {
		if _, err := f.WriteString(chunks.Chunk(data)); err != nil {
			return nil, err
		}
	}
	if _, err := f.WriteString(chunks.Chunk("") + "\r\n"); err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.Size() != u.size {
		return nil, fmt.Errorf("the body has %d bytes and was signed for %d: %w", info.Size(), u.size, err)
	}
	return u, nil
}

func fillFile(f *os.File, n int64) error {
	block := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	for left := n; left > 0; {
		m, err := f.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			return err
		}
		left -= int64(m)
	}
	return nil
}

// sign signs with the repository key, for the next 15 minutes.
func (h *house) sign(ctx context.Context, u *upload, payload string, extra http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.url, nil)
	if err != nil {
		return err
	}
	req.ContentLength = u.size
	for name, values := range extra {
		req.Header[name] = values
	}
	req.Header.Set("X-Amz-Content-Sha256", payload)
	err = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(ctx,
		aws.Credentials{AccessKeyID: h.key.Key, SecretAccessKey: h.key.Secret}, req, payload, "s3", provider.Region, time.Now())
	u.header = req.Header
	return err
}

// at is the same upload sent elsewhere.
func (u *upload) at(url string) *upload {
	other := *u
	other.url = url
	return &other
}

// send sends it once. The provider must have had every byte.
func (u *upload) send(ctx context.Context, c *http.Client) (time.Duration, error) {
	f, err := os.Open(u.file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.url, f)
	if err != nil {
		return 0, err
	}
	req.Header, req.ContentLength = u.header, u.size
	start := time.Now()
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if got := res.Header.Get("X-Bench-Bytes"); res.StatusCode != http.StatusOK || got != strconv.FormatInt(u.size, 10) {
		return 0, fmt.Errorf("PUT %s: %s; %s of %d bytes arrived: %s", u.url, res.Status, got, u.size, body)
	}
	return took, nil
}

// uploadTarget is one configuration that uploads go through.
type uploadTarget struct {
	name      string
	upload    *upload
	envoy     int // process ids
	processor int // 0: there is none

	seconds, envoyCPU, cpu []float64
}

// uploadRow is what is told of it.
type uploadRow struct {
	Name         string  `json:"name"`
	Rate         float64 `json:"mib_per_s"`
	EnvoyCPU     float64 `json:"envoy_cpu_ms"`
	ProcessorCPU float64 `json:"processor_cpu_ms"`
}

// uploads measures one upload at a time, of 1 GiB, and what one of a single byte costs
// the bridge.
func (h *house) uploads(ctx context.Context, o options, ratios map[string]float64) ([]uploadRow, error) {
	const path = "/" + uploads + "/" + object
	unsigned, err := h.plainUpload(ctx, h.endpoints.S3+path, "unsigned", uploadSize)
	if err != nil {
		return nil, err
	}
	tiny, err := h.plainUpload(ctx, h.endpoints.S3+path, "tiny", 1)
	if err != nil {
		return nil, err
	}
	if err := h.checkChunks(ctx); err != nil {
		return nil, err
	}
	chunked, err := h.chunkedUpload(ctx, h.endpoints.S3+path, "chunked", uploadSize)
	if err != nil {
		return nil, err
	}
	targets := []*uploadTarget{
		{name: "unsigned, plain Envoy", upload: unsigned.at("http://" + h.ports["plain"] + path), envoy: h.envoy.pid},
		{name: "unsigned, Keybridge", upload: unsigned, envoy: h.kbEnvoy, processor: h.kbBridge},
		{name: "one byte, Keybridge", upload: tiny, envoy: h.kbEnvoy, processor: h.kbBridge},
		{name: "signed chunks, no-op echo", upload: chunked.at("http://" + h.ports["echo"] + path), envoy: h.envoy.pid, processor: h.noop.pid},
		{name: "signed chunks, Keybridge", upload: chunked, envoy: h.kbEnvoy, processor: h.kbBridge},
	}
	targets = slices.DeleteFunc(targets, func(t *uploadTarget) bool { return !strings.Contains(t.name, o.only) })
	for round := range o.rounds {
		for _, t := range targets {
			if err := t.measure(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d %-26s %6.2f s  Envoy %7.1f  processor %7.1f ms of CPU\n", round+1, t.name, t.seconds[round], t.envoyCPU[round], t.cpu[round])
		}
	}
	if o.only != "" {
		return nil, nil
	}
	faster := func(a, b *uploadTarget) float64 { // as a ratio of throughputs
		var v []float64
		for i := range a.seconds {
			v = append(v, b.seconds[i]/a.seconds[i])
		}
		return round(median(v), 3)
	}
	ratios["upload_vs_envoy"] = faster(targets[1], targets[0])
	ratios["chunked_vs_duplex_echo"] = faster(targets[4], targets[3])
	var rows []uploadRow
	for _, t := range targets {
		rows = append(rows, uploadRow{t.name, round(mib(t.upload.size)/median(t.seconds), 0), round(median(t.envoyCPU), 1), round(median(t.cpu), 2)})
	}
	return rows, nil
}

func (t *uploadTarget) measure(ctx context.Context) error {
	pids := [][]int{{t.envoy}, nil}
	if t.processor != 0 {
		pids[1] = []int{t.processor}
	}
	var before, after [2]time.Duration
	read := func(into *[2]time.Duration) (err error) {
		for i := range into {
			if into[i], err = proc.CPU(pids[i]...); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(&before); err != nil {
		return err
	}
	took, err := t.upload.send(ctx, http.DefaultClient)
	if err != nil {
		return err
	}
	if err := read(&after); err != nil {
		return err
	}
	t.seconds = append(t.seconds, took.Seconds())
	t.envoyCPU = append(t.envoyCPU, float64(after[0]-before[0])/1e6)
	t.cpu = append(t.cpu, float64(after[1]-before[1])/1e6)
	return nil
}

// checkChunks sends a small body of signed chunks to a server that verifies every one.
func (h *house) checkChunks(ctx context.Context) error {
	u, err := h.chunkedUpload(ctx, h.endpoints.S3+"/"+bucket+"/chunked", "small", 4*chunkSize)
	if err != nil {
		return err
	}
	f, err := os.Open(u.file)
	if err != nil {
		return err
	}
	defer f.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.url, f)
	if err != nil {
		return err
	}
	req.Header, req.ContentLength = u.header.Clone(), u.size
	req.Header.Set("x-bench-check", "s3")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		return fmt.Errorf("signed chunks through Keybridge: %s: %s", res.Status, body)
	}
	return nil
}
