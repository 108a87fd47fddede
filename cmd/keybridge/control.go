package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/seal"
	"keybridge/store"
	"keybridge/store/api"
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
	path := f.String("store", "", "embedded store, made by `keybridge init`")
	admin := f.String("admin", "127.0.0.1:7080", "address of the admin API (plain HTTP: keep it on loopback or behind TLS)")
	bridges := f.String("bridges", "", "address for bridges (mutual TLS)")
	listeners := f.StringArray("listener", nil, "what bridges' Envoys listen on: s3=IP:PORT or ai=IP:PORT; repeat")
	allow := f.StringArray("allow-endpoint", nil, "as for `keybridge bridge`; connectors with other endpoints are refused")
	required(cmd, "dir", "operator-root", "store", "bridges", "listener")

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
		records, err := bolt.Open(*path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, records.Close()) }()
		c := &control{store: records, trust: identity.NewTrust(pub), endpoints: endpoints, listeners: configured}
		return c.run(cmd.Context(), id, *admin, *bridges)
	}
	return cmd
}

type control struct {
	store     store.Store
	trust     *identity.Trust
	endpoints seal.EndpointPolicy
	listeners []*configv1.Listener
}

func (c *control) run(ctx context.Context, id *identity.Identity, admin, bridges string) error {
	rec, err := c.store.Get(ctx, store.KindCustody, store.CustodyID)
	if errors.Is(err, store.ErrNotFound) {
		return errors.New("the store has no manifest: run `keybridge init` with this --store first")
	} else if err != nil {
		return err
	}
	custody := rec.(*store.Custody)
	if _, err := c.trust.Update(custody.Manifest); err != nil {
		return fmt.Errorf("manifest in the store: %w", err)
	}

	var feed *snapshot.Feed
	ads, err := xds.NewServer(xds.Config{
		Types: xds.BridgeTypes(),
		Authorize: func(ctx context.Context) (node, group string, err error) {
			peer, err := c.trust.Peer(ctx)
			if err != nil {
				return "", "", err
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
		grpc.Creds(credentials.NewTLS(identity.ServerTLS(id, c.trust, identity.RoleBridge))),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	ads.Register(server)
	link.RegisterLinkServer(server, link.NewServer(linkSource{c.store}, c.trust.Peer))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return c.followManifest(ctx, custody.M.Revision) })
	g.Go(func() error { return serveGRPC(ctx, server, bridges) })
	g.Go(func() error {
		return serveHTTP(ctx, admin, api.New(api.Config{
			Store: c.store, Seal: c.sealingKey, Manifest: c.trust.Signed, Policy: c.endpoints, Logger: slog.Default(),
		}))
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// followManifest takes newer manifests from the store, so that who was revoked is refused at once.
func (c *control) followManifest(ctx context.Context, from uint64) error {
	for events, err := range c.store.Watch(ctx, from) {
		if err != nil {
			return err
		}
		for _, e := range events {
			if custody, ok := e.Record.(*store.Custody); ok {
				if _, err := c.trust.Update(custody.Manifest); err != nil {
					slog.Error("manifest in the store refused", "error", err)
				}
			}
		}
	}
	return ctx.Err()
}

func (c *control) sealingKey() (*seal.PublicKey, error) {
	for _, k := range c.trust.Manifest().SealingKeys {
		if k.Current {
			return seal.ParsePublicKey([]byte(k.PEM))
		}
	}
	return nil, errors.New("the manifest names no current sealing key")
}

func parseListeners(flags []string) (out []*configv1.Listener, err error) {
	protocols := map[string]configv1.Protocol{"s3": configv1.Protocol_S3, "ai": configv1.Protocol_AI}
	named, err := pairs("listener", flags)
	if err != nil {
		return nil, err
	}
	for name, addr := range named {
		protocol, ok := protocols[name]
		if !ok {
			return nil, fmt.Errorf("--listener %s: speaks s3 or ai", name)
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("--listener %s: %w", name, err)
		}
		if net.ParseIP(host) == nil {
			return nil, fmt.Errorf("--listener %s: %q is not an IP address", name, host)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("--listener %s: bad port %q", name, port)
		}
		out = append(out, &configv1.Listener{Name: name, Protocol: protocol, Address: host, Port: uint32(n)})
	}
	return out, nil
}

// serveHTTP serves until ctx ends, then lets requests finish for a while.
func serveHTTP(ctx context.Context, addr string, handler http.Handler) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("admin API", "address", lis.Addr().String())
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
