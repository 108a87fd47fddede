package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/lockedmem"
)

// lockFlags say what a keeper's share, or the operator root, is encrypted under at rest.
type lockFlags struct{ keyFile, passphraseFile *string }

func addLockFlags(cmd *cobra.Command) lockFlags {
	return lockFlags{
		cmd.Flags().String("key-file", "", "age key file that the secret at rest is encrypted under"),
		cmd.Flags().String("passphrase-file", "", "file with the passphrase instead, - for standard input"),
	}
}

func (f lockFlags) lock(cmd *cobra.Command) (keeper.Lock, error) {
	switch {
	case (*f.keyFile == "") == (*f.passphraseFile == ""):
		return keeper.Lock{}, errors.New("give either --key-file or --passphrase-file")
	case *f.keyFile != "":
		return keeper.KeyFileLock(*f.keyFile)
	}
	passphrase, err := readSecret(cmd, *f.passphraseFile)
	if err != nil {
		return keeper.Lock{}, err
	}
	defer lockedmem.Wipe(passphrase)
	return keeper.PassphraseLock(passphrase)
}

// harden prepares a process that will hold key material.
func harden(allowUnlocked bool) error {
	locked, err := lockedmem.Harden(allowUnlocked)
	if err == nil && !locked {
		slog.Warn("memory is not locked: key material may be written to swap")
	}
	return err
}

func readRoot(path string) (ed25519.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("operator root: %w", err)
	}
	return identity.ParseRoot(raw)
}

func keeperCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keeper", Short: "Hold one share of the unseal key"}
	cmd.AddCommand(keeperAcceptCommand(), keeperRunCommand(), keeperKeyFileCommand(),
		keeperAddCommand(), keeperReplaceCommand(), keeperRemoveCommand(), enrolPeerCommand(identity.RoleKeeper), keeperStatusCommand())
	return cmd
}

func keeperKeyFileCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "key-file FILE",
		Short:   "Make a key file to encrypt a share under",
		Example: "  keybridge keeper key-file /media/usb/keeper-1.key",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return keeper.CreateKeyFile(args[0]) },
	}
}

func keeperAcceptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept",
		Short: "Check and store the share that `init` made for this keeper",
		Example: `  keybridge keeper accept --dir /var/lib/keybridge-keeper --operator-root root.pub \
    --manifest manifest.json --delivery keeper-1.delivery --key-file /media/usb/keeper-1.key`,
		Args: cobra.NoArgs,
	}
	dir := cmd.Flags().String("dir", "", "the keeper's state directory")
	root := cmd.Flags().String("operator-root", "", "public half of the operator root")
	manifest := cmd.Flags().String("manifest", "", "signed manifest")
	delivery := cmd.Flags().String("delivery", "", "this keeper's sealed share")
	lock := addLockFlags(cmd)
	required(cmd, "dir", "operator-root", "manifest", "delivery")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(true); err != nil {
			return err
		}
		l, err := lock.lock(cmd)
		if err != nil {
			return err
		}
		pub, err := readRoot(*root)
		if err != nil {
			return err
		}
		m, err := os.ReadFile(*manifest)
		if err != nil {
			return err
		}
		d, err := os.ReadFile(*delivery)
		if err != nil {
			return err
		}
		return keeper.Accept(*dir, l, pub, m, d)
	}
	return cmd
}

func keeperRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Serve the share to enrolled bridges, and take part in ceremonies",
		Example: "  keybridge keeper run --dir /var/lib/keybridge-keeper --operator-root root.pub --listen :7001 --key-file keeper-1.key",
		Args:    cobra.NoArgs,
	}
	dir := cmd.Flags().String("dir", "", "the keeper's state directory")
	root := cmd.Flags().String("operator-root", "", "public half of the operator root")
	listen := cmd.Flags().String("listen", "", "host:port for bridges")
	metrics := cmd.Flags().String("metrics", "", "address for /metrics, e.g. 127.0.0.1:7002; empty: none")
	policy := cmd.Flags().String("policy", "", "JSON file with rules on releases: bridges, networks, hours, rate; read again when it changes")
	unlocked := cmd.Flags().Bool("allow-unlocked", false, "run even where memory cannot be locked")
	lock := addLockFlags(cmd)
	required(cmd, "dir", "operator-root", "listen")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(*unlocked); err != nil {
			return err
		}
		defer lockedmem.Purge()
		l, err := lock.lock(cmd)
		if err != nil {
			return err
		}
		pub, err := readRoot(*root)
		if err != nil {
			return err
		}
		cfg := keeper.Config{Dir: *dir, Lock: l, Root: pub}
		if *policy != "" {
			p, err := keeper.OpenPolicy(*policy, slog.Default())
			if err != nil {
				return err
			}
			cfg.Policy = p.Allow
		}
		k, err := keeper.New(cfg)
		if err != nil {
			return err
		}
		defer k.Close()
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(k.Identity(), k.Trust(), keeper.Roles...))),
			grpc.WaitForHandlers(true)) // they read the share, which is wiped once the server has stopped
		k.Register(server)
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error { return serveGRPC(ctx, server, *listen) })
		if *metrics != "" {
			g.Go(func() error { return serveHTTP(ctx, "metrics", *metrics, metricsHandler(keeperMetrics(k))) })
		}
		return g.Wait()
	}
	return cmd
}

// serveGRPC serves until ctx ends, then lets calls finish for a second.
func serveGRPC(ctx context.Context, server *grpc.Server, addr string) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	slog.Info("listening", "address", lis.Addr().String())
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(time.Second, server.Stop)
		server.GracefulStop()
		force.Stop()
	})
	if err := server.Serve(lis); err != nil {
		stop()
		return err
	}
	<-stopped
	return nil
}
