package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcplog "github.com/envoyproxy/go-control-plane/pkg/log"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	deltav3 "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	sotwv3 "github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	configv1 "keybridge/xds/config/v1"
)

// BridgeTypes are the type URLs that a control plane serves to bridges.
func BridgeTypes() []string {
	return []string{
		typeURL(&configv1.Listener{}),
		typeURL(&configv1.Connector{}),
		typeURL(&configv1.Repository{}),
	}
}

// EnvoyTypes are the type URLs that a bridge serves to its Envoy.
func EnvoyTypes() []string {
	return []string{resourcev3.ListenerType, resourcev3.RouteType, resourcev3.ClusterType, resourcev3.SecretType}
}

func typeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// Config is what a Server needs.
type Config struct {
	// Types are the type URLs served; a request for any other ends the stream.
	Types []string
	// Authorize names the peer of a new stream and the group that it sees. An
	// error refuses the stream (PermissionDenied, unless it is a gRPC status).
	Authorize func(ctx context.Context) (node, group string, err error)
	// Gone, if set, is told that a stream has ended and Status says so.
	Gone func()
	// Log gets rejections and refused peers; nil discards.
	Log *slog.Logger
}

// Server is an aggregated discovery server. Its methods may be called from
// several goroutines.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	authorize func(ctx context.Context) (node, group string, err error)
	types     []string
	log       *slog.Logger
	prefix    string
	stop      context.CancelFunc
	delta     deltav3.Server
	sotw      sotwv3.Server
	status    *tracker

	mu     sync.RWMutex
	groups map[string]*group
}

// group is one set of resources per type, all seen by the same peers.
type group struct {
	mu    sync.Mutex // serialises updates, so that versions and contents agree
	types map[string]*resources
}

type resources struct {
	cache   *cachev3.LinearCache
	now     map[string]proto.Message
	version uint64 // mirrors the cache's counter
	given   bool   // Set has said what there is
}

// whole says whether every type has been set.
func (g *group) whole() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.types {
		if !r.given {
			return false
		}
	}
	return true
}

// NewServer makes a server without groups. Close ends it.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Authorize == nil {
		return nil, errors.New("xds: no Authorize callback: every peer would be trusted")
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		authorize: cfg.Authorize,
		types:     slices.Clone(cfg.Types),
		log:       log,
		prefix:    strconv.FormatInt(time.Now().UnixNano(), 36) + "-",
		stop:      stop,
		groups:    make(map[string]*group),
	}
	s.status = newTracker(s.prefix, log)
	cb := &callbacks{server: s, tracker: s.status, gone: cfg.Gone}
	s.delta = deltav3.NewServer(ctx, (*caches)(s), cb)
	s.sotw = sotwv3.NewServer(ctx, (*caches)(s), cb)
	return s, nil
}

// Register serves ADS, and only ADS, on a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Close ends all streams.
func (s *Server) Close() { s.stop() }

// DeltaAggregatedResources implements the service.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.delta.DeltaStreamHandler(stream, resourcev3.AnyType)
}

// StreamAggregatedResources implements the service (state of the world).
func (s *Server) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.sotw.StreamHandler(stream, resourcev3.AnyType)
}

func (s *Server) newGroup() *group {
	g := &group{types: make(map[string]*resources, len(s.types))}
	for _, t := range s.types {
		g.types[t] = &resources{
			cache: cachev3.NewLinearCache(t,
				cachev3.WithVersionPrefix(s.prefix),
				cachev3.WithLogger(gcplog.NewDefaultLogger())),
			now: make(map[string]proto.Message),
		}
	}
	return g
}

// Set makes the resources of one type in a group exactly those given, by name,
// and returns the version that says so. What did not change is not sent again.
// The server keeps the messages; they must not be changed afterwards.
//
// Set makes the group if it is new. It is served once every type has been set:
// until then its peers are refused as unavailable, since an answer that leaves
// out what is yet to come would make a peer drop what it has, an Envoy its
// listeners among it.
func (s *Server) Set(groupName, typeURL string, all map[string]proto.Message) (version uint64, err error) {
	return s.change(groupName, typeURL, all, nil, true)
}

// Update sets and removes some resources of one type in a group, as Set does.
func (s *Server) Update(groupName, typeURL string, set map[string]proto.Message, remove []string) (version uint64, err error) {
	return s.change(groupName, typeURL, set, remove, false)
}

func (s *Server) change(groupName, typeURL string, set map[string]proto.Message, remove []string, replace bool) (uint64, error) {
	g := s.makeGroup(groupName)
	r := g.types[typeURL]
	if r == nil {
		return 0, fmt.Errorf("xds: type %s is not served", typeURL)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if replace {
		r.given = true
		for name := range r.now {
			if _, keep := set[name]; !keep {
				remove = append(remove, name)
			}
		}
	}
	changed := make(map[string]types.Resource)
	for name, m := range set {
		if old, ok := r.now[name]; !ok || !proto.Equal(old, m) {
			changed[name] = m
		}
	}
	remove = slices.DeleteFunc(slices.Clone(remove), func(name string) bool {
		_, known := r.now[name]
		return !known
	})
	if len(changed) == 0 && len(remove) == 0 {
		return r.version, nil
	}
	for name := range changed {
		r.now[name] = set[name]
	}
	for _, name := range remove {
		delete(r.now, name)
	}
	r.version++
	if err := r.cache.UpdateResources(changed, remove); err != nil {
		return 0, fmt.Errorf("xds: updating %s: %w", typeURL, err)
	}
	return r.version, nil
}

func (s *Server) makeGroup(name string) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	if g == nil {
		g = s.newGroup()
		s.groups[name] = g
	}
	return g
}

func (s *Server) group(name string) *group {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groups[name]
}

// Groups returns the names of the groups, sorted.
func (s *Server) Groups() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.groups))
}

// Status returns what each peer ever seen was sent and what it made of it,
// ordered by node and type.
func (s *Server) Status() []Status { return s.status.list() }

// WaitAcked returns once the node has accepted a response of the type that
// holds the given version or a later one; it returns a *NackError if the node
// rejected some resource of it instead. It is for types that the node
// subscribes to as a whole (listeners, clusters, the typed resources): a change
// outside a node's subscription is never sent to it.
func (s *Server) WaitAcked(ctx context.Context, node, typeURL string, version uint64) error {
	return s.status.wait(ctx, node, typeURL, version)
}

// caches finds the cache for a watch: go-control-plane's view of a Server. The
// node in a request is the one that callbacks put there.
type caches Server

func (c *caches) find(node *corev3.Node, typeURL string) (*cachev3.LinearCache, error) {
	g := (*Server)(c).group(node.GetCluster())
	if g == nil || !g.whole() {
		return nil, status.Errorf(codes.Unavailable, "no resources for %s yet", node.GetId())
	}
	r := g.types[typeURL]
	if r == nil {
		return nil, status.Errorf(codes.InvalidArgument, "type %s is not served here", typeURL)
	}
	return r.cache, nil
}

// CreateDeltaWatch implements cache.ConfigWatcher.
func (c *caches) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription, out chan cachev3.DeltaResponse) (func(), error) {
	cache, err := c.find(req.GetNode(), req.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	return cache.CreateDeltaWatch(req, sub, out)
}

// CreateWatch implements cache.ConfigWatcher.
func (c *caches) CreateWatch(req *cachev3.Request, sub cachev3.Subscription, out chan cachev3.Response) (func(), error) {
	cache, err := c.find(req.GetNode(), req.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	return cache.CreateWatch(req, sub, out)
}
