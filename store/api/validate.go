package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"keybridge/store"
)

// This file has bridges try credentials: before a connector is stored, and when
// asked to. The control plane itself never calls a provider, nor could it.

const (
	// probeTimeout is above the 10 s that a bridge gives a provider.
	probeTimeout = 15 * time.Second
	// maxProviderText bounds what is passed on of a provider's own words.
	maxProviderText = 512
)

var (
	errNoBridge = &failure{http.StatusServiceUnavailable, "NO_BRIDGE",
		"no bridge is connected that could try the credential (a create or update with ?validate=false does without)"}
	errProbe = &failure{http.StatusServiceUnavailable, "PROBE_FAILED", "the bridge did not tell in time what the provider says"}
)

// refusal is a provider's own error.
func refusal(message string) error {
	return &failure{http.StatusBadRequest, "PROVIDER_REFUSED", message}
}

// tried is what a successful try adds to an answer.
type tried struct {
	Status  string `json:"status,omitempty"`
	Latency *int64 `json:"latency_ms,omitempty"`
}

func showTried(r *ProbeResult) tried {
	if r == nil {
		return tried{}
	}
	ms := r.Latency.Milliseconds()
	return tried{StatusOnline, &ms}
}

func probeOf(c *store.Connector) *Probe {
	return &Probe{Workspace: c.M.Workspace, Type: c.Type, Bucket: c.Bucket, Region: c.Region, CACertificate: c.CACertificate}
}

// probe asks the fleet. A provider that refuses is a result. secret, if it was
// sent in clear, does not come back in the provider's words.
func (s *server) probe(ctx context.Context, p *Probe, secret secretText) (*ProbeResult, error) {
	if s.Fleet == nil {
		return nil, errNoBridge
	}
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	r, err := s.Fleet.Probe(limited, *p)
	switch {
	case errors.Is(err, ErrNoBridge):
		return nil, errNoBridge
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		s.Logger.WarnContext(ctx, "probe failed", "workspace", p.Workspace, "error", err)
		return nil, errProbe
	}
	r.Message = providerText(r.Message, secret)
	if !r.OK && r.Message == "" {
		r.Message = "the provider refused, without saying why"
	}
	return &r, nil
}

// providerText is what a provider said as one line of bounded length without the secret
// and its session token.
func providerText(s string, secret secretText) string {
	b := []byte(s)
	for part := range bytes.SplitSeq(secret, []byte{0}) {
		if len(part) > 0 {
			b = bytes.ReplaceAll(b, part, []byte(redacted))
		}
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "�"))
	if len(s) > maxProviderText {
		s = strings.ToValidUTF8(s[:maxProviderText], "") + "…"
	}
	return strings.TrimSpace(s)
}

// tryOut has a bridge try what decide is about to store, unless the caller says
// ?validate=false or there is no fleet to ask. It is done before anything is held
// or written. The region that a bucket turns out to be in is put into the form, if
// that has none.
func (s *server) tryOut(q *call, f *connectorForm, decide func() ([]store.Write, error)) (*ProbeResult, error) {
	if s.Fleet == nil || q.query("validate") == "false" {
		return nil, nil
	}
	for again := false; ; again = true {
		writes, err := decide()
		if err != nil || f.probe == nil {
			return nil, err
		}
		if err := s.checkNames(q.Context(), writes); err != nil {
			return nil, err
		}
		p := f.probe
		r, err := s.probe(q.Context(), p, f.secret)
		if err != nil {
			return nil, err
		}
		// Regions of services other than AWS may be empty, or no such word.
		learned := r.Region != "" && r.Region != p.Region && p.Type == store.TypeS3 && checkRegion(r.Region) == nil
		switch {
		case r.OK && learned && f.region == "":
			if c, ok := writes[0].Record.(*store.Connector); ok {
				f.endpoint = c.Endpoint // not the default of the other region: this one was tried
			}
			f.region = r.Region
			return r, nil
		case r.OK:
			return r, nil
		case learned && f.region == "" && f.sealed == nil && !again:
			f.region = r.Region
		case learned:
			return nil, refusal(r.Message + " (the bucket is in region " + r.Region + ")")
		default:
			return nil, refusal(r.Message)
		}
	}
}

// validation reads the body of a validate route: the connector in the path as the
// body would make it, with a stored secret only where that is sealed for.
func (s *server) validation(q *call, f *connectorForm, storage bool) (*ProbeResult, error) {
	c, _, err := s.changedConnector(q, f, storage)
	if err != nil {
		return nil, err
	}
	if f.probe == nil {
		f.probe = &Probe{Connector: c.M.ID, Workspace: c.M.Workspace, Type: c.Type}
	}
	return s.probe(q.Context(), f.probe, f.secret)
}

func (s *server) validateBucket(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readBucketForm(q, b)
	defer f.wipe()
	if err := f.check(b); err != nil {
		return nil, err
	}
	r, err := s.validation(q, f, true)
	if err != nil {
		return nil, err
	}
	if !r.OK {
		return nil, refusal(r.Message)
	}
	return struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
		tried
	}{true, "the provider accepts the credential", showTried(r)}, nil
}

// validateLLM answers 200 when the provider refuses, too: that is an answer.
func (s *server) validateLLM(q *call) (any, error) {
	b, err := readBody(q)
	if err != nil {
		return nil, err
	}
	defer b.wipe()
	f := readLLMForm(q, b)
	defer f.wipe()
	if err := f.check(b); err != nil {
		return nil, err
	}
	r, err := s.validation(q, f, false)
	if err != nil {
		return nil, err
	}
	type answer struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
		tried
		Models []modelName `json:"models,omitempty"`
	}
	if !r.OK {
		return answer{Message: r.Message}, nil
	}
	out := answer{Success: true, Message: "the provider accepts the credential", tried: showTried(r)}
	for _, m := range r.Models {
		out.Models = append(out.Models, showModel(m))
	}
	return out, nil
}
