package keeper_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"keybridge/keyshare/keeper/keepertest"
)

func TestMetrics(t *testing.T) {
	s := keepertest.New(t, 2, 2)
	server := s.Keepers[0].Start(t)
	numbers := func() map[string]float64 {
		t.Helper()
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(server.Metrics())
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		return out
	}
	want := map[string]float64{
		"keybridge_keeper_releases_total":           0,
		"keybridge_keeper_refusals_total denied":    0,
		"keybridge_keeper_refusals_total late":      0,
		"keybridge_keeper_refusals_total malformed": 0,
		"keybridge_keeper_refusals_total custody":   0,
		"keybridge_keeper_refusals_total internal":  0,
		"keybridge_keeper_refusals_total policy":    0,
		"keybridge_keeper_retired_shares":           0,
		"keybridge_keeper_holds_share":              1,
		"keybridge_keeper_audit_lines":              1, // of Accept
	}
	check := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, numbers()); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
	check("at first")

	v := visitAs(t, s, s.Bridge, s.Keepers[0])
	if _, _, err := v.release(); err != nil {
		t.Fatal(err)
	}
	want["keybridge_keeper_releases_total"]++
	want["keybridge_keeper_audit_lines"]++
	check("after a release")

	st, nonce := v.challenge()
	tr := v.transcript(nonce)
	share, err := v.send(st, request(tr, s.Control)) // signed by another
	v.refused(share, err, codes.PermissionDenied, "signature")
	want["keybridge_keeper_refusals_total denied"]++
	st, nonce = v.challenge()
	tr = v.transcript(nonce)
	tr.Reason = ""
	share, err = v.send(st, request(tr, s.Bridge))
	v.refused(share, err, codes.InvalidArgument, "reason")
	want["keybridge_keeper_refusals_total malformed"]++
	st, nonce = v.challenge()
	tr = v.transcript(nonce)
	tr.Epoch = 2
	if _, err := v.send(st, request(tr, s.Bridge)); err != nil {
		t.Fatal(err) // the newest manifest comes first
	}
	_, err = st.Recv()
	v.refused(nil, err, codes.FailedPrecondition, "in force")
	want["keybridge_keeper_refusals_total custody"]++
	check("after refusals")

	// A keeper that stops does not hold its share any more.
	server.Close()
	want["keybridge_keeper_holds_share"] = 0
	check("closed")
}
