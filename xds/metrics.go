package xds

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the server's numbers, by the last part of the type's name: how many
// peers are connected (keybridge_xds_peers), have not answered the newest version
// (keybridge_xds_peers_behind) or rejected what they were sent last
// (keybridge_xds_peers_refusing), and keybridge_xds_nacks_total.
func (s *Server) Metrics() prometheus.Collector {
	label := []string{"type"}
	peers := prometheus.NewDesc("keybridge_xds_peers", "Peers that are connected and have asked for the type.", label, nil)
	behind := prometheus.NewDesc("keybridge_xds_peers_behind", "Connected peers that have not accepted the newest version they were sent.", label, nil)
	refusing := prometheus.NewDesc("keybridge_xds_peers_refusing", "Connected peers that have rejected a version and accepted no later one.", label, nil)
	nacks := prometheus.NewDesc("keybridge_xds_nacks_total", "Versions that peers rejected.", label, nil)
	return prometheus.CollectorFunc(func(ch chan<- prometheus.Metric) {
		type sums struct{ peers, behind, refusing, nacks float64 }
		byType := make(map[string]*sums, len(s.types))
		for _, t := range s.types {
			byType[t] = &sums{}
		}
		for _, st := range s.Status() {
			n := byType[st.TypeURL]
			if n == nil {
				continue // refused: not a type that is served
			}
			n.nacks += float64(st.Nacks)
			if !st.Connected {
				continue
			}
			n.peers++
			if !st.Answered || st.Acked < st.Sent {
				n.behind++
			}
			if st.Nacks > 0 && (!st.Answered || st.Nacked > st.Acked) {
				n.refusing++
			}
		}
		for t, n := range byType {
			name := t[strings.LastIndexByte(t, '.')+1:]
			ch <- prometheus.MustNewConstMetric(peers, prometheus.GaugeValue, n.peers, name)
			ch <- prometheus.MustNewConstMetric(behind, prometheus.GaugeValue, n.behind, name)
			ch <- prometheus.MustNewConstMetric(refusing, prometheus.GaugeValue, n.refusing, name)
			ch <- prometheus.MustNewConstMetric(nacks, prometheus.CounterValue, n.nacks, name)
		}
	})
}
