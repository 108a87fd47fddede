package main

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"keybridge/extproc/bridge"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/audit"
	"keybridge/xds"
	"keybridge/xds/link"
)

// registry is what one process exposes: its rooms' numbers and those of the
// process itself. docs/metrics.md lists them.
func registry(rooms ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keybridge_build_info", Help: "1, with the version that runs.", ConstLabels: prometheus.Labels{"version": version()},
		}, func() float64 { return 1 }))
	r.MustRegister(rooms...)
	return r
}

func controlMetrics(records store.Store, events *audit.Log, requests *api.Metrics, hub *link.Hub, ads *xds.Server, trust *identity.Trust) *prometheus.Registry {
	return registry(events.Metrics(), requests, hub.Metrics(), ads.Metrics(), revision(records), enrolments(trust))
}

func bridgeMetrics(b *bridge.Bridge) *prometheus.Registry { return registry(b.Metrics()...) }

func keeperMetrics(k *keeper.Server) *prometheus.Registry { return registry(k.Metrics()) }

// revision is absent while the store cannot be read.
func revision(records store.Store) prometheus.Collector {
	desc := prometheus.NewDesc("keybridge_store_revision", "Revision of the last write to the store.", nil, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if n, err := records.Revision(ctx); err == nil {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n))
		}
	})
}

// metricsHandler answers GET /metrics and nothing else. It asks for no token: its
// address is to be reached by the monitoring alone.
func metricsHandler(r *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", exposition(r))
	return mux
}

// exposition shows what can be had even if some of it cannot.
func exposition(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}
