package audit

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the log's numbers: keybridge_audit_lines, keybridge_audit_bytes and
// keybridge_audit_failures_total.
func (l *Log) Metrics() prometheus.Collector {
	lines := prometheus.NewDesc("keybridge_audit_lines", "Lines in the audit log.", nil, nil)
	size := prometheus.NewDesc("keybridge_audit_bytes", "Size of the audit log.", nil, nil)
	failures := prometheus.NewDesc("keybridge_audit_failures_total",
		"Events that could not be written, hence changes that were refused.", nil, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		l.mu.RLock()
		n, bytes := l.head.Lines, l.index.end
		l.mu.RUnlock()
		ch <- prometheus.MustNewConstMetric(lines, prometheus.GaugeValue, float64(n))
		ch <- prometheus.MustNewConstMetric(size, prometheus.GaugeValue, float64(bytes))
		ch <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(l.failures.Load()))
	})
}
