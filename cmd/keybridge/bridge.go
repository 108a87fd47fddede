package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"keybridge/envoy"
	"keybridge/extproc"
	"keybridge/extproc/bridge"
	"keybridge/extproc/grant"
	"keybridge/extproc/llm"
	"keybridge/extproc/s3"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/seal"
	"keybridge/xds/translate"
)

func bridgeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Run the node that decides for an Envoy and holds provider credentials",
		Long: `Collects shares from keepers until it can open the sealed records of its
workspaces, then answers its Envoy's ext_proc requests and is its ADS server, both
over unix sockets in --dir. --health answers /live while the process runs and
/ready once it is unsealed and in sync, with what is missing until then.`,
		Example: `  keybridge bridge --dir /var/lib/keybridge-bridge --operator-root root.pub --manifest manifest.json \
    --control control.internal:7443 --keeper keeper-1=k1.internal:7001 --keeper keeper-2=k2.internal:7001`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	dir := f.String("dir", "", "state directory with identity.key; the sockets for Envoy are made here")
	root := f.String("operator-root", "", "public half of the operator root")
	manifest := f.String("manifest", "", "signed manifest to start with; newer ones are learned from keepers and control plane, and kept in --dir")
	control := f.String("control", "", "control plane, host:port")
	keepers := f.StringArray("keeper", nil, "keeper as name=host:port; repeat")
	health := f.String("health", "", "address for /live, /ready and /metrics, e.g. 127.0.0.1:7080; empty: none")
	allow := f.StringArray("allow-endpoint", nil, "endpoint beyond public https: CIDR, host or host:port, http:// before it for plain HTTP; repeat")
	roots := f.String("system-roots", "", "CA bundle that providers are verified against; default: the system's")
	dns := f.StringArray("dns", nil, "DNS server for names of providers, IP or IP:PORT; default: the host's; repeat")
	maxStale := f.Duration("max-stale", 24*time.Hour, "how long to serve without the control plane")
	unlocked := f.Bool("allow-unlocked", false, "run even where memory cannot be locked")
	envoyUID := f.Int("envoy-uid", os.Getuid(), "user id that Envoy runs as")
	certificates := f.StringArray("tls", nil, "certificate of TLS listeners as NAME=CERT.pem,KEY.pem, loaded again when the files change; repeat")
	domains := f.StringArray("s3-domain", nil, "base domain of virtual-host style S3 requests (BUCKET.DOMAIN); repeat")
	region := f.String("region", "", "where this bridge is, for \"keybridge node list\"")
	urls := f.StringArray("url", nil, "where applications reach its listeners, for \"keybridge node list\"; S3 first; repeat")
	required(cmd, "dir", "operator-root", "manifest", "control", "keeper")
	cmd.AddCommand(enrolPeerCommand(identity.RoleBridge), revokePeerCommand(identity.RoleBridge))

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(*unlocked); err != nil {
			return err
		}
		defer lockedmem.Purge()
		addresses, err := pairs("keeper", *keepers)
		if err != nil {
			return err
		}
		endpoints, err := seal.ParseEndpointPolicy(*allow)
		if err != nil {
			return fmt.Errorf("--allow-endpoint: %w", err)
		}
		servers, err := dnsServers(*dns)
		if err != nil {
			return err
		}
		if *roots == "" {
			if *roots = envoy.SystemRoots(); *roots == "" {
				return errors.New("no system CA bundle found: name one with --system-roots")
			}
		}
		id, trust, err := loadIdentity(*dir, *root, *manifest)
		if err != nil {
			return err
		}
		conn, err := grpc.NewClient(*control,
			grpc.WithTransportCredentials(trust.Credentials(identity.ClientTLS(id, trust, identity.RoleControl, ""))),
			// gRPC's own back-off goes up to 2 minutes, for which revocations would not arrive.
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}, MinConnectTimeout: 5 * time.Second}),
			// A control plane that vanished without a FIN is noticed within seconds.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
		if err != nil {
			return err
		}
		defer conn.Close()

		tls, err := bridge.NewCertificates(*certificates, slog.Default())
		if err != nil {
			return fmt.Errorf("--tls: %w", err)
		}
		live := &grant.Live{}
		b, err := bridge.New(bridge.Config{
			Identity: id, Trust: trust, Control: conn, Keepers: addresses, Live: live,
			Protocols: map[string]extproc.Protocol{
				translate.AuthorityS3: s3.New(live, s3.Options{Domains: *domains}),
				translate.AuthorityAI: llm.New(live),
			},
			Dir: *dir, EnvoyUID: *envoyUID, Endpoints: endpoints, SystemRoots: *roots, DNS: servers,
			MaxStale: *maxStale, Certificates: tls, Logger: slog.Default(),
			Probers: map[grant.Provider]bridge.Prober{
				grant.ProviderS3: s3.Probe, grant.ProviderOpenAI: llm.Probe, grant.ProviderOther: llm.Probe, grant.ProviderAnthropic: llm.Probe,
			},
			Version: version(), Region: *region, URLs: *urls,
		})
		if err != nil {
			return err
		}
		if *health != "" {
			stop, err := serveHealth(cmd.Context(), *health, b)
			if err != nil {
				return err
			}
			defer stop()
		}
		return b.Run(cmd.Context())
	}
	return cmd
}

// dnsServers parses the values of --dns.
func dnsServers(values []string) (servers []netip.AddrPort, err error) {
	for _, v := range values {
		server, err := netip.ParseAddrPort(v)
		if err != nil {
			addr, err := netip.ParseAddr(v)
			if err != nil {
				return nil, fmt.Errorf("--dns %s: want an IP address, with or without a port, e.g. 10.0.0.2 or [fd00::2]:5353", v)
			}
			server = netip.AddrPortFrom(addr, 53)
		}
		if server.Port() == 0 || server.Addr().Zone() != "" || server.Addr().IsUnspecified() {
			return nil, fmt.Errorf("--dns %s: nobody can be asked there", v)
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// loadIdentity reads a process's own key and the manifest that it starts from: the
// one given, or a newer one that it has seen and kept in dir, so that a restart does
// not forget who was revoked.
func loadIdentity(dir, root, manifest string) (*identity.Identity, *identity.Trust, error) {
	id, err := identity.Load(filepath.Join(dir, identityFile))
	if err != nil {
		return nil, nil, err
	}
	pub, err := readRoot(root)
	if err != nil {
		return nil, nil, err
	}
	trust, err := identity.OpenTrust(pub, filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, nil, err
	}
	signed, err := os.ReadFile(manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("manifest: %w", err)
	}
	if _, err := trust.Update(signed); err != nil && !errors.Is(err, identity.ErrStale) {
		return nil, nil, fmt.Errorf("manifest %s: %w", manifest, err)
	}
	return id, trust, id.Follow(trust)
}

// serveHealth answers /live, /ready and /metrics until stop is called.
func serveHealth(ctx context.Context, addr string, b *bridge.Bridge) (stop func(), err error) {
	answer := func(ok func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if !ok() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_ = json.NewEncoder(w).Encode(b.Status()) // the prober went away
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", answer(func() bool { return b.State() != bridge.Purged }))
	mux.HandleFunc("GET /ready", answer(func() bool { return b.State() == bridge.Ready }))
	mux.Handle("GET /metrics", exposition(bridgeMetrics(b)))
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--health: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("health server ended", "error", err)
		}
	}()
	return func() {
		_ = server.Close() // probes may be cut off
		<-done
	}, nil
}
