package envoy

import (
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxSocketPath is what fits sun_path with its NUL (unix(7)).
const maxSocketPath = 107

const (
	// maxConnections is the cap on client connections of one Envoy, below which a
	// flood ends in refused connections and not in exhausted memory.
	maxConnections = 50_000
	// ownDescriptors are those that Envoy keeps for itself: listeners, files, its bridge. It has
	// 45 with two workers.
	ownDescriptors = 256
)

// connections is the cap for a process that may have so many descriptors: each connection of
// a client may need one to a provider. At the cap Envoy closes new connections; without
// descriptors it would leave them waiting, and have none for providers.
func connections(descriptors uint64) int64 {
	free := max(descriptors, ownDescriptors+2) - ownDescriptors
	return int64(min(maxConnections, free/2))
}

// adsCluster is the only static cluster.
const adsCluster = "keybridge_ads"

// Bootstrap is the configuration that Envoy starts with (JSON): who it is, the
// bridge's ADS socket, its admin socket, and how many descriptors it may have.
func Bootstrap(nodeID, adsSocket, adminSocket string, descriptors uint64) ([]byte, error) {
	if nodeID == "" {
		return nil, fmt.Errorf("envoy: no node id")
	}
	for _, path := range []string{adsSocket, adminSocket} {
		if n := len(path); n == 0 || n > maxSocketPath {
			return nil, fmt.Errorf("envoy: a unix socket's path has 1 to %d bytes, not %d: %q (choose a shorter directory)", maxSocketPath, n, path)
		}
	}
	http2, err := anypb.New(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						// A bridge that hangs is noticed, and the stream tried again.
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(30 * time.Second),
							Timeout:  durationpb.New(10 * time.Second),
						},
					},
				},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	connections, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: connections(descriptors)})
	if err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	// By default Envoy skips what follows a chunk beyond its size: two parsers could read
	// that differently, and a body that lacks it looks whole (measured with Envoy 1.40).
	runtime, err := structpb.NewStruct(map[string]any{"envoy.reloadable_features.strict_chunk_parsing": true})
	if err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	fromADS := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		// By default Envoy goes without after 15 s, and calls itself ready.
		InitialFetchTimeout: durationpb.New(0),
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: nodeID, Cluster: "keybridge"},
		Admin: &bootstrapv3.Admin{
			Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: adminSocket, Mode: 0o600}}},
		},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: fromADS,
			CdsConfig: fromADS,
			AdsConfig: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices: []*corev3.GrpcService{{
					TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
						ClusterName: adsCluster,
						// Envoy waits up to 30 s by default; the bridge is next door.
						RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
							BaseInterval: durationpb.New(100 * time.Millisecond),
							MaxInterval:  durationpb.New(time.Second),
						}},
					}},
				}},
			},
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{{
				Name:                          adsCluster,
				ConnectTimeout:                durationpb.New(time.Second),
				ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
				LoadAssignment: &endpointv3.ClusterLoadAssignment{
					ClusterName: adsCluster,
					Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
						HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
							Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: adsSocket}}},
						}},
					}}}},
				},
			}},
		},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name:           "keybridge",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: runtime},
		}}},
		OverloadManager: &overloadv3.OverloadManager{
			ResourceMonitors: []*overloadv3.ResourceMonitor{{
				Name:       "envoy.resource_monitors.global_downstream_max_connections",
				ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: connections},
			}},
		},
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	return protojson.MarshalOptions{Multiline: true}.Marshal(b)
}
