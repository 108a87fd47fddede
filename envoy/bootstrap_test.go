package envoy_test

import (
	"encoding/json"
	"testing"

	"keybridge/envoy"
)

// TestConnectionsFitDescriptors: for every connection of a client there is a descriptor left
// for one to a provider, and some for Envoy itself.
func TestConnectionsFitDescriptors(t *testing.T) {
	for descriptors, want := range map[uint64]string{
		0: "1", 257: "1", 258: "1", 260: "2", 1024: "384", 20_000: "9872", 100_256: "50000", 1 << 20: "50000", 1<<64 - 1: "50000",
	} {
		text, err := envoy.Bootstrap("node", "/run/ads.sock", "/run/admin.sock", descriptors)
		if err != nil {
			t.Fatal(err)
		}
		var bootstrap struct {
			OverloadManager struct {
				ResourceMonitors []struct {
					TypedConfig struct{ MaxActiveDownstreamConnections string }
				}
			}
		}
		if err := json.Unmarshal(text, &bootstrap); err != nil {
			t.Fatal(err)
		}
		if got := bootstrap.OverloadManager.ResourceMonitors[0].TypedConfig.MaxActiveDownstreamConnections; got != want {
			t.Errorf("%d descriptors, %s connections, want %s", descriptors, got, want)
		}
	}
}
