package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/audit"
	"keybridge/store/bolt"
	"keybridge/xds"
	configv1 "keybridge/xds/config/v1"
	"keybridge/xds/link"
	"keybridge/xds/snapshot"
)

func controlCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run the control plane: admin API, store, feeds to bridges",
		Example: `  keybridge control --dir /var/lib/keybridge --operator-root root.pub --store /var/lib/keybridge/keybridge.db \
    --admin 127.0.0.1:7080 --bridges :7443 --listener s3=0.0.0.0:9000 --listener ai=0.0.0.0:9001`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	dir := f.String("dir", "", "state directory with identity.key")
	root := f.String("operator-root", "", "public half of the operator root")
	path := f.String("store", "", "embedded store, made by \"keybridge init\"")
	admin := f.String("admin", "127.0.0.1:7080", "address of the admin API (plain HTTP: keep it on loopback or behind TLS)")
	bridges := f.String("bridges", "", "address for bridges (mutual TLS)")
	listeners := f.StringArray("listener", nil, "what bridges' Envoys listen on: s3=IP:PORT or ai=IP:PORT, with ,tls=NAME to speak TLS with the bridge's certificate of that name; repeat")
	auditFile := f.String("audit", "", "hash-chained audit log; default: audit.log in --dir")
	metrics := f.String("metrics", "", "address for /metrics, e.g. 127.0.0.1:7081; empty: none")
	allow := f.StringArray("allow-endpoint", nil, "as for \"keybridge bridge\"; connectors with other endpoints are refused")
	required(cmd, "dir", "operator-root", "store", "bridges", "listener")
	cmd.AddCommand(enrolPeerCommand(identity.RoleControl), revokePeerCommand(identity.RoleControl))

	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		endpoints, err := seal.ParseEndpointPolicy(*allow)
		if err != nil {
			return fmt.Errorf("--allow-endpoint: %w", err)
		}
		configured, err := parseListeners(*listeners)
		if err != nil {
			return err
		}
		id, err := identity.Load(filepath.Join(*dir, identityFile))
		if err != nil {
			return err
		}
		pub, err := readRoot(*root)
		if err != nil {
			return err
		}
		trust, err := identity.OpenTrust(pub, filepath.Join(*dir, manifestFile))
		if err != nil {
			return err
		}
		records, err := bolt.Open(*path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, records.Close()) }()
		if *auditFile == "" {
			*auditFile = filepath.Join(*dir, "audit.log")
		}
		events, err := audit.Open(*auditFile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, events.Close()) }()
		slog.Info("audit log", "head", events.Head().String()) // kept elsewhere, it shows lines cut off the end
		c := &control{
			store: records, audit: events, root: pub, trust: trust, endpoints: endpoints, listeners: configured,
			admin: *admin, bridges: *bridges, metrics: *metrics,
		}
		return c.run(cmd.Context(), id)
	}
	return cmd
}

type control struct {
	store     store.Store
	audit     *audit.Log
	root      ed25519.PublicKey
	trust     *identity.Trust
	endpoints seal.EndpointPolicy
	listeners []*configv1.Listener
	// Addresses; metrics may be empty.
	admin, bridges, metrics string
}

func (c *control) run(ctx context.Context, id *identity.Identity) error {
	rec, err := c.store.Get(ctx, store.KindCustody, store.CustodyID)
	if errors.Is(err, store.ErrNotFound) {
		return errors.New("the store has no manifest: run \"keybridge init\" with this --store first")
	} else if err != nil {
		return err
	}
	custody := rec.(*store.Custody)
	if _, err := c.trust.Update(custody.Manifest); errors.Is(err, identity.ErrStale) {
		// The newer one, which this process has seen, stays in force: who was revoked since
		// is still refused. Bridges and keepers do not take the older one either.
		slog.Error("the store was rolled back: bring back what is missing with \"keybridge restore\"", "error", err)
	} else if err != nil {
		return fmt.Errorf("manifest in the store: %w", err)
	}
	if err := id.Follow(c.trust); err != nil {
		return err
	}

	var feed *snapshot.Feed
	ads, err := xds.NewServer(xds.Config{
		Types: xds.BridgeTypes(),
		Authorize: func(ctx context.Context) (node, group string, err error) {
			peer, err := c.trust.Peer(ctx)
			if err != nil {
				return "", "", err
			}
			if peer.Role != identity.RoleBridge {
				return "", "", fmt.Errorf("%s %q is not a bridge", peer.Role, peer.Name)
			}
			group, err = feed.Group(ctx, peer.Workspaces)
			return peer.Name, group, err
		},
		Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	defer ads.Close()
	feed = snapshot.New(snapshot.Config{Store: c.store, Sink: ads, Listeners: c.listeners, Log: slog.Default()})
	server := grpc.NewServer(
		grpc.Creds(c.trust.Credentials(identity.ServerTLS(id, c.trust, identity.RoleBridge, identity.RoleOperator))),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	ads.Register(server)
	hub := link.NewHub(slog.Default())
	hub.Manifest = c.trust.Signed
	link.RegisterLinkServer(server, link.NewServer(linkSource{c.store, c.sealingKeyID}, hub, c.trust.Peer))
	link.RegisterCustodianServer(server, link.NewCustodian(c.root, &custodySafe{store: c.store, audit: c.audit}, hub, c.trust.Peer))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return c.followManifest(ctx, custody.M.Revision, hub.Announce) })
	g.Go(func() error { return warnOfExpiry(ctx, c.trust) })
	g.Go(func() error { return watchRepointed(ctx, c.store, c.audit) })
	g.Go(func() error { return serveGRPC(ctx, server, c.bridges) })
	requests := api.NewMetrics()
	if c.metrics != "" {
		g.Go(func() error {
			return serveHTTP(ctx, "metrics", c.metrics, metricsHandler(controlMetrics(c.store, c.audit, requests, hub, ads, c.trust)))
		})
	}
	g.Go(func() error {
		return serveHTTP(ctx, "admin API", c.admin, api.New(api.Config{
			Store: c.store, Seal: c.sealingKey, Manifest: c.trust.Signed, Policy: c.endpoints,
			Fleet: fleet{hub, ads}, Expiring: func() []api.Expiring { return expiring(c.trust, time.Now()) }, Audit: c.audit, Metrics: requests, Logger: slog.Default(),
		}))
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// followManifest takes newer manifests from the store, so that who was revoked is
// refused at once, and announces them to bridges.
func (c *control) followManifest(ctx context.Context, from uint64, announce func()) error {
	for events, err := range c.store.Watch(ctx, from) {
		if err != nil {
			return err
		}
		for _, e := range events {
			if custody, ok := e.Record.(*store.Custody); ok {
				changed, err := c.trust.Update(custody.Manifest)
				if err != nil {
					slog.Error("manifest in the store refused", "error", err)
				}
				if changed {
					slog.Info("manifest in force", "version", c.trust.Manifest().Version)
					announce()
				}
			}
		}
	}
	return ctx.Err()
}

func (c *control) sealingKey() (*seal.PublicKey, error) {
	return seal.ParsePublicKey([]byte(c.trust.Manifest().CurrentSealingKey().PEM))
}

func (c *control) sealingKeyID() string { return c.trust.Manifest().CurrentSealingKey().ID }

func parseListeners(flags []string) (out []*configv1.Listener, err error) {
	named, err := pairs("listener", flags)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		l, err := parseListener(name, named[name])
		if err != nil {
			return nil, fmt.Errorf("--listener %s: %w", name, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// parseListener reads IP:PORT, or IP:PORT,tls=NAME.
func parseListener(name, value string) (*configv1.Listener, error) {
	protocols := map[string]configv1.Protocol{"s3": configv1.Protocol_S3, "ai": configv1.Protocol_AI}
	protocol, ok := protocols[name]
	if !ok {
		return nil, errors.New("speaks s3 or ai")
	}
	addr, certificate, secure := strings.Cut(value, ",tls=")
	if secure && certificate == "" {
		return nil, errors.New("tls= needs the name of a certificate")
	}
	bind, err := netip.ParseAddrPort(addr)
	if err != nil || bind.Port() == 0 {
		return nil, fmt.Errorf("%q is not IP:PORT", addr)
	}
	return &configv1.Listener{
		Name: name, Protocol: protocol, Address: bind.Addr().String(), Port: uint32(bind.Port()), Certificate: certificate,
	}, nil
}

// serveHTTP serves until ctx ends, then lets requests finish for a while.
func serveHTTP(ctx context.Context, what, addr string, handler http.Handler) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	slog.Info(what, "address", lis.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // what did not finish in time is cut off
		}
	})
	if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	<-stopped
	return nil
}
