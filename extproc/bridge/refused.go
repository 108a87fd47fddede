package bridge

import (
	"crypto/subtle"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keybridge/extproc"
	configv1 "keybridge/xds/config/v1"
)

const (
	// suspectEvery bounds how often a provider is asked because of what requests met.
	suspectEvery = 10 * time.Second
	// warnEvery bounds how often the log says so of one connector.
	warnEvery = time.Minute
)

// refusals counts the answers with which providers refuse the bridge's credentials.
type refusals struct {
	failures *prometheus.CounterVec
	codes    map[string][]string // by protocol
}

// otherCode stands for codes that a protocol did not announce.
const otherCode = "other"

func newRefusals(cfg *Config) refusals {
	r := refusals{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybridge_provider_auth_failures_total",
			Help: "Requests that a provider refused for the bridge's own credential, by the provider's error code.",
		}, []string{"protocol", "code"}),
		codes: map[string][]string{},
	}
	for _, p := range cfg.Protocols {
		reviewer, ok := p.(extproc.Reviewer)
		if !ok {
			continue
		}
		codes := reviewer.RefusalCodes()
		r.codes[p.Name()] = codes
		for _, code := range codes { // there, at zero, from the start
			r.failures.WithLabelValues(p.Name(), code)
		}
	}
	return r
}

func (r *refusals) count(protocol, code string) {
	if !slices.Contains(r.codes[protocol], code) {
		code = otherCode
	}
	r.failures.WithLabelValues(protocol, code).Inc()
}

// refused implements extproc.Options.Refused: the provider of the connectors that the
// answer may be about is asked at once, so that their status says what is the matter.
func (b *Bridge) refused(protocol, cluster string, r *extproc.Refusal) (known bool) {
	known, warn := b.catalog.suspect(cluster, r, time.Now())
	if known || !r.Pass {
		b.refusals.count(protocol, r.Code)
		for _, c := range warn {
			b.cfg.Logger.Warn("the provider refuses the credential of a connector", "code", r.Code, "connector", c.Id, "name", c.Name, "workspace", c.Workspace)
		}
	}
	return known
}

// trouble is what requests have met at an entry's provider.
type trouble struct {
	cluster   string
	denied    bool // the provider refuses the credential, by what came last of requests and probes
	suspected time.Time
	again     bool // ask once more when the call that runs has ended
	warned    time.Time
}

// suspect finds the entries that an answer may be about and has their providers asked.
// It is known to be a refusal if the credential of one of them was refused before.
func (c *catalog) suspect(cluster string, r *extproc.Refusal, now time.Time) (known bool, warn []*configv1.Connector) {
	rouse := false
	c.mu.Lock()
	for _, e := range c.entries {
		if e.cred == nil || e.cluster != cluster || !e.asked(r) {
			continue
		}
		e.denied = e.denied || r.Certain
		known = known || e.denied
		if now.Sub(e.suspected) >= suspectEvery {
			e.suspected, rouse = now, true
			if e.asking {
				e.again = true
			} else {
				e.due = now
			}
		}
		if (e.denied || !r.Pass) && now.Sub(e.warned) >= warnEvery {
			e.warned = now
			warn = append(warn, e.connector)
		}
	}
	c.mu.Unlock()
	if rouse {
		c.rouse()
	}
	return known, warn
}

// asked says whether the entry's credential is the one that the provider was asked
// with, and, where that shows, for its bucket.
func (e *entry) asked(r *extproc.Refusal) bool {
	switch {
	case r.KeyID != "":
		return e.cred.Key() == r.KeyID && (e.connector.Bucket == r.Bucket || e.connector.Bucket == "*")
	case r.Secret != "":
		return subtle.ConstantTimeCompare(e.cred.Secret().Bytes(), []byte(r.Secret)) == 1
	}
	return false
}
