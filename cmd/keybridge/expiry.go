package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keybridge/keyshare/identity"
	"keybridge/store/api"
)

const (
	// expirySoon is how long before an enrolment ends people are told: time for a
	// ceremony with an operator root that is in a safe.
	expirySoon = 14 * 24 * time.Hour
	// expiryEvery is how often the log repeats it.
	expiryEvery = 12 * time.Hour
)

// expiring are the enrolments that end soon by the manifest in force, or have ended.
func expiring(t *identity.Trust, now time.Time) (out []api.Expiring) {
	m := t.Manifest()
	if m == nil {
		return nil
	}
	for _, e := range m.Expiring(now.Add(expirySoon)) {
		out = append(out, api.Expiring(e))
	}
	return out
}

// warnOfExpiry logs what ends soon, now, with every new manifest and twice a day.
func warnOfExpiry(ctx context.Context, t *identity.Trust) error {
	tick := time.NewTicker(expiryEvery)
	defer tick.Stop()
	for {
		changed := t.Changed()
		for _, e := range expiring(t, time.Now()) {
			slog.Warn("an enrolment ends: its peers refuse it from then on", "role", e.Role, "name", e.Name, "ends", e.NotAfter)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enrolments has the end of every enrolment that has one.
func enrolments(t *identity.Trust) prometheus.Collector {
	desc := prometheus.NewDesc("keybridge_enrolment_ends_timestamp_seconds",
		"When an enrolment in the manifest ends by itself, in Unix time; absent for one that does not.", []string{"role", "name"}, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		m := t.Manifest()
		if m == nil {
			return
		}
		for _, e := range m.Expiring(time.Unix(1<<40, 0)) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(e.NotAfter.Unix()), e.Role, e.Name)
		}
	})
}
